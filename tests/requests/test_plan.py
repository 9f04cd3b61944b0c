"""The plan of attempts: who is tried, in which order, after which wait, and when it is over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.requests._plan import Plan, Wait


def plan(candidates: int, *, retries: int = 2, deadline: float = 100.0, chance: float = 0.0) -> Plan:
    return Plan(candidates, retries=retries, backoff_s=1.0, deadline=deadline, chance=lambda: chance)


def rounds(one: Plan, *, again: set[int], now: float = 0.0) -> list[int | float]:
    """Run it with those in ``again`` failing each time in a way that is worth another try: numbers and waits."""
    steps: list[int | float] = []
    while (step := one.next(now)) is not None:
        if isinstance(step, Wait):
            steps.append(step.seconds)
            now += step.seconds
        else:
            steps.append(step)
            if step in again:
                one.failed(step, now, None)
    return steps


def test_everybody_is_tried_once_and_at_once_in_order_when_nobody_is_worth_another_try() -> None:
    assert rounds(plan(3), again=set()) == [0, 1, 2]


def test_only_those_worth_it_are_tried_again_after_ever_longer_waits() -> None:
    assert rounds(plan(3), again={0, 2}) == [0, 1, 2, 1.0, 0, 2, 2.0, 0, 2]


def test_nobody_is_tried_when_there_is_nobody() -> None:
    assert rounds(plan(0), again=set()) == []


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (1, 2), (5, 6)])
def test_a_provider_gets_as_many_further_tries_as_configured(retries: int, tries: int) -> None:
    assert rounds(plan(1, retries=retries), again={0}).count(0) == tries


def test_the_wait_is_shortened_by_half_at_most() -> None:
    assert rounds(plan(1, chance=1.0), again={0}) == [0, 0.5, 0, 1.0, 0]


def test_it_is_over_when_the_wait_does_not_end_before_the_deadline() -> None:
    assert rounds(plan(1, deadline=1.0), again={0}) == [0]
    assert rounds(plan(1, deadline=3.0), again={0}) == [0, 1.0, 0]


def test_the_shortest_time_asked_for_is_waited_and_who_asked_for_more_is_left_alone_that_round() -> None:
    one = plan(3)
    assert [one.next(0.0) for _ in range(3)] == [0, 1, 2]
    for candidate, seconds in enumerate((20.0, 5.0, 60.5)):
        one.failed(candidate, 0.0, seconds)
    assert one.next(0.0) == Wait(5.0)
    assert one.next(5.0) == 1
    one.failed(1, 5.0, None)
    assert one.next(5.0) == Wait(2.0)
    assert [one.next(7.0), one.next(7.0)] == [1, None]


def test_a_time_asked_for_that_is_shorter_than_our_own_wait_changes_nothing() -> None:
    one = plan(1)
    one.next(0.0)
    one.failed(0, 0.0, 0.25)
    assert one.next(0.0) == Wait(1.0)


@pytest.mark.parametrize("retry_after_s", [60.001, 1e9])
def test_nobody_is_waited_for_who_asks_for_more_than_a_minute(retry_after_s: float) -> None:
    one = plan(1, deadline=float("inf"))
    one.next(0.0)
    one.failed(0, 0.0, retry_after_s)
    assert one.next(0.0) is None


def test_who_had_no_room_is_asked_again_only_when_somebody_else_is_worth_a_round() -> None:
    alone, together = plan(2), plan(2)
    for one in (alone, together):
        assert one.next(0.0) == 0
        one.shut(0)
        assert one.next(0.0) == 1
    together.failed(1, 0.0, None)
    assert alone.next(0.0) is None
    assert together.next(0.0) == Wait(1.0)
    assert [together.next(1.0), together.next(1.0), together.next(1.0)] == [0, 1, None]


@given(
    candidates=st.integers(0, 6),
    retries=st.integers(0, 4),
    deadline=st.floats(0.0, 200.0),
    data=st.data(),
)
def test_no_try_is_too_many_too_late_or_unasked_for_whatever_comes_of_them(
    candidates: int, retries: int, deadline: float, data: st.DataObject
) -> None:
    chance = data.draw(st.floats(0, 1))
    one = Plan(candidates, retries=retries, backoff_s=1.0, deadline=deadline, chance=lambda: chance)
    now, last, waits = 0.0, "", 0
    tries = [0] * candidates
    asked_for = [0.0] * candidates
    over: set[int] = set()
    while (step := one.next(now)) is not None:
        if isinstance(step, Wait):
            assert last != "wait"
            assert now + step.seconds < deadline
            now += step.seconds
            waits += 1
            last = "wait"
            continue
        last = "try"
        assert step not in over
        assert now >= asked_for[step]
        come = data.draw(st.sampled_from(["again", "never", "shut"]))
        if come == "shut":
            one.shut(step)
            continue
        tries[step] += 1
        if come == "never":
            over.add(step)
            continue
        seconds = data.draw(st.none() | st.floats(0, 90))
        one.failed(step, now, seconds)
        asked_for[step] = now if seconds is None else now + seconds
        if seconds is not None and seconds > 60:
            over.add(step)
    assert last != "wait"
    assert all(count <= retries + 1 for count in tries)
    assert waits <= retries
