"""Who may come in: requests, tokens, calls per second, places; each refusal says when it would pass."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config import AgentLimit, Limit, LimitsConfig
from arbstr.errors import PermissionRefused, RateLimited
from arbstr.requests import Caller, Limits, _limits
from arbstr.requests._limits import Pass, go_duration

ONE = Caller("ag_1", "agent", "one", "ag_1")
TWO = Caller("ag_2", "agent", "two", "ag_2")


def limits(total: Limit | None = None, agent: Limit | None = None, *agents: AgentLimit, rps: int = 0) -> Limits:
    return Limits(LimitsConfig(total or Limit(), agent or Limit(), agents), rate_limit_rps=rps)


def enter(one: Limits, caller: Caller = ONE, *, tokens: int = 10, now: float = 0.0, model: str = "m") -> Pass:
    return one.enter(caller, models=(model,), tokens=tokens, now=now)


def refused(one: Limits, caller: Caller = ONE, *, tokens: int = 10, now: float = 0.0) -> RateLimited:
    before = one.in_flight
    with pytest.raises(RateLimited) as caught:
        enter(one, caller, tokens=tokens, now=now)
    assert one.in_flight == before
    return caught.value


def test_everybody_comes_in_and_nobody_is_remembered_when_nothing_is_limited() -> None:
    one = limits()
    for _ in range(1_000):
        assert enter(one).headers == ()
    assert one.touch(ONE, 0.0) == ()
    assert one.clients == 0


def test_a_client_is_refused_after_as_many_requests_as_it_may_and_passes_again_when_it_is_told() -> None:
    one = limits(agent=Limit(requests_per_minute=3))
    for _ in range(3):
        enter(one)
    error = refused(one)
    assert (error.status, error.reason, error.retry_after_s) == (429, "rate_limited", 20.0)
    assert dict(error.headers) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"0",
        b"x-ratelimit-reset-requests": b"1m0s",
    }
    enter(one, TWO)
    refused(one, now=19.9)
    enter(one, now=20.0)
    refused(one, now=20.0)


def test_all_together_are_refused_when_the_total_is_used_up() -> None:
    one = limits(Limit(requests_per_minute=2))
    enter(one, ONE)
    enter(one, TWO)
    assert "all clients together" in refused(one, Caller("ag_3", "agent", "three")).message


def test_nothing_is_taken_from_the_client_when_the_total_refuses() -> None:
    one = limits(Limit(requests_per_minute=1), Limit(requests_per_minute=10))
    enter(one, TWO)
    refused(one, ONE)
    assert dict(enter(one, ONE, now=60.0).headers)[b"x-ratelimit-remaining-requests"] == b"0"  # of all
    one.configure(LimitsConfig(agent=Limit(requests_per_minute=10)), rate_limit_rps=0)
    assert dict(enter(one, ONE, now=60.0).headers)[b"x-ratelimit-remaining-requests"] == b"8"


def test_tokens_are_taken_as_expected_and_corrected_by_what_was_used() -> None:
    one = limits(agent=Limit(tokens_per_minute=600))
    first = enter(one, tokens=500)
    assert dict(first.headers)[b"x-ratelimit-remaining-tokens"] == b"100"
    error = refused(one, tokens=200)
    assert error.retry_after_s == pytest.approx(10.0)
    first.spent(50, 0.0)
    first.leave(0.0)
    second = enter(one, tokens=200)
    assert dict(second.headers)[b"x-ratelimit-remaining-tokens"] == b"350"
    second.spent(1_150, 0.0)  # more than there was: to be waited for
    assert refused(one, tokens=100).retry_after_s == pytest.approx(70.0)


def test_what_was_taken_comes_back_when_nobody_says_what_was_used() -> None:
    one = limits(agent=Limit(tokens_per_minute=600))
    enter(one, tokens=600).leave(0.0)
    enter(one, tokens=600)


def test_a_request_that_is_larger_than_the_whole_allowance_passes_when_all_of_it_is_there() -> None:
    one = limits(agent=Limit(tokens_per_minute=60))
    enter(one, tokens=1_000).spent(1_000, 0.0)
    assert refused(one, tokens=1_000).retry_after_s == pytest.approx(1_000.0)
    enter(one, tokens=1_000, now=1_000.0)


def test_as_many_as_allowed_are_in_flight_and_the_next_comes_in_when_one_has_left() -> None:
    one = limits(agent=Limit(concurrent_requests=2))
    first, _ = enter(one), enter(one)
    error = refused(one)
    assert (error.retry_after_s, error.headers) == (1.0, ())
    enter(one, TWO)
    first.leave(0.0)
    first.leave(0.0)
    enter(one)
    refused(one)
    assert one.in_flight == 3


def test_calls_per_second_are_counted_together_whatever_they_are_for() -> None:
    one = limits(rps=2)
    assert dict(one.touch(ONE, 0.0))[b"x-ratelimit-remaining-requests"] == b"1"
    assert dict(enter(one).headers)[b"x-ratelimit-remaining-requests"] == b"0"
    with pytest.raises(RateLimited) as caught:
        one.touch(ONE, 0.0)
    assert caught.value.retry_after_s == 0.5
    assert dict(caught.value.headers)[b"x-ratelimit-reset-requests"] == b"1s"
    refused(one)
    one.touch(TWO, 0.0)
    one.touch(ONE, 0.5)


@pytest.mark.parametrize("agent", ["ag_1", "one"])
def test_an_agent_has_limits_of_its_own_by_id_or_name_and_the_usual_ones_where_they_say_nothing(agent: str) -> None:
    usual = Limit(requests_per_minute=1, concurrent_requests=5)
    one = limits(None, usual, AgentLimit(agent, Limit(requests_per_minute=10)))
    for _ in range(5):
        enter(one)
    assert "at once" in refused(one).message
    enter(one, TWO)
    refused(one, TWO)


def test_a_model_is_refused_when_it_is_not_among_those_of_the_agent() -> None:
    one = limits(None, None, AgentLimit("one", models=("small", "fast")))
    with pytest.raises(PermissionRefused) as caught:
        enter(one, model="large")
    assert (caught.value.status, caught.value.reason) == (403, "model_not_allowed")
    assert "fast, small" in caught.value.message
    enter(one, model="small")
    one.enter(ONE, models=("alias", "fast"), tokens=1, now=0.0)
    enter(one, TWO, model="large")
    enter(one, Caller(None, "client", "one"), model="large")  # no agent, whatever it is called


def test_what_has_been_used_counts_against_the_new_limit_when_it_changes() -> None:
    one = limits(agent=Limit(requests_per_minute=10))
    for _ in range(6):
        enter(one)
    one.configure(LimitsConfig(agent=Limit(requests_per_minute=5)), rate_limit_rps=0)
    assert refused(one).retry_after_s == pytest.approx(2 * 12.0)
    one.configure(LimitsConfig(agent=Limit(requests_per_minute=8)), rate_limit_rps=0)
    enter(one)


def test_a_place_is_given_back_when_the_limits_have_changed_meanwhile() -> None:
    one = limits(agent=Limit(concurrent_requests=1))
    first = enter(one)
    one.configure(LimitsConfig(), rate_limit_rps=0)
    first.leave(0.0)
    one.configure(LimitsConfig(agent=Limit(concurrent_requests=1)), rate_limit_rps=0)
    enter(one)


def test_the_client_not_seen_for_longest_is_forgotten_but_never_one_with_a_request_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_limits, "MAX_CLIENTS", 3)
    one = limits(agent=Limit(concurrent_requests=1))
    callers = [Caller(None, "anonymous", "anonymous", f"10.0.0.{number}") for number in range(50)]
    busy = enter(one, callers[0])
    for caller in callers[1:]:
        enter(one, caller).leave(0.0)
    assert one.clients <= 3
    refused(one, callers[0])
    busy.leave(0.0)
    enter(one, callers[0])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (361.5, "6m1.5s"),
        (3_600, "1h0m0s"),
        (90_061, "25h1m1s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def attempt(one: Limits, caller: Caller, tokens: int, now: float) -> tuple[Pass | None, RateLimited | None]:
    try:
        return enter(one, caller, tokens=tokens, now=now), None
    except RateLimited as error:
        return None, error


_STEP = st.tuples(st.sampled_from([ONE, TWO]), st.floats(0, 30), st.integers(0, 400), st.integers(0, 800))


@given(st.lists(_STEP, max_size=40))
def test_who_waits_as_long_as_told_passes_and_the_headers_are_in_bounds(
    steps: list[tuple[Caller, float, int, int]],
) -> None:
    one = limits(Limit(30, 2_000, 3), Limit(10, 600, 2), rps=5)
    now = 0.0
    inside: list[Pass] = []
    for caller, pause, tokens, used in steps:
        now += pause
        for _ in range(100):
            place, refusal = attempt(one, caller, tokens, now)
            if place is not None:
                break
            assert refusal is not None
            assert refusal.retry_after_s is not None
            assert refusal.retry_after_s > 0
            now += refusal.retry_after_s
            if "at once" in refusal.message:
                inside.pop(0).leave(now)
        assert place is not None, "who waited was never let in"
        inside.append(place)
        for name, value in place.headers:
            if name.startswith(b"x-ratelimit-remaining"):
                assert 0 <= int(value) <= 600
            if name.startswith(b"x-ratelimit-reset"):
                assert re.fullmatch(rb"(\d+h)?(\d+m)?(\d+(\.\d+)?s|\d+ms)", value)
        place.spent(used, now)
    for place in inside:
        place.leave(now)
    assert one.in_flight == 0
