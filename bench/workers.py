"""What do several processes cost, and what do they bring? One beside ``--workers N``, with and without accounts.

The load generator and the answerer share the machine's cores with the program, so the rate at which requests are
answered says more about them than about it. What a machine with cores to spare would reach is computed instead: a
process can use one core, so the program answers as fast as its busiest process allows, and no faster than all cores
together.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from attrs import frozen
from rich.console import Console
from rich.table import Table

from bench import load, machine, money, render
from bench.arbstr_server import Arbstr
from bench.client import Ask, Target
from bench.market import MODEL, ProviderEntry
from bench.process import Child, cpu_s_of_all
from bench.report import failures, told_msat
from bench.stats import milliseconds

BUDGET_SATS = 10_000_000
PROMPT_TOKENS, ANSWER_TOKENS = 250, 100
WARM_UP = 200
CELL_S = 120.0
CORES = 2
"""That the capacity is computed for."""


@frozen
class WorkersOptions:
    requests: int = 2_000
    """Plain requests per cell and round."""
    rounds: int = 3
    connections: int = 32
    workers: int = 2
    mock: bool = False
    """Answers are made within the program: what is left is its own work."""


@frozen
class Sample:
    """One cell in one round. CPU in ms per request: of all processes, and of each, the parent's first."""

    cpu_ms: float
    each_ms: tuple[float, ...]
    client_cpu_ms: float
    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    failed: int
    told_msat: int


@frozen
class Cell:
    """One cell of the table: medians over the rounds."""

    program: str
    accounts: bool
    cpu_ms: float
    cpu_ms_least: float
    cpu_ms_most: float
    busiest_ms: float
    """Of the process that uses most."""
    ratio: float
    """Of CPU to one process."""
    capacity_per_s: float
    """Requests that ``CORES`` cores could answer, were nothing else running on them."""
    speedup: float
    """Of that to one process."""
    client_cpu_ms: float
    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    failed: int


@frozen
class WorkersReport:
    cells: tuple[Cell, ...]
    problems: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return not self.problems and not any(cell.failed for cell in self.cells)


@frozen
class Contender:
    name: str
    arbstr: Arbstr
    child: Child
    target: Target


async def workers(options: WorkersOptions) -> WorkersReport:
    """Start everything once, measure the cells in turn so that drift of the machine meets all alike, stop, audit."""
    samples: dict[tuple[bool, str], list[Sample]] = {}
    with tempfile.TemporaryDirectory(prefix="arbstr-workers-") as temporary:
        async with AsyncExitStack() as stack:
            contenders = await _start(stack, Path(temporary), options)
            for round_number in range(options.rounds + 1):
                for contender in contenders:  # round 0 warms up
                    count = options.requests if round_number else WARM_UP
                    sample = await _measure(contender, count, options.connections)
                    samples.setdefault((contender.arbstr.accounts, contender.name), []).append(sample)
        problems = [problem for contender in contenders for problem in _books(contender, samples)]
    return WorkersReport(cells_of({key: each[1:] for key, each in samples.items()}), tuple(problems))


async def _start(stack: AsyncExitStack, directory: Path, options: WorkersOptions) -> list[Contender]:
    provider = ProviderEntry("answerer", await _answerer(stack, directory, options), "100", "300")
    contenders = []
    for accounts in (True, False):
        for count in (1, options.workers):
            name = _name(count)
            arbstr = Arbstr(directory / f"{accounts}-{count}", [provider], accounts=accounts)
            await arbstr.create(BUDGET_SATS)
            child = await stack.enter_async_context(arbstr.server(options=("--workers", str(count))))
            target = Target.of(await child.address(), MODEL, arbstr.token)
            contenders.append(Contender(name, arbstr, child, target))
    return contenders


async def _answerer(stack: AsyncExitStack, directory: Path, options: WorkersOptions) -> str:
    if options.mock:
        return "mock://answerer?ttft_ms=1&tokens_per_s=100000"
    command = [sys.executable, "-m", "bench.upstream"]
    upstream = await stack.enter_async_context(Child(command, directory / "upstream.log"))
    return f"{await upstream.address()}/v1"


def _name(count: int) -> str:
    return "one process" if count == 1 else f"{count} workers"


