"""The arbstr that runs on the configured database, spoken to over its own API with the operator's token.

It holds the database, so whatever changes the books goes through it. Where it listens stands in a file beside the
database (``arbstr.config.ReloadOutcome``).
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from attrs import field, frozen

from arbstr.cli._errors import Refused
from arbstr.config import load_admin_token, load_database, read_outcome
from arbstr.secrets import Secret

TIMEOUT_S = 120.0
"""For an answer: an approved payment is waited for."""
MIN_ADMIN_TOKEN = 32
"""Characters; with a shorter one the program has no routes for an operator."""


@frozen
class Running:
    """Asks one program. Each call raises Refused with what it answered, or that it did not."""

    pid: int
    address: str
    token: Secret = field(repr=False)

    def add_agent(self, name: str) -> tuple[str, str]:
        """The new agent's id, and its token."""
        made = self._call("POST", "/agents", {"name": name})
        return made["agent_id"], made["token"]

    def deposit(self, agent_id: str, amount_msat: int, key: str) -> int:
        """What the agent has then; the same key counts once."""
        path = f"/agents/{quote(agent_id, safe='')}/deposit"
        made = self._call("POST", path, {"amount_msat": amount_msat}, {"idempotency-key": key})
        return int(made["balance_msat"])

    def decide(self, approval_id: str, verdict: str, by: str, reason: str) -> dict[str, Any]:
        """``approve`` or ``deny``; what became of the approval."""
        path = f"/operator/approvals/{quote(approval_id, safe='')}/{verdict}"
        return self._call("POST", path, {"by": by, "reason": reason})

    def _call(self, method: str, path: str, body: object, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Once, and never again by itself: what has no key would be done twice."""
        url = urlsplit(self.address)
        connection = HTTPConnection(_reachable(url.hostname or ""), url.port, timeout=TIMEOUT_S)
        sent = {"authorization": f"Bearer {self.token.reveal()}", "content-type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body), {**sent, **(headers or {})})
            return _read(connection.getresponse())
        except (OSError, HTTPException) as error:
            what = f"the arbstr that runs, process {self.pid}, does not answer at {self.address}: {error}"
            raise Refused(f"{what}; whether it was done is not known") from error
        finally:
            connection.close()


def find_running(arguments: Namespace) -> Running:
    """Raises Refused when none runs on the configured database, or it would not listen to us."""
    from arbstr.store import holder_of

    database, _ = load_database(arguments.config)
    pid = holder_of(database.path)
    if pid is None:
        raise Refused(f"no arbstr runs on {database.path}; start one with: arbstr serve")
    return running_on(arguments, database.path, pid)


def running_on(arguments: Namespace, database: Path, pid: int) -> Running:
    """The program ``pid``, which holds the database. Raises Refused."""
    outcome = read_outcome(database)
    if outcome is None or outcome.pid != pid or not outcome.addresses:
        raise Refused(f"{database} is in use by another arbstr (process {pid}), which does not say where it listens")
    token = load_admin_token(arguments.config, os.environ)
    if token is None or len(token.reveal()) < MIN_ADMIN_TOKEN:
        raise Refused(
            f"{database} is in use by another arbstr (process {pid}); to ask it, set [server] admin_token in "
            f"{arguments.config}, {MIN_ADMIN_TOKEN} characters or more, and start it again; or stop it first"
        )
    return Running(pid, outcome.addresses[0], token)


def _reachable(host: str) -> str:
    """A program that listens everywhere is found here."""
    if not ip_address(host.partition("%")[0]).is_unspecified:
        return host
    return "::1" if ":" in host else "127.0.0.1"


def _read(answer: HTTPResponse) -> dict[str, Any]:
    """The body of a success. Raises Refused with the program's words."""
    text = answer.read()
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refused(f"the arbstr that runs answered with status {answer.status} and no JSON object")
    if 200 <= answer.status < 300:
        return found
    error = found.get("error")
    words = error.get("message") if isinstance(error, dict) else found.get("message")
    if answer.status in (401, 404) and "route" in str(words).lower():
        words = "it has no routes for an operator: it was started without [vault], or without this admin_token"
    elif answer.status == 401:
        words = "it does not know the admin_token of this configuration; was that changed since it was started?"
    raise Refused(str(words or f"the arbstr that runs answered with status {answer.status}"))
