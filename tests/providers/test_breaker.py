"""The circuit breaker: examples for each rule, and properties over any history."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.providers import Breaker, BreakerState, Outcome

FAULT, SUCCESS, DENIED = Outcome.PROVIDER_FAULT, Outcome.SUCCESS, Outcome.DENIED


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


@pytest.mark.parametrize(
    ("failures", "open_s", "denied_open_s"),
    [(0, 30.0, None), (3, 0.0, None), (3, float("nan"), None), (3, 30.0, 0.0), (3, 30.0, float("nan"))],
)
def test_cannot_be_made_when_it_could_not_work(failures: int, open_s: float, denied_open_s: float | None) -> None:
    with pytest.raises(ValueError, match="breaker"):
        Breaker(failures=failures, open_s=open_s, denied_open_s=denied_open_s)


def test_opens_at_once_for_a_time_of_its_own_when_denied() -> None:
    breaker = Breaker(failures=3, open_s=30.0, denied_open_s=600.0)
    breaker.record(breaker.admit(5.0).ticket, DENIED, 5.0)
    assert (breaker.state, breaker.failure_count, breaker.open_until) == (BreakerState.OPEN, 1, 605.0)
    assert breaker.opened_by is DENIED


def test_opens_for_the_time_of_a_denial_when_the_probe_is_denied() -> None:
    breaker, probe = half_open()
    breaker.configure(failures=3, open_s=30.0, denied_open_s=600.0)
    breaker.record(probe, DENIED, 31.0)
    assert (breaker.state, breaker.failure_count, breaker.open_until) == (BreakerState.OPEN, 4, 631.0)


def test_keeps_the_opening_time_when_a_denial_is_reported_from_before_the_opening() -> None:
    breaker = Breaker(failures=1, open_s=30.0, denied_open_s=600.0)
    slow, slower = breaker.admit(0.0).ticket, breaker.admit(0.0).ticket
    breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    breaker.record(slow, DENIED, 20.0)
    assert (breaker.state, breaker.failure_count, breaker.open_until) == (BreakerState.OPEN, 2, 30.0)
    assert breaker.admit(30.0).probe
    breaker.record(slower, DENIED, 31.0)
    assert (breaker.state, breaker.failure_count, breaker.probing) == (BreakerState.HALF_OPEN, 3, True)


def test_counts_a_request_once_when_it_fails_here_again_and_again() -> None:
    breaker = Breaker(failures=3, open_s=30.0)
    breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    for _ in range(10):
        breaker.record(breaker.admit(1.0).ticket, FAULT, 1.0, repeated=True)
    assert (breaker.state, breaker.failure_count) == (BreakerState.CLOSED, 1)
    for _ in range(2):
        breaker.record(breaker.admit(2.0).ticket, FAULT, 2.0)
    assert breaker.state is BreakerState.OPEN, "a repeated fault is no success either: the row goes on"


def test_does_not_count_a_repeated_fault_when_it_comes_from_before_the_opening() -> None:
    breaker = Breaker(failures=1, open_s=30.0)
    slow = breaker.admit(0.0).ticket
    breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    breaker.record(slow, FAULT, 20.0, repeated=True)
    assert breaker.failure_count == 1


@pytest.mark.parametrize(("outcome", "until"), [(FAULT, 61.0), (DENIED, 131.0), (Outcome.RATE_LIMITED, 38.0)])
def test_opens_again_when_the_probe_fails_for_a_request_that_has_failed_before(outcome: Outcome, until: float) -> None:
    breaker, probe = half_open()
    breaker.configure(failures=3, open_s=30.0, denied_open_s=100.0)
    breaker.record(probe, outcome, 31.0, 7.0, repeated=True)
    assert (breaker.state, breaker.open_until) == (BreakerState.OPEN, until)


@pytest.mark.parametrize("outcome", [DENIED, Outcome.RATE_LIMITED])
def test_believes_what_is_no_count_when_the_request_has_failed_before(outcome: Outcome) -> None:
    breaker = Breaker(failures=3, open_s=30.0)
    breaker.record(breaker.admit(0.0).ticket, outcome, 0.0, repeated=True)
    assert breaker.state is BreakerState.OPEN


def test_admits_the_probe_early_when_the_open_time_is_ended() -> None:
    breaker = opened()
    breaker.end_open_time(10.0)
    assert (breaker.state, breaker.open_until) == (BreakerState.OPEN, 10.0)
    assert breaker.admit(10.0).probe
    assert breaker.admit(10.0).reason == "probing"


def test_changes_nothing_when_an_open_time_is_ended_that_is_over_or_was_none() -> None:
    closed, over, (probed, probe) = Breaker(failures=3, open_s=30.0), opened(), half_open()
    for breaker in (closed, over, probed):
        breaker.end_open_time(50.0)
    assert closed.state is BreakerState.CLOSED
    assert over.open_until == 30.0
    assert (probed.state, probed.probing) == (BreakerState.HALF_OPEN, True)
    probed.record(probe, SUCCESS, 51.0)
    assert probed.state is BreakerState.CLOSED


def test_keeps_its_state_when_configured() -> None:
    breaker = opened()
    breaker.configure(failures=1, open_s=5.0, denied_open_s=7.0)
    assert (breaker.state, breaker.failure_count, breaker.open_until) == (BreakerState.OPEN, 3, 30.0)
    breaker.record(breaker.admit(30.0).ticket, FAULT, 31.0)
    assert breaker.open_until == 36.0


def test_judges_the_next_fault_by_the_new_threshold_when_configured() -> None:
    breaker = Breaker(failures=5, open_s=30.0)
    for _ in range(3):
        breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    breaker.configure(failures=2, open_s=30.0)
    assert breaker.state is BreakerState.CLOSED
    breaker.record(breaker.admit(1.0).ticket, FAULT, 1.0)
    assert (breaker.state, breaker.failure_count) == (BreakerState.OPEN, 4)


def test_keeps_its_numbers_when_the_new_ones_could_not_work() -> None:
    breaker = Breaker(failures=1, open_s=30.0)
    with pytest.raises(ValueError, match="positive"):
        breaker.configure(failures=9, open_s=9.0, denied_open_s=-1.0)
    breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    assert breaker.open_until == 30.0


def test_says_what_opened_it_and_how_often() -> None:
    breaker = opened()
    assert (breaker.opened_by, breaker.openings) == (FAULT, 1)
    breaker.record(breaker.admit(30.0).ticket, Outcome.RATE_LIMITED, 31.0)
    assert (breaker.opened_by, breaker.openings) == (Outcome.RATE_LIMITED, 2)
    breaker.record(breaker.admit(99.0).ticket, SUCCESS, 99.0)
    assert (breaker.opened_by, breaker.openings) == (None, 2)


@pytest.mark.parametrize(("asked_s", "by"), [(10.0, FAULT), (50.0, Outcome.RATE_LIMITED)])
def test_names_the_rate_limit_as_the_cause_when_it_made_the_time_longer(asked_s: float, by: Outcome) -> None:
    breaker = Breaker(failures=1, open_s=30.0)
    slow = breaker.admit(0.0).ticket
    breaker.record(breaker.admit(0.0).ticket, FAULT, 0.0)
    breaker.record(slow, Outcome.RATE_LIMITED, 1.0, asked_s)
    assert breaker.opened_by is by


STEPS = st.lists(
    st.one_of(
        st.just(("admit",)),
        st.tuples(
            st.just("report"),
            st.integers(0, 30),
            st.sampled_from(Outcome),
            st.none() | st.floats(0, 1_000),
            st.booleans(),
        ),
        st.tuples(st.just("wait"), st.floats(0, 50)),
        st.just(("release",)),
        st.just(("end open time",)),
        st.tuples(st.just("configure"), st.integers(1, 4), st.floats(1, 100), st.none() | st.floats(1, 600)),
    ),
    max_size=80,
)


class History:
    """A breaker and what has been done with it; each step checks what must hold whatever came before."""

    def __init__(self, failures: int) -> None:
        self.breaker = Breaker(failures=failures, open_s=30.0)
        self.now = 0.0
        self.out: list[int] = []
        self.probes: set[int] = set()  # that may still decide, the present one and former ones
        self.last_stale = 0

    @property
    def told(self) -> tuple:
        breaker = self.breaker
        return breaker.state, breaker.failure_count, breaker.open_until, breaker.opened_by, breaker.probing

    def take(self, step: tuple) -> None:
        before = self.told
        match step:
            case ("wait", seconds):
                self.now += seconds
            case ("release",):
                self.breaker.release_probe()
                assert not self.breaker.probing
                assert self.told[:4] == before[:4]
            case ("configure", failures, open_s, denied_open_s):
                self.breaker.configure(failures=failures, open_s=open_s, denied_open_s=denied_open_s)
                assert self.told == before
            case ("end open time",):
                self.breaker.end_open_time(self.now)
                assert (self.told[:2], self.told[3:]) == (before[:2], before[3:])
                assert self.breaker.state is not BreakerState.OPEN or self.breaker.refusal(self.now) is None
            case ("admit",):
                self.admit(before)
            case ("report", index, outcome, retry_after_s, repeated) if self.out:
                self.report(self.out.pop(index % len(self.out)), outcome, retry_after_s, repeated, before)
        self.check()

    def admit(self, before: tuple) -> None:
        state, _, open_until, _, probing = before
        admission = self.breaker.admit(self.now)
        assert admission.admitted == (not probing and (open_until is None or self.now >= open_until))
        assert admission.probe == (admission.admitted and state is not BreakerState.CLOSED)
        if not admission.admitted:
            assert self.told == before
            return
        assert admission.ticket > max(self.out, default=0)
        self.out.append(admission.ticket)
        if admission.probe:
            self.probes.add(admission.ticket)

    def report(self, ticket: int, outcome: Outcome, retry_after_s: float | None, repeated: bool, before: tuple) -> None:
        openings = self.breaker.openings
        self.breaker.record(ticket, outcome, self.now, retry_after_s, repeated=repeated)
        stale = ticket <= self.last_stale
        if stale:
            assert self.told[0] is before[0], "who was sent before the opening decides nothing"
            assert self.told[4] == before[4]
            if outcome is not Outcome.RATE_LIMITED:
                assert self.told[2:] == before[2:]
        elif outcome is SUCCESS:
            assert self.told == (BreakerState.CLOSED, 0, None, None, False)
        elif outcome is DENIED:
            assert (self.told[0], self.told[3]) == (BreakerState.OPEN, DENIED)
        if repeated and ticket not in self.probes and outcome is FAULT:
            assert self.told == before, "one request counts once"
        if self.breaker.openings > openings:
            self.last_stale = max([ticket, *self.out, *self.probes, self.last_stale])
            self.probes.clear()
        self.probes.discard(ticket)

    def check(self) -> None:
        breaker = self.breaker
        assert (breaker.open_until is not None) == (breaker.state is BreakerState.OPEN)
        assert (breaker.opened_by is None) == (breaker.state is BreakerState.CLOSED)
        assert breaker.open_until is None or breaker.open_until <= self.now + 600.0
        if breaker.probing:
            assert breaker.state is BreakerState.HALF_OPEN
            assert self.probes, "a probe that nobody holds would shut it for ever"
        if breaker.state is BreakerState.CLOSED:
            self.probes.clear()


@given(STEPS, st.integers(1, 4))
def test_has_one_probe_at_most_and_comes_back_when_anything_happened(steps: list[tuple], failures: int) -> None:
    history = History(failures)
    for step in steps:
        history.take(step)

    breaker = history.breaker
    for ticket in history.out:
        breaker.record(ticket, Outcome.ABANDONED, history.now)
    assert not breaker.probing
    now = breaker.open_until or history.now
    breaker.record(breaker.admit(now).ticket, SUCCESS, now)
    assert breaker.state is BreakerState.CLOSED
    assert not breaker.admit(now).probe
