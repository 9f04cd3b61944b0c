"""The market of a replay and the configuration that names it."""

import tomllib
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from bench.market import build_market, config_text, entries, longest_pace_s
from bench.prices import generate_prices

HOSTS = generate_prices(6, seed=1)


def test_is_the_same_market_when_the_seed_is_the_same() -> None:
    assert build_market(HOSTS, speed=60, seed=1) == build_market(HOSTS, speed=60, seed=1)
    assert build_market(HOSTS, speed=60, seed=1) != build_market(HOSTS, speed=60, seed=2)


def test_has_one_fault_of_each_kind_when_built() -> None:
    market = build_market(HOSTS, speed=1, seed=1)

    assert [provider.name for provider in market if provider.fail] == [HOSTS[0].name]
    assert [provider.name for provider in market if provider.cut] == [HOSTS[1].name]
    assert max(market, key=lambda provider: provider.pace_s(100)).name == HOSTS[2].name
    assert sum(provider.healthy for provider in market) == 4


def test_pace_is_that_much_faster_when_sped_up() -> None:
    slow, fast = build_market(HOSTS, speed=1, seed=1), build_market(HOSTS, speed=60, seed=1)

    for one, other in zip(slow, fast, strict=True):
        assert one.pace_s(1_000) == pytest.approx(60 * other.pace_s(1_000))
        assert one.pace_s(1_000) <= longest_pace_s(1_000, speed=1)


def test_url_says_pace_and_faults_when_a_provider_is_configured() -> None:
    failing = build_market(HOSTS, speed=60, seed=1)[0]
    url = urlsplit(failing.url)
    knobs = {name: float(value[0]) for name, value in parse_qs(url.query).items()}

    assert (url.scheme, url.netloc) == ("mock", failing.name)
    assert knobs["fail"] == 0.05
    assert knobs["ttft_ms"] == pytest.approx(failing.ttft_ms, abs=0.001)
    assert knobs["tokens_per_s"] == pytest.approx(failing.tokens_per_s, abs=0.001)
    assert "cut" not in knobs


def test_configuration_holds_exact_rates_when_read_back() -> None:
    market = build_market(HOSTS, speed=60, seed=1)
    text = config_text(entries(market, speed=60), database=Path('/tmp/odd "name"/a.db'), durability="process")
    config = tomllib.loads(text, parse_float=Decimal)

    assert config["rate_unit"] == "sats_per_1m_tokens"
    assert config["database"] == {"path": '/tmp/odd "name"/a.db', "durability": "process"}
    assert config["vault"] == {}
    assert {p["breaker_open_s"] for p in config["providers"]} == {Decimal("0.5")}
    read = [(p["name"], p["url"], p["input_rate"], p["output_rate"]) for p in config["providers"]]
    assert read == [(p.name, p.url, p.host.input_rate, p.host.output_rate) for p in market]
