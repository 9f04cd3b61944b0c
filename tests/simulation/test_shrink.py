"""The story of a failing seed: fewer events, the same law, sentences."""

from __future__ import annotations

import pytest
from attrs import evolve

from arbstr.sim import Report, Scenario, draw, run, shrink
from arbstr.sim.__main__ import main
from tests.simulation.mutations import recovery_leaves_holds_open, release_what_was_delivered


def reports(scenario: Scenario, wrong: tuple[str, ...]) -> Report:
    return Report(scenario, (), wrong, {})


@pytest.mark.parametrize("needed", [(0,), (3, 7), (0, 1, 2), ()])
def test_only_the_events_that_are_needed_are_left(needed: tuple[int, ...]) -> None:
    scenario = draw(1)
    wanted = [scenario.events[number] for number in needed]

    def again(smaller: Scenario) -> Report:
        broken = all(event in smaller.events for event in wanted)
        return reports(smaller, ("at 1.000 s: M2: it does not add up",) if broken else ())

    small = shrink(again(scenario), again)
    assert list(small.scenario.events) == wanted


def test_events_are_not_left_out_when_another_law_breaks_without_them() -> None:
    scenario = evolve(draw(1), events=draw(1).events[:4])

    def again(smaller: Scenario) -> Report:
        return reports(smaller, ("at 1.000 s: M2: a",) if smaller == scenario else ("at 1.000 s: M3: b",))

    assert shrink(again(scenario), again).scenario == scenario


def test_a_defect_is_told_with_fewer_events_when_its_seed_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    recovery_leaves_holds_open(monkeypatch)
    report = next(report for report in map(run, map(draw, range(20))) if report.wrong)
    small = shrink(report)
    assert small.wrong
    assert len(small.scenario.events) < len(report.scenario.events) / 2
    assert any("the process is killed" in line for line in small.scenario.story())
    assert run(small.scenario).wrong == small.wrong


def test_the_command_ends_with_0_when_nothing_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--jobs", "1"]) == 0
    assert "3 seeds in" in capsys.readouterr().out


def test_the_command_tells_the_story_and_ends_with_1_when_a_law_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release_what_was_delivered(monkeypatch)
    assert main(["--seeds", "10", "--jobs", "1"]) == 1
    said = capsys.readouterr().out
    assert "is wrong:" in said
    assert "agent" in said
    assert "again: python -m arbstr.sim --seed" in said


def test_the_command_prints_the_log_of_one_seed_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "0", "--log"]) == 0
    said = capsys.readouterr().out
    assert "nothing is wrong" in said
    assert "committed" in said
    assert all(line in said for line in draw(0).story())


def test_the_command_uses_several_processes_when_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "30", "--jobs", "2", "--first", "40"]) == 0
    assert "30 seeds in" in capsys.readouterr().out
