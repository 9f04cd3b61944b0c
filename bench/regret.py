"""What does not knowing the length of an answer cost? Rules of choice over recorded lengths and listed prices."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio
from attrs import field, frozen
from rich.console import Console
from rich.table import Table

from arbstr.routing import EXPECTED_COMPLETION_TOKENS, Demand, Offers, Router, RunningMean
from arbstr.wire import ModelCall, Usage
from bench import machine, render
from bench.regret_market import LIST_RULES, MODEL, Family, list_pick, read_families
from bench.trace import Arrival, read_trace

OURS = "arbstr, learning"
FIXED = f"always {EXPECTED_COMPLETION_TOKENS} tokens"
CHECKED = 400
"""Requests of each trace, evenly over it, that the real choice is made for, in every family."""


@frozen
class TraceRegret:
    """Of one trace. Costs are in 1e-9 sat, exact; ``regret_percent`` is the cost above the least possible."""

    trace: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    least: int
    costs: dict[str, int]
    picks_checked: int
    """Choices of the real ``Router.select``, of which ``picks_wrong`` were not of least expected cost."""
    picks_wrong: int
    regret_percent: dict[str, float] = field(init=False)

    @regret_percent.default
    def _above_least(self) -> dict[str, float]:
        return {rule: round(100 * (cost - self.least) / self.least, 4) for rule, cost in self.costs.items()}

    @property
    def clean(self) -> bool:
        """Ours is below every other rule, and all picks were right."""
        return not self.picks_wrong and all(
            cost > self.costs[OURS] for rule, cost in self.costs.items() if rule != OURS
        )


@frozen
class RegretReport:
    families: int
    hosts: int
    quarantined: int
    traces: tuple[TraceRegret, ...]

    @property
    def clean(self) -> bool:
        return all(trace.clean for trace in self.traces)


class _Contest:
    """Families of which more than one host can be the cheapest; in the others whoever looks for it finds it."""

    def __init__(self, families: Sequence[Family]) -> None:
        frontiers = [family.frontier() for family in families]
        self.frontiers = [[(host.input_rate, host.output_rate) for host in one] for one in frontiers if len(one) > 1]
        self.settled = [one[0] for one in frontiers if len(one) == 1]
        self.least = self.ours = self.fixed = 0

    def add(self, prompt: int, completion: int, expected: int) -> None:
        for hosts in self.frontiers:
            costs = [prompt * rate_in + completion * rate_out for rate_in, rate_out in hosts]
            self.least += min(costs)
            self.ours += costs[_cheapest(hosts, prompt, expected)]
            self.fixed += costs[_cheapest(hosts, prompt, EXPECTED_COMPLETION_TOKENS)]


def _cheapest(hosts: Sequence[tuple[int, int]], prompt: int, completion: int) -> int:
    costs = [prompt * rate_in + completion * rate_out for rate_in, rate_out in hosts]
    return costs.index(min(costs))


def measure(trace: str, arrivals: Sequence[Arrival], families: Sequence[Family]) -> TraceRegret:
    """Ask every family every request in turn; an answer is learned from before the next request, not before its own."""
    estimator = RunningMean()
    router = Router(estimator=estimator)
    contest = _Contest(families)
    markets = [(family, family.offers()) for family in families]
    every = max(1, len(arrivals) // CHECKED)
    checked = wrong = 0
    for number, arrival in enumerate(arrivals):
        prompt, completion = arrival.input_tokens, arrival.output_tokens
        call = call_of(prompt)
        contest.add(prompt, completion, estimator.completion_tokens(call, MODEL, None))
        if number % every == 0:
            checked += len(markets)
            demand = router.demand(call, policy=None, complexity=None)
            wrong += sum(not is_least(router, demand, family, offers) for family, offers in markets)
        estimator.observe(call, MODEL, None, "", Usage(prompt, completion))
    tokens = sum(one.input_tokens for one in arrivals), sum(one.output_tokens for one in arrivals)
    settled = sum(host.cost(*tokens) for host in contest.settled)
    picks = {rule: [list_pick(rule, family.hosts) for family in families] for rule in LIST_RULES}
    costs = {OURS: contest.ours + settled, FIXED: contest.fixed + settled}
    costs |= {rule: sum(host.cost(*tokens) for host in hosts) for rule, hosts in picks.items()}
    return TraceRegret(trace, len(arrivals), *tokens, contest.least + settled, costs, checked, wrong)


def call_of(prompt_tokens: int) -> ModelCall:
    """A request whose prompt is counted as so many tokens."""
    return ModelCall(MODEL, False, None, 1, False, 4 * prompt_tokens, 0, 0, "", b"{}")


def is_least(router: Router, demand: Demand, family: Family, offers: Offers) -> bool:
    """Whether the real choice is a host of least expected cost, and no quarantined one."""
    pick = router.select(demand, offers, now=0.0).candidates[0].provider
    costs = {host.name: host.cost(demand.prompt_tokens, demand.completion_tokens) for host in family.hosts}
    return costs.get(pick) == min(costs.values())


def _paths(values: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(values)


@frozen
class RegretOptions:
    """What ``python -m bench regret`` was told."""

    prices: Path
    trace: tuple[Path, ...] = field(converter=_paths)


def regret(options: RegretOptions) -> RegretReport:
    """Raises PriceListError and TraceError. Takes about 0.1 ms for each request of the traces."""
    families = read_families(options.prices)
    return RegretReport(
        len(families),
        sum(len(family.hosts) for family in families),
        sum(len(family.suspect) for family in families),
        tuple([measure(trace_name(path), read_trace(path, sys.maxsize), families) for path in options.trace]),
    )


def trace_name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


def print_regret(report: RegretReport, out: Console) -> None:
    table = Table("rule", box=None, pad_edge=False)
    for trace in report.traces:
        table.add_column(trace.trace, justify="right")
    for rule in report.traces[0].regret_percent:
        table.add_row(rule, *(f"{trace.regret_percent[rule]:.2f} %" for trace in report.traces))
    table.add_row("length known", *("0.00 %" for _ in report.traces))
    table.add_row("requests", *(str(trace.requests) for trace in report.traces), style="dim")
    table.add_row("picks checked, wrong", *(f"{one.picks_checked}, {one.picks_wrong}" for one in report.traces))
    out.print(f"{report.families} families, {report.hosts} hosts, {report.quarantined} quarantined")
    out.print(table)
    if not report.clean:
        out.print(f"FINDING: {OURS} is not below every other rule on every trace, or a pick was wrong")


async def main(options: RegretOptions, json_file: Path | None) -> int:
    """The verb. Exit code 1 when another rule is as good on some trace, or a pick was not of least expected cost."""
    report = await trio.to_thread.run_sync(regret, options, abandon_on_cancel=True)
    print_regret(report, render.console())
    if json_file is not None:
        setup = {**machine.facts(), "prices": options.prices.name, "trace": [path.name for path in options.trace]}
        render.write_json(json_file, "regret", setup, report)
    return 0 if report.clean else 1
