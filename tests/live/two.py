"""``arbstr vault`` and ``arbstr serve`` in directories of their own, and what must hold of both."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import define, field

from arbstr.store import Store
from tests.live.program import Program, arbstr, serving

CHAT = "/v1/chat/completions"
INTERNAL = "an-internal-token-of-32-characters-or-more"
ADMIN = "an-admin-token-of-32-characters-or-more"
DEPOSIT_MSAT = 1_000_000_000
WAIT_S = 40.0


def chat(*, stream: bool = False, max_tokens: int = 20) -> dict[str, object]:
    messages = [{"role": "user", "content": "hello there"}]
    return {"model": "m", "messages": messages, "max_tokens": max_tokens, "stream": stream}


@define(eq=False)
class Two:
    """Both directories, and the address that the vault keeps."""

    path: Path
    token: str = ""
    agent_id: str = ""
    port: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]

    def write(self, providers: str, *, vault: str = "", proxy: str = "") -> None:
        self._write(
            "vault",
            f'[server]\nlisten = "127.0.0.1:{self.port}"\nadmin_token = "{ADMIN}"\n[database]\npath = "books.db"\n'
            f'[vault]\ninternal_token = "{INTERNAL}"\n{vault}\n',
        )
        self._write(
            "proxy",
            '[server]\nlisten = "127.0.0.1:0"\n[database]\npath = "books.db"\n'
            f'[vault]\nurl = "http://127.0.0.1:{self.port}"\ninternal_token = "{INTERNAL}"\n{proxy}\n{providers}\n',
        )

    def _write(self, name: str, text: str) -> None:
        directory = self.path / name
        directory.mkdir()
        config = directory / "config.toml"
        config.write_text(text)
        config.chmod(0o600)

    def vault(self) -> contextlib.AbstractContextManager[Program]:
        return serving(cwd=self.path / "vault", verb="vault")

    def proxy(self) -> contextlib.AbstractContextManager[Program]:
        return serving(cwd=self.path / "proxy")

    def register(self, vault: Program) -> None:
        with vault.client(ADMIN) as http:
            made = http.post("/agents", json={"name": "bot"}).json()
            self.agent_id, self.token = made["agent_id"], made["token"]
            http.post(f"/agents/{self.agent_id}/deposit", json={"amount_msat": DEPOSIT_MSAT}).raise_for_status()

    def balance(self, vault: Program) -> int:
        with vault.client(self.token) as http:
            return int(http.get(f"/agents/{self.agent_id}/balance").json()["balance_msat"])

    def owed(self) -> int:
        """Ends and open holds that the vault has still to hear of."""
        with contextlib.closing(sqlite3.connect(self.path / "proxy" / "books.db")) as db:
            return int(db.execute("SELECT count(*) FROM remote_holds").fetchone()[0])

    def wait_until_nothing_is_owed(self) -> None:
        end = time.monotonic() + WAIT_S
        while self.owed():  # nothing tells when the other process has heard the last of it
            assert time.monotonic() < end, "the vault has not been told everything"
            time.sleep(0.05)

    def bought(self) -> int:
        with contextlib.closing(sqlite3.connect(self.path / "proxy" / "books.db")) as db:
            return int(db.execute("SELECT coalesce(sum(cost_msat), 0) FROM receipts").fetchone()[0])

    def check(self) -> None:
        """Both books are right, nothing is held, and what the proxy's receipts say is what the vault has charged."""
        report = Store.check(self.path / "vault" / "books.db")
        assert report.problems == ()
        assert report.open_holds == 0
        assert Store.check(self.path / "proxy" / "books.db").problems == ()
        assert report.spent_msat + report.debt_msat == self.bought()
        for name in ("vault", "proxy"):
            done = arbstr("audit", "check", cwd=self.path / name)
            assert (done.returncode, "everything adds up" in done.stdout) == (0, True)


@contextlib.contextmanager
def both(two: Two) -> Iterator[tuple[Program, Program]]:
    with two.vault() as vault:
        two.register(vault)
        with two.proxy() as proxy:
            yield vault, proxy
