"""Query strings: what they are read as, and what is refused."""

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.edge._query import MAX_PARAMETERS, MAX_QUERY_BYTES, Query, time_text
from arbstr.errors import InvalidRequest

NOW_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
HOUR_NS = 3_600 * 10**9
NAMES = ("since", "until", "range", "model", "success", "page", "sort", "order")


def query(raw: bytes | str) -> Query:
    return Query(raw.encode() if isinstance(raw, str) else raw, NAMES)


def refusal(read):
    with pytest.raises(InvalidRequest) as caught:
        read()
    assert (caught.value.status, caught.value.reason) == (400, "invalid_parameter")
    return caught.value


@pytest.mark.parametrize(
    ("raw", "model"),
    [("", None), ("model=a", "a"), ("model=", ""), ("model=a%2Fb+c", "a/b c"), ("x=1&model=%C3%A9&x=2&y", "é")],
)
def test_a_text_is_decoded(raw, model):
    assert query(raw).text("model") == model


@pytest.mark.parametrize(
    "raw",
    [
        "model=a&model=a",
        b"model=%ff",
        b"\xff",
        "x=1&" * MAX_PARAMETERS + "y=1",
        "x=" + "a" * MAX_QUERY_BYTES,
    ],
)
def test_a_query_is_refused_when_it_is(raw):
    refusal(lambda: query(raw))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_a_flag_is_read(text, value):
    assert query(f"success={text}").flag("success") is value
    assert query("").flag("success") is None


@pytest.mark.parametrize("text", ["", "1", "yes", "True", "true "])
def test_a_flag_is_refused_when_it_is_not_exactly_true_or_false(text):
    assert refusal(lambda: query(f"success={text}").flag("success")).param == "success"


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("007", 7), ("4294967295", 2**32 - 1)])
def test_a_number_is_read(text, value):
    assert query(f"page={text}").number("page", 5) == value
    assert query("").number("page", 5) == 5


@pytest.mark.parametrize("text", ["", "-1", "1.0", "x", "4294967296", "1" * 5_000, "%D9%A3", "1%20"])
def test_a_number_is_refused_when_it_is(text):
    refusal(lambda: query(f"page={text}").number("page", 5))


def test_a_choice_may_be_in_any_case_unless_it_may_not():
    assert query("order=DESC").choice("order", ("asc", "desc"), "asc") == "desc"
    assert query("").choice("order", ("asc", "desc"), "asc") == "asc"
    error = refusal(lambda: query("sort=Cost").choice("sort", ("cost", "time"), "time", any_case=False))
    assert "Valid options: cost, time" in error.message


@pytest.mark.parametrize(
    ("raw", "hours"), [("", 168), ("range=last_1h", 1), ("range=last_24h", 24), ("range=last_30d", 720)]
)
def test_a_range_goes_back_from_now(raw, hours):
    window = query(raw).window(NOW_NS)
    assert (window.since_ns, window.until_ns) == (NOW_NS - hours * HOUR_NS, NOW_NS)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2026-01-01T00:00:00Z", 0),
        ("2026-01-01t00:00:00z", 0),
        ("2026-01-01%2001:00:00%2B01:00", 0),
        ("2025-12-31T23:30:00-00:30", 0),
        ("2026-01-01T00:00:00.5Z", 500_000_000),
        ("2026-01-01T00:00:00.123456789999Z", 123_456_789),
    ],
)
def test_a_time_is_exact_to_the_nanosecond(text, ns):
    assert query(f"since={text}").window(0).since_ns == NOW_NS + ns
    assert query(f"until={text}").window(NOW_NS).until_ns == NOW_NS + ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not-a-date",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+01:00",  # the plus is a space
        "2026-02-30T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00%2B24:00",
        "2026-01-01T00:00:00%2B01:60",
        "2026-1-1T00:00:00Z",
        "1767225600",
    ],
)
@pytest.mark.parametrize("name", ["since", "until"])
def test_a_time_is_refused_when_it_is_no_rfc_3339_with_an_offset(name, text):
    assert refusal(lambda: query(f"{name}={text}").window(NOW_NS)).param == name


def test_a_bad_range_is_refused_unless_since_is_there():
    assert "last_30d" in refusal(lambda: query("range=last_999d").window(NOW_NS)).message
    assert query("range=last_999d&since=1970-01-01T00:00:00Z").window(NOW_NS).since_ns == 0


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_a_time_far_away_is_moved_to_what_can_be_stored(year):
    assert abs(query(f"since={year}-01-01T00:00:00Z").window(NOW_NS).since_ns) == 2**63 - 1


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (NOW_NS + 500_000_000, "2026-01-01T00:00:00.500+00:00"),
        (NOW_NS + 1_000, "2026-01-01T00:00:00.000001+00:00"),
        (NOW_NS + 1, "2026-01-01T00:00:00.000000001+00:00"),
        (-1, "1969-12-31T23:59:59.999999999+00:00"),
    ],
)
def test_a_time_is_written_with_as_many_digits_as_it_takes(ns, text):
    assert time_text(ns) == text


@given(ns=st.integers(-(2**63) + 1, 2**63 - 1))
def test_a_time_is_read_as_it_was_written(ns):
    text = time_text(ns)
    assert query("since=" + text.replace("+", "%2B")).window(0).since_ns == ns
    assert abs(datetime.fromisoformat(text) - datetime.fromtimestamp(ns / 1e9, UTC)).total_seconds() < 1


@given(raw=st.binary(max_size=200) | st.text(max_size=50).map(lambda text: f"since={text}&page={text}".encode()))
def test_nothing_but_a_refusal_is_raised_when_the_query_is_garbage(raw):
    with contextlib.suppress(InvalidRequest):
        read = query(raw)
        read.window(NOW_NS)
    with contextlib.suppress(InvalidRequest):
        query(raw).number("page", 1)
