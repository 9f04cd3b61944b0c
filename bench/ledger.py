"""What does it cost to reserve and settle, and does it stay so when there are many rows and many agents?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import trio
from attrs import frozen
from rich.console import Console
from rich.table import Table

from arbstr.assembly import relaxed_collector
from bench import machine, render
from bench.ledger_cells import ACTORS, NAIVE, Round, by_actors, fill, naive, new_books

FEW_ROWS, MANY_ROWS = 1_000, 1_000_000
ONE_AGENT, MANY_AGENTS = 1, 10_000
MOST = 512
GOAL_PAIRS_PER_S = 4_000.0
GOAL_CPU_US = 120.0
GOAL_GROWTH = 1.15
"""Of the CPU time per pair, from few rows and one agent to many."""


@frozen
class LedgerOptions:
    rounds: int = 3
    scale: float = 1.0
    """Times the usual number of pairs, of rows and of agents."""


@frozen
class Spec:
    """One row of the table. ``rows`` is how many all tables had together before."""

    way: str
    durability: str
    in_flight: int
    rows: int
    agents: int
    pairs: int


@frozen
class Cell:
    """Medians over the rounds; CPU time of the whole process per pair of a reserve and a settle."""

    spec: Spec
    pairs_per_s: float
    cpu_us: float
    cpu_us_least: float
    cpu_us_most: float


@frozen
class LedgerReport:
    cells: tuple[Cell, ...]
    growth: dict[str, float]
    """CPU time per pair with many of something, divided by that with few: median over the rounds."""
    beside_naive: dict[str, float]
    """By durability: pairs per second with the most in flight, divided by those of one transaction per call."""
    missed: tuple[str, ...]


def specs(scale: float) -> tuple[Spec, ...]:
    """Each number in flight at both durabilities, then the four corners of few and many."""

    def of(way: str, durability: str, in_flight: int, rows: int, agents: int, pairs: int) -> Spec:
        return Spec(
            way,
            durability,
            in_flight,
            round(rows * scale),
            max(1, round(agents * scale)),
            max(20, round(pairs * scale)),
        )

    few = [
        of(way, durability, in_flight, FEW_ROWS, ONE_AGENT, pairs)
        for durability in ("full", "process")
        for way, in_flight, pairs in ((NAIVE, 1, 500), (ACTORS, 1, 500), (ACTORS, 32, 4_000), (ACTORS, MOST, 12_000))
    ]
    many = [
        of(ACTORS, "full", MOST, rows, agents, 12_000)
        for rows, agents in ((MANY_ROWS, ONE_AGENT), (FEW_ROWS, MANY_AGENTS), (MANY_ROWS, MANY_AGENTS))
    ]
    return (*few, *many)


async def ledger(options: LedgerOptions) -> LedgerReport:
    """Measure in interleaved rounds, so that every cell meets the same machine."""
    wanted = specs(options.scale)
    with tempfile.TemporaryDirectory(prefix="arbstr-bench-") as folder, relaxed_collector():  # as ``arbstr serve``
        databases = await trio.to_thread.run_sync(_databases, Path(folder), wanted)
        rounds: list[list[Round]] = [[] for _ in wanted]
        for _ in range(options.rounds):
            for spec, found in zip(wanted, rounds, strict=True):
                found += await _one_round(spec, databases[spec.rows, spec.agents])
    return report_of(wanted, rounds)


def _databases(folder: Path, wanted: Sequence[Spec]) -> dict[tuple[int, int], Path]:
    found: dict[tuple[int, int], Path] = {}
    for spec in wanted:
        if (spec.rows, spec.agents) not in found:
            path = folder / f"{spec.rows}-{spec.agents}.db"
            fill(path, new_books(path, spec.agents), spec.rows)
            found[spec.rows, spec.agents] = path
    return found


async def _one_round(spec: Spec, path: Path) -> list[Round]:
    if spec.way == ACTORS:
        return await by_actors(path, spec.durability, spec.in_flight, spec.pairs, 1)
    return await trio.to_thread.run_sync(naive, path, spec.durability, spec.pairs, 1)


def report_of(wanted: Sequence[Spec], rounds: Sequence[Sequence[Round]]) -> LedgerReport:
    cells = tuple([_cell(spec, found) for spec, found in zip(wanted, rounds, strict=True)])
    growth = _growth(wanted, rounds)
    full = next(cell for cell in cells if cell.spec == _corner(wanted)[0])
    missed = []
    if full.pairs_per_s < GOAL_PAIRS_PER_S:
        missed.append(f"{full.pairs_per_s:.0f} pairs/s with {MOST} in flight, goal {GOAL_PAIRS_PER_S:.0f}")
    if full.cpu_us > GOAL_CPU_US:
        missed.append(f"{full.cpu_us:.0f} µs of CPU per pair with {MOST} in flight, goal {GOAL_CPU_US:.0f}")
    missed += [
        f"with {what} a pair takes {ratio:.2f} times as much CPU, goal {GOAL_GROWTH:.2f}"
        for what, ratio in growth.items()
        if ratio > GOAL_GROWTH
    ]
    return LedgerReport(cells, growth, _beside_naive(cells), tuple(missed))


def _corner(wanted: Sequence[Spec]) -> list[Spec]:
    """Few and few, many rows, many agents, both: with the most in flight."""
    return [spec for spec in wanted if (spec.way, spec.durability, spec.in_flight) == (ACTORS, "full", MOST)]


def _growth(wanted: Sequence[Spec], rounds: Sequence[Sequence[Round]]) -> dict[str, float]:
    by_spec = dict(zip(wanted, rounds, strict=True))
    few, *many = _corner(wanted)
    return {
        f"{spec.rows} rows and {spec.agents} agents": round(
            median(
                (now.cpu_s / now.pairs) / (then.cpu_s / then.pairs)
                for now, then in zip(by_spec[spec], by_spec[few], strict=True)
            ),
            3,
        )
        for spec in many
    }


def _beside_naive(cells: Sequence[Cell]) -> dict[str, float]:
    most: dict[str, Cell] = {}
    for cell in cells:
        if cell.spec.in_flight == MOST:
            most.setdefault(cell.spec.durability, cell)  # the first is that with few rows and one agent
    return {
        cell.spec.durability: round(most[cell.spec.durability].pairs_per_s / cell.pairs_per_s, 2)
        for cell in cells
        if cell.spec.way == NAIVE
    }


def _cell(spec: Spec, rounds: Sequence[Round]) -> Cell:
    cpu_us = [each.cpu_s / each.pairs * 1e6 for each in rounds]
    return Cell(
        spec,
        round(median(each.pairs / each.wall_s for each in rounds), 1),
        round(median(cpu_us), 1),
        round(min(cpu_us), 1),
        round(max(cpu_us), 1),
    )


def print_ledger(report: LedgerReport, console: Console) -> None:
    """The tables of bench/README.md."""
    table = Table("way", "durability")
    for name in ("in flight", "rows", "agents", "pairs/s", "CPU µs/pair", "spread"):
        table.add_column(name, justify="right")
    for cell in report.cells:
        spec = cell.spec
        table.add_row(
            spec.way,
            spec.durability,
            str(spec.in_flight),
            str(spec.rows),
            str(spec.agents),
            f"{cell.pairs_per_s:.0f}",
            f"{cell.cpu_us:.0f}",
            f"{cell.cpu_us_least:.0f}-{cell.cpu_us_most:.0f}",
        )
    console.print(table)
    for what, ratio in report.growth.items():
        console.print(f"CPU per pair with {what}: {ratio:.2f} times that with few", markup=False)
    for durability, ratio in report.beside_naive.items():
        console.print(f"{durability}: {ratio:.1f} times as many pairs/s as one transaction per call", markup=False)
    for missed in report.missed:
        console.print(f"MISSED: {missed}", markup=False)


async def main(options: LedgerOptions, json_file: Path | None) -> int:
    """The verb: measure, print, write. Exit code 1 when a goal was missed."""
    facts: dict[str, object] = {**machine.facts()}
    console = render.console()
    say = partial(console.print, markup=False)
    say(", ".join(f"{name}: {value}" for name, value in facts.items()))
    report = await ledger(options)
    print_ledger(report, console)
    if json_file is not None:
        render.write_json(json_file, "ledger", {**facts, "rounds": options.rounds, "scale": options.scale}, report)
    return 1 if report.missed else 0
