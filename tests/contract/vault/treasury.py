"""A started program as a vault: its operator, its agents and the core that bills them, spoken to over HTTP.

Amounts are msat. Nothing here checks an answer unless its name says so.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, frozen

from tests.contract.client import Answer, send
from tests.contract.program import P, Program, eventually, started
from tests.contract.upstream import Upstream

ADMIN = "operator-token-of-at-least-thirty-two-characters"
INTERNAL = "internal-token-of-at-least-thirty-two-characters"
LARGEST = 2**53 - 1

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_ULID = "[0-9A-HJKMNP-TV-Z]{26}"
AGENT_ID, TOKEN, TRANSACTION_ID, APPROVAL_ID = (re.compile(f"{kind}_{_ULID}") for kind in ("ag", "vtk", "tx", "apr"))

_numbers = count(1)
_Result = TypeVar("_Result")


def refusal(code: str, message: str) -> dict[str, object]:
    """An error body of the application family (contract section 3.3)."""
    return {"error": {"code": code, "message": message}}


def assert_invalid(answer: Answer, message: str) -> None:
    """400 of the framework family, with exactly this message."""
    expected = {"statusCode": 400, "code": "FST_ERR_VALIDATION", "error": "Bad Request", "message": message}
    assert (answer.status, answer.json) == (400, expected)


def assert_refused(answer: Answer, status: int, code: str, message: str) -> None:
    """Of the application family, exactly."""
    assert (answer.status, answer.json) == (status, refusal(code, message))


def assert_includes(whole: Mapping[str, object], part: Mapping[str, object]) -> None:
    assert {name: value for name, value in whole.items() if name in part} == dict(part)


def ok(answer: Answer) -> dict[str, Any]:
    """The body of an answer that must be good."""
    assert answer.status in (200, 201), answer.body
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    body: dict[str, Any] = answer.json
    return body


def instant_ms(text: str) -> int:
    """ISO 8601 as the vault writes it, as ms since the Unix epoch."""
    assert ISO.fullmatch(text), text
    return round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


def at_once(times: int, call: Callable[[int], _Result]) -> list[_Result]:
    """Many calls at the same time, each on its own connection."""
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(call, range(times)))


class _Absent:
    """No body at all; None would be the JSON value null."""


ABSENT = _Absent()


@define(eq=False)
class Vault:
    """The program and what the operator and a core may ask of it."""

    program: Program
    config: Path

    def call(
        self,
        method: str,
        path: str,
        body: object = ABSENT,
        *,
        bearer: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """``body``: bytes as they are, else as JSON."""
        lines = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
        if not isinstance(body, _Absent):
            lines["content-type"] = "application/json"
        data = None if isinstance(body, _Absent) else body if isinstance(body, bytes) else json.dumps(body).encode()
        return send(self.program.address, method, path, headers={**lines, **(headers or {})}, body=data)

    # The operator

    def operate(self, method: str, path: str, body: object = ABSENT, **options: Any) -> Answer:
        return self.call(method, path, body, bearer=ADMIN, **options)

    def register(self, name: str | None = None, **more: object) -> Agent:
        made = ok(self.operate("POST", "/agents", {"name": name or f"agent {next(_numbers)}", **more}))
        return Agent(self, made["agent_id"], made["token"])

    def agent(
        self,
        deposit: int = 0,
        max_transaction: int | None = None,
        daily_limit: int | None = None,
        approval_ms: int | None = None,
        **policy: int | None,
    ) -> Agent:
        """Registered, with so much money, and with a policy when its two limits are given."""
        agent = self.register()
        if deposit:
            ok(agent.deposit(deposit))
        if max_transaction is not None and daily_limit is not None:
            timeout = {} if approval_ms is None else {"approval_timeout_ms": approval_ms}
            ok(agent.set_policy(max_transaction, daily_limit, **timeout, **policy))
        return agent

    def approvals(self, agent: Agent, status: str | None = None) -> list[dict[str, Any]]:
        query = "" if status is None else f"?status={status}"
        listed: list[dict[str, Any]] = ok(self.operate("GET", f"/operator/approvals{query}"))["approvals"]
        return [one for one in listed if one["agent_id"] == agent.id]

    def decide(self, approval_id: str, verb: str) -> Answer:
        """``approve`` or ``deny``."""
        return self.operate("POST", f"/operator/approvals/{approval_id}/{verb}")

    def dashboard(self, query: str = "") -> list[dict[str, Any]]:
        agents: list[dict[str, Any]] = ok(self.operate("GET", f"/operator/dashboard{query}"))["agents"]
        return agents

    def on_dashboard(self, agent: Agent) -> dict[str, Any]:
        return next(one for one in self.dashboard() if one["agent_id"] == agent.id)

    # The core

    def internal(self, verb: str, body: object, *, token: str | None = INTERNAL) -> Answer:
        return self.call(
            "POST", f"/internal/{verb}", body, headers={} if token is None else {"x-internal-token": token}
        )

    def settle(self, reservation: str, actual: int, **more: object) -> Answer:
        figures = {"tokens_in": 10, "tokens_out": 20, "provider": "somebody", "latency_ms": 7, **more}
        return self.internal("settle", {"reservation_id": reservation, "actual_msats": actual, **figures})

    def release(self, reservation: str, **more: object) -> Answer:
        return self.internal("release", {"reservation_id": reservation, **more})


@frozen
class Agent:
    """What an agent may ask, and what is asked about it."""

    vault: Vault
    id: str
    token: str

    def call(self, method: str, what: str, body: object = ABSENT, **options: Any) -> Answer:
        return self.vault.call(method, f"/agents/{self.id}/{what}", body, bearer=self.token, **options)

    def balance(self) -> int:
        balance: int = ok(self.call("GET", "balance"))["balance_msat"]
        return balance

    def pay(self, amount: int, *, headers: Mapping[str, str] | None = None, **more: str) -> Answer:
        return self.call("POST", "pay", payment(amount, **more), headers=headers)

    def denied(self, amount: int) -> str:
        """The reason of a payment that must be denied."""
        body = ok(self.pay(amount))
        assert (body["policy_decision"], body["status"]) == ("DENY", "FAILED"), body
        return str(body["reason"])

    def settled(self, amount: int) -> str:
        """The transaction id of a payment that must be settled."""
        body = ok(self.pay(amount))
        assert (body["policy_decision"], body["status"]) == ("ALLOW", "SETTLED"), body
        return str(body["transaction_id"])

    def asked_for(self, amount: int) -> dict[str, Any]:
        """The approval of a payment that must need one."""
        body = ok(self.pay(amount))
        assert body["status"] == "PENDING_APPROVAL", body
        return self.approval_of(body["transaction_id"])

    def approval_of(self, transaction: str) -> dict[str, Any]:
        found = [one for one in self.vault.approvals(self, "all") if one["transaction_id"] == transaction]
        assert len(found) == 1
        return found[0]

    def status(self, transaction: str) -> dict[str, Any]:
        return ok(self.call("GET", f"payments/{transaction}"))

    def withdraw(self, amount: int, destination: str = "bc1-somewhere") -> Answer:
        return self.call("POST", "withdrawals", {"destination": destination, "amount_msat": amount})

    def history(self, query: str = "limit=100") -> list[dict[str, Any]]:
        """All pages."""
        page = ok(self.call("GET", f"history?{query}"))
        entries: list[dict[str, Any]] = page["entries"]
        while page["has_more"]:
            page = ok(self.call("GET", f"history?{query}&cursor={page['next_cursor']}"))
            entries += page["entries"]
        return entries

    def actions(self, about: str | None = None) -> list[str]:
        """Of the history in its order; only those entries that name this id, if one is given."""
        return [one["action"] for one in self.history() if about is None or about in json.dumps(one)]

    def deposit(self, amount: object) -> Answer:
        return self.vault.operate("POST", f"/agents/{self.id}/deposit", {"amount_msat": amount})

    def set_policy(self, max_transaction: int, daily_limit: int, **more: object) -> Answer:
        limits = {"max_transaction_msat": max_transaction, "daily_limit_msat": daily_limit}
        return self.vault.operate("PATCH", f"/operator/agents/{self.id}/policy", {**limits, **more})

    def reserve(self, amount: int, correlation_id: str | None = None, model: str = "gpt-4o") -> Answer:
        """A new correlation id unless one is given."""
        key = f"request-{next(_numbers)}-{time.time_ns()}" if correlation_id is None else correlation_id
        body = {"agent_token": self.token, "amount_msats": amount, "correlation_id": key, "model": model}
        return self.vault.internal("reserve", body)

    def reserved(self, amount: int, **more: str) -> str:
        """The reservation id of a hold that must be granted."""
        reservation: str = ok(self.reserve(amount, **more))["reservation_id"]
        assert TRANSACTION_ID.fullmatch(reservation)
        return reservation

    def rest_is(self, balance: int) -> None:
        """Wait until the balance is this, for what happens beside the answers."""
        eventually(lambda: self.balance() == balance, f"balance of {balance} for {self.id}")

    def entry(self, action: str, about: str | None = None) -> dict[str, Any]:
        """The only entry of the history with this action, about this id if one is given."""
        found = [one for one in self.history() if one["action"] == action]
        (only,) = [one for one in found if about is None or one["ref_id"] == about]
        return only


def payment(amount: int, **more: object) -> dict[str, object]:
    """A valid body of ``pay``."""
    wanted = {"amount_msat": amount, "asset": "BTC_simulated", "purpose": "a test", "destination_type": "internal"}
    return {**wanted, "destination": "somebody", **more}


def tables(**vault: object) -> dict[str, dict[str, object]]:
    """Of a configuration: both tokens, and further keys of ``[vault]``; a key that is None is left out."""
    keys = {"internal_token": INTERNAL, **vault}
    known = {name: value for name, value in keys.items() if value is not None}
    return {"server": {"admin_token": ADMIN}, "vault": known}


@contextlib.contextmanager
def treasury(
    directory: Path,
    providers: Sequence[P] = (),
    *,
    upstream: Upstream | None = None,
    past: bool = False,
    server: Mapping[str, object] | None = None,
    **vault: object,
) -> Iterator[Vault]:
    """The program with a vault. Started twice in one directory, it finds its books again."""
    written = tables(**vault)
    written["server"] |= server or {}
    with started(directory, providers, upstream=upstream, tables=written, past=past) as world:
        yield Vault(world.program, world.config)


def again(agent: Agent, vault: Vault) -> Agent:
    """The same agent at a program that was started anew."""
    return Agent(vault, agent.id, agent.token)
