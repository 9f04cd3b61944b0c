"""How often processes may end unasked."""

from __future__ import annotations

from arbstr.assembly._crashes import LAST_WAIT_S, MAX_CRASHES, PERIOD_S, Crashes


def test_the_first_is_replaced_at_once_and_the_next_ones_ever_later() -> None:
    crashes = Crashes()
    waits = [crashes.count(float(now)) for now in range(MAX_CRASHES)]
    assert waits[:4] == [0.0, 0.1, 0.2, 0.4]
    assert waits[-1] == LAST_WAIT_S


def test_it_is_the_end_when_there_are_too_many_in_a_while() -> None:
    crashes = Crashes()
    for _ in range(MAX_CRASHES):
        assert crashes.count(1.0) is not None
    assert crashes.count(1.0 + PERIOD_S / 2) is None


def test_those_of_long_ago_do_not_count() -> None:
    crashes = Crashes()
    for _ in range(MAX_CRASHES):
        crashes.count(1.0)
    assert crashes.count(1.0 + PERIOD_S) == 0.0
