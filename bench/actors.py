"""What does an actor cost, beside Pykka's own on threads and beside bare Trio channels, in the same run?"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import trio
from attrs import field, frozen
from rich.console import Console
from rich.table import Table

from bench import machine, render
from bench.actors_cells import ASK, BLOCKING_ASK, CHANNELS, CHANNELS_DEADLINE, COUNTS, START, TELL, THREADING, TRIO
from bench.process import ChildFailed

LIVE_ACTORS = 10_000
LIVE_THREADS = 2_000
CHILD_S = 900.0
"""Bound on one child process."""


@frozen
class ActorsOptions:
    rounds: int = 15
    scale: float = 1.0
    """Times the usual number of operations per cell and round."""


@frozen
class Goal:
    """TrioActor against ``beside``: the median over the rounds of the ratio within a round, at most ``at_most``."""

    operation: str
    beside: str
    at_most: float


GOALS = (
    Goal(ASK, CHANNELS_DEADLINE, 1.0),
    Goal(ASK, CHANNELS, 1.0),
    Goal(TELL, THREADING, 1.0),
    Goal(START, THREADING, 1 / 8),
    Goal(BLOCKING_ASK, THREADING, 2.2),
)
TOLERANCE = 0.05
"""Of a ratio: what is equal differs by as much from run to run."""
MEMORY_GOAL_BYTES = 60_000_000


@frozen
class Cell:
    """One row of the table. ``trio_ratio`` is TrioActor's time divided by this contender's, None for itself."""

    operation: str
    contender: str
    us: float
    us_least: float
    us_most: float
    trio_ratio: float | None
    goal: float | None
    met: bool | None


@frozen
class Memory:
    """Resident bytes that ``live`` actors add, each with its first message handled."""

    contender: str
    live: int
    added_bytes: int
    bytes_each: int


@frozen
class ActorsReport:
    cells: tuple[Cell, ...]
    memory: tuple[Memory, ...] = field(default=())

    @property
    def missed(self) -> tuple[str, ...]:
        """The goals that were not reached, in words."""
        slow = [
            f"{cell.operation}: {cell.trio_ratio:.2f} x {cell.contender}, goal {cell.goal:.2f}"
            for cell in self.cells
            if cell.met is False
        ]
        large = [
            f"{each.live} live actors take {each.added_bytes / 1e6:.1f} MB, goal {MEMORY_GOAL_BYTES / 1e6:.0f} MB"
            for each in self.memory
            if each.contender == TRIO and each.bytes_each * LIVE_ACTORS > MEMORY_GOAL_BYTES
        ]
        return (*slow, *large)


Rounds = Mapping[str, Mapping[str, Sequence[float]]]
"""Seconds per operation, by operation and contender, in order of the rounds."""


async def actors(options: ActorsOptions) -> ActorsReport:
    """Measure in child processes: times in one for all, in interleaved rounds; memory in one for each."""
    rounds = await _child("bench.actors_cells", "--rounds", str(options.rounds), "--scale", str(options.scale))
    memory = [await _memory(name, options.scale) for name in (THREADING, TRIO, CHANNELS)]
    return ActorsReport(cells_of(rounds), tuple(memory))


async def _memory(contender: str, scale: float) -> Memory:
    live = max(1, round((LIVE_THREADS if contender == THREADING else LIVE_ACTORS) * scale))
    before, after = await _child("bench.actors_memory", contender, str(live))
    return Memory(contender, live, after - before, (after - before) // live)


async def _child(module: str, *words: str) -> Any:
    """What ``python -m module`` prints, read as JSON. Raises ChildFailed."""
    with trio.move_on_after(CHILD_S):
        done = await trio.run_process([sys.executable, "-m", module, *words], capture_stdout=True, check=False)
        if done.returncode:
            raise ChildFailed(f"{module} ended with {done.returncode}")
        return json.loads(done.stdout)
    raise ChildFailed(f"{module} did not end within {CHILD_S:g} s")


def cells_of(rounds: Rounds) -> tuple[Cell, ...]:
    """Medians over the rounds, and ratios within the rounds, so that both sides have met the same machine."""
    return tuple(
        _cell(operation, name, seconds, by_name[TRIO])
        for operation, by_name in rounds.items()
        for name, seconds in by_name.items()
    )


def _cell(operation: str, name: str, seconds: Sequence[float], of_trio: Sequence[float]) -> Cell:
    ratio = None if name == TRIO else median(mine / other for mine, other in zip(of_trio, seconds, strict=True))
    goal = next((each.at_most for each in GOALS if (each.operation, each.beside) == (operation, name)), None)
    return Cell(
        operation=operation,
        contender=name,
        us=round(median(seconds) * 1e6, 2),
        us_least=round(min(seconds) * 1e6, 2),
        us_most=round(max(seconds) * 1e6, 2),
        trio_ratio=None if ratio is None else round(ratio, 3),
        goal=goal,
        met=None if goal is None or ratio is None else ratio <= goal * (1 + TOLERANCE),
    )


def print_actors(report: ActorsReport, console: Console) -> None:
    """The tables of bench/README.md."""
    times = Table("operation", "contender")
    for name in ("µs", "spread", "TrioActor / this", "goal", ""):
        times.add_column(name, justify="right")
    for cell in report.cells:
        spread = f"{cell.us_least:.1f}-{cell.us_most:.1f}"
        verdict = {None: "", True: "met", False: "MISSED"}[cell.met]
        goal = "" if cell.goal is None else f"{cell.goal:.3g}"
        ratio = "" if cell.trio_ratio is None else f"{cell.trio_ratio:.2f}"
        times.add_row(cell.operation, cell.contender, f"{cell.us:.1f}", spread, ratio, goal, verdict)
    console.print(times)
    memory = Table("live", "contender")
    for name in ("MB", "bytes each"):
        memory.add_column(name, justify="right")
    for each in report.memory:
        memory.add_row(str(each.live), each.contender, f"{each.added_bytes / 1e6:.1f}", str(each.bytes_each))
    console.print(memory)
    for missed in report.missed:
        console.print(f"MISSED: {missed}", markup=False)


async def main(options: ActorsOptions, json_file: Path | None) -> int:
    """The verb: measure, print, write. Exit code 1 when a goal was missed."""
    facts: dict[str, object] = {**machine.facts()}
    console = render.console()
    say = partial(console.print, markup=False)
    say(", ".join(f"{name}: {value}" for name, value in facts.items()))
    report = await actors(options)
    print_actors(report, console)
    if json_file is not None:
        counts = {operation: round(count * options.scale) for operation, count in COUNTS.items()}
        render.write_json(json_file, "actors", {**facts, "rounds": options.rounds, "counts": counts}, report)
    return 1 if report.missed else 0
