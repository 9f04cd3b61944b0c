"""The market of ``arbstr serve --mock``: pretended providers with different prices, speeds, tiers and faults.

Chosen so that a first request for ``gpt-4o-mini`` is answered quickly and cheaply, that failover shows now and then
(``mock-shaky`` is the cheapest for the two big models and refuses one request in five), and that an answer is cut only
for who asks for it: ``mock-cutter`` is the cheapest for the model ``mock-flaky`` and for nothing else. Faults are drawn
by seed and number of the request; the seeds are those with which the first few requests succeed.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from arbstr.config._schema import (
    Config,
    DatabaseConfig,
    PoliciesConfig,
    PolicyRule,
    ProviderConfig,
    Strategy,
    Tier,
    VaultConfig,
)
from arbstr.units import Price

_BIG = ("gpt-4o", "claude-3.5-sonnet")
_MINI = "gpt-4o-mini"
_FLAKY = "mock-flaky"
_EMBEDDING = "text-embedding-3-small"


def _provider(name: str, query: str, models: tuple[str, ...], rates: str, tier: Tier = Tier.STANDARD) -> ProviderConfig:
    """``rates`` are input, output and base fee in sats, the first two per 1,000 tokens."""
    prompt, completion, base = map(Decimal, rates.split())
    return ProviderConfig(
        name=name, url=f"mock://{name}?{query}", models=models, price=Price.of(prompt, completion, base), tier=tier
    )


def mock_config(database: Path) -> Config:
    """A configuration that needs no file, no key and no network. ``database`` is where its accounts are kept."""
    return Config(
        database=DatabaseConfig(path=database),
        vault=VaultConfig(),
        providers=(
            _provider(
                "mock-local",
                "ttft_ms=40&tokens_per_s=120&fail=0.05&seed=2",
                (_MINI, _EMBEDDING),
                "0.2 0.6 0",
                Tier.LOCAL,
            ),
            _provider(
                "mock-shaky", "ttft_ms=60&tokens_per_s=150&fail=0.2&seed=4", (*_BIG, _MINI, _EMBEDDING), "1.5 5 0"
            ),
            _provider("mock-slow", "ttft_ms=1500&tokens_per_s=15", (*_BIG, _MINI), "1.8 6 0"),
            _provider("mock-cutter", "ttft_ms=80&tokens_per_s=200&cut=0.2", (*_BIG, _FLAKY), "2.5 8 0"),
            _provider("mock-steady", "ttft_ms=80&tokens_per_s=200", (*_BIG, _MINI, _FLAKY, _EMBEDDING), "4 12 0.1"),
            _provider("mock-frontier", "ttft_ms=150&tokens_per_s=80", (*_BIG, _FLAKY), "8 20 1", Tier.FRONTIER),
        ),
        policies=PoliciesConfig(
            rules=(
                PolicyRule(name="code", max_output_rate=Fraction(15), keywords=("code", "function", "implement")),
                PolicyRule(name="fast", strategy=Strategy.LOWEST_LATENCY),
            )
        ),
    )
