"""``arbstr requests``: the list, the list that goes on, and one of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from arbstr.cli._output import printable
from arbstr.store import AttemptRow, Store
from arbstr.store._schema import SCHEMA_VERSION

File = Callable[..., None]
HEADER = ["TIME", "NUMBER", "MODEL", "PROVIDER", "IN", "OUT", "COST", "SAVED", "OUTCOME", "MS"]


def models(out: str) -> list[str]:
    """The models of a table in the order of its rows (the time is two words)."""
    header, *rows = out.splitlines()
    assert header.split() == HEADER
    return [row.split()[3] for row in rows]


def test_newest_come_last_when_listed(run: Callable, file: File) -> None:
    for number in range(25):
        file(f"r{number}", ago_s=100 - number, model=f"m{number}")
    result = run("requests")
    assert (result.code, result.err) == (0, "")
    assert models(result.out) == [f"m{number}" for number in range(5, 25)]
    assert models(run("requests", "-n", "2").out) == ["m23", "m24"]
    assert result.out.splitlines()[-1].split()[2:] == ["25", "m24", "alpha", "1000", "100", "3.5", "0.5", "ok", "2"]


def test_only_those_asked_for_are_listed_when_filtered(run: Callable, file: File) -> None:
    file("a", model="big")
    file("b", model="small", outcome="failed", provider=None, prompt_tokens=None, saved_median_msat=None)
    file("c", model="Small")
    assert models(run("requests", "--failed").out) == ["small"]
    assert sorted(models(run("requests", "--model", "SMALL").out)) == ["Small", "small"]
    assert " -  " in run("requests", "--failed").out


def test_only_the_agents_own_are_listed_when_one_is_named(run: Callable, file: File, books: Store) -> None:
    file("hers", model="small", agent_id=books.add_agent_now("Ada").agent_id)
    file("nobodys")
    assert models(run("requests", "--agent", "Ada").out) == ["small"]
    assert "there is no agent 'Eve'" in run("requests", "--agent", "Eve").err


def test_it_is_said_when_there_are_none(run: Callable, file: File) -> None:
    result = run("requests")
    assert (result.code, models(result.out), result.err) == (0, [], "No such requests yet.\n")


@pytest.mark.parametrize("number", ["0", "-1", "x", "1001", "1.5", "99999999"])
def test_number_is_refused_when_it_is_none(run: Callable, number: str) -> None:
    result = run("requests", f"--number={number}")
    assert result.code == 2
    assert "write 1 to 1000" in result.err


def test_each_line_is_a_document_when_a_program_reads(run: Callable, file: File) -> None:
    file("a", model="\x1b[31m\n")
    file("b", ago_s=5)
    first, second = map(json.loads, run("requests", "--json").out.splitlines())
    assert (first["request_id"], first["model"], first["cost_msat"]) == ("a", "\x1b[31m\n", 3_500)
    assert (second["number"], second["stream"], second["first_byte_us"]) == (2, False, None)
    assert "attempts" not in first


def test_names_that_others_chose_do_nothing_to_the_terminal(run: Callable, file: File) -> None:
    file("a", model="evil\x1b]0;title\x07\n" + "x" * 100, provider="p\u202e")
    out = run("requests").out + run("requests", "1").out + run("stats", "--group-by", "model").out
    assert r"evil\x1b]0;title\x07\x0a" in out
    assert not set("\x1b\x07\u202e") & set(out)


# As they come


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What happens between two looks; Ctrl-C when there is nothing left."""

    def script(*steps: Callable[[], None]) -> None:
        left = list(steps)

        def sleep(_: float) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop(0)()

        monkeypatch.setattr(time, "sleep", sleep)

    return script


def test_requests_are_shown_as_they_are_filed_until_interrupted(run: Callable, file: File, script: Callable) -> None:
    file("a", model="m-a")
    file("b", model="m-b")
    script(
        lambda: None,
        lambda: file("c", model="m-c", ago_s=50),  # began before the others, but is filed after them
        lambda: [file(name, model=f"m-{name}") for name in "de"],
        lambda: None,
    )
    result = run("requests", "-f", "-n", "1")
    assert (result.code, result.err) == (130, "")
    assert models(result.out) == ["m-b", "m-c", "m-d", "m-e"]


