"""The soak: what it finds fault with, and that it finds none in a small load."""

import pytest
from attrs import evolve

from bench import soak
from bench.generator import LoadFigures, ShotFigures
from bench.money import MoneyReport
from bench.process import ChildFailed
from bench.soak import MIX, Look, SoakOptions, SoakReport, above, metric, report_of

IDLE = Look(0.0, 0, 60.0, 17, 19, 6, 0, 0)
BOOKS = MoneyReport(100, 10, 0, 10, 10, 0, ())
TEXT = """# HELP arbstr_tasks Trio tasks that live.
arbstr_tasks 19.0
arbstr_actors{actor="RequestActor"} 3.0
arbstr_actors{actor="ProviderActor"} 2.0
"""


def report(looks: list[Look], after: Look = IDLE, books: MoneyReport = BOOKS, **outcomes: int) -> SoakReport:
    figures = LoadFigures({"plain": ShotFigures(10, outcomes or {"ok": 10})}, 9.0, 1.0, 10)
    return report_of(figures, IDLE, after, looks, books)


def memory(*values: float) -> list[Look]:
    return [evolve(IDLE, rss_mb=value) for value in values]


def test_samples_are_summed_when_a_metric_has_labels() -> None:
    assert metric(TEXT, "arbstr_tasks") == 19
    assert metric(TEXT, "arbstr_actors") == 5
    assert metric(TEXT, "arbstr_requests_total") == 0
    with pytest.raises(ChildFailed, match="does not tell arbstr_holds_open"):
        metric(TEXT, "arbstr_holds_open")


def test_nothing_is_found_when_memory_grows_only_in_the_first_quarter() -> None:
    found = report(memory(40, 50, 60, *[70] * 17))

    assert found.problems == ()
    assert found.clean


def test_growth_is_found_when_it_goes_on_to_the_end() -> None:
    found = report(memory(*(60.0 + 2 * n for n in range(20))))

    assert found.problems == ("resident memory grew by 36.6% after the first quarter, from 71.0 to 97.0 MB",)


def test_each_count_is_found_when_it_has_not_returned() -> None:
    after = evolve(IDLE, open_files=18, tasks=20, actors=7, open_holds=1, in_flight=1)

    assert len(above(after, IDLE)) == 5
    assert "18 open files, 17 before the load" in report(memory(60), after).problems
    assert above(evolve(IDLE, open_files=16), IDLE) == []


def test_requests_that_ended_otherwise_are_found_when_they_were_to_be_good() -> None:
    assert report(memory(60), ok=9, stalled=1).problems == ("1 x stalled where ok was to be: plain",)


def test_money_is_found_when_the_books_are_wrong() -> None:
    assert report(memory(60), books=evolve(BOOKS, problems=("1 holds are still open",))).problems == (
        "1 holds are still open",
    )


@pytest.mark.live
async def test_everything_returns_to_where_it_was_when_the_load_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "PAUSE_S", 0.4)
    monkeypatch.setattr(soak, "SAMPLE_S", 0.02)  # the load takes less than half a second
    monkeypatch.setattr(soak, "WARM_UP", 100)
    monkeypatch.setattr(soak, "MOST_GROWTH", 10.0)  # so little load is all warming up

    found = await soak.soak(SoakOptions(requests=320, connections=8, durability="process"))

    assert found.problems == ()
    assert found.requests == 320
    assert set(found.outcomes) == {shot.name for shot, _ in MIX}
    assert max(look.tasks for look in found.looks) > found.before.tasks
