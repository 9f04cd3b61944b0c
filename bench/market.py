"""What can the started arbstr buy from? Mock providers with pace and faults, and the configuration that names them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

from attrs import evolve, frozen

from arbstr.units import Price
from bench.prices import RATE_UNIT, HostPrice

MODEL = "bench-model"

TTFT_MS = (200.0, 800.0)
TOKENS_PER_S = (40.0, 120.0)
"""What hosts of a 70B model do in real time; uniform within the range, by seed."""
SLOW_TTFT_MS, SLOW_TOKENS_PER_S = 5_000.0, 10.0
BREAKER_OPEN_S = 30.0
"""arbstr's own default, in real time."""
FAIL_SHARE, CUT_SHARE = 0.05, 0.2


@frozen
class MockProvider:
    """One provider of the market: price, pace and faults. The pace is what the mock keeps, already sped up."""

    host: HostPrice
    ttft_ms: float
    tokens_per_s: float
    seed: int
    fail: float = 0.0
    cut: float = 0.0

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def price(self) -> Price:
        return self.host.price

    @property
    def healthy(self) -> bool:
        return self.fail == 0 and self.cut == 0

    @property
    def url(self) -> str:
        knobs: dict[str, object] = {
            "ttft_ms": f"{self.ttft_ms:.3f}",
            "tokens_per_s": f"{self.tokens_per_s:.3f}",
            "seed": self.seed,
        }
        if self.fail:
            knobs["fail"] = self.fail
        if self.cut:
            knobs["cut"] = self.cut
        return f"mock://{self.name}?{urlencode(knobs)}"

    def pace_s(self, completion_tokens: int) -> float:
        """How long an answer of that length takes at this provider's own pace."""
        return self.ttft_ms / 1_000 + completion_tokens / self.tokens_per_s


def build_market(hosts: Sequence[HostPrice], *, speed: float, seed: int) -> list[MockProvider]:
    """Give each host a pace, ``speed`` times faster than real. By price: the cheapest fails now and then (so that what
    follows is used at all), the second cuts answers, the third is slow, the others are healthy."""
    draw = random.Random(seed)
    market = [
        MockProvider(
            host=host,
            ttft_ms=draw.uniform(*TTFT_MS) / speed,
            tokens_per_s=draw.uniform(*TOKENS_PER_S) * speed,
            seed=draw.randrange(1 << 31),
        )
        for host in hosts
    ]
    failing, cutting, slow, *healthy = market
    return [
        evolve(failing, fail=FAIL_SHARE),
        evolve(cutting, cut=CUT_SHARE),
        evolve(slow, ttft_ms=SLOW_TTFT_MS / speed, tokens_per_s=SLOW_TOKENS_PER_S * speed),
        *healthy,
    ]


def longest_pace_s(completion_tokens: int, speed: float) -> float:
    """How long the slow provider takes for that many tokens."""
    return (SLOW_TTFT_MS / 1_000 + completion_tokens / SLOW_TOKENS_PER_S) / speed


@frozen
class ProviderEntry:
    """What a ``[[providers]]`` table needs."""

    name: str
    url: str
    input_rate: str
    output_rate: str
    breaker_open_s: float = BREAKER_OPEN_S
    max_concurrent: int = 256


def entries(market: Sequence[MockProvider], *, speed: float) -> list[ProviderEntry]:
    """A circuit stays open for a time of the sped up world as well."""
    open_s = BREAKER_OPEN_S / speed
    return [ProviderEntry(p.name, p.url, str(p.host.input_rate), str(p.host.output_rate), open_s) for p in market]


def config_text(
    providers: Sequence[ProviderEntry],
    *,
    database: Path,
    durability: str,
    model: str = MODEL,
    max_requests: int = 1_000,
    admin_token: str = "",
    vault: Mapping[str, object] | None = None,
) -> str:
    """A configuration file: accounts on, these providers, quiet logs. Rates are sats per 1,000,000 tokens.

    ``vault`` are keys of ``[vault]`` with their values as TOML has them.
    """
    admin = f'\nadmin_token = "{admin_token}"' if admin_token else ""
    head = [
        f'rate_unit = "{RATE_UNIT}"',
        f'[server]\nlisten = "127.0.0.1:0"\nmax_requests = {max_requests}' + admin,
        f'[database]\npath = {json.dumps(str(database))}\ndurability = "{durability}"',
        "\n".join(["[vault]", *(f"{key} = {value}" for key, value in (vault or {}).items())]),
        '[logging]\nlevel = "warning"',
    ]
    tables = [
        f"[[providers]]\nname = {json.dumps(p.name)}\nurl = {json.dumps(p.url)}\nmodels = [{json.dumps(model)}]\n"
        f"input_rate = {p.input_rate}\noutput_rate = {p.output_rate}\nbreaker_open_s = {p.breaker_open_s:.3f}\n"
        f"max_concurrent = {p.max_concurrent}"
        for p in providers
    ]
    return "\n\n".join(head + tables) + "\n"
