"""The market of ``serve --mock``: what a newcomer meets in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from arbstr.config import Config, ProviderConfig, Tier, mock_config

MODELS = ["gpt-4o", "gpt-4o-mini", "claude-3.5-sonnet", "mock-flaky", "text-embedding-3-small"]
REQUESTS = [(10, 20), (1_000, 300), (50_000, 4_000)]


@pytest.fixture
def config() -> Config:
    return mock_config(Path("x.db"))


def by_cost(config: Config, model: str, tokens: tuple[int, int]) -> list[ProviderConfig]:
    def cost(provider: ProviderConfig) -> int:
        assert provider.price is not None
        return provider.price.cost_msat(*tokens)

    return sorted((each for each in config.providers if any(model == one.id for one in each.models)), key=cost)


def test_nothing_outside_is_needed_when_the_market_is_mocked(config: Config) -> None:
    assert config.database.path == Path("x.db")
    assert config.vault is not None
    assert config.server.listen == "127.0.0.1:8080"
    assert len(config.providers) >= 5
    assert all(each.is_mock and each.price is not None and each.api_key is None for each in config.providers)
    assert config.warnings == ()


@pytest.mark.parametrize("model", MODELS)
def test_each_model_has_three_providers_to_choose_from(config: Config, model: str) -> None:
    assert len(by_cost(config, model, (10, 10))) >= 3


def test_market_holds_every_kind_of_provider(config: Config) -> None:
    urls = " ".join(each.url for each in config.providers)
    assert {Tier.LOCAL, Tier.STANDARD, Tier.FRONTIER} == {each.tier for each in config.providers}
    for fault in ("fail=0.2", "cut=0.2", "ttft_ms=1500"):
        assert fault in urls


@pytest.mark.parametrize("tokens", REQUESTS)
def test_cutting_provider_is_the_cheapest_only_for_the_flaky_model(config: Config, tokens: tuple[int, int]) -> None:
    cutting = [model for model in MODELS if "cut=" in by_cost(config, model, tokens)[0].url]
    assert cutting == ["mock-flaky"]


@pytest.mark.parametrize("tokens", REQUESTS)
def test_first_choice_for_a_newcomer_is_cheap_local_and_rarely_fails(config: Config, tokens: tuple[int, int]) -> None:
    first, second, *_ = by_cost(config, "gpt-4o-mini", tokens)
    assert first.tier is Tier.LOCAL
    assert "fail=0.05" in first.url
    assert "fail=0.2" in second.url
