"""What came of a replay? Pure: outcomes and the market go in, numbers come out. All money in exact msat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low

from attrs import frozen

from bench.client import Outcome
from bench.load import LoadResult
from bench.market import MockProvider
from bench.money import MoneyReport
from bench.stats import milliseconds

PROVIDERS_FAULT = frozenset({429, 500, 502, 503, 504})
OWN_BOUNDS = frozenset({"overloaded", "shutting_down", "ledger_unavailable"})
"""Refusals that no other provider could have prevented."""


@frozen
class Latency:
    """Percentiles in milliseconds over ``samples`` requests; None when there are none."""

    samples: int
    p50_ms: float | None
    p99_ms: float | None

    @classmethod
    def of(cls, values_s: Sequence[float]) -> Latency:
        return cls(len(values_s), milliseconds(values_s, 0.50), milliseconds(values_s, 0.99))


@frozen
class FixedProvider:
    """What the answers would have cost, had all been bought at one provider. ``saving_msat`` may be negative."""

    provider: str
    cost_msat: int
    saving_msat: int
    saving_percent: float | None


@frozen
class ReplayReport:
    """See bench/README.md for how each number is made. Latencies are of requests that ended well."""

    requests: int
    ok: int
    streams: int
    failures: Mapping[str, int]
    failures_before_first_byte: int
    avoidable_failures: int | None
    stream_errors_after_first_byte: int
    retried_requests: int
    prompt_tokens: int
    completion_tokens: int
    told_msat: int
    served_by: Mapping[str, int]
    fixed: tuple[FixedProvider, ...]
    median_fixed: FixedProvider | None
    compared_requests: int
    paid_for_compared_msat: int
    added: Latency
    added_without_retries: Latency
    total: Latency
    ttft_streams: Latency
    client_delay: Latency
    wall_s: float
    requests_per_s: float
    most_at_once: int
    client_cpu_share: float
    server_cpu_ms_per_request: float | None
    server_cpu_share: float | None
    money: MoneyReport | None

    @property
    def clean(self) -> bool:
        """Nothing of what must never happen did: books right, no failure that another provider would have spared."""
        return not self.avoidable_failures and (self.money is None or self.money.clean)


def summarise(
    load: LoadResult,
    market: Sequence[MockProvider] | None,
    *,
    server_cpu_s: float | None = None,
    money: MoneyReport | None = None,
) -> ReplayReport:
    """Build the report. Without a market (somebody else's arbstr) there is no comparison of prices and no pace to
    subtract, and whether a failure was avoidable is not known."""
    outcomes = load.outcomes
    good = [outcome for outcome in outcomes if outcome.ok]
    compared = [o for o in good if _tokens(o) is not None and o.cost_msat is not None]
    paid = sum(o.cost_msat or 0 for o in compared)
    fixed = fixed_costs(compared, paid, market or ())
    wall_s = max(load.wall_s, 1e-9)
    return ReplayReport(
        requests=len(outcomes),
        ok=len(good),
        streams=sum(o.ask.stream for o in outcomes),
        failures=failures(outcomes),
        failures_before_first_byte=sum(before_first_byte(o) for o in outcomes),
        avoidable_failures=None if market is None else sum(avoidable(o, market) for o in outcomes),
        stream_errors_after_first_byte=sum(o.ask.stream and not o.ok and o.events > 0 for o in outcomes),
        retried_requests=sum(o.retries is not None for o in outcomes),
        prompt_tokens=sum(o.prompt_tokens or 0 for o in outcomes),
        completion_tokens=sum(o.completion_tokens or 0 for o in outcomes),
        told_msat=told_msat(outcomes),
        served_by=dict(Counter(o.provider for o in good if o.provider is not None).most_common()),
        fixed=fixed,
        median_fixed=_median(fixed),
        compared_requests=len(compared),
        paid_for_compared_msat=paid,
        added=Latency.of(added_s(good, market or ())),
        added_without_retries=Latency.of(added_s([o for o in good if o.retries is None], market or ())),
        total=Latency.of([o.total_s for o in good if o.total_s is not None]),
        ttft_streams=Latency.of([o.ttft_s for o in good if o.ask.stream and o.ttft_s is not None]),
        client_delay=Latency.of([o.delay_s for o in outcomes if o.kind != "unfinished"]),
        wall_s=round(load.wall_s, 3),
        requests_per_s=round(len(outcomes) / wall_s, 1),
        most_at_once=load.most_at_once,
        client_cpu_share=round(load.client_cpu_s / wall_s, 3),
        server_cpu_ms_per_request=None if server_cpu_s is None else round(server_cpu_s * 1_000 / len(outcomes), 3),
        server_cpu_share=None if server_cpu_s is None else round(server_cpu_s / wall_s, 3),
        money=money,
    )


def told_msat(outcomes: Iterable[Outcome]) -> int:
    """The sum of all costs that the client was told, of failed requests too."""
    return sum(outcome.cost_msat or 0 for outcome in outcomes)


def failures(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many of each kind, most first. Kinds read ``http 502 provider_failed`` or ``stream_error idle_timeout``."""
    return dict(Counter(_kind(outcome) for outcome in outcomes if not outcome.ok).most_common())


def _kind(outcome: Outcome) -> str:
    kind = f"http {outcome.status}" if outcome.kind == "http_error" else outcome.kind
    return kind if outcome.reason is None else f"{kind} {outcome.reason}"


def before_first_byte(outcome: Outcome) -> bool:
    """Whether it failed with nothing of an answer delivered, other than by the caller's own fault."""
    if outcome.kind == "http_error":
        return outcome.status in PROVIDERS_FAULT and outcome.reason not in OWN_BOUNDS
    return outcome.kind in ("connection", "stream_error", "stream_cut") and outcome.events == 0


def avoidable(outcome: Outcome, market: Sequence[MockProvider]) -> bool:
    """Whether it failed before the first byte while a provider without faults stood ready in the market."""
    return before_first_byte(outcome) and any(provider.healthy for provider in market)


def fixed_costs(
    compared: Sequence[Outcome], paid_msat: int, market: Sequence[MockProvider]
) -> tuple[FixedProvider, ...]:
    """The same tokens at each single provider's price, each request rounded up to 1 msat by itself; cheapest first."""
    costs = sorted((sum(p.price.cost_msat(*_known(o)) for o in compared), p.name) for p in market)
    return tuple(_fixed(name, cost, paid_msat) for cost, name in costs)


def _fixed(name: str, cost_msat: int, paid_msat: int) -> FixedProvider:
    saving = cost_msat - paid_msat
    return FixedProvider(name, cost_msat, saving, round(100 * saving / cost_msat, 2) if cost_msat else None)


def _median(fixed: Sequence[FixedProvider]) -> FixedProvider | None:
    """The provider in the middle (the lower of two), so that the number is one that could have been paid."""
    if not fixed:
        return None
    middle = median_low(each.cost_msat for each in fixed)
    return next(each for each in fixed if each.cost_msat == middle)


def added_s(outcomes: Iterable[Outcome], market: Sequence[MockProvider]) -> list[float]:
    """Seconds beyond what the winner's own pace takes for the tokens that it answered with."""
    by_name = {provider.name: provider for provider in market}
    return [
        outcome.total_s - by_name[outcome.provider].pace_s(outcome.completion_tokens)
        for outcome in outcomes
        if outcome.provider in by_name and outcome.total_s is not None and outcome.completion_tokens is not None
    ]


def _tokens(outcome: Outcome) -> tuple[int, int] | None:
    if outcome.prompt_tokens is None or outcome.completion_tokens is None:
        return None
    return outcome.prompt_tokens, outcome.completion_tokens


def _known(outcome: Outcome) -> tuple[int, int]:
    tokens = _tokens(outcome)
    if tokens is None:
        raise ValueError("only requests with known usage can be compared")
    return tokens
