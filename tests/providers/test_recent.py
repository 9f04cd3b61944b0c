"""Counts of about the last minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.providers import RecentCounts
from arbstr.providers._recent import Recent


def test_counts_nothing_when_nothing_has_come_back() -> None:
    counts = Recent().counts()
    assert (counts.requests(1e9), counts.errors(1e9), counts.error_share) == (0.0, 0.0, 0.0)


def test_counts_each_request_and_error_when_they_come_together() -> None:
    recent = Recent()
    for error in (True, False, False, True):
        recent.record(1_000.0, error=error)
    assert recent.counts() == RecentCounts(1_000.0, 4.0, 2.0)
    assert recent.counts().error_share == 0.5


def test_is_about_the_number_of_a_minute_when_the_load_is_even() -> None:
    recent = Recent()
    for step in range(10_000):
        recent.record(step * 0.1, error=step % 4 == 0)
    counts = recent.counts()
    assert counts.requests(counts.at) == pytest.approx(600, rel=0.01)
    assert counts.errors(counts.at) == pytest.approx(150, rel=0.01)


def test_fades_by_itself_when_nothing_more_comes() -> None:
    recent = Recent()
    recent.record(0.0, error=True)
    counts = recent.counts()
    assert counts.errors(60.0) == pytest.approx(0.3679, rel=0.001)
    assert counts.errors(600.0) < 0.001
    assert counts.error_share == 1.0


@given(st.lists(st.tuples(st.floats(0, 300), st.booleans()), max_size=40))
def test_never_counts_more_than_there_were_nor_more_errors_than_requests(steps: list[tuple[float, bool]]) -> None:
    recent, now = Recent(), 0.0
    for wait_s, error in steps:
        now += wait_s
        recent.record(now, error=error)
        counts = recent.counts()
        assert 0 <= counts.errors(now) <= counts.requests(now) <= len(steps)
