"""What does each gateway add? Programs one after another in front of one answerer, under one load, in one run."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

from attrs import asdict, define, frozen
from rich import box
from rich.console import Console
from rich.table import Table

from bench import cells, machine, money, plots, programs, render
from bench.arbstr_server import Arbstr
from bench.cells import ChunkCell, FirstByteCell, MemoryCell, PlainCell
from bench.process import ChildFailed
from bench.programs import DIRECT, PEERS, Program, Running

ARBSTR, ARBSTR_PROCESS = "arbstr", "arbstr, process"
CHOICES = (DIRECT, "reverse-proxy", *PEERS, "arbstr", "arbstr-process")
CELLS = ("plain", "ttft", "gaps", "burst", "memory")
PEERS_FOLDER = Path.home() / ".cache" / "arbstr-bench"


@frozen
class GatewayOptions:
    programs: tuple[str, ...] = CHOICES
    cells: tuple[str, ...] = CELLS
    peers: Path = PEERS_FOLDER
    """Where ``python -m bench peers`` has put them."""
    rounds: int = 3
    seconds: float = 4.0
    """Of plain load per round."""
    streams: int = 32
    """Per round of the two cells of chunks, 16 at once; of the cell of first bytes as many and more."""
    open_streams: int = 1_000


@define
class Row:
    """One program. A cell that was not asked for is None."""

    name: str
    version: str
    books: str
    start_s: float | None = None
    plain: PlainCell | None = None
    ttft: FirstByteCell | None = None
    gaps: ChunkCell | None = None
    burst: ChunkCell | None = None
    memory: MemoryCell | None = None
    failure: str = ""
    """Why it could not be measured to the end."""

    @property
    def failures(self) -> dict[str, int]:
        """Of requests, by kind, over all cells."""
        found: dict[str, int] = {}
        for cell in (self.plain, self.ttft, self.gaps, self.burst):
            for kind, count in cell.failures.items() if cell is not None else ():
                found[kind] = found.get(kind, 0) + count
        return found


@frozen
class Added:
    """A row beside the others: what it adds to the answerer alone, and CPU as a multiple of arbstr's."""

    ttft_ms: float | None
    p99_ms: float | None
    cpu_ratio: float | None
    gaps_ratio: float | None
    burst_ratio: float | None


@frozen
class GatewayReport:
    rows: tuple[Row, ...]
    added: Mapping[str, Added]
    absent: tuple[str, ...]
    """Asked for and not installed."""
    problems: tuple[str, ...] = ()
    """Of arbstr: money, and requests that failed."""

    @property
    def clean(self) -> bool:
        return not self.problems


async def gateway(options: GatewayOptions) -> GatewayReport:
    """Measure one program after the other. One that fails is a row that says so; the others go on."""
    wanted = [name for name in options.programs if name in PEERS]
    peers, absent = programs.find(options.peers, wanted)
    rows: list[Row] = []
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="arbstr-gateway-") as temporary:
        directory = Path(temporary)
        async with programs.answerer(directory) as (behind, upstream):
            bench = cells.Bench(behind, directory)
            for number, (program, start) in enumerate(_subjects(options, peers)):
                print(f"measuring {program.name} {program.version}", file=sys.stderr)
                row = Row(program.name, program.version, program.books)
                problems += await _measured(row, bench, start(program, upstream, directory / str(number)), options)
                rows.append(row)
    return GatewayReport(tuple(rows), added(rows), tuple(absent), tuple(problems))


Start = Callable[[Program, str, Path], AbstractAsyncContextManager[Running]]


def _subjects(options: GatewayOptions, peers: Sequence[Program]) -> list[tuple[Program, Start]]:
    """What to measure, in order, and how it is started."""
    own: list[tuple[str, Program, Start]] = [
        (DIRECT, programs.direct(), programs.running),
        ("reverse-proxy", programs.reverse_proxy(), programs.running),
    ]
    ours: list[tuple[str, Program, Start]] = [
        ("arbstr", programs.arbstr(ARBSTR), partial(programs.running_arbstr, durability="full")),
        ("arbstr-process", programs.arbstr(ARBSTR_PROCESS), partial(programs.running_arbstr, durability="process")),
    ]
    return [
        *((program, start) for name, program, start in own if name in options.programs),
        *((peer, programs.running) for peer in peers),
        *((program, start) for name, program, start in ours if name in options.programs),
    ]


async def _measured(
    row: Row, bench: cells.Bench, program: AbstractAsyncContextManager[Running], options: GatewayOptions
) -> list[str]:
    """Fill a row; what was wrong with arbstr's money, or with its answers."""
    arbstr: Arbstr | None = None
    try:
        async with program as running:
            arbstr, row.start_s = running.arbstr, running.start_s
            await _fill(row, bench, running, options)
    except ChildFailed as error:
        row.failure = str(error)
    if row.name not in (ARBSTR, ARBSTR_PROCESS):
        return []
    problems = [row.failure] if row.failure else [f"{n} x {kind}" for kind, n in row.failures.items()]
    if arbstr is not None:
        problems += money.check(arbstr.database, bench.told_msat.get(row.name, 0)).problems
    return [f"{row.name}: {problem}" for problem in problems]


