"""``arbstr approvals``: what is listed, and what is refused before anybody is asked. The rest is asked of a program."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from arbstr.store import ApprovalRow, ApprovalStatus, Store
from tests.store.maker import Maker, added

BOOKS = Path("books.db")
NOW_NS = time.time_ns()
PENDING = ApprovalRow("apr_1", "ag_a", "request", "apr_1", 81_920, "gpt-4o", ApprovalStatus.PENDING, NOW_NS, NOW_NS)
DENIED = evolve(
    PENDING,
    approval_id="apr_2",
    kind="payment",
    destination="lnbc1\x1b[31m",
    status=ApprovalStatus.DENIED,
    resolved_ns=NOW_NS,
    decided_by="ada",
    reason="too dear",
)


@pytest.fixture(autouse=True)
def _books(run: Callable, write: Callable) -> None:
    write("[vault]\n[database]\npath = 'books.db'\ndurability = 'process'\n")
    with Store.open(BOOKS, durability="process") as store:
        store.commit_now(added("ag_a"))
        store.commit_now(Maker.of("ag_a").note("ask", PENDING, DENIED))


def test_what_waits_is_listed(run: Callable) -> None:
    head, row = run("approvals").out.splitlines()
    assert head.split() == ["ID", "AGENT", "TYPE", "SATS", "FOR", "EXPIRES"]
    assert row.split()[:5] == ["apr_1", "ag_a", "request", "81.92", "gpt-4o"]


def test_what_has_been_decided_is_listed_when_all_are_asked_for(run: Callable) -> None:
    head, first, second = run("approvals", "--all").out.splitlines()
    assert head.split()[-3:] == ["STATUS", "BY", "WHY"]
    assert first.split()[-3:] == ["pending", "-", "-"]
    assert "lnbc1\\x1b[31m" in second  # nothing that a terminal would obey
    assert second.split()[-4:] == ["denied", "ada", "too", "dear"]


def test_programs_get_json(run: Callable) -> None:
    (row,) = json.loads(run("approvals", "--json").out)
    assert (row["id"], row["amount_msat"], row["for"], row["status"]) == ("apr_1", 81_920, "gpt-4o", "pending")
    assert len(json.loads(run("approvals", "--all", "--json").out)) == 2


def test_a_note_says_so_when_nothing_waits(run: Callable, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other.db", durability="process"):
        pass
    (tmp_path / "other.toml").write_text("[vault]\n[database]\npath = 'other.db'")
    result = run("approvals", "-c", "other.toml")
    assert (result.code, len(result.out.splitlines())) == (0, 1)
    assert result.err == "Nothing waits for a human.\n"


def test_it_is_listed_while_the_database_is_in_use(run: Callable) -> None:
    with Store.open(BOOKS):
        assert "apr_1" in run("approvals").out


@pytest.mark.parametrize("verb", ["grant", "deny"])
def test_nothing_is_decided_when_nobody_runs(run: Callable, verb: str) -> None:
    result = run("approvals", verb, "apr_1", "--why", "so")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: no arbstr runs on books.db; start one with: arbstr serve\n"


def test_the_process_is_named_when_it_does_not_say_where_it_listens(run: Callable) -> None:
    with Store.open(BOOKS):
        result = run("approvals", "deny", "apr_1", "--why", "so")
    assert result.code == 1
    assert "which does not say where it listens" in result.err


@pytest.mark.parametrize(
    "words", [["grant", "apr_1"], ["grant", "--why", "so"], ["grant", "apr_1", "--why", " "], ["keep", "apr_1"]]
)
def test_usage_is_told_when_it_is_not_understood(run: Callable, words: Any) -> None:
    result = run("approvals", *words)
    assert result.code == 2
    assert "usage: " in result.err
