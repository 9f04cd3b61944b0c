"""The smallest story that still goes wrong: events are left out, in ever smaller parts, as long as it does (ddmin)."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve

from arbstr.sim._events import Event
from arbstr.sim._scenario import Scenario
from arbstr.sim._world import Report, run

MAX_RUNS = 400


def shrink(failed: Report, again: Callable[[Scenario], Report] = run) -> Report:
    """The report of the smallest scenario found that breaks the same law, after at most ``MAX_RUNS`` runs."""
    best, parts = failed, 2
    for _ in range(MAX_RUNS):
        events = best.scenario.events
        parts = min(parts, len(events))
        if parts < 1:
            break
        smaller = _smaller(best, parts, again)
        if smaller is not None:
            best, parts = smaller, max(2, parts - 1)
        elif parts >= len(events):
            break
        else:
            parts *= 2
    return best


def _smaller(best: Report, parts: int, again: Callable[[Scenario], Report]) -> Report | None:
    for kept in _without_one_part(best.scenario.events, parts):
        report = again(evolve(best.scenario, events=kept))
        if report.wrong and _law(report) == _law(best):
            return report
    return None


def _without_one_part(events: tuple[Event, ...], parts: int) -> list[tuple[Event, ...]]:
    size = -(-len(events) // parts)
    return [events[:start] + events[start + size :] for start in range(0, len(events), size)]


def _law(report: Report) -> str:
    """``M6`` of ``at 3.000 s: M6: ...``; what is no law stands for itself by its beginning."""
    return report.wrong[0].partition(" s: ")[2].partition(":")[0][:40]
