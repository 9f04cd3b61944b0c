"""The circuit breaker: examples for each rule, and properties over any history."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.providers import Breaker, BreakerState, Outcome

FAULT, SUCCESS = Outcome.PROVIDER_FAULT, Outcome.SUCCESS


def opened(*, failures: int = 3, open_s: float = 30.0) -> Breaker:
    """A breaker that opened at time 0."""
    breaker = Breaker(failures=failures, open_s=open_s)
    for _ in range(failures):
        breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    assert breaker.state is BreakerState.OPEN
    return breaker


def half_open(*, failures: int = 3) -> tuple[Breaker, int]:
    """A breaker whose probe went out at time 30, and the probe's ticket."""
    breaker = opened(failures=failures)
    admission = breaker.admit(30.0)
    assert admission.probe
    return breaker, admission.ticket


def test_admits_when_closed() -> None:
    breaker = Breaker(failures=3, open_s=30.0)
    first, second = breaker.admit(0.0), breaker.admit(0.0)
    assert first.admitted
    assert not first.probe
    assert second.ticket > first.ticket > 0


def test_opens_when_the_last_allowed_failure_in_a_row_is_reported() -> None:
    breaker = Breaker(failures=3, open_s=30.0)
    for expected in (BreakerState.CLOSED, BreakerState.CLOSED, BreakerState.OPEN):
        breaker.record(breaker.admit(5.0).ticket, FAULT, 5.0)
        assert breaker.state is expected
    assert (breaker.failure_count, breaker.open_until) == (3, 35.0)


def test_starts_counting_again_when_a_success_comes_between() -> None:
    breaker = Breaker(failures=2, open_s=30.0)
    for outcome in (FAULT, SUCCESS, FAULT):
        breaker.record(breaker.admit(0.0).ticket, outcome, 0.0)
    assert (breaker.state, breaker.failure_count) == (BreakerState.CLOSED, 1)


@pytest.mark.parametrize("neutral", [Outcome.CLIENT_FAULT, Outcome.ABANDONED])
def test_neither_counts_nor_forgives_when_closed_and_the_outcome_is_not_the_providers(neutral: Outcome) -> None:
    breaker = Breaker(failures=2, open_s=30.0)
    for outcome in (FAULT, neutral):
        breaker.record(breaker.admit(0.0).ticket, outcome, 0.0)
    assert (breaker.state, breaker.failure_count) == (BreakerState.CLOSED, 1)


def test_stays_closed_when_scattered_faults_come_back_before_the_successes_between_them() -> None:
    breaker = Breaker(failures=3, open_s=30.0)
    tickets = [breaker.admit(0.0).ticket for _ in range(100)]
    for ticket in tickets[::2]:
        breaker.record(ticket, FAULT, 0.1)
    assert (breaker.state, breaker.failure_count) == (BreakerState.CLOSED, 1)
    for ticket in tickets[1::2]:
        breaker.record(ticket, SUCCESS, 5.0)
    assert (breaker.state, breaker.failure_count) == (BreakerState.CLOSED, 0)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_opens_when_three_admitted_in_a_row_failed_in_whatever_order_they_report(order: tuple[int, ...]) -> None:
    breaker = Breaker(failures=3, open_s=30.0)
    _, *row, _ = [breaker.admit(0.0).ticket for _ in range(5)]
    for index in order:
        assert breaker.state is BreakerState.CLOSED
        breaker.record(row[index], FAULT, 1.0)
    assert breaker.state is BreakerState.OPEN


def test_sees_past_neutral_outcomes_when_it_looks_for_a_row() -> None:
    breaker = Breaker(failures=2, open_s=30.0)
    first, neutral, last = (breaker.admit(0.0).ticket for _ in range(3))
    breaker.record(first, FAULT, 0.0)
    breaker.record(last, FAULT, 0.0)
    assert breaker.state is BreakerState.CLOSED, "the one between may still succeed"
    breaker.record(neutral, Outcome.CLIENT_FAULT, 0.0)
    breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    assert breaker.state is BreakerState.OPEN


def test_refuses_at_once_with_the_time_left_when_open() -> None:
    refused = opened().admit(12.0)
    assert not refused.admitted
    assert (refused.ticket, refused.reason, refused.retry_after_s) == (0, "breaker_open", 18.0)


