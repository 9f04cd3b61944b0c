"""``arbstr vault`` and ``arbstr serve`` as two processes: asked, streamed, killed and started again."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from attrs import define, field

from arbstr.store import Store
from tests.live.program import Program, arbstr, mock_provider, serving

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


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


@contextlib.contextmanager
def both(two: Two) -> Iterator[tuple[Program, Program]]:
    with two.vault() as vault:
        two.register(vault)
        with two.proxy() as proxy:
            yield vault, proxy


def test_requests_are_paid_from_the_other_process_plain_and_streamed(two: Two) -> None:
    two.write(mock_provider("one"))
    with both(two) as (vault, proxy):
        with proxy.client(two.token) as http:
            assert http.get("/v1/requests").status_code == 401  # nobody here knows the token yet
            plain = http.post(CHAT, json=chat())
            cost = int(plain.headers["x-arbstr-cost-msat"])
            streamed = http.post(CHAT, json=chat(stream=True))
            assert streamed.text.endswith("data: [DONE]\n\n")
            assert [row["agent"] for row in http.get("/v1/requests").json()["data"]] == [two.agent_id] * 2
            assert http.post(CHAT, json=chat(), headers={"authorization": "Bearer vtk_nobodys"}).status_code == 401
            assert http.post(CHAT, json=chat(max_tokens=1_000_000_000)).status_code == 402
        two.wait_until_nothing_is_owed()
        assert cost > 0
        assert two.balance(vault) == DEPOSIT_MSAT - two.bought()
        with vault.client(two.token) as http:
            paid = http.get(f"/agents/{two.agent_id}/history?action_type=PAYMENT_SETTLED").json()["entries"]
            assert [entry["metadata"]["provider"] for entry in paid] == ["one", "one"]
            assert http.get("/v1/models").status_code == 404
            assert http.get("/health").json()["status"] == "ok"
        assert proxy.stop() == 0
        assert vault.stop() == 0
    two.check()


@pytest.mark.parametrize("lease_s", [3600, 1])
def test_restart_of_the_vault_in_mid_traffic_costs_errors_and_never_money(two: Two, lease_s: int) -> None:
    """With a lease of a second it has given back what is settled after its start."""
    two.write(mock_provider("one", "tokens_per_s=40"), vault=f"reservation_lease_s = {lease_s}")
    with two.proxy() as proxy, contextlib.ExitStack() as lives:
        vault = lives.enter_context(two.vault())
        two.register(vault)
        with ThreadPoolExecutor(24) as pool, proxy.client(two.token, timeout_s=60) as http:

            def ask(number: int) -> httpx.Response:
                return http.post(CHAT, json=chat(stream=number % 2 == 0, max_tokens=80))

            early = [pool.submit(ask, number) for number in range(12)]
            end = time.monotonic() + WAIT_S
            while two.owed() < 12:
                assert time.monotonic() < end
                time.sleep(0.02)
            vault.process.kill()
            vault.process.wait()
            refused = [pool.submit(ask, number) for number in range(6)]
            answers = [one.result() for one in early]
            assert [one.result().status_code for one in refused] == [503] * 6
            vault = lives.enter_context(two.vault())
            late = [ask(number) for number in range(2)]
        assert all(one.status_code == 200 for one in (*answers, *late))
        assert all("[DONE]" in one.text for one in answers[::2])
        two.wait_until_nothing_is_owed()
        assert two.bought() > 0
        assert two.balance(vault) == DEPOSIT_MSAT - two.bought()
        assert proxy.stop() == 0
        assert vault.stop() == 0
    two.check()


def test_proxy_that_is_killed_leaves_nothing_held_when_it_is_started_again(two: Two) -> None:
    two.write(mock_provider("one", "tokens_per_s=20"))
    with two.vault() as vault:
        two.register(vault)
        with (
            two.proxy() as proxy,
            proxy.client(two.token) as http,
            http.stream("POST", CHAT, json=chat(stream=True, max_tokens=400)) as answer,
        ):
            for _ in answer.iter_bytes():
                break
            proxy.process.kill()
            proxy.process.wait()
        with two.proxy() as proxy:
            two.wait_until_nothing_is_owed()
            assert two.balance(vault) == DEPOSIT_MSAT - two.bought()
            assert proxy.stop() == 0
        assert vault.stop() == 0
    two.check()


def test_settlements_wait_for_the_vault_over_restarts_of_the_proxy(two: Two) -> None:
    two.write(mock_provider("one", "tokens_per_s=40"), proxy="pending_threshold = 3")
    with two.vault() as vault:
        two.register(vault)
        with two.proxy() as proxy, proxy.client(two.token, timeout_s=60) as http:
            with ThreadPoolExecutor(3) as pool:
                asked = [pool.submit(http.post, CHAT, json=chat(max_tokens=60)) for _ in range(3)]
                end = time.monotonic() + WAIT_S
                while two.owed() < 3:
                    assert time.monotonic() < end
                    time.sleep(0.02)
                vault.process.kill()
                vault.process.wait()
                assert [one.result().status_code for one in asked] == [200] * 3
            refused = http.post(CHAT, json=chat())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "vault_backpressure")
            assert proxy.stop() == 0
    with two.proxy() as proxy, proxy.client(two.token, timeout_s=60) as http:
        assert two.owed() == 3
        assert http.post(CHAT, json=chat()).json()["error"]["code"] == "vault_backpressure"
        with two.vault() as vault:
            two.wait_until_nothing_is_owed()
            assert two.balance(vault) == DEPOSIT_MSAT - two.bought() < DEPOSIT_MSAT
            assert http.post(CHAT, json=chat()).status_code == 200
            two.wait_until_nothing_is_owed()
            assert proxy.stop() == 0
            assert vault.stop() == 0
    two.check()


@pytest.mark.parametrize(
    ("vault", "words"),
    [
        ("", "has no [vault]"),
        (f'[vault]\nurl = "http://127.0.0.1:1"\ninternal_token = "{INTERNAL}"\n', "in another process"),
        ("[vault]\n", "nobody could use this vault"),
    ],
)
def test_vault_does_not_start_when_its_file_is_not_a_vaults(tmp_path: Path, vault: str, words: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(vault)
    config.chmod(0o600)
    done = arbstr("vault", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
