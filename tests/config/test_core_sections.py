"""What the file says of models with particulars, tiers, aliases, limits, the market feed and logging."""

from __future__ import annotations

from decimal import Decimal

import pytest

from arbstr.config import ComplexityWeights, Config, ConfigError, Limit, Model, ProviderConfig, Tier, loads
from arbstr.units import Price

PROVIDER = '[[providers]]\nname = "a"\nurl = "https://a.example/v1"\n'
PRICED = PROVIDER + "input_rate = 1\noutput_rate = 2\n"


def read(text: str, **environ: str) -> Config:
    return loads(text, source="c.toml", environ=environ)


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    (only,) = caught.value.problems
    assert only.line is not None
    return f"{only.key}: {only.message}"


def test_names_and_tables_may_stand_side_by_side_when_models_are_listed() -> None:
    (provider,) = read(PRICED + 'models = ["x", {id = "y", upstream_id = "org/y", context_tokens = 10}]').providers
    assert provider.models == (Model("x"), Model("y", upstream_id="org/y", context_tokens=10))
    assert not provider.any_model


def test_model_has_its_own_price_when_its_table_has_rates() -> None:
    text = (
        PRICED + 'rate_unit = "sats_per_1m_tokens"\n[[providers.models]]\nid = "y"\ninput_rate = 3\noutput_rate = 4\n'
    )
    (provider,) = read(text + "cached_input_rate = 0.5").providers
    own = Price.of(3, 4, cached_input_rate=Decimal("0.5"), unit="sats_per_1m_tokens")
    assert provider.models[0].price == own
    assert provider.price == Price.of(1, 2, unit="sats_per_1m_tokens")


def test_model_is_excluded_with_a_warning_when_half_of_its_own_price_is_missing() -> None:
    config = read(PRICED + '[[providers.models]]\nid = "y"\noutput_rate = 4')
    assert config.providers[0].models[0].price is None
    assert config.providers[0].models[0].excluded is not None
    assert "no input_rate" in config.warnings[0]


def test_no_warning_when_every_model_has_a_price_and_the_provider_has_none() -> None:
    config = read(PROVIDER + '[[providers.models]]\nid = "y"\ninput_rate = 3\noutput_rate = 4')
    assert config.warnings == ()


def test_cached_tokens_cost_what_others_cost_when_no_rate_is_given_for_them() -> None:
    (provider,) = read(PRICED).providers
    assert provider.price is not None
    assert provider.price.cost_msat(1_000, 0, 1_000) == provider.price.cost_msat(1_000, 0) == 1_000


def test_cached_tokens_have_their_own_price_when_there_is_one() -> None:
    (provider,) = read(PRICED + "cached_input_rate = 0.1").providers
    assert provider.price is not None
    assert provider.price.cost_msat(1_000, 0, 400) == 600 + 40


def test_nothing_is_served_before_discovery_when_the_list_is_left_to_it() -> None:
    assert not read(PRICED + "auto_discover = true").providers[0].any_model
    assert read(PRICED).providers[0].any_model
    assert ProviderConfig("a", "mock://a").any_model


def test_weights_and_thresholds_are_read_when_there_is_a_routing_table() -> None:
    routing = read(
        "[routing]\ncomplexity_threshold_low = 0.2\nextra_keywords = ['prove']\n"
        "[routing.complexity_weights]\ncode_blocks = 3"
    ).routing
    assert routing.complexity_threshold_low == 0.2
    assert routing.extra_keywords == ("prove",)
    assert routing.complexity_weights == ComplexityWeights(code_blocks=3.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[routing]\ncomplexity_threshold_low = 0.8", "write them in order"),
        ("[routing]\ncomplexity_threshold_low = 2", "from 0 to 1"),
        ("[routing.complexity_weights]\ncode_blocks = -1", "out of range"),
        ('[aliases]\na = "b"\nb = "c"', "is an alias itself"),
        ("[aliases]\na = 1", "1 is a number"),
        ("[limits]\nrequests_per_minute = 0", "out of range"),
        ("[[limits.agents]]\nmodels = ['m']", "is missing"),
        ("[[limits.agents]]\nagent = 'a'\n[[limits.agents]]\nagent = 'a'", "already on line 2"),
        ("[tokenstats]\nsource = 'x'", "is missing"),
        ("[tokenstats]\nurl = 'x'", "must start with http"),
        ("[tokenstats]\nurl = 'https://f.example'\n[tokenstats.keys]\nx = '${NOT_SET}'", "NOT_SET"),
        ("[logging]\nformat = 'xml'", "auto, console, json"),
        (PRICED + "on_disconnect = 'drian'", 'did you mean "drain"'),
        (PRICED + "models = [1]", "array of texts"),
        (PRICED + "models = [{upstream_id = 'x'}]", "is missing"),
        (PRICED + "weight = -1", "out of range"),
    ],
)
def test_message_says_what_and_how_to_fix_it_when_a_value_is_wrong(text: str, words: str) -> None:
    assert words in complaint(text)


def test_limits_are_for_all_for_each_and_for_some_when_all_three_are_written() -> None:
    limits = read(
        "[limits]\nconcurrent_requests = 9\n[limits.agent]\ntokens_per_minute = 5\n"
        "[[limits.agents]]\nagent = 'alice'\nmodels = ['m']\nrequests_per_minute = 1"
    ).limits
    assert limits.total == Limit(concurrent_requests=9)
    assert limits.agent == Limit(tokens_per_minute=5)
    assert limits.agents[0].agent == "alice"
    assert limits.agents[0].models == ("m",)
    assert limits.agents[0].limit == Limit(requests_per_minute=1)


def test_keys_of_the_feed_are_expanded_and_empty_ones_dropped_when_there_is_a_feed() -> None:
    text = "[tokenstats]\nurl = 'https://f.example'\n[tokenstats.keys]\nx = 'k-${A}'\ny = '${B}'"
    feed = read(text, A="1", B="").tokenstats
    assert feed is not None
    assert {name: key.reveal() for name, key in feed.keys.items()} == {"x": "k-1"}


def test_the_tiers_are_in_order() -> None:
    assert [tier.level for tier in Tier] == [0, 1, 2]
    assert [tier.next for tier in Tier] == [Tier.STANDARD, Tier.FRONTIER, None]
