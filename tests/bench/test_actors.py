"""The comparison of actors: what is made of the rounds, and that every cell does its work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.actors import GOALS, LIVE_ACTORS, ActorsOptions, ActorsReport, Memory, actors, cells_of, print_actors
from bench.actors_cells import ASK, CELLS, CHANNELS, START, TELL, THREADING, TRIO
from bench.render import console

ROOT = Path(__file__).parents[2]


def test_ratio_is_taken_within_the_rounds_when_the_machine_slows_down() -> None:
    cells = cells_of({ASK: {TRIO: [1e-6, 10e-6, 100e-6], CHANNELS: [2e-6, 20e-6, 200e-6]}})

    by_name = {cell.contender: cell for cell in cells}
    assert (by_name[CHANNELS].trio_ratio, by_name[CHANNELS].met) == (0.5, True)
    assert (by_name[CHANNELS].us, by_name[CHANNELS].us_least, by_name[CHANNELS].us_most) == (20, 2, 200)
    assert (by_name[TRIO].trio_ratio, by_name[TRIO].goal, by_name[TRIO].met) == (None, None, None)


@pytest.mark.parametrize(
    ("operation", "trio_s", "other_s", "met"),
    [(TELL, 1.0, 1.0, True), (TELL, 1.04, 1.0, True), (TELL, 1.2, 1.0, False), (START, 1.0, 8, True)],
)
def test_goal_is_met_when_the_ratio_is_within_it(operation: str, trio_s: float, other_s: float, met: bool) -> None:
    cells = cells_of({operation: {TRIO: [trio_s], THREADING: [other_s]}})

    assert next(cell for cell in cells if cell.contender == THREADING).met is met
    assert bool(ActorsReport(cells).missed) is not met


@pytest.mark.parametrize(("bytes_each", "missed"), [(5_000, False), (6_001, True)])
def test_memory_counts_for_ten_thousand_when_fewer_were_started(bytes_each: int, missed: bool) -> None:
    memory = Memory(TRIO, LIVE_ACTORS // 10, bytes_each * LIVE_ACTORS // 10, bytes_each)

    assert bool(ActorsReport((), (memory,)).missed) is missed


def test_goals_name_cells_that_are_measured() -> None:
    assert all({goal.beside, TRIO} <= set(CELLS[goal.operation]) for goal in GOALS)


async def test_every_cell_and_contender_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    report = await actors(ActorsOptions(rounds=1, scale=0.01))

    assert {(cell.operation, cell.contender) for cell in report.cells} == {
        (operation, name) for operation, contenders in CELLS.items() for name in contenders
    }
    assert all(cell.us > 0 for cell in report.cells)
    assert [each.contender for each in report.memory] == [THREADING, TRIO, CHANNELS]
    print_actors(report, console())
    assert "TrioActor / this" in capsys.readouterr().out


def test_verb_writes_its_numbers_when_asked_to(tmp_path: Path) -> None:
    file = tmp_path / "actors.json"
    command = [sys.executable, "-m", "bench", "actors", "--rounds", "1", "--scale", "0.01", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode in (0, 1), done.stderr  # so small a run says nothing about the goals
    written = json.loads(file.read_text())
    assert written["bench"] == "actors"
    assert {"cpu", "cores", "python", "rounds", "counts"} <= set(written["setup"])
    assert written["report"]["cells"]
