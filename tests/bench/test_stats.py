"""Percentiles by nearest rank."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import milliseconds, percentile


def test_takes_the_nearest_rank_when_there_are_a_hundred_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]

    assert percentile(values, 0.50) == 50
    assert percentile(values, 0.99) == 99
    assert percentile(values, 1.0) == 100


def test_gives_the_one_value_when_there_is_only_one() -> None:
    assert percentile([3.0], 0.01) == percentile([3.0], 0.99) == 3.0


def test_gives_none_when_there_are_no_values() -> None:
    assert percentile([], 0.5) is None
    assert milliseconds([], 0.5) is None


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01])
def test_refuses_a_share_when_it_lies_outside(share: float) -> None:
    with pytest.raises(ValueError, match="share must lie"):
        percentile([1.0], share)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_at_least_the_share_lies_at_or_below_when_values_are_any(values: list[float], share: float) -> None:
    value = percentile(values, share)

    assert value in values
    assert sum(each <= value for each in values) >= share * len(values)
