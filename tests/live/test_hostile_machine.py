"""A machine that does not play along: no room on the disk, a database that somebody locks, a clock that is set back."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.live.program import Household, Program, RecordingServer, mock_provider
from tests.live.two import CHAT, DEPOSIT_MSAT, WAIT_S, Two, both, chat

CLOCK = Path(__file__).parent / "clock"
UNLIMITED = resource.RLIM_INFINITY


@contextlib.contextmanager
def full_disk(program: Program) -> Iterator[None]:
    """No file of the program can grow beyond the size that any file has already: SQLite meets what a full disk is."""
    resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (1, UNLIMITED))
    try:
        yield
    finally:
        resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Somebody else writes, and does not come to an end."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield


def eventually(check: Callable[[], bool]) -> None:
    """For what happens beside the answers: there is nothing to wait on but time."""
    end = time.monotonic() + WAIT_S
    while not check():
        assert time.monotonic() < end
        time.sleep(0.1)


def ask(http: httpx.Client, **options: bool) -> httpx.Response:
    return http.post(CHAT, json=chat(**options))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process can be set on Linux only")
def test_nothing_is_bought_while_the_disk_is_full_and_it_goes_on_when_there_is_room(
    household: Household, upstream: RecordingServer
) -> None:
    household.write_config(upstream.provider())
    token = household.add_agent("a", "100000")
    with household.serve() as program, program.client(token) as http:
        assert ask(http).status_code == 200
        with full_disk(program):
            refused = [ask(http) for _ in range(3)]
        assert [answer.status_code for answer in refused] == [503] * 3
        assert {answer.json()["error"]["reason"] for answer in refused} == {"ledger_unavailable"}
        assert len(upstream.seen) == 1
        eventually(lambda: ask(http).status_code == 200)
        assert program.stop() == 0
    report = household.check()
    assert report.open_holds == 0
    assert report.spent_msat == report.receipts_msat > 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process can be set on Linux only")
@pytest.mark.parametrize("which", ["vault", "proxy"])
def test_money_is_right_when_the_disk_of_one_of_two_was_full(two: Two, which: str) -> None:
    two.write(mock_provider("one"))
    with both(two) as (vault, proxy), proxy.client(two.token) as http:
        assert ask(http).status_code == 200
        with full_disk(vault if which == "vault" else proxy):
            assert [ask(http).status_code for _ in range(2)] == [503] * 2
        eventually(lambda: ask(http).status_code == 200)
        two.wait_until_nothing_is_owed()
        eventually(lambda: two.balance(vault) == DEPOSIT_MSAT - two.bought())
        assert (proxy.stop(), vault.stop()) == (0, 0)
    two.check()


@pytest.mark.parametrize("which", ["vault", "proxy"])
def test_money_is_right_when_the_database_of_one_of_two_was_locked(two: Two, which: str) -> None:
    two.write(mock_provider("one"))
    with both(two) as (vault, proxy), proxy.client(two.token) as http:
        assert ask(http).status_code == 200
        two.wait_until_nothing_is_owed()
        with locked(two.path / which / "books.db"):
            assert ask(http).status_code == 503
        eventually(lambda: ask(http).status_code == 200)
        two.wait_until_nothing_is_owed()
        eventually(lambda: two.balance(vault) == DEPOSIT_MSAT - two.bought())
        assert (proxy.stop(), vault.stop()) == (0, 0)
    two.check()


def test_money_is_right_when_the_clock_is_set_back_by_an_hour(
    household: Household, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a stream, and over a restart; and when it is right again."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    monkeypatch.setenv("LIVE_CLOCK_FILE", str(clock))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(CLOCK), os.environ.get("PYTHONPATH")))))
    household.write_config(mock_provider("one", "tokens_per_s=40"), vault="hold_lease_s = 5")
    token = household.add_agent("a", "100000")
    with household.serve() as program, program.client(token, timeout_s=60) as http:
        assert ask(http).status_code == 200
        with http.stream("POST", CHAT, json=chat(stream=True, max_tokens=80)) as answer:
            pieces = answer.iter_bytes()
            next(pieces)
            clock.write_text("-3600")
            rest = b"".join(pieces)
        assert rest.endswith(b"data: [DONE]\n\n")
        assert ask(http).status_code == 200
        stream = http.build_request("POST", CHAT, json=chat(stream=True, max_tokens=400))
        with contextlib.closing(http.send(stream, stream=True)) as answer:
            next(answer.iter_bytes())
            program.process.kill()
            program.process.wait()
    with household.serve() as program, program.client(token) as http:
        assert ask(http).status_code == 200
        clock.write_text("0")
        assert ask(http).status_code == 200
        assert program.stop() == 0
    report = household.check()
    assert report.open_holds == 0
    assert report.spent_msat == report.receipts_msat > 0
