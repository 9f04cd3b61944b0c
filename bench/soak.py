"""Does anything grow that should not? A long mixed load on one arbstr, with everything that can be counted watched."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import trio
from attrs import evolve, field, frozen
from rich.console import Console
from rich.table import Table

from bench import machine, money, plots, programs, render
from bench.arbstr_server import Arbstr
from bench.generator import LoadFigures, LoadSpec, Shot, read_figures, request_bytes, spec_text
from bench.market import MODEL, ProviderEntry
from bench.process import Child, ChildFailed, free_port

WARM_UP = 600
SAMPLE_S = 1.0
IDLE_S = 60.0
"""Within that long after the load everything must be as it was before it."""
PAUSE_S = 2.0
"""Between two looks while it is to become idle."""
STEADY = 3
"""Looks in a row that must agree for a program to count as idle."""
MOST_GROWTH = 0.05
SECONDS_PER_REQUEST = 0.05
"""Bound on the whole load, per request."""
BREAKER_OPEN_S = 0.5
BUDGET_SATS = 1_000_000_000

_PLAIN = Shot("plain")
_STREAM = Shot("stream", True, 20, instructions="gap_us=1000")
MIX: Sequence[tuple[Shot, frozenset[str]]] = (
    (_PLAIN, frozenset({"ok"})),
    (_STREAM, frozenset({"ok"})),
    (_PLAIN, frozenset({"ok"})),
    (evolve(_PLAIN, name="provider fails", instructions="flaky=fail"), frozenset({"ok"})),
    (_PLAIN, frozenset({"ok"})),
    (evolve(_STREAM, name="stream at once", instructions="gap_us=0"), frozenset({"ok"})),
    (evolve(_PLAIN, name="client leaves", leave="sent"), frozenset({"left"})),
    (_PLAIN, frozenset({"ok"})),
    (evolve(_STREAM, name="client leaves stream", leave="first"), frozenset({"left", "ok"})),
    (_STREAM, frozenset({"ok"})),
    (_PLAIN, frozenset({"ok"})),
    # Good when the circuit of the one that cuts happens to be open.
    (evolve(_STREAM, name="stream cut", instructions="gap_us=1000 flaky=cut"), frozenset({"stream_cut", "ok"})),
    (_PLAIN, frozenset({"ok"})),
    (evolve(_PLAIN, name="not JSON", body="{"), frozenset({"http 400"})),
    (_PLAIN, frozenset({"ok"})),
    (evolve(_PLAIN, name="wrong token", token="wrong"), frozenset({"http 401"})),
)
"""Requests in turn, and how each may end. Half are plain and good."""


@frozen
class SoakOptions:
    requests: int = 20_000
    connections: int = 32
    durability: str = "full"


@frozen
class Look:
    """What is counted at one moment. ``requests`` have ended so far."""

    at_s: float
    requests: float
    rss_mb: float
    open_files: int
    tasks: float
    actors: float
    open_holds: float
    in_flight: float

    @property
    def counts(self) -> tuple[float, ...]:
        """All of what must return to where it was."""
        return self.open_files, self.tasks, self.actors, self.open_holds, self.in_flight


@frozen
class SoakReport:
    requests: int
    outcomes: Mapping[str, Mapping[str, int]]
    """By kind of request."""
    wall_s: float
    before: Look
    after: Look
    looks: tuple[Look, ...]
    rss_quarter_mb: float
    rss_end_mb: float
    money: money.MoneyReport
    problems: tuple[str, ...] = field(default=())

    @property
    def growth(self) -> float:
        """Of resident memory from the first quarter to the end, as a share."""
        return self.rss_end_mb / self.rss_quarter_mb - 1

    @property
    def clean(self) -> bool:
        return not self.problems


async def soak(options: SoakOptions) -> SoakReport:
    """Start answerer and arbstr, warm up, load, wait until it is idle again, stop, audit. Raises ChildFailed."""
    with tempfile.TemporaryDirectory(prefix="arbstr-soak-") as temporary:
        directory = Path(temporary)
        async with programs.answerer(directory) as (_, upstream):
            arbstr = _arbstr(directory / "arbstr", upstream, options)
            await arbstr.create(BUDGET_SATS)
            port = free_port()
            async with arbstr.server(listen=f"127.0.0.1:{port}") as server:
                spec = LoadSpec("127.0.0.1", port, MODEL, [shot for shot, _ in MIX], token=arbstr.token)
                await programs.first_answer(server, spec)
                watch = _Watch(server, spec, arbstr.admin_token)
                runs = await _run(watch, evolve(spec, connections=options.connections), options, directory)
        warm, figures, before, after, looks = runs
        books = money.check(arbstr.database, warm.told_msat + figures.told_msat)
    return report_of(figures, before, after, looks, books)


def _arbstr(directory: Path, upstream: str, options: SoakOptions) -> Arbstr:
    providers = [
        ProviderEntry("flaky", f"{upstream}/flaky/v1", "90", "290", BREAKER_OPEN_S, 1_000),
        ProviderEntry("steady", f"{upstream}/v1", "100", "300", BREAKER_OPEN_S, 1_000),
    ]
    return Arbstr(directory, providers, options.durability)


Runs = tuple[LoadFigures, LoadFigures, Look, Look, list[Look]]


async def _run(watch: _Watch, spec: LoadSpec, options: SoakOptions, directory: Path) -> Runs:
    warm = await _load(evolve(spec, requests=WARM_UP), directory / "warm-up")
    before = await watch.idle(None)
    looks: list[Look] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.keep_looking, looks)
        figures = await _load(evolve(spec, requests=options.requests), directory / "load")
        nursery.cancel_scope.cancel()
    return warm, figures, before, await watch.idle(before), looks


async def _load(spec: LoadSpec, output: Path) -> LoadFigures:
    command = programs.python_command("bench.generator", spec_text(spec))
    async with Child(command, output) as generator:
        with trio.move_on_after(60.0 + spec.requests * SECONDS_PER_REQUEST):
            await generator.wait()
        if generator.process.returncode != 0:
            raise ChildFailed(f"the load did not end as it should{generator.tail()}")
    return read_figures(generator.output())


class _Watch:
    """Looks at one arbstr from outside: the kernel's counts, and its own metrics."""

    def __init__(self, server: Child, spec: LoadSpec, admin_token: str) -> None:
        self._server, self._spec = server, spec
        self._scrape = (
            f"GET /metrics HTTP/1.1\r\nhost: {spec.host}\r\nauthorization: Bearer {admin_token}\r\n\r\n".encode()
        )
        self._started_s = trio.current_time()

    async def look(self) -> Look:
        """Raises ChildFailed when the metrics cannot be read."""
        reader = await programs.exchange(self._spec, self._scrape)
        text = reader.take_body().decode()
        if reader.status != 200:
            raise ChildFailed(f"GET /metrics answered {reader.status}: {text[:500]}")
        return Look(
            at_s=round(trio.current_time() - self._started_s, 2),
            requests=metric(text, "arbstr_requests_total"),
            rss_mb=round(self._server.rss_bytes() / 1e6, 2),
            open_files=self._server.open_files(),
            tasks=metric(text, "arbstr_tasks"),
            actors=metric(text, "arbstr_actors"),
            open_holds=metric(text, "arbstr_holds_open"),
            in_flight=metric(text, "arbstr_requests_in_flight"),
        )

    async def keep_looking(self, looks: list[Look]) -> None:
        while True:
            looks.append(await self.look())
            await trio.sleep(SAMPLE_S)

    async def idle(self, before: Look | None) -> Look:
        """Wait until nothing changes any more, at the latest for ``IDLE_S``; with ``before``, until nothing is above
        it. Now and then a request is made, for pools that let go of old connections only then."""
        request = request_bytes(self._spec, _PLAIN)
        last, agreed = await self.look(), 0
        with trio.move_on_after(IDLE_S):
            while agreed < STEADY or (before is not None and above(last, before)):
                await trio.sleep(PAUSE_S)
                await programs.exchange(self._spec, request)
                await trio.sleep(PAUSE_S / 4)
                look = await self.look()
                agreed = agreed + 1 if look.counts == last.counts and not look.in_flight and not look.open_holds else 0
                last = look
        return last


