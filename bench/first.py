"""What does a request cost in CPU, beside a plain reverse proxy on the same machine in the same run?"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from attrs import field, frozen
from rich.console import Console
from rich.table import Table

from bench import load, machine, money, nginx, render
from bench.arbstr_server import Arbstr
from bench.client import Ask, Target
from bench.market import MODEL, ProviderEntry
from bench.process import Child
from bench.report import failures, told_msat
from bench.stats import milliseconds

PROXY = "reverse proxy"
DIRECT = "direct"
BUDGET_SATS = 10_000_000
PROMPT_TOKENS, PLAIN_TOKENS, STREAM_TOKENS = 250, 100, 20
GAP_MS = 2.0
WARM_UP = 50
CELL_S = 120.0
"""Bound on one cell of the table in one round."""


@frozen
class FirstOptions:
    requests: int = 400
    """Plain requests per cell and round; streams are a quarter of it."""
    rounds: int = 3
    connections: tuple[int, ...] = (1, 32)


@frozen
class Contender:
    """One program under measurement; ``child`` is None for the answerer itself, reached directly."""

    name: str
    target: Target
    child: Child | None
    arbstr: Arbstr | None = None


@frozen
class Sample:
    """One cell in one round."""

    cpu_ms: float | None
    p50_ms: float | None
    p99_ms: float | None
    requests_per_s: float
    failed: int
    told_msat: int


@frozen
class Cell:
    """One cell of the table: medians over the rounds, and the spread of what varies most."""

    contender: str
    mode: str
    connections: int
    requests: int
    cpu_ms: float | None
    cpu_ms_least: float | None
    cpu_ms_most: float | None
    ratio: float | None
    p50_ms: float | None
    p99_ms: float | None
    requests_per_s: float
    failed: int


@frozen
class FirstReport:
    cells: tuple[Cell, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def clean(self) -> bool:
        return not self.problems and not any(cell.failed for cell in self.cells)


def asks(mode: str, count: int) -> list[Ask]:
    """Requests of one kind: a prompt of 1 kB, and an answer in one piece or in 20 events."""
    stream = mode == "stream"
    return [Ask(index, PROMPT_TOKENS, STREAM_TOKENS if stream else PLAIN_TOKENS, stream) for index in range(count)]


async def first(options: FirstOptions) -> FirstReport:
    """Start everything once, measure the cells in turn so that drift of the machine meets all alike, stop, audit."""
    with tempfile.TemporaryDirectory(prefix="arbstr-first-") as temporary:
        async with AsyncExitStack() as stack:
            contenders = await _start(stack, Path(temporary))
            samples = await _rounds(contenders, options)
        problems = [problem for contender in contenders for problem in _books(contender, samples)]
    return FirstReport(cells_of(samples, options), tuple(problems))


Samples = dict[tuple[str, str, int], list[Sample]]
"""By contender, mode and connections, in order of the rounds."""


async def _start(stack: AsyncExitStack, directory: Path) -> list[Contender]:
    python = [sys.executable, "-m"]
    gap = ["--gap-ms", str(GAP_MS)]
    upstream = await stack.enter_async_context(Child([*python, "bench.upstream", *gap], directory / "upstream.log"))
    address = await upstream.address()
    contenders = [Contender(DIRECT, Target.of(address, MODEL), None)]
    command = [*python, "bench.reverse_proxy", "--upstream", address]
    proxy = await stack.enter_async_context(Child(command, directory / "proxy.log"))
    contenders.append(Contender(PROXY, Target.of(await proxy.address(), MODEL), proxy))
    program = nginx.binary()
    if program is not None:
        child, at = nginx.child(program, directory, address)
        await nginx.wait_until_up(await stack.enter_async_context(child), at)
        contenders.append(Contender("nginx", Target.of(at, MODEL), child))
    arbstrs = [await _start_arbstr(stack, directory, address, durability) for durability in ("full", "process")]
    return [*contenders, *arbstrs]


async def _start_arbstr(stack: AsyncExitStack, directory: Path, upstream: str, durability: str) -> Contender:
    arbstr = Arbstr(directory / durability, [ProviderEntry("answerer", f"{upstream}/v1", "100", "300")], durability)
    await arbstr.create(BUDGET_SATS)
    server = await stack.enter_async_context(arbstr.server())
    target = Target.of(await server.address(), arbstr.model, arbstr.token)
    return Contender(f"arbstr, {durability}", target, server, arbstr)


async def _rounds(contenders: Sequence[Contender], options: FirstOptions) -> Samples:
    samples: Samples = {}
    for mode in ("plain", "stream"):
        count = options.requests if mode == "plain" else max(1, options.requests // 4)
        for connections in options.connections:
            for round_number in range(options.rounds + 1):
                for contender in contenders:
                    # Round 0 warms up: connections, caches, the interpreter's adaptive code.
                    sample = await _measure(contender, asks(mode, count if round_number else WARM_UP), connections)
                    samples.setdefault((contender.name, mode, connections), []).append(sample)
    return samples


async def _measure(contender: Contender, requests: Sequence[Ask], connections: int) -> Sample:
    before = contender.child.cpu_s() if contender.child is not None else None
    result = await load.closed_loop(contender.target, requests, connections=connections, bound_s=CELL_S)
    cpu_ms = None
    if contender.child is not None and before is not None:
        cpu_ms = (contender.child.cpu_s() - before) * 1_000 / len(requests)
    totals = [outcome.total_s for outcome in result.outcomes if outcome.total_s is not None]
    for kind, times in failures(result.outcomes).items():
        print(f"{contender.name}: {times} x {kind}", file=sys.stderr)
    return Sample(
        cpu_ms=cpu_ms,
        p50_ms=milliseconds(totals, 0.50),
        p99_ms=milliseconds(totals, 0.99),
        requests_per_s=len(requests) / result.wall_s,
        failed=sum(not outcome.ok for outcome in result.outcomes),
        told_msat=told_msat(result.outcomes),
    )


def cells_of(samples: Samples, options: FirstOptions) -> tuple[Cell, ...]:
    """Medians over the rounds (the first is warm-up and left out), and CPU beside the reverse proxy's."""
    yardstick = {
        key[1:]: _median(sample.cpu_ms for sample in each[1:]) for key, each in samples.items() if key[0] == PROXY
    }
    return tuple(_cell(key, each[1:], yardstick.get(key[1:]), options) for key, each in samples.items())


