"""`arbstr settlements`: what a vault in another process has still to hear."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arbstr.store import KeepRemoteHold, RemoteHoldRow, RemoteHoldState, Store

Run = Callable[..., Any]
INTERNAL = "an-internal-token-of-32-characters-or-more"
OPEN = RemoteHoldRow("tx_1", "request-1", "ag_one", 9_000, "m", "p", 1)
OWED = RemoteHoldRow("tx_2", "request-2", "tok_2", 9_000, "m", "p", 2, RemoteHoldState.ENDING, 0, 4_500, attempts=3)
DEAD = RemoteHoldRow(
    "tx_3",
    "request-3",
    "ag_\x1b",
    9_000,
    "m",
    "p",
    3,
    RemoteHoldState.DEAD,
    0,
    700,
    attempts=1,
    last_error="status 409",
)


@pytest.fixture
def keep(write: Callable[..., Path], tmp_path: Path) -> Callable[..., None]:
    write(f'[database]\npath = "books.db"\n[vault]\nurl = "http://127.0.0.1:1"\ninternal_token = "{INTERNAL}"\n')

    def keep(*holds: RemoteHoldRow) -> None:
        with Store.open(tmp_path / "books.db", durability="process") as store:
            for hold in holds:
                store.commit_now(KeepRemoteHold(hold))

    return keep


def test_it_is_said_when_the_vault_has_heard_of_everything(run: Run, keep: Callable[..., None]) -> None:
    keep()
    result = run("settlements")
    assert (result.code, result.out) == (0, "the vault has heard of the end of every hold\n")


def test_what_waits_is_listed_with_what_went_wrong(run: Run, keep: Callable[..., None]) -> None:
    keep(OPEN, OWED)
    result = run("settlements")
    head, first, second = result.out.splitlines()
    assert (result.code, head.split()[:2]) == (0, ["STATE", "RESERVATION"])
    assert first.split()[:4] == ["open", "tx_1", "request-1", "ag_one"]
    assert "4.5" in second.split()


def test_exit_code_says_that_the_vault_will_not_take_something(run: Run, keep: Callable[..., None]) -> None:
    keep(OWED, DEAD)
    result, document = run("settlements"), run("settlements", "--json")
    assert (result.code, document.code) == (1, 1)
    assert "status 409" in result.out
    assert "\x1b" not in result.out
    assert [one["charge_msat"] for one in json.loads(document.out)] == [4_500, 700]


def test_it_works_while_an_arbstr_runs(run: Run, keep: Callable[..., None], tmp_path: Path) -> None:
    keep(OWED)
    with Store.open(tmp_path / "books.db", durability="process"):
        assert run("settlements").code == 0


@pytest.mark.parametrize("command", [("add", "ada"), ("deposit", "ada", "5")])
def test_agents_are_not_made_here_when_the_accounts_are_in_another_process(
    run: Run, keep: Callable[..., None], command: tuple[str, ...]
) -> None:
    keep()
    result = run("agents", *command)
    assert (result.code, result.out) == (1, "")
    assert "another process" in result.err
