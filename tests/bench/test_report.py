"""The report of a replay, from results made up by hand."""

from decimal import Decimal

import pytest
from attrs import evolve

from bench.client import Ask, Outcome
from bench.load import LoadResult
from bench.market import MockProvider
from bench.prices import HostPrice
from bench.report import Latency, avoidable, summarise


def provider(name: str, rate: str, *, fail: float = 0.0, ttft_ms: float = 10.0) -> MockProvider:
    host = HostPrice(name, Decimal(rate), Decimal(rate))
    return MockProvider(host, ttft_ms=ttft_ms, tokens_per_s=1_000.0, seed=1, fail=fail)


CHEAP, MIDDLE, DEAR = provider("cheap", "1000", fail=0.1), provider("middle", "2000"), provider("dear", "5000")
MARKET = [CHEAP, MIDDLE, DEAR]


def answer(index: int, name: str = "cheap", *, cost_msat: int = 200, stream: bool = False) -> Outcome:
    """100 prompt and 100 completion tokens: 200 msat at ``cheap``; 110 ms of its own pace."""
    return Outcome(
        ask=Ask(index, 100, 100, stream),
        kind="ok",
        total_s=0.115,
        ttft_s=0.012,
        status=200,
        provider=name,
        cost_msat=cost_msat,
        prompt_tokens=100,
        completion_tokens=100,
        events=102 if stream else 0,
    )


def refused(index: int, status: int, reason: str, **fields: object) -> Outcome:
    return Outcome(
        ask=Ask(index, 1, 1, False), kind="http_error", status=status, reason=reason, total_s=0.001, **fields
    )


def load(*outcomes: Outcome) -> LoadResult:
    return LoadResult(outcomes, wall_s=2.0, client_cpu_s=0.1, most_at_once=3)


def test_compares_with_each_provider_exactly_when_tokens_and_cost_are_known() -> None:
    report = summarise(load(answer(0), answer(1, "middle", cost_msat=400)), MARKET)

    assert [(f.provider, f.cost_msat, f.saving_msat) for f in report.fixed] == [
        ("cheap", 400, -200),
        ("middle", 800, 200),
        ("dear", 2_000, 1_400),
    ]
    assert report.median_fixed is not None
    assert (report.median_fixed.provider, report.median_fixed.saving_percent) == ("middle", 25.0)
    assert (report.paid_for_compared_msat, report.told_msat) == (600, 600)
    assert report.served_by == {"cheap": 1, "middle": 1}


def test_rounds_each_request_up_by_itself_when_a_provider_is_compared() -> None:
    third = provider("third", "333.333")
    outcomes = [evolve(answer(n), prompt_tokens=1, completion_tokens=0, cost_msat=1) for n in range(10)]

    assert summarise(load(*outcomes), [third]).fixed[0].cost_msat == 10


def test_subtracts_the_winners_own_pace_when_added_latency_is_taken() -> None:
    report = summarise(load(answer(0), answer(1)), MARKET)

    assert report.added == Latency(2, 5.0, 5.0)
    assert report.total == Latency(2, 115.0, 115.0)
    assert report.ttft_streams == Latency(0, None, None)


def test_separates_retried_requests_when_latency_without_retries_is_taken() -> None:
    report = summarise(load(answer(0), evolve(answer(1, "middle"), retries="1/cheap", total_s=0.31)), MARKET)

    assert report.retried_requests == 1
    assert report.added.samples == 2
    assert report.added_without_retries == Latency(1, 5.0, 5.0)


def test_counts_failures_by_kind_when_some_failed() -> None:
    broken = evolve(answer(3, stream=True), kind="stream_error", reason="provider_failed", cost_msat=None, events=4)
    unfinished = Outcome(Ask(4, 1, 1, False), "unfinished")
    report = summarise(
        load(answer(0), refused(1, 502, "provider_failed"), refused(2, 502, "provider_failed"), broken, unfinished),
        MARKET,
    )

    assert report.failures == {"http 502 provider_failed": 2, "stream_error provider_failed": 1, "unfinished": 1}
    assert (report.requests, report.ok, report.streams) == (5, 1, 1)
    assert report.failures_before_first_byte == report.avoidable_failures == 2
    assert report.stream_errors_after_first_byte == 1
    assert not report.clean


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (refused(0, 502, "provider_failed"), True),
        (refused(0, 503, "no_provider_available"), True),
        (refused(0, 429, "rate_limited"), True),
        (refused(0, 503, "overloaded"), False),
        (refused(0, 402, "insufficient_balance"), False),
        (refused(0, 400, "invalid_request"), False),
        (Outcome(Ask(0, 1, 1, True), "stream_error", events=0), True),
        (Outcome(Ask(0, 1, 1, True), "stream_error", events=1), False),
        (Outcome(Ask(0, 1, 1, False), "connection"), True),
        (Outcome(Ask(0, 1, 1, False), "timeout"), False),
        (Outcome(Ask(0, 1, 1, False), "unfinished"), False),
    ],
)
def test_calls_a_failure_avoidable_when_a_healthy_provider_stood_ready(outcome: Outcome, expected: bool) -> None:
    assert avoidable(outcome, MARKET) is expected
    assert not avoidable(outcome, [CHEAP])


def test_counts_what_was_told_when_a_failed_request_cost_something() -> None:
    assert summarise(load(answer(0), refused(1, 502, "x", cost_msat=7)), MARKET).told_msat == 207


def test_leaves_out_prices_and_pace_when_the_market_is_not_known() -> None:
    report = summarise(load(answer(0), refused(1, 502, "provider_failed")), None)

    assert (report.fixed, report.median_fixed, report.avoidable_failures) == ((), None, None)
    assert report.added.samples == 0
    assert report.total.samples == 1
    assert report.server_cpu_ms_per_request is None


def test_divides_server_time_by_requests_when_it_was_measured() -> None:
    report = summarise(load(answer(0), answer(1)), MARKET, server_cpu_s=0.004)

    assert report.server_cpu_ms_per_request == 2.0
    assert report.server_cpu_share == 0.002
    assert report.client_cpu_share == 0.05