def metric(text: str, name: str) -> float:
    """The sum of all samples of that name in Prometheus' text format. Raises ChildFailed when there is none and it is
    not a counter, which is not told of before its first increment."""
    found = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    if not found and not name.endswith("_total"):
        raise ChildFailed(f"/metrics does not tell {name}")
    return sum(float(line.rpartition(" ")[2]) for line in found)


def above(look: Look, before: Look) -> list[str]:
    """What has not returned to where it was."""
    pairs = {
        "open files": (look.open_files, before.open_files),
        "Trio tasks": (look.tasks, before.tasks),
        "actors": (look.actors, before.actors),
        "open holds": (look.open_holds, before.open_holds),
        "requests in flight": (look.in_flight, before.in_flight),
    }
    return [f"{now:g} {name}, {then:g} before the load" for name, (now, then) in pairs.items() if now > then]


def report_of(
    figures: LoadFigures, before: Look, after: Look, looks: Sequence[Look], books: money.MoneyReport
) -> SoakReport:
    """Judge what was seen. Memory: the median of the second tenth after the first quarter, and of the last."""
    quarter, end = _slice(looks, 0.25, 0.35), _slice(looks, 0.90, 1.0)
    report = SoakReport(
        requests=figures.begun,
        outcomes={name: dict(shot.outcomes) for name, shot in figures.shots.items()},
        wall_s=round(figures.wall_s, 1),
        before=before,
        after=after,
        looks=tuple(looks),
        rss_quarter_mb=median(look.rss_mb for look in quarter),
        rss_end_mb=median(look.rss_mb for look in end),
        money=books,
    )
    return evolve(report, problems=tuple(_problems(report)))


