"""Asking the market feed, and reading what it answers."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config import TokenstatsConfig
from arbstr.market import (
    FetchFailed,
    PollFailed,
    Quote,
    UnreadableQuote,
    normal_endpoint,
    parse_nodes,
    parse_quote,
    poll,
    read_quotes,
)
from arbstr.market._fetch import decode
from arbstr.units import Price
from tests.market.rig import World, never, ok, refused, row

FEED = TokenstatsConfig(url="http://feed/")


def quote(**more: Any) -> Quote:
    """What is read from the JSON text of a row."""
    found = parse_quote(decode(json.dumps(row(**more)).encode()))
    assert found is not None
    return found


def unreadable(**more: Any) -> str:
    with pytest.raises(UnreadableQuote) as failed:
        quote(**more)
    return str(failed.value)


# --- Quotes -----------------------------------------------------------------------------------------------------------


def test_a_quote_has_every_member_when_it_is_complete() -> None:
    assert quote(price_in_sats=0.1, price_out_sats=3, observed_at="2026-07-01T00:00:00Z") == Quote(
        source="routstr",
        provider="Node p1",
        provider_id="p1",
        model="m",
        endpoint="https://p1.example/v1",
        input_rate=Fraction(1, 10),
        output_rate=Fraction(3),
        observed_at=1_782_864_000.0,
    )


def test_rates_are_exact_when_they_have_many_digits() -> None:
    body = b'{"price_in_sats": 0.1234567890123456789, "price_out_sats": 1e-7}'
    found = parse_quote({**row(), **decode(body)})

    assert found is not None
    assert found.input_rate == Fraction(1234567890123456789, 10**19)
    assert found.output_rate == Fraction(1, 10**7)
    assert found.price == Price.of(found.input_rate, found.output_rate, unit="sats_per_1m_tokens")


@pytest.mark.parametrize("side", ["price_in_sats", "price_out_sats"])
def test_an_unknown_price_stays_unknown_when_it_is_null_or_absent(side: str) -> None:
    absent = {key: value for key, value in row().items() if key != side}

    assert quote(**{side: None}).price is None
    assert parse_quote(absent) == quote(**{side: None})


def test_a_price_of_zero_is_zero_and_not_unknown_when_it_is_written() -> None:
    assert quote(price_in_sats=0, price_out_sats=0.0).price == Price.of(0, 0)


def test_a_negative_price_is_kept_to_be_seen_but_has_no_use_when_read() -> None:
    found = quote(price_in_sats=-1.5)

    assert (found.input_rate, found.price) == (Fraction(-3, 2), None)


@pytest.mark.parametrize("value", ["0.25", " 0.25 ", "25e-2"])
def test_a_price_is_read_when_it_is_written_as_text(value: str) -> None:
    assert quote(price_in_sats=value).input_rate == Fraction(1, 4)


@pytest.mark.parametrize(
    "value", ["free", "", "NaN", "sNaN", "inf", True, [], {}, 1e13, "1e999999999", "1e-999999999", "0e999999999"]
)
def test_a_quote_makes_no_sense_when_its_price_does_not(value: Any) -> None:
    assert unreadable(price_in_sats=value) == "price_in_sats is not a price"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_quote_is_left_out_silently_when_it_has_no_endpoint(value: str | None) -> None:
    assert parse_quote(row(endpoint=value)) is None


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"model": None}, "model is not a name"),
        ({"model": "a\nb"}, "model is not a name"),
        ({"source": 3}, "source is not a text"),
        ({"source": " "}, "source or provider_id is empty"),
        ({"provider_id": ""}, "source or provider_id is empty"),
        ({"provider": "x" * 300}, "provider is not a text"),
        ({"endpoint": 3}, "endpoint is not a text"),
        ({"endpoint": "https://" + "x" * 2_000}, "endpoint is not a text"),
        ({"endpoint": "mock://free"}, "endpoint is not an http"),
        ({"endpoint": "file:///etc/passwd"}, "endpoint is not an http"),
        ({"endpoint": "http://host:port"}, "endpoint is not a URL"),
        ({"endpoint": "https:///v1"}, "endpoint is not an http"),
        ({"observed_at": "yesterday"}, "observed_at is not a time"),
        ({"observed_at": -5}, "observed_at is not a time"),
        ({"observed_at": {}}, "observed_at is not a time"),
        ({"observed_at": True}, "observed_at is not a time"),
    ],
)
def test_a_quote_makes_no_sense_when_a_member_is_wrong(more: dict[str, Any], problem: str) -> None:
    assert problem in unreadable(**more)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2026-07-01T00:00:00Z", 1_782_864_000.0),
        ("2026-07-01T02:00:00.5+02:00", 1_782_864_000.5),
        ("2026-07-01T00:00:00", 1_782_864_000.0),
        (1_782_864_000, 1_782_864_000.0),
        (1_782_864_000_500, 1_782_864_000.5),
        ("1782864000.25", 1_782_864_000.25),
        (None, None),
    ],
)
def test_a_time_is_read_when_it_is_text_or_number(value: Any, seconds: float | None) -> None:
    assert quote(observed_at=value).observed_at == seconds


@pytest.mark.parametrize(
    "endpoint",
    ["https://x.y/api", " https://x.y/api/ ", "https://x.y/api/v1", "https://x.y/api/v1//", "HTTPS://X.Y/api/v1"],
)
def test_endpoints_are_one_when_they_mean_the_same(endpoint: str) -> None:
    assert normal_endpoint(endpoint) == "https://x.y/api/v1"


def test_endpoints_differ_when_the_path_does() -> None:
    assert normal_endpoint("https://x.y/API") == "https://x.y/API/v1"


async def test_rows_that_make_no_sense_cost_only_themselves_when_read() -> None:
    quotes, seen, notes = await read_quotes([row(), 3, row(model=""), row("p2", endpoint=None)])

    assert ([each.provider_id for each in quotes], seen) == (["p1"], 4)
    assert notes == ("2 quotes make no sense and are left out; the first: it is no object",)


async def test_no_more_quotes_are_read_than_were_asked_for_when_more_come() -> None:
    quotes, seen, notes = await read_quotes([row()] * 2_001)

    assert (len(quotes), seen) == (2_000, 2_001)
    assert notes == ("the feed sent 2001 quotes, the first 2000 are used",)


@pytest.mark.parametrize("document", [None, 3, "x", {}, {"quotes": None}, {"quotes": {}}])
async def test_it_is_a_failure_and_no_empty_market_when_there_is_no_list(document: Any) -> None:
    with pytest.raises(FetchFailed):
        await read_quotes(document)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "source": st.sampled_from(["routstr", "", " x "]) | junk,
        "provider": st.text(max_size=5) | junk,
        "provider_id": st.sampled_from(["p1", "p2"]) | junk,
        "model": st.sampled_from(["m", "n"]) | junk,
        "endpoint": st.sampled_from(["https://a", "http://[", "HTTP://A:1/v1", "https://u:p@a?q#f"]) | st.text() | junk,
        "price_in_sats": st.decimals() | junk,
        "price_out_sats": st.decimals() | junk,
        "observed_at": st.datetimes().map(str) | st.decimals() | junk,
        "reliability": st.decimals() | junk,
    },
)


@given(rows | junk)
def test_anything_is_a_quote_or_makes_no_sense_when_parsed(one: Any) -> None:
    try:
        found = parse_quote(one)
    except UnreadableQuote:
        return
    if found is not None:
        assert normal_endpoint(found.endpoint) == found.endpoint
        assert (found.price is None) == (
            found.input_rate is None or found.output_rate is None or min(found.input_rate, found.output_rate) < 0
        )


# --- Nodes ------------------------------------------------------------------------------------------------------------


def test_reliability_is_not_known_when_it_is_missing_or_odd() -> None:
    odd = [3, {}, {"provider_id": 3}, {"provider_id": "c"}, {"provider_id": "d", "reliability": "high"}]
    found, seen = parse_nodes({"nodes": [{"provider_id": "a", "reliability": "0.25"}, *odd]})

    assert (found, seen) == ({"a": Decimal("0.25")}, 6)


def test_the_worst_counts_when_a_node_is_listed_twice() -> None:
    found, _ = parse_nodes(decode(b'[{"provider_id":"a","reliability":0.9},{"provider_id":"a","reliability":0.2}]'))

    assert {name: str(value) for name, value in found.items()} == {"a": "0.2"}


@given(st.lists(rows | junk, max_size=4) | junk)
def test_anything_is_nodes_or_a_failure_when_parsed(document: Any) -> None:
    try:
        found, _ = parse_nodes(document)
    except FetchFailed:
        return
    assert all(value.is_finite() for value in found.values())


# --- Polling ----------------------------------------------------------------------------------------------------------


async def test_a_poll_asks_for_health_quotes_and_nodes_when_all_is_well() -> None:
    world = World()
    world.feed([row()], [{"provider_id": "p1", "reliability": 0.5}])
    answer = await poll(world, FEED)

    assert [request.url.path for request in world.asked] == ["/health", "/api/quotes", "/api/nodes"]
    assert str(world.asked[1].url) == "http://feed/api/quotes?limit=2000"
    assert all("authorization" not in request.headers for request in world.asked)
    assert (answer.quotes, answer.quotes_seen, answer.nodes_seen, answer.notes) == ((quote(),), 1, 1, ())
    assert answer.reliability["p1"] == Fraction(1, 2)


async def test_source_and_ratio_are_sent_encoded_when_configured() -> None:
    world = World()
    world.feed()
    await poll(world, TokenstatsConfig(url="http://feed", source="a&b c", blend_ratio=2.5))

    assert dict(world.asked[1].url.params) == {"limit": "2000", "source": "a&b c", "ratio": "2.5"}


@pytest.mark.parametrize("path", ["/health", "/api/quotes"])
@pytest.mark.parametrize("answer", [ok({}, 500), ok("<html>"), refused])
async def test_a_poll_fails_when_health_or_quotes_do(path: str, answer: Any) -> None:
    world = World()
    world.feed([row()])
    world.answers[f"http://feed{path}"] = answer
    with pytest.raises(PollFailed) as failed:
        await poll(world, FEED)

    assert failed.value.error.startswith(path.rpartition("/")[2])
    assert "kept" in failed.value.note


async def test_a_poll_goes_on_without_reliability_when_the_nodes_fail() -> None:
    world = World()
    world.feed([row()])
    world.answers["http://feed/api/nodes"] = ok({}, 500)
    answer = await poll(world, FEED)

    assert (len(answer.quotes), answer.reliability, answer.nodes_seen) == (1, {}, 0)
    assert answer.notes == ("no reliability data: answered with status 500",)


async def test_there_is_a_note_when_the_feed_is_unwell_or_empty() -> None:
    world = World()
    world.feed()
    world.answers["http://feed/health"] = ok({"ok": False, "quotes": 0})

    assert (await poll(world, FEED)).notes == ("the feed says that it is not ok", "the feed says that it has no quotes")


async def test_a_poll_ends_in_time_when_the_feed_is_silent(autojump_clock: Any) -> None:
    world = World()
    world.feed([row()])
    world.answers["http://feed/api/nodes"] = never
    begun = trio.current_time()
    answer = await poll(world, FEED)

    assert trio.current_time() - begun == pytest.approx(5)
    assert answer.notes == ("no reliability data: no complete answer within 5 s",)
