"""The rolling day against a list that forgets nothing."""

from hypothesis import given
from hypothesis import strategies as st

from arbstr.accounts._day import Day
from arbstr.store import DAY_NS

STEPS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 5), st.integers(0, DAY_NS), st.sampled_from([DAY_NS - 1, DAY_NS, DAY_NS + 1])),
        st.integers(0, 1_000),
    ),
    max_size=60,
)
"""How much later, and how much."""


def naive(spends: list[tuple[int, int]], now_ns: int) -> int:
    return sum(amount for at, amount in spends if at > now_ns - DAY_NS)


@given(STEPS)
def test_the_sum_is_exact_when_time_goes_on(steps: list[tuple[int, int]]) -> None:
    day, now, spends = Day(), 0, []
    for later, amount in steps:
        now += later
        assert day.spent_msat(now) == naive(spends, now)
        day.add(now, amount)
        spends.append((now, amount))
        assert day.spent_msat(now) == naive(spends, now)
    assert Day(spends).spent_msat(now) == naive(spends, now)


@given(STEPS, st.integers(2, 9))
def test_never_less_than_the_truth_is_counted_when_neighbours_are_merged(
    steps: list[tuple[int, int]], bound: int
) -> None:
    day, now, spends = Day(max_entries=bound), 0, []
    for later, amount in steps:
        now += later
        day.add(now, amount)
        spends.append((now, amount))
        assert len(day) <= bound
        assert day.spent_msat(now) >= naive(spends, now)
    assert day.spent_msat(now + DAY_NS) == 0


@given(st.lists(st.tuples(st.integers(0, 2 * DAY_NS), st.integers(0, 1_000)), max_size=40))
def test_never_less_than_the_truth_is_counted_when_the_clock_steps_back(spends: list[tuple[int, int]]) -> None:
    day = Day(spends)
    for now in sorted(at for at, _ in spends):
        assert day.spent_msat(now) >= naive(spends, now)


def test_what_ended_exactly_a_day_ago_does_not_count() -> None:
    day = Day([(10, 5), (11, 7)])
    assert day.spent_msat(9 + DAY_NS) == 12
    assert day.spent_msat(10 + DAY_NS) == 7
    assert day.spent_msat(11 + DAY_NS) == 0
