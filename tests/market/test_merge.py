"""Which providers are wanted, of the file and of the market, and at what price."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config import Model, ProviderConfig, Tier, TokenstatsConfig
from arbstr.market import (
    FeedAnswer,
    HeldQuote,
    Merged,
    QuoteBook,
    Skipped,
    merge,
    normal_endpoint,
    parse_quote,
    take_in,
)
from arbstr.market._fetch import decode
from arbstr.secrets import Secret
from arbstr.units import Price
from tests.market.rig import row

SATS = "sats_per_1m_tokens"
KEY = Secret("sk-routstr")
NOW, UNIX = 1_000.0, 1_782_864_000.0


def config(**more: Any) -> TokenstatsConfig:
    return TokenstatsConfig(**{"url": "http://feed", "keys": {"routstr": KEY}, **more})


def book(rows: Sequence[dict[str, Any]], reliability: dict[str, str] | None = None, **more: Any) -> QuoteBook:
    document = decode(json.dumps(rows).encode())
    quotes = tuple(quote for each in document if (quote := parse_quote(each)) is not None)
    nodes = {name: Decimal(value) for name, value in (reliability or {}).items()}
    return take_in(FeedAnswer(quotes, nodes), config(**more), unix_now=UNIX, now=NOW)


def merged(
    *rows: dict[str, Any],
    static: Sequence[ProviderConfig] = (),
    reliability: dict[str, str] | None = None,
    now: float = NOW,
    **more: Any,
) -> Merged:
    return merge(static, book(rows, reliability, **more), config(**more), now=now)


def static(*models: str | Model, name: str = "alpha", url: str = "https://p1.example", **more: Any) -> ProviderConfig:
    return ProviderConfig(name=name, url=url, models=models, **more)


def sats(input_rate: int, output_rate: int, base_fee: int = 0) -> Price:
    return Price.of(input_rate, output_rate, base_fee, unit=SATS)


def model_of(found: Merged, provider: str, model: str) -> Model:
    (one,) = [each for each in found.wanted if each.name == provider]
    (match,) = [each for each in one.models if each.id == model]
    return match


def reasons(found: Merged) -> list[tuple[str, int]]:
    return [(skipped.reason, skipped.models_count) for skipped in found.skipped]


HONEST = [row(f"h{n}", asked=90 + n) for n in range(4)]


# --- New providers ----------------------------------------------------------------------------------------------------


def test_a_host_of_the_feed_becomes_a_provider_when_there_is_a_key() -> None:
    found = merged(row(), row(model="n", asked=5))

    assert found.wanted == (
        ProviderConfig(
            name="routstr-Node-p1",
            url="https://p1.example/v1",
            api_key=KEY,
            key_source="tokenstats.keys",
            models=[Model("m", price=sats(100, 300)), Model("n", price=sats(5, 15))],
            any_model=False,
            price=sats(5, 15),
            tier=Tier.STANDARD,
            source="routstr",
            provider_id="p1",
            rate_unit=SATS,
        ),
    )
    assert (found.routable, found.skipped, found.quarantined) == (1, (), ())


@pytest.mark.parametrize("name", ["p1", "routstr", "routstr:p1"])
def test_the_key_is_found_when_it_is_under_id_source_or_both(name: str) -> None:
    (provider,) = merged(row(), keys={name: KEY, "other": Secret("x")}).wanted

    assert provider.api_key == KEY


def test_the_key_of_the_id_is_used_when_the_source_has_one_too() -> None:
    (provider,) = merged(row(), keys={"routstr": Secret("b"), "p1": Secret("a"), "routstr:p1": Secret("c")}).wanted

    assert provider.api_key == Secret("a")


def test_a_host_is_skipped_with_a_hint_when_there_is_no_key() -> None:
    found = merged(row(), row(model="n"), keys={})

    assert found.wanted == ()
    assert found.skipped == (
        Skipped(
            "routstr",
            "Node p1",
            "p1",
            "https://p1.example/v1",
            2,
            "missing_api_key",
            'write its key into [tokenstats.keys], as "p1", or as "routstr" for the whole source',
        ),
    )


def test_endpoints_fold_into_one_provider_when_they_mean_the_same() -> None:
    (provider,) = merged(row(endpoint="https://x/api"), row(model="n", endpoint="https://x/api/v1/", asked=7)).wanted

    assert provider.url == "https://x/api/v1"
    assert [(model.id, model.price) for model in provider.models] == [("m", sats(100, 300)), ("n", sats(7, 21))]


@pytest.mark.parametrize(
    ("source", "display", "provider_id", "name"),
    [
        ("routstr", "My Node!", "p1", "routstr-My-Node"),
        ("routstr", "", "p1", "routstr-p1"),
        ("routstr", "雪", "p1", "routstr-p1"),
        ("r/s", "a_b-c", "p1", "r-s-a_b-c"),
        ("雪", "x", "p1", "market-x"),
        ("routstr", "雪", "雪", "routstr-provider"),
        ("s" * 200, "x", "p1", "s" * 128),
    ],
)
def test_the_name_is_plain_when_the_feed_writes_anything(
    source: str, display: str, provider_id: str, name: str
) -> None:
    quote = row(provider_id, source=source, provider=display, endpoint="https://x.example")
    (provider,) = merged(quote, keys={source: KEY}).wanted

    assert provider.name == name


def test_names_differ_and_stay_when_two_hosts_call_themselves_the_same() -> None:
    rows = [row(f"p{n}", provider="Same") for n in range(3)]
    taken = static("x", name="routstr-Same", url="https://other")
    found = merged(*rows, static=[taken])

    assert [each.name for each in found.wanted] == [
        "routstr-Same",
        "routstr-Same-p0",
        "routstr-Same-p1",
        "routstr-Same-p2",
    ]
    assert merged(*reversed(rows), static=[taken]).wanted == found.wanted


def test_a_host_is_skipped_when_its_address_cannot_be_a_provider() -> None:
    found = merged(row(endpoint="https://u:p@x.example/v1"), row("p2"))

    assert [each.provider_id for each in found.wanted] == ["p2"]
    assert reasons(found) == [("invalid_endpoint", 1)]
    assert "u:p" not in found.skipped[0].hint


def test_the_feed_cannot_start_any_number_of_providers_when_a_source_has_a_key() -> None:
    found = merged(*[row(f"p{n}") for n in range(258)])

    assert len(found.wanted) == 256
    assert reasons(found) == [("too_many_providers", 1)] * 2


def test_nothing_changes_when_there_is_no_feed_or_no_answer_yet() -> None:
    providers = (static("m"), static("n", name="b"))

    assert merge(providers, None, None, now=0) == Merged(providers)
    assert merge(providers, None, config(), now=0) == Merged(providers)


# --- What is left out -------------------------------------------------------------------------------------------------


def test_a_quote_is_never_free_when_its_price_is_not_known() -> None:
    found = merged(row(asked=None), row(model="n"), row("p2", asked=None))

    assert [(each.provider_id, [model.id for model in each.models]) for each in found.wanted] == [("p1", ["n"])]
    assert reasons(found) == [("unknown_price", 1), ("unknown_price", 1)]


def test_a_quote_is_not_used_when_one_of_its_rates_is_not_known() -> None:
    assert merged(row(price_out_sats=None)).wanted == ()


def test_a_host_is_skipped_when_it_is_not_reliable_enough() -> None:
    found = merged(row("bad"), row("edge"), row("unknown"), reliability={"bad": "0.49", "edge": "0.5"})

    assert [each.provider_id for each in found.wanted] == ["edge", "unknown"]
    assert (found.skipped[0].reason, found.skipped[0].reliability) == ("low_reliability", 0.49)


def test_reliability_does_not_matter_when_the_source_is_openrouter() -> None:
    found = merged(row(source="OpenRouter"), reliability={"p1": "0.1"}, keys={"OpenRouter": KEY})

    assert len(found.wanted) == 1


def test_only_one_source_counts_when_it_is_configured_in_any_case() -> None:
    rows = [row("p1", source="Routstr"), row("p2", source="other")]
    found = merged(*rows, source="rOUTSTR", keys={"p1": KEY, "p2": KEY})

    assert [each.provider_id for each in found.wanted] == ["p1"]


def test_old_quotes_are_one_entry_when_they_come_too_late() -> None:
    found = merged(row(observed_at=UNIX - 600), row("p2", observed_at=UNIX - 9_999), row("p3", observed_at=UNIX - 599))

    assert [each.provider_id for each in found.wanted] == ["p3"]
    assert found.skipped == (Skipped("*", "*", "*", None, 2, "stale_quotes", "older than stale_after_secs = 600"),)


def test_a_quote_keeps_its_place_but_is_not_bought_when_it_grows_old_here() -> None:
    rows = [row(observed_at=UNIX - 500), row(model="n")]
    early, late, last = (merged(*rows, now=NOW + seconds) for seconds in (99, 100, 600))

    assert [model.excluded for model in early.wanted[0].models] == [None, None]
    assert early.next_expiry == NOW + 100
    too_old = "its price from the market feed is older than 600 s"
    assert [model.excluded for model in late.wanted[0].models] == [too_old, None]
    assert (reasons(late), late.next_expiry, late.routable) == ([("stale_quotes", 1)], NOW + 600, 1)
    assert [model.excluded for model in last.wanted[0].models] == [too_old, too_old]
    assert (reasons(last), last.next_expiry, last.routable) == ([("stale_quotes", 2)], None, 0)


def test_a_quote_is_as_old_as_the_answer_when_its_time_is_not_known_or_in_the_future() -> None:
    expiries = [held.expires_at for held in book([row(), row("p2", observed_at=UNIX + 10**6)]).held]

    assert expiries == [NOW + 600] * 2


def test_the_newest_quote_counts_when_a_model_is_quoted_twice() -> None:
    rows = [
        row(observed_at=UNIX - 50, asked=1),
        row(observed_at=UNIX - 20, asked=2),
        row(observed_at=UNIX - 30, asked=3),
    ]

    assert model_of(merged(*rows), "routstr-Node-p1", "m").price == sats(2, 6)


# --- Providers of the file --------------------------------------------------------------------------------------------


def test_prices_are_laid_over_a_provider_of_the_file_when_the_url_is_the_same() -> None:
    own = static("m", "k", price=sats(1, 2, 7), api_key=Secret("own"), tier=Tier.FRONTIER)
    found = merged(row(endpoint="https://P1.example/v1/"), row(model="n", asked=5), static=[own], keys={})

    assert found.wanted == (
        evolve(
            own,
            models=[Model("m", price=sats(100, 300, 7)), Model("k"), Model("n", price=sats(5, 15, 7))],
            source="routstr",
            provider_id="p1",
        ),
    )
    assert (found.routable, found.skipped) == (0, ())


def test_a_wildcard_stays_one_when_prices_are_laid_over_it() -> None:
    (provider,) = merged(row(), static=[static(price=sats(1, 2))]).wanted

    assert (provider.any_model, provider.price, len(provider.models)) == (True, sats(1, 2), 1)


def test_an_undiscovered_provider_does_not_become_a_wildcard_when_prices_are_laid_over_it() -> None:
    (provider,) = merged(row(), static=[static(auto_discover=True)]).wanted

    assert (provider.any_model, [model.id for model in provider.models]) == (False, ["m"])


def test_the_price_goes_to_the_alias_when_the_file_names_the_model_otherwise() -> None:
    (provider,) = merged(row(model="org/m"), static=[static(Model("fast", "org/m", context_tokens=9))]).wanted

    assert provider.models == (Model("fast", "org/m", sats(100, 300), context_tokens=9),)


def test_the_base_fee_of_the_model_counts_when_it_has_a_price_of_its_own() -> None:
    own = static(Model("m", price=sats(1, 1, 3)), price=sats(1, 1, 7))

    assert model_of(merged(row(), static=[own]), "alpha", "m").price == sats(100, 300, 3)


def test_the_best_quote_counts_when_several_sources_speak_of_one_url() -> None:
    rows = [
        row("p1", asked=None, source="a"),
        row("p1", observed_at=UNIX - 599, asked=1, source="b"),
        row("p1", asked=7, source="c"),
        row("p1", asked=8, source="d"),
    ]

    assert model_of(merged(*rows, static=[static("m")], now=NOW + 1), "alpha", "m").price == sats(7, 21)


def test_source_and_id_of_the_file_stay_when_they_are_written() -> None:
    (provider,) = merged(row(), static=[static("m", source="mine", provider_id="me")]).wanted

    assert (provider.source, provider.provider_id) == ("mine", "me")


def test_the_price_of_the_file_stays_when_the_feed_has_none() -> None:
    own = static("m", price=sats(1, 2))
    found = merged(row(asked=None), row(model="n", asked=None), static=[own])

    assert (found.wanted[0].models, found.wanted[0].price) == (own.models, own.price)


def test_the_price_of_the_file_comes_back_when_the_quote_grows_old() -> None:
    own = static("m", price=sats(1, 2))

    assert merged(row(), static=[own], now=NOW + 600).wanted[0].models == own.models


def test_a_model_is_not_bought_when_its_only_price_grows_old() -> None:
    own = static("m")
    found = merged(row(), row(model="n"), static=[own], now=NOW + 600)

    assert [(model.id, bool(model.excluded)) for model in found.wanted[0].models] == [("m", True), ("n", True)]


def test_a_model_that_only_the_feed_names_is_not_bought_at_the_price_of_the_file_when_its_quote_grows_old() -> None:
    own = static("k", price=sats(1, 2))
    found = merged(row(), static=[own], now=NOW + 600)

    assert model_of(found, "alpha", "m").excluded is not None


def test_a_model_of_a_wildcard_has_the_price_of_the_file_again_when_its_quote_grows_old() -> None:
    assert merged(row(), static=[static(price=sats(1, 2))], now=NOW + 600).wanted[0].models == ()


def test_a_pretended_provider_is_left_alone_when_the_feed_speaks_of_others() -> None:
    mock = ProviderConfig(name="mock", url="mock://p1", models=["m"])

    assert merged(row(), static=[mock]).wanted[0] == mock


def test_the_file_comes_first_and_in_its_order_when_both_have_providers() -> None:
    found = merged(
        row("z"), row("a"), static=[static("m", name="y", url="http://y"), static("m", name="b", url="http://b")]
    )

    assert [each.name for each in found.wanted] == ["y", "b", "routstr-Node-a", "routstr-Node-z"]


# --- Prices that are not believed -------------------------------------------------------------------------------------


def test_a_model_keeps_its_place_with_the_reason_when_its_price_is_absurd() -> None:
    found = merged(*HONEST, row("x", asked=0.05), row("x", model="other", asked=5))
    (provider,) = [each for each in found.wanted if each.provider_id == "x"]

    assert [model.excluded is None for model in provider.models] == [False, True]
    assert "the median of 4 other hosts" in (provider.models[0].excluded or "")
    (told,) = found.quarantined
    assert (told.provider, told.model, told.reason) == ("routstr-Node-x", "m", provider.models[0].excluded)
    assert found.routable == 5
    assert provider.price == sats(5, 15)


def test_a_provider_is_not_routable_when_its_only_price_is_absurd() -> None:
    assert merged(*HONEST, row("x", asked=10**6)).routable == 4


def test_a_model_has_no_price_but_the_reason_when_it_is_negative() -> None:
    model = model_of(merged(row(asked=-7_000_000)), "routstr-Node-p1", "m")

    assert model.price is None
    assert "negative" in (model.excluded or "")


def test_a_zero_is_not_believed_when_others_charge() -> None:
    model = model_of(merged(row("x", asked=0), *HONEST), "routstr-Node-x", "m")

    assert model.excluded == "input rate is 0 where 4 of 4 other hosts charge"


def test_hosts_without_a_key_are_evidence_when_one_with_a_key_is_judged() -> None:
    found = merged(*HONEST, row("x", asked=10**6), keys={"x": KEY})

    assert [(each.provider_id, each.models[0].excluded is None) for each in found.wanted] == [("x", False)]


def test_unreliable_hosts_are_no_evidence_when_others_are_judged() -> None:
    low = {f"h{n}": "0.1" for n in range(4)}

    assert merged(*HONEST, row("x", asked=10**6), reliability=low).quarantined == ()


def test_expired_quotes_are_no_evidence_when_others_are_judged() -> None:
    old = [row(f"h{n}", asked=90, observed_at=UNIX - 599) for n in range(4)]
    rows = [*old, row("x", asked=10**6)]

    assert len(merged(*rows).quarantined) == 1
    assert merged(*rows, now=NOW + 1).quarantined == ()


def test_the_factor_of_the_configuration_counts_when_prices_are_judged() -> None:
    rows = [*HONEST, row("x", asked=400)]

    assert (merged(*rows).quarantined, len(merged(*rows, price_factor=3).quarantined)) == ((), 1)


def test_prices_of_the_file_are_evidence_and_never_judged_when_the_feed_has_others() -> None:
    own = [static("m", name=f"s{n}", url=f"https://s{n}", price=sats(100, 300)) for n in range(3)]
    strange = static("m", name="odd", url="https://odd", price=sats(10**8, 10**8))
    found = merged(row("x", asked=10**6), static=[*own, strange])

    assert [told.provider for told in found.quarantined] == ["routstr-Node-x"]


def test_the_price_of_the_feed_is_the_evidence_when_the_file_has_an_old_one() -> None:
    own = [static("m", name=f"s{n}", url=f"https://h{n}.example", price=sats(1, 3)) for n in range(4)]

    assert merged(*HONEST, row("x", asked=100), static=own).quarantined == ()


def test_a_model_of_the_file_is_not_bought_when_the_feed_says_something_absurd_about_it() -> None:
    own = static("m", url="https://x.example/v1", price=sats(1, 2))
    found = merged(*HONEST, row("x", asked=10**6), static=[own])

    assert model_of(found, "alpha", "m").excluded is not None
    assert found.quarantined[0].provider == "alpha"


# --- Properties -------------------------------------------------------------------------------------------------------

rows_strategy = st.lists(
    st.builds(
        row,
        st.sampled_from(["p1", "p2", "p3", "p4", "p5"]),
        st.sampled_from(["m", "n"]),
        st.sampled_from([None, -1, 0, 1, 90, 100, 10**6]),
        source=st.sampled_from(["routstr", "openrouter", "x"]),
        provider=st.sampled_from(["", "Same", "雪"]),
        observed_at=st.sampled_from([None, UNIX, UNIX - 300, UNIX - 900, UNIX + 50]),
        endpoint=st.sampled_from(["https://a", "https://a/v1", "https://b/v1", "http://u@c", "https://d:0/v1"]),
    ),
    max_size=25,
)
files = st.sampled_from(
    [
        (),
        (static("m", url="https://a", price=sats(100, 300, 5)),),
        (static(url="https://a/v1", price=sats(90, 200)), static(Model("k", "m"), name="b", url="https://b")),
        (static(url="https://b", auto_discover=True),),
    ]
)
seconds = st.sampled_from([0.0, 250.0, 599.0, 5_000.0])


@given(rows_strategy, files, seconds, st.sampled_from([{}, {"routstr": KEY}, {"p1": KEY, "x": KEY}]))
def test_nothing_is_bought_without_a_good_price_when_the_market_is_arbitrary(
    rows: list[dict[str, Any]], file: tuple[ProviderConfig, ...], later: float, keys: dict[str, Secret]
) -> None:
    quotes = book(rows, keys=keys)
    found = merge(file, quotes, config(keys=keys), now=NOW + later)
    names = [each.name for each in found.wanted]

    assert len(set(names)) == len(names)
    assert [each.name for each in found.wanted[: len(file)]] == [each.name for each in file]
    for before, after in zip(file, found.wanted, strict=False):
        assert (after.any_model, after.price, after.api_key, after.url) == (
            before.any_model,
            before.price,
            before.api_key,
            before.url,
        )
        assert {model.id for model in before.models} <= {model.id for model in after.models}
        base = before.price.base_fee_msat if before.price else 0
        assert all(model.price is None or model.price.base_fee_msat == base for model in after.models)
    offered = {(held.quote.endpoint, held.quote.model): held for held in quotes.held if held.expires_at > NOW + later}
    for provider in found.wanted[len(file) :]:
        assert not provider.any_model
        assert provider.api_key == KEY
        for model in provider.models:
            assert model.excluded or (model.price is not None and (provider.url, model.id) in offered)


@given(rows_strategy, files, st.randoms(use_true_random=False))
def test_the_same_is_wanted_when_the_feed_sends_another_order(
    rows: list[dict[str, Any]], file: tuple[ProviderConfig, ...], draw: Any
) -> None:
    # Of two quotes of one host for one model that are good equally long, the first counts.
    rows = list(
        {
            (each["source"], each["provider_id"], normal_endpoint(each["endpoint"]), each["model"]): each
            for each in rows
        }.values()
    )
    shuffled = list(rows)
    draw.shuffle(shuffled)

    def shape(found: Merged) -> Any:
        return {(each.provider_id, each.source, each.url): set(each.models) for each in found.wanted}

    assert shape(merged(*shuffled, static=file)) == shape(merged(*rows, static=file))


def test_the_book_holds_the_quotes_when_they_are_good() -> None:
    taken = book([row()])

    assert taken.held == (HeldQuote(taken.held[0].quote, NOW + 600),)