def _slice(looks: Sequence[Look], begin: float, end: float) -> Sequence[Look]:
    """At least one look."""
    if not looks:
        raise ChildFailed("the load was over before anything was looked at; use more requests")
    first = min(int(len(looks) * begin), len(looks) - 1)
    return looks[first : max(first + 1, int(len(looks) * end))]


def _problems(report: SoakReport) -> list[str]:
    allowed: dict[str, frozenset[str]] = {shot.name: ends for shot, ends in MIX}
    found = [
        f"{count} x {outcome} where {' or '.join(sorted(allowed[name]))} was to be: {name}"
        for name, outcomes in report.outcomes.items()
        for outcome, count in outcomes.items()
        if outcome not in allowed[name]
    ]
    if report.growth >= MOST_GROWTH:
        found.append(
            f"resident memory grew by {report.growth:.1%} after the first quarter, "
            f"from {report.rss_quarter_mb} to {report.rss_end_mb} MB"
        )
    return [*found, *above(report.after, report.before), *report.money.problems]


def print_soak(report: SoakReport, out: Console) -> None:
    """What was counted before, at the height, and after."""
    out.print(f"{report.requests} requests in {report.wall_s} s", markup=False)
    table = Table()
    for name in ("", "before", "most", "after"):
        table.add_column(name, justify="left" if not name else "right")
    for shown, name in (
        ("RSS, MB", "rss_mb"), ("open files", "open_files"), ("Trio tasks", "tasks"), ("actors", "actors"),
        ("open holds", "open_holds"), ("requests in flight", "in_flight"),
    ):  # fmt: skip
        most = max(getattr(look, name) for look in report.looks)
        table.add_row(
            shown, *(f"{value:g}" for value in (getattr(report.before, name), most, getattr(report.after, name)))
        )
    out.print(table)
    for name, outcomes in report.outcomes.items():
        out.print(f"{name}: {', '.join(f'{n} {kind}' for kind, n in outcomes.items())}", markup=False)
    grown = f"{report.rss_quarter_mb} MB after the first quarter, {report.rss_end_mb} MB at the end"
    out.print(f"resident memory: {grown} ({report.growth:+.1%})")
    out.print(f"books: {'right to the msat' if report.money.clean else 'WRONG'}")
    for problem in report.problems:
        out.print(f"PROBLEM: {problem}", markup=False, soft_wrap=True)


async def main(options: SoakOptions, json_file: Path | None, plot: Path | None) -> int:
    """The verb: load, watch, print, write, draw. Exit code 1 when anything grew, was lost, or ended wrongly."""
    if plot is not None:
        plots.require()
    report = await soak(options)
    print_soak(report, render.console())
    if json_file is not None:
        setup = {**machine.facts(), "connections": options.connections, "durability": options.durability}
        render.write_json(json_file, "soak", setup, report)
    if plot is not None:
        plots.soak(plot, report)
    return 0 if report.clean else 1