def _cell(key: tuple[str, str, int], each: Sequence[Sample], beside: float | None, options: FirstOptions) -> Cell:
    contender, mode, connections = key
    cpu = [sample.cpu_ms for sample in each if sample.cpu_ms is not None]
    cpu_ms = _median(cpu)
    return Cell(
        contender=contender,
        mode=mode,
        connections=connections,
        requests=options.requests if mode == "plain" else max(1, options.requests // 4),
        cpu_ms=cpu_ms,
        cpu_ms_least=round(min(cpu), 3) if cpu else None,
        cpu_ms_most=round(max(cpu), 3) if cpu else None,
        ratio=round(cpu_ms / beside, 2) if cpu_ms is not None and beside else None,
        p50_ms=_median(sample.p50_ms for sample in each),
        p99_ms=_median(sample.p99_ms for sample in each),
        requests_per_s=round(median(sample.requests_per_s for sample in each), 1),
        failed=sum(sample.failed for sample in each),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 3) if known else None


def _books(contender: Contender, samples: Samples) -> list[str]:
    """The money check of an arbstr that has stopped."""
    if contender.arbstr is None:
        return []
    told = sum(sample.told_msat for key, each in samples.items() if key[0] == contender.name for sample in each)
    problems = list(money.check(contender.arbstr.database, told).problems)
    return [f"{contender.name}: {problem}" for problem in problems]


def print_first(report: FirstReport, console: Console) -> None:
    """A table as in bench/README.md."""
    table = Table()
    for name in ("mode", "connections", "program", "CPU ms/request", "spread", "ratio", "p50 ms", "p99 ms", "req/s"):
        table.add_column(name, justify="left" if name in ("mode", "program") else "right")
    for cell in sorted(report.cells, key=lambda each: (each.mode, each.connections)):
        spread = "-" if cell.cpu_ms_least is None else f"{cell.cpu_ms_least:.2f}-{cell.cpu_ms_most:.2f}"
        numbers = [_number(cell.cpu_ms), spread, _number(cell.ratio), _number(cell.p50_ms), _number(cell.p99_ms)]
        name = cell.contender if not cell.failed else f"{cell.contender} ({cell.failed} FAILED)"
        table.add_row(cell.mode, str(cell.connections), name, *numbers, f"{cell.requests_per_s:.0f}")
    console.print(table)
    for problem in report.problems:
        console.print(f"MONEY: {problem}", markup=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


async def main(options: FirstOptions, json_file: Path | None) -> int:
    """The verb: measure, print, write. Exit code 1 when a request failed or the books are wrong."""
    report = await first(options)
    facts: dict[str, object] = {**machine.facts()}
    console = render.console()
    console.print(", ".join(f"{name}: {value}" for name, value in facts.items()), markup=False)
    print_first(report, console)
    if json_file is not None:
        setup = {**facts, "prompt_tokens": PROMPT_TOKENS, "plain_tokens": PLAIN_TOKENS, "stream_events": STREAM_TOKENS}
        setup |= {"gap_ms": GAP_MS, "requests": options.requests, "rounds": options.rounds}
        render.write_json(json_file, "first", setup, report)
    return 0 if report.clean else 1