async def _measure(contender: Contender, count: int, connections: int) -> Sample:
    asks = [Ask(index, PROMPT_TOKENS, ANSWER_TOKENS, False) for index in range(count)]
    before = cpu_s_of_all(contender.child.pid)
    result = await load.closed_loop(contender.target, asks, connections=connections, bound_s=CELL_S)
    after = cpu_s_of_all(contender.child.pid)
    each_ms = tuple((used - before.get(pid, 0.0)) * 1_000 / count for pid, used in after.items())
    for kind, times in failures(result.outcomes).items():
        print(f"{contender.name}: {times} x {kind}", file=sys.stderr)
    totals = [outcome.total_s for outcome in result.outcomes if outcome.total_s is not None]
    return Sample(
        cpu_ms=sum(each_ms),
        each_ms=each_ms,
        client_cpu_ms=result.client_cpu_s * 1_000 / count,
        requests_per_s=count / result.wall_s,
        p50_ms=milliseconds(totals, 0.50),
        p99_ms=milliseconds(totals, 0.99),
        failed=sum(not outcome.ok for outcome in result.outcomes),
        told_msat=told_msat(result.outcomes),
    )


def capacity_per_s(sample: Sample) -> float:
    """How many requests ``CORES`` cores could answer, each process using one at most."""
    return 1_000 / max(sample.cpu_ms / CORES, *sample.each_ms, 1e-6)


def cells_of(samples: dict[tuple[bool, str], list[Sample]]) -> tuple[Cell, ...]:
    """Medians over the rounds; ratios to the first program with, or without, accounts."""
    first: dict[bool, tuple[float, float]] = {}
    cells = []
    for (accounts, name), each in samples.items():
        cpu_ms = median(sample.cpu_ms for sample in each)
        capacity = median(capacity_per_s(sample) for sample in each)
        base_ms, base = first.setdefault(accounts, (cpu_ms, capacity))
        cells.append(
            Cell(
                program=name,
                accounts=accounts,
                cpu_ms=round(cpu_ms, 3),
                cpu_ms_least=round(min(sample.cpu_ms for sample in each), 3),
                cpu_ms_most=round(max(sample.cpu_ms for sample in each), 3),
                busiest_ms=round(median(max(sample.each_ms) for sample in each), 3),
                ratio=round(cpu_ms / base_ms, 2),
                capacity_per_s=round(capacity),
                speedup=round(capacity / base, 2),
                client_cpu_ms=round(median(sample.client_cpu_ms for sample in each), 3),
                requests_per_s=round(median(sample.requests_per_s for sample in each)),
                p50_ms=_median([sample.p50_ms for sample in each]),
                p99_ms=_median([sample.p99_ms for sample in each]),
                failed=sum(sample.failed for sample in each),
            )
        )
    return tuple(cells)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 2) if known else None


def _books(contender: Contender, samples: dict[tuple[bool, str], list[Sample]]) -> list[str]:
    """The money check of an arbstr that has stopped."""
    if not contender.arbstr.accounts:
        return []
    told = sum(sample.told_msat for sample in samples[contender.arbstr.accounts, contender.name])
    return [f"{contender.name}: {problem}" for problem in money.check(contender.arbstr.database, told).problems]


def print_workers(report: WorkersReport, console: Console) -> None:
    """A table as in bench/README.md."""
    table = Table()
    for name in ("accounts", "program", "CPU ms/request", "spread", "busiest", "ratio", f"req/s on {CORES} cores"):
        table.add_column(name, justify="left" if name in ("accounts", "program") else "right")
    for name in ("speedup", "measured req/s", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    for cell in report.cells:
        name = cell.program if not cell.failed else f"{cell.program} ({cell.failed} FAILED)"
        table.add_row(
            "yes" if cell.accounts else "no",
            name,
            f"{cell.cpu_ms:.3f}",
            f"{cell.cpu_ms_least:.3f}-{cell.cpu_ms_most:.3f}",
            f"{cell.busiest_ms:.3f}",
            f"{cell.ratio:.2f}",
            f"{cell.capacity_per_s:.0f}",
            f"{cell.speedup:.2f}",
            f"{cell.requests_per_s:.0f}",
            "-" if cell.p50_ms is None else f"{cell.p50_ms:.1f}",
            "-" if cell.p99_ms is None else f"{cell.p99_ms:.1f}",
        )
    console.print(table)
    for problem in report.problems:
        console.print(f"MONEY: {problem}", markup=False)


async def main(options: WorkersOptions, json_file: Path | None) -> int:
    """The verb: measure, print, write. Exit code 1 when a request failed or the books are wrong."""
    report = await workers(options)
    facts: dict[str, object] = {**machine.facts()}
    console = render.console()
    console.print(", ".join(f"{name}: {value}" for name, value in facts.items()), markup=False)
    print_workers(report, console)
    if json_file is not None:
        setup = {**facts, "prompt_tokens": PROMPT_TOKENS, "answer_tokens": ANSWER_TOKENS}
        setup |= {
            "requests": options.requests,
            "rounds": options.rounds,
            "connections": options.connections,
            "mock": options.mock,
        }
        render.write_json(json_file, "workers", setup, report)
    return 0 if report.clean else 1
