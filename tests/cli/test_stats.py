"""``arbstr stats``: from the database, also while something holds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from arbstr.store import MAX_GROUPS, Store

File = Callable[..., None]


@pytest.fixture
def _filed(file: File) -> None:
    file("a", stream=True, cached_tokens=7)
    file("b", model="small", outcome="failed", cost_msat=0, prompt_tokens=None, completion_tokens=None)
    file("old", ago_s=8 * 86_400, model="small")


def lines(out: str) -> list[str]:
    return out.splitlines()[1:]


@pytest.mark.usefixtures("_filed")
def test_week_is_summed_up_when_nothing_is_asked_for(run: Callable) -> None:
    result = run("stats")
    assert (result.code, result.err) == (0, "")
    assert lines(result.out) == [
        "Requests: 2 (1 ok, 1 failed; 1 streamed)",
        "Tokens:   1000 in (7 cached), 100 out",
        "Cost:     3.5 sats",
        "Saved:    1 sats against the median of the candidates, 2 sats against the dearest",
        "Latency:  2 ms on average",
    ]


@pytest.mark.usefixtures("_filed")
@pytest.mark.parametrize(
    ("options", "total"),
    [
        (["--range", "last_30d"], 3),
        (["--range", "last_1h"], 2),
        (["--since", "2020-01-01"], 3),
        (["--since", "2020-01-01T00:00:00Z", "--until", "2020-01-02 12:00"], 0),
        (["--until", "2020-01-02"], 0),
    ],
)
def test_period_is_the_one_that_was_asked_for(run: Callable, options: list[str], total: int) -> None:
    assert json.loads(run("stats", "--json", *options).out)["total"] == total


@pytest.mark.usefixtures("_filed")
def test_each_group_has_a_row_and_all_of_them_one_when_grouped(run: Callable) -> None:
    header, *rows = lines(run("stats", "--group-by", "model", "--range", "last_30d").out)
    assert header.split() == [
        "MODEL",
        "REQUESTS",
        "OK",
        "FAILED",
        "STREAMED",
        "IN",
        "CACHED",
        "OUT",
        "COST",
        "SAVED",
        "LATENCY",
    ]
    assert [row.split()[:4] for row in rows] == [
        ["small", "2", "1", "1"],
        ["big", "1", "1", "0"],
        ["(all)", "3", "2", "1"],
    ]


@pytest.mark.usefixtures("_filed")
def test_amounts_are_msat_when_a_program_reads(run: Callable) -> None:
    body = json.loads(run("stats", "--json", "--group-by", "tier").out)
    assert (body["cost_msat"], body["saved_median_msat"], body["error"]) == (3_500, 1_000, 1)
    (group,) = body["groups"]
    assert (group["tier"], group["total"], body["group_by"], body["groups_left_out"]) == (None, 2, "tier", False)
    assert body["until_ns"] - body["since_ns"] == 7 * 86_400 * 1_000_000_000


def test_it_is_said_when_there_are_too_many_groups(run: Callable, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbstr.store._queries.MAX_GROUPS", 1)
    file("a", model="x")
    file("b", model="y")
    assert f"only the {MAX_GROUPS} busiest" in run("stats", "--group-by", "model").err


def test_only_the_agents_own_are_counted_when_one_is_named(run: Callable, write: Callable) -> None:
    write("[database]\npath = 'books.db'\n[vault]")
    with Store.open(Path("books.db"), durability="process") as store:
        store.add_agent_now("Ada")
        store.add_agent_now("Bob")
        store.add_agent_now("Bob")
        (ada, *_), bobs = store.agents_now(), [one.agent_id for one in store.agents_now() if one.name == "Bob"]
    assert json.loads(run("stats", "--json", "--agent", "Ada").out)["total"] == 0
    assert run("stats", "--agent", ada.agent_id).code == 0
    unknown = run("stats", "--agent", "Eve")
    assert (unknown.code, unknown.err) == (
        1,
        "Error: there is no agent 'Eve'; `arbstr agents list` shows those there are\n",
    )
    ambiguous = run("stats", "--agent", "Bob")
    assert ambiguous.code == 1
    assert all(bob in ambiguous.err for bob in bobs)


def test_receipts_of_others_are_left_out_when_an_agent_is_named(run: Callable, file: File) -> None:
    with Store.open(Path("other.db"), durability="process") as store:
        ada = store.add_agent_now("Ada").agent_id
    file("hers", agent_id=ada)
    file("nobodys")
    # The agent is known to the database that is asked, not to any other.
    assert run("stats", "--agent", "Ada").code == 1


@pytest.mark.usefixtures("_filed")
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--range", "last_year"], "last_30d"),
        (["--since", "yesterday"], "write 2026-07-31T12:00:00Z"),
        (["--group-by", "colour"], "provider"),
        (["--range", "last_1h", "--since", "2020-01-01"], "not allowed with"),
    ],
)
def test_usage_is_shown_when_an_option_is_wrong(run: Callable, options: list[str], word: str) -> None:
    result = run("stats", *options)
    assert result.code == 2
    assert word in result.err


@pytest.mark.usefixtures("_filed")
def test_period_is_refused_when_it_is_the_wrong_way_round(run: Callable) -> None:
    result = run("stats", "--since", "2021-01-01", "--until", "2020-01-01")
    assert (result.code, result.err) == (1, "Error: --since is later than --until; write the earlier time first\n")


def test_nothing_is_made_when_there_is_no_database(run: Callable, write: Callable) -> None:
    write("")
    result = run("stats")
    assert result.code == 1
    assert "there is no database" in result.err
    assert not Path("arbstr.db").exists()
