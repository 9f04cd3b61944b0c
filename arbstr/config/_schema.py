"""The configuration as values. Every instance is valid: what a field may be is checked where it is made.

Times are seconds, prices exact (``arbstr.units``), secrets in a type that does not print. Building one by hand raises
ValueError naming the field; reading one from a file (``_load``) reports all problems with their lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Literal

from attrs import field, frozen
from attrs.validators import instance_of

from arbstr.config import _rules
from arbstr.config._rules import Rule
from arbstr.secrets import Secret
from arbstr.units import RATE_UNITS, Price

LOG_LEVELS = ("debug", "info", "warning", "error")
DURABILITIES = ("full", "process")


class Tier(StrEnum):
    """What class of answers a provider gives, from the smallest to the best."""

    LOCAL = "local"
    STANDARD = "standard"
    FRONTIER = "frontier"


class Strategy(StrEnum):
    """How the providers that may answer are ordered. ``lowest_cost`` is read as ``cheapest``."""

    CHEAPEST = "cheapest"
    LOWEST_LATENCY = "lowest_latency"
    ROUND_ROBIN = "round_robin"

    @classmethod
    def _missing_(cls, value: object) -> Strategy | None:
        return cls.CHEAPEST if value == "lowest_cost" else None


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    """A tuple without repetitions, in order. A lone string would silently become its letters: refuse it."""
    if isinstance(values, str):
        raise TypeError(f"expected several texts, got the one text {values!r}")
    return tuple(dict.fromkeys(values))


def _token(value: Secret | None) -> None:
    """A bearer that must be presented: an empty one would let everybody in."""
    if value is not None:
        if not value.reveal():
            raise ValueError("is empty; write a token or remove the key")
        _rules.header_text(value.reveal())


def _api_key(value: Secret | None) -> None:
    if value is not None:
        _rules.header_text(value.reveal())


def _database_path(value: Path) -> None:
    if str(value) in ("", ".", ":memory:"):
        raise ValueError(f'{_rules.shown(str(value))} is not a file; write a path, like "arbstr.db"')


@frozen
class ServerConfig:
    """``[server]``: where to listen, whom to let in, and the bounds of the front door."""

    listen: str = field(default="127.0.0.1:8080", validator=Rule(_rules.listen_address))
    auth_token: Secret | None = field(default=None, validator=Rule(_token))
    admin_token: Secret | None = field(default=None, validator=Rule(_token))
    max_body_bytes: int = field(default=33_554_432, validator=Rule(_rules.whole(1_024, 1 << 30)))
    body_timeout_s: float = field(default=30.0, validator=Rule(_rules.seconds()))
    max_requests: int = field(default=1_000, validator=Rule(_rules.whole(1, 1_000_000)))
    """Requests in flight at once; more are refused with 503."""
    shutdown_grace_s: float = field(default=20.0, validator=Rule(_rules.seconds(0, 3_600)))
    stream_cost_event: bool = False


@frozen
class DatabaseConfig:
    """``[database]``. A relative path is relative to the working directory."""

    path: Path = field(default=Path("arbstr.db"), validator=Rule(_database_path))
    durability: Literal["full", "process"] = field(default="full", validator=Rule(_rules.one_of(DURABILITIES)))


@frozen
class VaultConfig:
    """``[vault]``: its presence switches accounts on."""

    default_reserve_tokens: int = field(default=4_096, validator=Rule(_rules.whole(1, 10_000_000)))
    """Completion tokens to hold for when a request names no limit."""
    hold_lease_s: float = field(default=120.0, validator=Rule(_rules.seconds(1)))


@frozen
class ProviderConfig:
    """``[[providers]]``. ``price`` None: not known, and what cannot be priced cannot be bought (M9)."""

    name: str = field(validator=Rule(_rules.provider_name))
    url: str = field(validator=Rule(_rules.provider_url))
    api_key: Secret | None = field(default=None, validator=Rule(_api_key))
    key_source: str = "none"
    """``config-literal``, ``env-expanded``, ``convention`` or ``none``."""
    models: tuple[str, ...] = field(default=(), converter=_texts, validator=Rule(_rules.names))
    """Empty: any model."""
    price: Price | None = None
    tier: Tier = field(default=Tier.STANDARD, validator=instance_of(Tier))
    connect_timeout_s: float = field(default=10.0, validator=Rule(_rules.seconds()))
    first_byte_timeout_s: float = field(default=120.0, validator=Rule(_rules.seconds()))
    idle_timeout_s: float = field(default=60.0, validator=Rule(_rules.seconds()))
    total_timeout_s: float | None = field(default=None, validator=Rule(_rules.optional(_rules.seconds())))
    max_concurrent: int = field(default=256, validator=Rule(_rules.whole(1, 100_000)))
    breaker_failures: int = field(default=3, validator=Rule(_rules.whole(1, 1_000)))
    breaker_open_s: float = field(default=30.0, validator=Rule(_rules.seconds()))
    rate_unit: str = field(default="sats_per_1k_tokens", validator=Rule(_rules.one_of(RATE_UNITS)))
    """The unit the rates were written in, to show them so; ``price`` is already converted."""

    @property
    def is_mock(self) -> bool:
        """Answered inside this process: no network, no key needed."""
        return self.url.startswith("mock:")


@frozen
class PolicyRule:
    """``[[policies.rules]]``. ``max_output_rate`` is sats per 1,000 completion tokens, exact and inclusive."""

    name: str = field(validator=Rule(_rules.name))
    allowed_models: tuple[str, ...] = field(default=(), converter=_texts, validator=Rule(_rules.names))
    strategy: Strategy = field(default=Strategy.CHEAPEST, validator=instance_of(Strategy))
    max_output_rate: Fraction | None = None
    keywords: tuple[str, ...] = field(default=(), converter=_texts, validator=Rule(_rules.keywords))


def _names_differ(values: Iterable[ProviderConfig | PolicyRule]) -> None:
    _rules.unique(value.name for value in values)


@frozen
class PoliciesConfig:
    """``[policies]``."""

    default: Strategy = field(default=Strategy.CHEAPEST, validator=instance_of(Strategy))
    rules: tuple[PolicyRule, ...] = field(default=(), validator=Rule(_names_differ))


@frozen
class LoggingConfig:
    """``[logging]``."""

    level: str = field(default="info", validator=Rule(_rules.one_of(LOG_LEVELS)))


@frozen
class Config:
    """Everything. ``warnings`` are sentences for the operator: nothing is blocked by them."""

    server: ServerConfig = ServerConfig()
    database: DatabaseConfig = DatabaseConfig()
    vault: VaultConfig | None = None
    providers: tuple[ProviderConfig, ...] = field(default=(), validator=Rule(_names_differ))
    policies: PoliciesConfig = PoliciesConfig()
    logging: LoggingConfig = LoggingConfig()
    warnings: tuple[str, ...] = ()
