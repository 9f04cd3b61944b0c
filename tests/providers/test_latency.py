"""Latency statistics: decay and percentiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.providers import LatencyStats, LatencySummary


def observed(*durations_s: float) -> LatencyStats:
    stats = LatencyStats()
    for duration_s in durations_s:
        stats.record(duration_s)
    return stats


def test_says_nothing_when_nothing_was_observed() -> None:
    assert observed().summary() == LatencySummary(None, None, None)


def test_mean_is_exact_when_there_is_one_observation() -> None:
    assert observed(0.25).mean_ms == pytest.approx(250.0)


def test_mean_follows_when_the_provider_changes() -> None:
    assert observed(*[1.0] * 500, *[0.1] * 200).mean_ms == pytest.approx(100.0, rel=0.2)


def test_percentiles_tell_the_tail_when_most_are_fast() -> None:
    stats = observed(*([0.1] * 9 + [2.0]) * 60)
    assert stats.p50_ms == pytest.approx(100.0, rel=0.05)
    assert stats.p99_ms == pytest.approx(2_000.0, rel=0.05)


def test_stays_finite_when_there_are_very_many_observations() -> None:
    stats = observed(*[0.2] * 40_000)
    assert stats.mean_ms == pytest.approx(200.0)
    assert stats.p99_ms == pytest.approx(200.0, rel=0.05)


@pytest.mark.parametrize("duration_s", [-0.1, float("nan"), float("inf")])
def test_refuses_when_it_is_not_a_duration(duration_s: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        observed(duration_s)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50))
def test_mean_lies_between_the_extremes_when_anything_was_observed(durations_s: list[float]) -> None:
    stats = observed(*durations_s)
    assert stats.mean_ms is not None
    assert stats.p50_ms is not None
    assert stats.p99_ms is not None
    assert min(durations_s) * 1_000 * 0.999 - 1e-9 <= stats.mean_ms <= max(durations_s) * 1_000 * 1.001
    assert stats.p50_ms <= stats.p99_ms


@given(st.lists(st.floats(0.001, 1_000), min_size=1, max_size=1))
def test_percentile_is_off_by_five_percent_at_most_when_it_is_one_value(durations_s: list[float]) -> None:
    assert observed(*durations_s).p50_ms == pytest.approx(durations_s[0] * 1_000, rel=0.051)
