"""Times as people type them."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.cli._errors import Refused
from arbstr.cli._times import Period, parse_time_ns, period_of, show_time

S = 1_000_000_000
NOON = 1_785_499_200 * S
"""2026-07-31T12:00:00Z."""


@pytest.fixture
def _in_kolkata(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "at_ns"),
    [
        ("2026-07-31T12:00:00Z", NOON),
        ("2026-07-31t12:00:00z", NOON),
        ("2026-07-31 12:00:00Z", NOON),
        ("2026-07-31T12:00Z", NOON),
        ("2026-07-31T14:00:00+02:00", NOON),
        ("2026-07-31T06:30:00-05:30", NOON),
        ("2026-07-31T12:00:00.5Z", NOON + S // 2),
        ("2026-07-31T12:00:00.000000001+00:00", NOON + 1),
        ("1969-12-31T23:59:59.5Z", -S // 2),
        ("0001-01-01T00:00:00Z", -62_135_596_800 * S),
        ("9999-12-31T23:59:59Z", 253_402_300_799 * S),
    ],
)
def test_time_with_a_zone_is_exact_wherever_it_is_read(text: str, at_ns: int) -> None:
    assert parse_time_ns(text) == at_ns


@pytest.mark.usefixtures("_in_kolkata")
@pytest.mark.parametrize("text", ["2026-07-31 17:30", "2026-07-31T17:30:00", "2026-07-31 17:30:00.0"])
def test_time_without_a_zone_is_local(text: str) -> None:
    assert parse_time_ns(text) == NOON
    assert parse_time_ns("2026-07-31") == NOON - (17 * 3_600 + 1_800) * S
    assert show_time(NOON) == "2026-07-31 17:30:00"


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "2026-07", "2026-13-01", "2026-02-30", "2026-07-31T25:00:00Z", "2026-07-31T12", "12:00"),
        *("2026-07-31T12:00:00.Z", "2026-07-31T12:00.5Z", "2026-07-31T12:00:00+0200", "2026-07-31Z", "2026-7-31"),
        *("2026-07-31T12:00:00+99:00", "2026-07-31  12:00", " 2026-07-31", "2026-07-31\n", "1785499200"),
        "\N{ARABIC-INDIC DIGIT TWO}026-07-31",
        "9" * 5_000,
    ],
)
def test_time_is_refused_when_it_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="write 2026-07-31T12:00:00Z"):
        parse_time_ns(text)


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)),
    st.integers(-23 * 60, 23 * 60),
)
def test_what_the_standard_library_writes_is_read_to_the_microsecond(at: datetime, offset: int) -> None:
    at = at.replace(tzinfo=timezone(timedelta(minutes=offset)))
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_time_ns(at.isoformat()) == (since // timedelta(microseconds=1)) * 1_000


def given_options(**options: object) -> Namespace:
    return Namespace(**{"since": None, "until": None, "range": None, **options})


def test_a_week_until_now_is_meant_when_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOON)
    assert period_of(given_options()) == Period(NOON - 7 * 86_400 * S, NOON)
    assert period_of(given_options(range="last_1h")) == Period(NOON - 3_600 * S, NOON)
    assert period_of(given_options(range="last_24h", until=S)) == Period(S - 86_400 * S, S)
    assert period_of(given_options(since=5)) == Period(5, NOON)
    assert period_of(given_options(since=5, until=5)) == Period(5, 5)


@pytest.mark.parametrize(("until", "word"), [(4, "--until"), (None, "now")])
def test_period_is_refused_when_it_ends_before_it_begins(until: int | None, word: str) -> None:
    with pytest.raises(Refused, match=word):
        period_of(given_options(since=5 if until else 2 * time.time_ns(), until=until))
