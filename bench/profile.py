"""Where does the CPU of a request go? The running arbstr sampled from outside by py-spy under a steady load.

A sample belongs to the innermost frame that is somebody's: a wait or a send inside Trio belongs to whoever called it,
and only what nobody called is Trio's own (the scheduler). What a thread's samples weigh together is the CPU time that
the kernel counted for it meanwhile, so that a thread that mostly waits weighs little, whatever it waits in.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import trio
from attrs import evolve, field, frozen
from rich.console import Console
from rich.table import Table

from bench import cells, flame, machine, render
from bench.generator import Shot
from bench.process import Child, ChildFailed
from bench.programs import Running, answerer, arbstr, running_arbstr

SPARE_S = 30.0
TOP = 25
LEAST_SHOWN = 0.003
CARRIERS = frozenset({"trio", "outcome", "sortedcontainers", "attr", "attrs", "stdlib", "exceptiongroup"})
"""Code that runs on behalf of whoever called it."""
SCHEDULER = frozenset({"run", "unrolled_run"})
"""Frames of Trio's loop; those of a task lie further in."""

_THREAD = re.compile(r"thread \((\d+)\): ([^;]*);(.*)")

LOADS = {
    "plain": (cells.PLAIN, cells.CONNECTIONS),
    "gaps": (cells.GAPS, cells.STREAMS),
    "burst": (cells.BURST, cells.STREAMS),
}


@frozen
class ProfileOptions:
    load: str = "plain"
    """One of ``LOADS``."""
    seconds: float = 8.0
    rate_hz: int = 400
    durability: str = "full"
    flame: Path | None = None
    """Where to write the flame graph (SVG)."""
    connections: int | None = None


@frozen
class Frame:
    """One function on a stack; the file as a full path."""

    function: str
    file: str


@frozen
class Stack:
    """One thread's functions from the outermost to the innermost, and how often they were seen so."""

    thread: str
    """Its id in the kernel and its name: "14406 arbstr-writer"."""
    frames: tuple[Frame, ...]
    samples: int


@frozen
class Line:
    """Something and its part of the CPU time."""

    name: str
    share: float
    cpu_us: float
    """Per request, or per event of a stream."""


@frozen
class ProfileReport:
    load: str
    samples: int
    requests: int
    per: str
    """What ``cpu_us`` is counted per: request or event."""
    cpu_us: float
    threads: tuple[Line, ...]
    stages: tuple[Line, ...]
    own: tuple[Line, ...]
    """By package of the innermost frame, whoever called it."""
    functions: tuple[Line, ...]
    failures: dict[str, int] = field(factory=dict)


def py_spy() -> str:
    """The program, beside this Python or on the path. Raises ChildFailed when there is none."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise ChildFailed("profiling needs py-spy: install the project's dependency group `bench`")
    return found


def read_stacks(text: str) -> list[Stack]:
    """From py-spy's raw format with threads and full file names: ``thread (ID): NAME;name (file);... count`` a line."""
    stacks = []
    for line in text.splitlines():
        path, _, count = line.rpartition(" ")
        match = _THREAD.fullmatch(path)
        if match and count.isdigit():
            frames = tuple(_frame(each) for each in match[3].split(";"))
            stacks.append(Stack(f"{match[1]} {match[2]}", frames, int(count)))
    return stacks


def _frame(text: str) -> Frame:
    name, _, place = text.rpartition(" (")
    if not name or not place.endswith(")"):
        return Frame(text, "")
    return Frame(name, place[:-1].rsplit(":", 1)[0] if place[:-1].rpartition(":")[2].isdigit() else place[:-1])


def owner(file: str) -> str:
    """Whose code a file is: a room of arbstr (``arbstr.edge``), a package, or stdlib."""
    parts = PurePosixPath(file).parts
    if "site-packages" in parts:
        return PurePosixPath(parts[parts.index("site-packages") + 1]).stem
    for folder, inside in zip(reversed(parts[:-1]), reversed(parts), strict=False):
        if folder in ("arbstr", "actors"):
            return f"arbstr.{PurePosixPath(inside).stem}" if folder == "arbstr" else "actors"
    return "stdlib"


def stage(stack: Stack) -> str:
    """The innermost frame of the task that is not a carrier's; Trio's scheduler when no task was running."""
    for frame in reversed(stack.frames):
        if frame.function in SCHEDULER and frame.file.endswith("trio/_core/_run.py"):
            return "trio's scheduler"
        found = owner(frame.file)
        if found not in CARRIERS:
            return found
    return f"{owner(stack.frames[-1].file)} alone"


Weighed = list[tuple[Stack, float]]
"""Stacks with their shares of all CPU time; the shares sum to 1."""


def weigh(stacks: Sequence[Stack], cpu: Mapping[str, float]) -> Weighed:
    """Share out each thread's part of the CPU time (``cpu`` by thread id, any unit) among its stacks."""
    seen: Counter[str] = Counter()
    for stack in stacks:
        seen[stack.thread] += stack.samples
    total = sum(cpu.get(_thread_id(thread), 0.0) for thread in seen)
    if not total:
        raise ChildFailed("none of the threads that were sampled used any CPU")
    return [
        (stack, cpu.get(_thread_id(stack.thread), 0.0) / total * stack.samples / seen[stack.thread]) for stack in stacks
    ]


def _thread_id(thread: str) -> str:
    return thread.partition(" ")[0]