def test_admits_exactly_one_probe_when_the_open_time_is_over() -> None:
    breaker = opened()
    assert breaker.admit(29.999).reason == "breaker_open"
    assert breaker.admit(30.0).probe
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.open_until is None
    others = [breaker.admit(30.0), breaker.admit(10_000.0)]
    assert [other.reason for other in others] == ["probing", "probing"]


@pytest.mark.parametrize("healthy", [SUCCESS, Outcome.CLIENT_FAULT])
def test_closes_when_the_probe_shows_that_the_provider_answers(healthy: Outcome) -> None:
    breaker, probe = half_open()
    breaker.record(probe, healthy, 31.0)
    assert (breaker.state, breaker.failure_count, breaker.probing) == (BreakerState.CLOSED, 0, False)
    assert breaker.admit(31.0).admitted


def test_opens_again_for_the_whole_time_when_the_probe_fails() -> None:
    breaker, probe = half_open()
    breaker.record(probe, FAULT, 31.0)
    assert (breaker.state, breaker.failure_count, breaker.open_until) == (BreakerState.OPEN, 4, 61.0)


def test_lets_the_next_caller_probe_when_the_probe_is_abandoned() -> None:
    breaker, probe = half_open()
    breaker.record(probe, Outcome.ABANDONED, 31.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.admit(31.0).probe


def test_lets_the_next_caller_probe_when_the_probes_time_is_over() -> None:
    breaker, late = half_open()
    breaker.release_probe()
    second = breaker.admit(40.0)
    assert second.probe
    breaker.record(late, Outcome.ABANDONED, 41.0)
    assert breaker.admit(41.0).reason == "probing", "a former probe must not free the present one"


def test_believes_a_former_probe_when_it_reports_while_half_open() -> None:
    breaker, late = half_open()
    breaker.release_probe()
    second = breaker.admit(40.0)
    breaker.record(late, SUCCESS, 41.0)
    assert breaker.state is BreakerState.CLOSED
    breaker.record(second.ticket, FAULT, 42.0)
    assert (breaker.state, breaker.failure_count) == (BreakerState.CLOSED, 1)


def test_stays_open_when_a_success_is_reported_from_before_the_opening() -> None:
    breaker = Breaker(failures=1, open_s=30.0)
    slow = breaker.admit(0.0).ticket
    breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    breaker.record(slow, SUCCESS, 1.0)
    assert (breaker.state, breaker.failure_count, breaker.open_until) == (BreakerState.OPEN, 1, 30.0)


def test_leaves_the_probe_alone_when_a_success_is_reported_from_before_the_opening() -> None:
    breaker = Breaker(failures=1, open_s=30.0)
    slow = breaker.admit(0.0).ticket
    breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    assert breaker.admit(30.0).probe
    breaker.record(slow, SUCCESS, 31.0)
    assert (breaker.state, breaker.probing) == (BreakerState.HALF_OPEN, True)


def test_only_counts_when_a_failure_is_reported_from_before_the_opening() -> None:
    breaker = Breaker(failures=1, open_s=30.0)
    slow, slower = breaker.admit(0.0).ticket, breaker.admit(0.0).ticket
    breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    breaker.record(slow, FAULT, 20.0)
    assert (breaker.state, breaker.failure_count, breaker.open_until) == (BreakerState.OPEN, 2, 30.0)
    assert breaker.admit(30.0).probe
    breaker.record(slower, FAULT, 31.0)
    assert (breaker.state, breaker.failure_count, breaker.probing) == (BreakerState.HALF_OPEN, 3, True)


def test_stays_closed_when_failures_from_before_the_opening_arrive_after_recovery() -> None:
    breaker = Breaker(failures=2, open_s=30.0)
    hanging = [breaker.admit(0.0).ticket for _ in range(10)]
    for _ in range(2):
        breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    breaker.record(breaker.admit(30.0).ticket, SUCCESS, 31.0)
    for ticket in hanging:
        breaker.record(ticket, FAULT, 60.0)
    assert (breaker.state, breaker.failure_count) == (BreakerState.CLOSED, 0)


@pytest.mark.parametrize(
    ("retry_after_s", "until"),
    [
        (None, 130.0),
        (7.0, 107.0),
        (0.0, 101.0),
        (-3.0, 101.0),
        (1e9, 700.0),
        (float("inf"), 700.0),
        (float("nan"), 130.0),
    ],
)
def test_opens_for_a_bounded_time_without_counting_when_rate_limited(retry_after_s: float | None, until: float) -> None:
    breaker = Breaker(failures=3, open_s=30.0)
    breaker.record(breaker.admit(100.0).ticket, Outcome.RATE_LIMITED, 100.0, retry_after_s)
    assert (breaker.state, breaker.failure_count, breaker.open_until) == (BreakerState.OPEN, 0, until)


def test_keeps_the_longer_time_when_rate_limited_again_while_open() -> None:
    breaker = Breaker(failures=3, open_s=30.0)
    tickets = [breaker.admit(0.0).ticket for _ in range(3)]
    for ticket, retry_after_s, until in zip(tickets, (20.0, 5.0, 40.0), (20.0, 20.0, 40.0), strict=True):
        breaker.record(ticket, Outcome.RATE_LIMITED, 0.0, retry_after_s)
        assert breaker.open_until == until


def test_opens_for_the_asked_time_when_the_probe_is_rate_limited() -> None:
    breaker, probe = half_open()
    breaker.record(probe, Outcome.RATE_LIMITED, 31.0, 5.0)
    assert (breaker.state, breaker.failure_count, breaker.open_until) == (BreakerState.OPEN, 3, 36.0)


def test_changes_nothing_when_only_asked_what_it_would_refuse() -> None:
    breaker = opened()
    assert breaker.refusal(30.0) is None
    assert breaker.state is BreakerState.OPEN
    assert breaker.admit(30.0).probe


@pytest.mark.parametrize(("failures", "open_s"), [(0, 30.0), (3, 0.0), (3, float("nan"))])
def test_cannot_be_made_when_it_could_not_work(failures: int, open_s: float) -> None:
    with pytest.raises(ValueError, match="breaker"):
        Breaker(failures=failures, open_s=open_s)


STEPS = st.lists(
    st.one_of(
        st.just(("admit",)),
        st.tuples(st.just("report"), st.integers(0, 30), st.sampled_from(Outcome), st.none() | st.floats(0, 1_000)),
        st.tuples(st.just("wait"), st.floats(0, 50)),
        st.just(("release",)),
    ),
    max_size=80,
)


@given(STEPS, st.integers(1, 4))
def test_has_one_probe_at_most_and_comes_back_when_anything_happened(steps: list[tuple], failures: int) -> None:
    breaker, now = Breaker(failures=failures, open_s=30.0), 0.0
    out: list[int] = []
    probes: set[int] = set()
    opened_at_ticket = 0
    for step in steps:
        before = (breaker.state, breaker.failure_count, breaker.open_until)
        match step:
            case ("wait", seconds):
                now += seconds
            case ("release",):
                breaker.release_probe()
                probes.clear()
            case ("admit",):
                admission = breaker.admit(now)
                if admission.admitted:
                    assert admission.ticket > max(out, default=0)
                    out.append(admission.ticket)
                else:
                    assert (breaker.state, breaker.failure_count, breaker.open_until) == before
                if admission.probe:
                    assert not probes, "two probes are out"
                    probes.add(admission.ticket)
            case ("report", index, outcome, retry_after_s) if out:
                ticket = out.pop(index % len(out))
                probes.discard(ticket)
                breaker.record(ticket, outcome, now, retry_after_s)
                if outcome is not FAULT and outcome is not Outcome.RATE_LIMITED and ticket <= opened_at_ticket:
                    assert (breaker.state, breaker.failure_count, breaker.open_until) == before
        if breaker.state is BreakerState.OPEN and before[0] is not BreakerState.OPEN:
            opened_at_ticket = max(out, default=opened_at_ticket)
        if breaker.state is not BreakerState.HALF_OPEN:
            probes.clear()
        assert breaker.probing == bool(probes)
        assert (breaker.open_until is not None) == (breaker.state is BreakerState.OPEN)
        assert breaker.open_until is None or breaker.open_until <= now + 600.0

    for ticket in out:
        breaker.record(ticket, Outcome.ABANDONED, now)
    now = breaker.open_until or now
    breaker.record(breaker.admit(now).ticket, SUCCESS, now)
    assert breaker.state is BreakerState.CLOSED
    assert not breaker.admit(now).probe