def test_none_is_lost_or_shown_twice_when_more_come_than_are_read_at_once(
    run: Callable, file: File, script: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbstr.cli._requests.MAX_POLLED", 2)
    script(lambda: [file(f"r{number}", model=f"m{number}") for number in range(5)])
    assert models(run("requests", "--follow").out) == [f"m{number}" for number in range(5)]


def test_filter_holds_for_those_that_come(run: Callable, file: File, script: Callable) -> None:
    script(lambda: file("a"), lambda: file("b", model="small", outcome="failed"), lambda: file("c"))
    assert models(run("requests", "-f", "--failed").out) == ["small"]
    script(lambda: file("d"), lambda: file("e", model="small"))
    found = [json.loads(line) for line in run("requests", "-f", "--model", "Small", "--json").out.splitlines()]
    assert [one["request_id"] for one in found] == ["b", "e"]


# One of them


@pytest.fixture
def _one(file: File) -> None:
    file(
        "req-1",
        correlation_id="mine",
        endpoint="completions",
        upstream_model="vendor/big",
        tier="frontier",
        complexity_score=0.25,
        policy="code",
        policy_header="code",
        cached_tokens=5,
        estimated=True,
        error="half of it",
        stream=True,
        attempts=(
            AttemptRow("beta", 1, 2_000, None, 503, "failure", "status 503"),
            AttemptRow("alpha", time.time_ns(), 9_000, 8_000, 200, "success"),
        ),
        selection='{"strategy":"cheapest","candidates":[["beta",900,"more"],["alpha",4000]],"left_out":[["gamma","busy"]]}',
    )


@pytest.mark.usefixtures("_one")
@pytest.mark.parametrize("name", ["req-1", "1"])
def test_everything_is_told_when_one_is_asked_for(run: Callable, name: str) -> None:
    result = run("requests", name)
    assert (result.code, result.err) == (0, "")
    for line in (
        "Request:     req-1 (number 1)",
        "Named:       mine",
        "Endpoint:    completions, streamed",
        "Model:       big (there: vendor/big)",
        "Provider:    alpha",
        "Policy:      code",
        "Asked for:   policy code",
        "Tier:        frontier",
        "Complexity:  0.250",
        "Outcome:     ok (HTTP 200)",
        "Error:       half of it",
        "Tokens:      1000 in (5 cached), 100 out, counted by arbstr",
        "Cost:        3.5 sats (expected 4)",
        "Saved:       0.5 sats against the median of the candidates, 1 against the dearest",
        "Candidates, by cheapest:",
        "Left out:",
    ):
        assert line in result.out.splitlines()
    words = [line.split() for line in result.out.splitlines()]
    assert ["beta", "failure", "503", "-", "2", "status", "503"] in words
    assert ["alpha", "success", "200", "8", "9"] in words
    assert ["beta", "0.9"] in words
    assert ["gamma", "busy"] in words


@pytest.mark.usefixtures("_one")
def test_selection_and_attempts_are_there_when_a_program_reads_one(run: Callable) -> None:
    body = json.loads(run("requests", "req-1", "--json").out)
    assert body["selection"]["candidates"][1] == ["alpha", 4_000]
    assert [one["provider"] for one in body["attempts"]] == ["beta", "alpha"]
    assert (body["number"], body["tier"], body["upstream_model"]) == (1, "frontier", "vendor/big")


@pytest.mark.parametrize("selection", ["{}", "[]", "no json", '{"candidates":3,"left_out":[[],"x",["a"]]}'])
def test_receipt_is_shown_when_its_selection_cannot_be_read(run: Callable, file: File, selection: str) -> None:
    file("a", selection=selection)
    result = run("requests", "a")
    assert result.code == 0
    assert "Candidates" not in result.out


@pytest.mark.usefixtures("_one")
@pytest.mark.parametrize("name", ["req-2", "2", "0", "9" * 19, "9" * 40, "\ud800"])
def test_it_is_said_when_there_is_no_such_request(run: Callable, name: str) -> None:
    result = run("requests", name)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: there is no request ")


@pytest.mark.usefixtures("_one")
def test_following_one_request_is_refused(run: Callable) -> None:
    assert run("requests", "-f", "1").code == 1


def test_the_way_out_is_named_when_the_database_is_of_an_earlier_version(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("")
    with monkeypatch.context() as earlier:
        earlier.setattr("arbstr.store._store.SCHEMA_VERSION", 1)
        Store.open(Path("arbstr.db")).close()
    result = run("requests")
    assert (result.code, result.out) == (1, "")
    assert f"has schema version 1, not {SCHEMA_VERSION}; start arbstr once" in result.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain text", "plain text"), ("a\tb", r"a\x09b"), ("x" * 99, "x" * 59 + "…"), ("é", "é"), ("\u2028", r"\x2028")],
)
def test_text_is_shown_as_one_line(text: str, shown: str) -> None:
    assert printable(text) == shown
