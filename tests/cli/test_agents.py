"""``arbstr agents``: what gets into the books, and what a script can read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from arbstr.store import AgentRow, Store, StoreError, hash_token

BOOKS = Path("books.db")


@pytest.fixture(autouse=True)
def _configured(run: Callable, write: Callable) -> None:
    write("[vault]\n[database]\npath = 'books.db'\ndurability = 'process'\n")


def add(run: Callable, *argv: str) -> tuple[str, str, str]:
    """Add an agent; its id, name and token as a script reads them."""
    result = run("agents", "add", *argv)
    assert result.code == 0
    agent_id, name, token = result.out.removesuffix("\n").split("\t")
    return agent_id, name, token


def only_agent() -> AgentRow:
    (agent,) = Store.read_agents(BOOKS)
    return agent


def test_one_line_with_id_name_and_token_is_printed_when_an_agent_is_added_in_a_pipe(run: Callable) -> None:
    agent_id, name, token = add(run, "Ada")
    assert (only_agent().agent_id, only_agent().name) == (agent_id, name) == (agent_id, "Ada")
    with Store.open(BOOKS) as store:
        assert store.tokens_now()[0].token_hash == hash_token(token)


def test_token_is_explained_when_a_person_adds_an_agent(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbstr.cli._agents.on_terminal", lambda: True)
    out = run("agents", "add", "Ada").out
    for text in ("Token:    vtk_", "not shown again", "books.db"):
        assert text in out


def test_first_deposit_is_booked_when_given(run: Callable) -> None:
    result = run("agents", "add", "Ada", "--deposit", "1.5")
    assert len(result.out.splitlines()) == 1
    assert result.err.startswith("Deposited 1.5 sats; ")
    assert only_agent().available_msat == 1_500


def test_token_is_not_lost_when_the_first_deposit_fails(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr("arbstr.accounts.deposit_now", fail)
    result = run("agents", "add", "Ada", "--deposit", "1")
    assert (result.code, result.err) == (1, "Error: disk full\n")
    assert "\tvtk_" in result.out


@pytest.mark.parametrize("name", ["", "  ", "a\tb", "a\nb", "\x1b[31m", "x" * 101])
def test_nothing_is_added_when_the_name_is_none(run: Callable, name: str) -> None:
    result = run("agents", "add", name)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: an agent's name")
    assert Store.read_agents(BOOKS) == []


def test_nothing_is_added_when_the_deposit_is_no_amount(run: Callable) -> None:
    result = run("agents", "add", "Ada", "--deposit", "1.2345")
    assert result.code == 2
    assert "is not an amount" in result.err
    assert not BOOKS.exists()


def test_amount_and_balance_are_msat_when_a_deposit_is_read_by_a_script(run: Callable) -> None:
    agent_id, *_ = add(run, "Ada")
    assert run("agents", "deposit", "Ada", "0.5").out == f"{agent_id}\t500\t500\n"
    assert run("agents", "deposit", agent_id, "7msat").out == f"{agent_id}\t7\t507\n"


def test_deposit_is_booked_once_when_repeated_with_its_key(run: Callable) -> None:
    add(run, "Ada")
    for _ in range(2):
        assert run("agents", "deposit", "Ada", "1", "--key", "k").code == 0
    assert only_agent().deposited_msat == 1_000


def test_deposit_is_put_in_words_when_a_person_makes_it(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    agent_id, *_ = add(run, "Ada")
    monkeypatch.setattr("arbstr.cli._agents.on_terminal", lambda: True)
    assert run("agents", "deposit", "Ada", "1").out == f"Deposited 1 sats; {agent_id} has 1 sats available.\n"


def test_error_of_the_store_is_the_answer_when_the_agent_is_unknown(run: Callable) -> None:
    add(run, "Ada")
    result = run("agents", "deposit", "Bob", "1")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: ")
    assert "Bob" in result.err


@pytest.mark.parametrize("argv", [["add", "Ada"], ["deposit", "Ada", "1"]])
def test_process_is_named_when_the_database_is_in_use(run: Callable, argv: list[str]) -> None:
    with Store.open(BOOKS):
        result = run("agents", *argv)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: ")
    assert f"in use by another arbstr (process {os.getpid()})" in result.err


def test_agents_are_listed_when_the_database_is_in_use(run: Callable) -> None:
    agent_id, *_ = add(run, "Ada")
    with Store.open(BOOKS):
        assert agent_id in run("agents", "list").out


def test_columns_are_aligned_when_agents_are_listed_in_a_pipe(run: Callable) -> None:
    first, *_ = add(run, "Ada", "--deposit", "1234.5")
    second, *_ = add(run, "A much longer name")
    assert run("agents", "list").out.splitlines() == [
        f"{'ID':{len(first)}}  NAME                AVAILABLE  HELD  SPENT  DEPOSITED  DEBT",
        f"{first}  Ada                    1234.5     0      0     1234.5     0",
        f"{second}  A much longer name          0     0      0          0     0",
    ]


def test_way_to_the_first_one_is_shown_when_there_are_no_agents(run: Callable) -> None:
    Store.open(BOOKS).close()
    result = run("agents", "list")
    assert len(result.out.splitlines()) == 1
    assert "arbstr agents add" in result.err


def test_nothing_is_made_when_there_is_no_database_to_list(run: Callable) -> None:
    result = run("agents", "list")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: ")
    assert not BOOKS.exists()


@pytest.mark.parametrize("argv", [["-c", "other.toml", "add", "Ada"], ["add", "Ada", "-c", "other.toml"]])
def test_configuration_is_named_before_or_after_the_action(run: Callable, argv: list[str]) -> None:
    assert "other.toml" in run("agents", *argv).err
    Path("other.toml").write_text("[vault]\n[database]\npath = 'elsewhere.db'")
    assert run("agents", *argv).code == 0
    assert Path("elsewhere.db").exists()


def test_providers_are_not_looked_at_when_only_the_database_is_needed(run: Callable, write: Callable) -> None:
    write("[vault]\n[[providers]]\nname = 'a'\nurl = 'https://a'\napi_key = '${UNSET}'")
    assert run("agents", "add", "Ada").code == 0


def test_note_is_given_when_accounts_are_switched_off(run: Callable, write: Callable) -> None:
    write("")
    result = run("agents", "add", "Ada")
    assert result.code == 0
    assert "no [vault]" in result.err
    assert "no [vault]" not in result.out