async def _fill(row: Row, bench: cells.Bench, running: Running, options: GatewayOptions) -> None:
    if "plain" in options.cells:
        row.plain = await cells.plain(bench, running, rounds=options.rounds, duration_s=options.seconds)
    if "ttft" in options.cells:
        row.ttft = await cells.first_byte(bench, running, streams=options.streams * options.rounds)
    if "gaps" in options.cells:
        row.gaps = await cells.chunks(bench, running, cells.GAPS, rounds=options.rounds, streams=options.streams)
    if "burst" in options.cells:
        row.burst = await cells.chunks(bench, running, cells.BURST, rounds=options.rounds, streams=options.streams)
    if "memory" in options.cells:
        row.memory = await cells.memory(bench, running, streams=options.open_streams)


def added(rows: Sequence[Row]) -> dict[str, Added]:
    """By program: times beyond those of the answerer alone, and CPU beside arbstr's, of the same run."""
    beside = {row.name: row for row in rows}
    direct, ours = beside.get(DIRECT), beside.get(ARBSTR)
    return {row.name: _added(row, direct, ours) for row in rows if row.name != DIRECT}


def _added(row: Row, direct: Row | None, ours: Row | None) -> Added:
    def of(which: Row | None, cell: str, number: str) -> float | None:
        found = getattr(which, cell, None)
        return None if found is None else getattr(found, number)

    return Added(
        ttft_ms=_minus(of(row, "ttft", "p50_ms"), of(direct, "ttft", "p50_ms")),
        p99_ms=_minus(of(row, "plain", "p99_ms"), of(direct, "plain", "p99_ms")),
        cpu_ratio=_ratio(of(row, "plain", "cpu_ms"), of(ours, "plain", "cpu_ms")),
        gaps_ratio=_ratio(of(row, "gaps", "cpu_us"), of(ours, "gaps", "cpu_us")),
        burst_ratio=_ratio(of(row, "burst", "cpu_us"), of(ours, "burst", "cpu_us")),
    )


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else round(one - other, 2)


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else round(one / other, 3)


def print_gateway(report: GatewayReport, out: Console) -> None:
    """The table, the floor, what limited the load, and what was absent."""
    table = Table(box=box.HEAVY_HEAD if out.is_terminal else box.MARKDOWN)
    table.add_column("program", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("books", no_wrap=True)
    for row in report.rows:
        if row.name != DIRECT:
            table.add_row(*_cells(row, report.added[row.name]))
    out.print(table)
    out.print(LEGEND, markup=False, soft_wrap=True)
    for line in _remarks(report):
        out.print(line, markup=False, soft_wrap=True)


COLUMNS = ("CPU ms", "ratio", "TTFT ms", "µs gaps", "µs burst", "p99 ms", "req/s", "MB", "start s")
TABLE_WIDTH = 160
LEGEND = (
    "CPU ms: per plain request, 32 connections; ratio: to arbstr's; TTFT, p99: added to the answerer alone; µs: CPU "
    "per chunk of a stream, 5 ms apart or all at once; MB: resident, many open streams; start s: to the first answer"
)


def _cells(row: Row, beside: Added) -> list[str]:
    plain, memory = row.plain, row.memory
    name = f"{row.name} {row.version}".strip()
    failed = sum(row.failures.values())
    return [
        f"{name} (FAILED)" if row.failure else f"{name} ({failed} failed)" if failed else name,
        _number(plain and plain.cpu_ms),
        _number(beside.cpu_ratio),
        _number(beside.ttft_ms),
        _number(row.gaps and row.gaps.cpu_us),
        _number(row.burst and row.burst.cpu_us),
        _number(beside.p99_ms),
        _number(plain and plain.requests_per_s),
        _number(memory and memory.open_mb),
        _number(row.start_s),
        row.books,
    ]


def _number(value: float | None) -> str:
    """With three digits that say something."""
    if value is None:
        return "-"
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def _remarks(report: GatewayReport) -> Iterator[str]:
    for row in report.rows:
        if row.name == DIRECT and row.plain is not None:
            yield f"direct: p99 {row.plain.p99_ms} ms, {row.plain.requests_per_s:,.0f} req/s"
        if row.plain is not None:
            limits = f"load generator {row.plain.generator_share:.0%}, answerer {row.plain.answerer_share:.0%}"
            rounds = ", ".join(f"{each:.3f}" for each in row.plain.cpu_ms_rounds) or "-"
            yield f"{row.name}: {limits} of a core while plain; CPU ms of the rounds: {rounds}"
        for kind, count in row.failures.items():
            yield f"{row.name}: {count} x {kind}"
        if row.memory is not None and row.memory.failure:
            yield f"{row.name}: {row.memory.failure}"
        if row.failure:
            yield f"{row.name} FAILED: {row.failure}"
    if report.absent:
        yield f"not installed: {', '.join(report.absent)} (python -m bench peers --install {' '.join(report.absent)})"
    for problem in report.problems:
        yield f"PROBLEM: {problem}"


async def main(options: GatewayOptions, json_file: Path | None, plot: Path | None) -> int:
    """The verb: measure, print, write, draw. Exit code 1 when arbstr failed a request or its books are wrong."""
    if plot is not None:
        plots.require()
    report = await gateway(options)
    facts = machine.facts()
    out = render.console(TABLE_WIDTH)
    out.print(", ".join(f"{name}: {value}" for name, value in facts.items()), markup=False)
    print_gateway(report, out)
    if json_file is not None:
        render.write_json(json_file, "gateway", {**facts, **_public(options)}, report)
    if plot is not None:
        plots.gateway(plot, report)
    return 0 if report.clean else 1


def _public(options: GatewayOptions) -> dict[str, object]:
    """The options as they may be shown: no folders."""
    return {name: value for name, value in asdict(options).items() if name != "peers"}
