"""What is measured of one program? One function per kind of load; a generator process asks, one load at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import median

import trio
from attrs import define, evolve, field, frozen

from bench.generator import HELD, LoadFigures, LoadSpec, Shot, read_figures, spec_text
from bench.process import Child, ChildFailed
from bench.programs import Running
from bench.stats import milliseconds

CONNECTIONS, STREAMS = 32, 16
GAP_MS = 5.0
GAP_EVENTS, BURST_EVENTS, TTFT_EVENTS = 200, 2_000, 3
SPARE_S = 120.0
OPEN_S = 120.0

PLAIN = Shot("plain")
GAPS = Shot("gaps", True, GAP_EVENTS, instructions=f"gap_us={GAP_MS * 1_000:.0f}")
BURST = Shot("burst", True, BURST_EVENTS, instructions="gap_us=0")
TTFT = Shot("ttft", True, TTFT_EVENTS, instructions=f"gap_us={GAP_MS * 1_000:.0f}")
HOLD = Shot("open", True, 10_000, instructions="gap_us=5000000")
"""An event every 5 s, so that opening goes on beside it; longer than anything is held."""


@frozen
class Sample:
    """One load. CPU of the program in ms per request, shares of a core of the other two; None for no program."""

    figures: LoadFigures
    cpu_ms: float | None
    cpu_s: float | None
    answerer_share: float
    generator_share: float

    @property
    def requests_per_s(self) -> float:
        return self.figures.begun / self.figures.wall_s


@define
class Bench:
    """The answerer's process, and where generators write."""

    answerer: Child
    directory: Path
    told_msat: dict[str, int] = field(factory=dict)
    """By program, the sum of what clients were told."""
    _loads: int = 0

    def generator(self, spec: LoadSpec) -> Child:
        self._loads += 1
        return Child([sys.executable, "-m", "bench.generator", spec_text(spec)], self.directory / f"load-{self._loads}")

    async def load(self, program: Running, spec: LoadSpec) -> Sample:
        """Run one load to its end. Raises ChildFailed."""
        before, answerer_before = _cpu(program), self.answerer.cpu_s()
        generator = self.generator(spec)
        async with generator:
            with trio.move_on_after(spec.duration_s + SPARE_S):
                await generator.wait()
            if generator.process.returncode != 0:
                raise ChildFailed(f"the load did not end as it should{generator.tail()}")
        after, answerer_after = _cpu(program), self.answerer.cpu_s()
        figures = read_figures(generator.output())
        name = program.program.name
        self.told_msat[name] = self.told_msat.get(name, 0) + figures.told_msat
        cpu_s = None if before is None or after is None else after - before
        return Sample(
            figures,
            None if cpu_s is None else cpu_s * 1_000 / max(1, figures.begun),
            cpu_s,
            (answerer_after - answerer_before) / figures.wall_s,
            figures.cpu_s / figures.wall_s,
        )


def _cpu(program: Running) -> float | None:
    return None if program.child is None else program.child.cpu_s()


def plain_spec(program: Running, duration_s: float) -> LoadSpec:
    return evolve(program.spec, shots=(PLAIN,), connections=CONNECTIONS, duration_s=duration_s)


def stream_spec(program: Running, shot: Shot, streams: int) -> LoadSpec:
    """``STREAMS`` at once, that many in all."""
    return evolve(program.spec, shots=(shot,), connections=min(STREAMS, streams), requests=streams)


@frozen
class PlainCell:
    """32 connections, each asks as soon as it has its answer. Medians over the rounds."""

    cpu_ms: float | None
    cpu_ms_rounds: tuple[float, ...]
    p50_ms: float | None
    p99_ms: float | None
    requests_per_s: float
    answerer_share: float
    generator_share: float
    failures: dict[str, int]


async def plain(bench: Bench, program: Running, *, rounds: int, duration_s: float) -> PlainCell:
    await bench.load(program, plain_spec(program, duration_s / 4))
    samples = [await bench.load(program, plain_spec(program, duration_s)) for _ in range(rounds)]
    return plain_cell(samples)


def plain_cell(samples: Sequence[Sample]) -> PlainCell:
    cpu = tuple(round(sample.cpu_ms, 4) for sample in samples if sample.cpu_ms is not None)
    totals = [sample.figures.shots["plain"].total_s for sample in samples]
    return PlainCell(
        cpu_ms=round(median(cpu), 4) if cpu else None,
        cpu_ms_rounds=cpu,
        p50_ms=median_of(milliseconds(each, 0.50) for each in totals),
        p99_ms=median_of(milliseconds(each, 0.99) for each in totals),
        requests_per_s=round(median(sample.requests_per_s for sample in samples), 1),
        answerer_share=round(median(sample.answerer_share for sample in samples), 3),
        generator_share=round(median(sample.generator_share for sample in samples), 3),
        failures=failures(samples),
    )


def median_of(values: object) -> float | None:
    known = [value for value in values if value is not None]  # type: ignore[attr-defined]
    return round(median(known), 3) if known else None


def failures(samples: Sequence[Sample]) -> dict[str, int]:
    """How many of each kind, over all samples."""
    found: dict[str, int] = {}
    for kind, count in chain.from_iterable(sample.figures.failures.items() for sample in samples):
        found[kind] = found.get(kind, 0) + count
    return found


@frozen
class ChunkCell:
    """16 streams at once. CPU of the whole stream divided by its events, the request included."""

    cpu_us: float | None
    cpu_us_rounds: tuple[float, ...]
    failures: dict[str, int]


async def chunks(bench: Bench, program: Running, shot: Shot, *, rounds: int, streams: int) -> ChunkCell:
    await bench.load(program, stream_spec(program, shot, min(STREAMS, streams)))
    samples = [await bench.load(program, stream_spec(program, shot, streams)) for _ in range(rounds)]
    failed, events = failures(samples), streams * shot.completion_tokens
    if failed:
        # Events that never came would make those that did look cheap.
        return ChunkCell(None, (), failed)
    cpu = tuple(round(sample.cpu_s * 1e6 / events, 2) for sample in samples if sample.cpu_s is not None)
    return ChunkCell(round(median(cpu), 2) if cpu else None, cpu, failed)


@frozen
class FirstByteCell:
    """One stream after another: median time to the first event."""

    p50_ms: float | None
    failures: dict[str, int]


async def first_byte(bench: Bench, program: Running, *, streams: int) -> FirstByteCell:
    samples = [
        await bench.load(program, evolve(program.spec, shots=(TTFT,), connections=1, requests=count))
        for count in (5, streams)
    ]
    return FirstByteCell(milliseconds(samples[-1].figures.shots["ttft"].ttft_s, 0.50), failures(samples))


@frozen
class MemoryCell:
    """Resident memory of all processes of the program."""

    idle_mb: float | None
    open_mb: float | None
    streams: int
    failure: str = ""


async def memory(bench: Bench, program: Running, *, streams: int) -> MemoryCell:
    """Before and while that many streams are open. The clients then hang up."""
    if program.child is None:
        return MemoryCell(None, None, streams)
    idle = program.child.rss_bytes()
    generator = bench.generator(evolve(program.spec, shots=(HOLD,), connections=streams, hold=True))
    async with generator:
        held = await generator.says(HELD, within_s=OPEN_S)
        used = program.child.rss_bytes()
    if not held:
        return MemoryCell(_mb(idle), None, streams, f"{streams} streams did not open within {OPEN_S:g} s")
    return MemoryCell(_mb(idle), _mb(used), streams)


def _mb(size: int) -> float:
    return round(size / 1e6, 1)
