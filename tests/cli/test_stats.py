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


@pytest.mark.parametrize("argv", [["stats", "--json"], ["replay", "--json"]])
def test_only_the_agents_own_are_counted_when_one_is_named(
    run: Callable, file: File, books: Store, argv: list[str]
) -> None:
    ada, bob, other_bob = (books.add_agent_now(name).agent_id for name in ("Ada", "Bob", "Bob"))
    file("hers", agent_id=ada)
    file("nobodys")
    for name in ("Ada", ada):
        body = json.loads(run(*argv, "--agent", name).out)
        assert body.get("total", body.get("requests")) == 1
    unknown = run(*argv, "--agent", "Eve")
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err == "Error: there is no agent 'Eve'; `arbstr agents list` shows those there are\n"
    ambiguous = run(*argv, "--agent", "Bob")
    assert ambiguous.code == 1
    assert bob in ambiguous.err
    assert other_bob in ambiguous.err


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