def thread_cpu_ns(pid: int) -> dict[str, float]:
    """CPU time of each thread so far, by its id (proc(5), schedstat)."""
    found = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            found[folder.name] = float((folder / "schedstat").read_text().split()[0])
    return found


def lines_of(weighed: Weighed, name: Callable[[Stack], str], cpu_us: float) -> tuple[Line, ...]:
    """Sums by name with their parts of ``cpu_us``, largest first."""
    shares: dict[str, float] = {}
    for stack, share in weighed:
        shares[name(stack)] = shares.get(name(stack), 0.0) + share
    ordered = sorted(shares.items(), key=lambda each: -each[1])
    return tuple(Line(each, round(share, 4), round(cpu_us * share, 1)) for each, share in ordered)


def innermost(stack: Stack) -> str:
    """Package, function and file."""
    last = stack.frames[-1]
    return f"{owner(last.file)}: {last.function} ({PurePosixPath(last.file).name})"


async def profile(options: ProfileOptions) -> ProfileReport:
    """Start answerer, arbstr with accounts, load and sampler; stop them. Raises ChildFailed."""
    sampler = py_spy()
    with tempfile.TemporaryDirectory(prefix="arbstr-profile-") as temporary:
        directory = Path(temporary)
        async with answerer(directory) as (behind, upstream):
            bench = cells.Bench(behind, directory)
            async with running_arbstr(
                arbstr(), upstream, directory / "arbstr", durability=options.durability
            ) as program:
                return await _profiled(sampler, bench, program, options, directory)


async def _profiled(
    sampler: str, bench: cells.Bench, program: Running, options: ProfileOptions, directory: Path
) -> ProfileReport:
    assert program.child is not None
    shot, connections = LOADS[options.load]
    spec = evolve(program.spec, shots=(shot,), connections=options.connections or connections)
    await bench.load(program, evolve(spec, duration_s=2.0))
    raw = directory / "stacks.txt"
    words = [
        "record",
        "--pid",
        str(program.child.pid),
        "--format",
        "raw",
        "--full-filenames",
        "--function",
        "--threads",
    ]
    words += ["--rate", str(options.rate_hz), "--duration", f"{options.seconds:.0f}", "--output", str(raw)]
    samples: list[cells.Sample] = []

    async def load() -> None:
        # A little longer than the sampler takes, so that it never looks at an idle program.
        samples.append(await bench.load(program, evolve(spec, duration_s=options.seconds + 2.0)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        await trio.sleep(0.5)
        before = thread_cpu_ns(program.child.pid)
        await _record([sampler, *words], directory, options.seconds)
        after = thread_cpu_ns(program.child.pid)
    cpu_ns = {thread: used - before.get(thread, 0.0) for thread, used in after.items()}
    weighed = weigh(read_stacks(raw.read_text()), cpu_ns)
    if options.flame is not None:
        drawn = [
            ([stack.thread.partition(" ")[2], *(f.function for f in stack.frames)], share) for stack, share in weighed
        ]
        options.flame.write_text(flame.svg(drawn, f"arbstr, {options.load}"))
    return report_of(options.load, samples[0], shot, weighed)


async def _record(command: Sequence[str], directory: Path, seconds: float) -> None:
    async with Child(command, directory / "py-spy.log") as recorder:
        with trio.move_on_after(seconds + SPARE_S):
            await recorder.wait()
        if recorder.process.returncode != 0:
            raise ChildFailed(f"py-spy could not sample (may this user trace processes?){recorder.tail()}")


def report_of(load: str, sample: cells.Sample, shot: Shot, weighed: Weighed) -> ProfileReport:
    """Put together what was counted and what was sampled."""
    requests = sample.figures.begun
    units = requests * shot.completion_tokens if shot.stream else requests
    cpu_us = (sample.cpu_s or 0.0) * 1e6 / max(1, units)
    return ProfileReport(
        load=load,
        samples=sum(stack.samples for stack, _ in weighed),
        requests=requests,
        per="event" if shot.stream else "request",
        cpu_us=round(cpu_us, 1),
        threads=lines_of(weighed, lambda stack: stack.thread.partition(" ")[2], cpu_us),
        stages=lines_of(weighed, stage, cpu_us),
        own=lines_of(weighed, lambda stack: owner(stack.frames[-1].file), cpu_us),
        functions=lines_of(weighed, innermost, cpu_us)[:TOP],
        failures=sample.figures.failures,
    )


def print_profile(report: ProfileReport, out: Console) -> None:
    """One table after another, each a view of the same CPU time."""
    per = f"{report.cpu_us} µs of CPU per {report.per}"
    out.print(f"{report.load}: {per}, {report.requests} requests, {report.samples} samples")
    views = {"thread": report.threads, "stage": report.stages, "own time of": report.own, "function": report.functions}
    for title, lines in views.items():
        table = Table()
        table.add_column(title)
        table.add_column("share", justify="right")
        table.add_column(f"µs/{report.per}", justify="right")
        for line in lines:
            if line.share >= LEAST_SHOWN:
                table.add_row(line.name, f"{line.share:.1%}", f"{line.cpu_us:.1f}")
        out.print(table)


async def main(options: ProfileOptions, json_file: Path | None) -> int:
    """The verb: load, sample, print, write. Exit code 1 when a request failed."""
    report = await profile(options)
    print_profile(report, render.console())
    if json_file is not None:
        setup = {**machine.facts(), "durability": options.durability, "seconds": options.seconds}
        render.write_json(json_file, "profile", setup, report)
    return 1 if report.failures else 0
