"""What does a day of real load cost, and does anything get lost? A trace replayed against a running arbstr."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from attrs import asdict, frozen
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from bench import load, machine, money, plots, render
from bench.arbstr_server import Arbstr
from bench.client import Ask, Outcome, Target
from bench.market import MODEL, MockProvider, build_market, entries, longest_pace_s
from bench.prices import DEFAULT_FAMILY, generate_prices, read_prices, spread
from bench.report import ReplayReport, summarise, told_msat
from bench.trace import Arrival, generate, read_trace

GENERATED_HOSTS = 8
SPARE_S = 120.0
"""How much longer than the slowest provider's pace a request may take; also after the last arrival."""


@frozen
class ReplayOptions:
    """What ``python -m bench replay`` was told. With ``url`` nothing is started and the books are not read."""

    trace: Path | None = None
    speed: float = 60.0
    limit: int = 2_000
    prices: Path | None = None
    family: str = DEFAULT_FAMILY
    hosts: int | None = None
    """How many providers; of a price list evenly over the order by price. At least 4, so that one is healthy."""
    url: str | None = None
    token: str | None = None
    model: str = MODEL
    stream_share: float = 0.5
    seed: int = 1
    durability: str = "full"
    budget_sats: int = 1_000_000
    concurrency: int = load.CONCURRENCY
    bound_s: float | None = None


def arrivals_of(options: ReplayOptions) -> list[Arrival]:
    """The trace, or as many generated arrivals."""
    if options.trace is not None:
        return read_trace(options.trace, options.limit)
    return generate(options.limit, options.seed)


def market_of(options: ReplayOptions) -> list[MockProvider]:
    """The market for an arbstr of our own: listed or generated prices, the pace sped up like the arrivals."""
    if options.prices is not None:
        listed = read_prices(options.prices, options.family)
        hosts = spread(listed, options.hosts or len(listed))
    else:
        hosts = generate_prices(options.hosts or GENERATED_HOSTS, options.seed)
    return build_market(hosts, speed=options.speed, seed=options.seed)


Keep = Callable[[Sequence[Outcome]], None]
"""Called with all outcomes, of which a report keeps only sums."""


async def replay(options: ReplayOptions, keep: Keep = lambda outcomes: None) -> ReplayReport:
    """Replay against a given or an own arbstr. Raises ChildFailed, TraceError, PriceListError."""
    arrivals = arrivals_of(options)
    asks = load.asks_of(arrivals, stream_share=options.stream_share, seed=options.seed)
    times_s = [arrival.t_s / options.speed for arrival in arrivals]
    if options.url is not None:
        target = Target.of(options.url, options.model, options.token)
        offered = await _offer(target, asks, times_s, options)
        keep(offered.outcomes)
        return summarise(offered, None)
    return await _replay_own(options, asks, times_s, keep)


async def _replay_own(
    options: ReplayOptions, asks: Sequence[Ask], times_s: Sequence[float], keep: Keep
) -> ReplayReport:
    market = market_of(options)
    with tempfile.TemporaryDirectory(prefix="arbstr-bench-") as directory:
        arbstr = Arbstr(Path(directory), entries(market, speed=options.speed), options.durability)
        await arbstr.create(options.budget_sats)
        async with arbstr.server() as server:
            target = Target.of(await server.address(), arbstr.model, arbstr.token)
            before = server.cpu_s()
            result = await _offer(target, asks, times_s, options)
            cpu_s = server.cpu_s() - before
        keep(result.outcomes)
        books = money.check(arbstr.database, told_msat(result.outcomes))
    return summarise(result, market, server_cpu_s=cpu_s, money=books)


async def _offer(
    target: Target, asks: Sequence[Ask], times_s: Sequence[float], options: ReplayOptions
) -> load.LoadResult:
    timeout_s = SPARE_S + longest_pace_s(max(ask.completion_tokens for ask in asks), options.speed)
    bound_s = options.bound_s if options.bound_s is not None else times_s[-1] + timeout_s
    with _progress(len(asks)) as progress:
        return await load.open_loop(
            target,
            asks,
            times_s,
            concurrency=options.concurrency,
            timeout_s=timeout_s,
            bound_s=bound_s,
            progress=progress,
        )


@contextmanager
def _progress(total: int) -> Iterator[load.Progress]:
    """A bar on a terminal, nothing elsewhere. It draws twice a second: drawing takes CPU from what is measured."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as bar:
        task = bar.add_task("replay", total=total)
        yield lambda done: bar.update(task, completed=done)


async def main(options: ReplayOptions, json_file: Path | None, plot: Path | None = None) -> int:
    """The verb: replay, print, write, draw. Exit code 1 when the books are wrong or a failure was avoidable."""
    if plot is not None:
        plots.require()
    report = await (replay(options) if plot is None else replay(options, partial(plots.replay, plot)))
    render.print_replay(report, render.console())
    if json_file is not None:
        setup = {**machine.facts(), **_public(options)}
        render.write_json(json_file, "replay", setup, report)
    return 0 if report.clean else 1


def _public(options: ReplayOptions) -> dict[str, object]:
    """The options as they may be shown: file names without folders, no token."""
    shown = {
        "trace": options.trace and options.trace.name,
        "prices": options.prices and options.prices.name,
        "token": options.token and "(given)",
    }
    return {**asdict(options), **shown}
