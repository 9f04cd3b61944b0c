"""The configuration as values. Every instance is valid: what a field may be is checked where it is made.

Times are seconds, prices exact (``arbstr.units``), secrets in a type that does not print. Building one by hand raises
ValueError naming the field; reading one from a file (``_load``) reports all problems with their lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
LOG_FORMATS = ("auto", "console", "json")
ON_DISCONNECT = ("close", "drain")
DURABILITIES = ("full", "process")
HTTP1 = ("llhttp", "h11")


class Tier(StrEnum):
    """What class of answers a provider gives, from the smallest to the best."""

    LOCAL = "local"
    STANDARD = "standard"
    FRONTIER = "frontier"

    @property
    def level(self) -> int:
        """0, 1, 2: to compare by."""
        return _LEVELS[self]

    @property
    def next(self) -> Tier | None:
        """The tier above; None when this is the highest."""
        return _NEXT[self]


_LEVELS = {tier: level for level, tier in enumerate(Tier)}
_NEXT: dict[Tier, Tier | None] = {Tier.LOCAL: Tier.STANDARD, Tier.STANDARD: Tier.FRONTIER, Tier.FRONTIER: None}


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


MIN_TOKEN_LENGTH = 32
"""Characters of a token that moves money (contract: vault, section 2)."""
MIN_SIGNING_KEY_LENGTH = 16


def _token(value: Secret | None) -> None:
    """A bearer that must be presented: an empty one would let everybody in."""
    if value is not None:
        if not value.reveal():
            raise ValueError("is empty; write a token or remove the key")
        _rules.header_text(value.reveal())


def _long_token(value: Secret | None) -> None:
    """A bearer that moves money for whoever presents it."""
    _token(value)
    if value is not None and len(value.reveal()) < MIN_TOKEN_LENGTH:
        raise ValueError(f"is shorter than {MIN_TOKEN_LENGTH} characters (value not shown); write a longer random text")


def _signing_key(value: Secret | None) -> None:
    if value is not None and len(value.reveal()) < MIN_SIGNING_KEY_LENGTH:
        raise ValueError(
            f"is shorter than {MIN_SIGNING_KEY_LENGTH} characters (value not shown); write a longer random text"
        )


def _vault_url(value: str | None) -> None:
    if value is not None:
        _rules.vault_url(value)


def _webhook_url(value: str | None) -> None:
    if value is not None:
        _rules.webhook_url(value)


def _api_key(value: Secret | None) -> None:
    if value is not None:
        _rules.header_text(value.reveal())


def _proxy(value: Secret | None) -> None:
    if value is not None:
        _rules.proxy_url(value.reveal())


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
    heartbeat_s: float = field(default=0.0, validator=Rule(_rules.seconds(0, 3_600)))
    """Of silence, after which a stream's client gets a comment; 0: never. From then on an error is an event."""
    rate_limit_rps: int = field(default=0, validator=Rule(_rules.whole(0, 1_000_000)))
    """Requests per second of one client, whatever they are for; 0: any number."""
    http1: Literal["llhttp", "h11"] = field(default="llhttp", validator=Rule(_rules.one_of(HTTP1)))
    """Which implementation reads HTTP/1.1: ours on llhttp, or Hypercorn's on h11."""


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
    reservation_lease_s: float = field(default=3_600.0, validator=Rule(_rules.seconds(1, 604_800)))
    """For holds that other cores make over HTTP. The predecessor's core gives no sign of life before it settles, so
    this must be longer than any request, and than the time after which such a core comes back to settle what it owes.
    """
    approval_wait_s: float = field(default=300.0, validator=Rule(_rules.seconds(0, 3_600)))
    """The most that a request waits for a human with its connection open (``Prefer: wait``); 0: none does."""
    internal_token: Secret | None = field(default=None, validator=Rule(_long_token))
    """Who presents it may reserve and settle for any agent; None: nobody may, over HTTP. With ``url`` it is we who
    present it."""
    webhook_url: str | None = field(default=None, validator=Rule(_webhook_url))
    """Where events are told; None: they are kept and told nobody."""
    webhook_secret: Secret | None = field(default=None, validator=Rule(_signing_key))
    """Signs what is told."""
    url: str | None = field(default=None, validator=Rule(_vault_url))
    """The vault in another process that keeps the accounts; None: they are in this one."""
    pending_threshold: int = field(default=1_000, validator=Rule(_rules.whole(1, 1_000_000)))
    """Of a vault in another process: while so many settlements wait for it, nothing more is bought."""


@frozen
class Model:
    """A model that a provider serves, by the name that clients use. What is None is as the provider has it."""

    id: str = field(validator=Rule(_rules.name))
    upstream_id: str = field(default="", validator=Rule(_rules.name_or_empty))
    """The provider's own name for it; empty: the same."""
    price: Price | None = None
    context_tokens: int | None = field(default=None, validator=Rule(_rules.optional(_rules.whole(1, 1 << 32))))
    """Prompt and completion together; None: not known, and nothing is left out for it."""
    max_output_tokens: int | None = field(default=None, validator=Rule(_rules.optional(_rules.whole(1, 1 << 32))))
    excluded: str | None = None
    """Why it must not be bought here at present, in words; None: it may."""


def _models(values: Iterable[str | Model]) -> tuple[Model, ...]:
    """A bare name is a model without particulars; of one name the first counts."""
    if isinstance(values, str):
        raise TypeError(f"expected several models, got the one text {values!r}")
    made = (value if isinstance(value, Model) else Model(value) for value in values)
    kept: dict[str, Model] = {}
    for model in made:
        kept.setdefault(model.id, model)
    return tuple(kept.values())


@frozen
class ProviderConfig:
    """``[[providers]]``. ``price`` None: not known, and what cannot be priced cannot be bought (M9)."""

    name: str = field(validator=Rule(_rules.provider_name))
    url: str = field(validator=Rule(_rules.provider_url))
    api_key: Secret | None = field(default=None, validator=Rule(_api_key))
    key_source: str = "none"
    """``config-literal``, ``env-expanded``, ``convention`` or ``none``."""
    http2: bool = False
    """Offer HTTP/2; it is used when the provider's server takes it."""
    proxy: Secret | None = field(default=None, validator=Rule(_proxy))
    """URL of the proxy on the way to it; secret because it may hold a password. None: straight."""
    models: tuple[Model, ...] = field(default=(), converter=_models)
    """Texts become models of that name. Empty: any model, unless ``any_model`` says otherwise."""
    price: Price | None = None
    """Of every model without a price of its own."""
    tier: Tier = field(default=Tier.STANDARD, validator=instance_of(Tier))
    connect_timeout_s: float = field(default=10.0, validator=Rule(_rules.seconds()))
    first_byte_timeout_s: float = field(default=120.0, validator=Rule(_rules.seconds()))
    idle_timeout_s: float = field(default=60.0, validator=Rule(_rules.seconds()))
    total_timeout_s: float | None = field(default=None, validator=Rule(_rules.optional(_rules.seconds())))
    max_concurrent: int = field(default=256, validator=Rule(_rules.whole(1, 100_000)))
    breaker_failures: int = field(default=3, validator=Rule(_rules.whole(1, 1_000)))
    breaker_open_s: float = field(default=30.0, validator=Rule(_rules.seconds()))
    breaker_denied_open_s: float = field(default=600.0, validator=Rule(_rules.seconds()))
    """How long it is left alone after it refused us ourselves: 401, 402, 403."""
    probe_interval_s: float | None = field(default=None, validator=Rule(_rules.optional(_rules.seconds(1))))
    """Between ``GET /models`` while the circuit is open: an answer ends the open time. None: time alone does."""
    on_disconnect: Literal["close", "drain"] = field(default="close", validator=Rule(_rules.one_of(ON_DISCONNECT)))
    """What becomes of the provider's answer when the client leaves: cut at once, or read to its end."""
    weight: int = field(default=1, validator=Rule(_rules.whole(0, 1_000)))
    """Its share under ``round_robin``; 0: only when nobody else is left."""
    auto_discover: bool = False
    """Its own list of models replaces ``models``, as soon as it is known."""
    any_model: bool = field()
    """It is asked for models that it does not list."""
    source: str | None = None
    """The market it was found on or priced by."""
    provider_id: str | None = None
    """Its name there."""
    rate_unit: str = field(default="sats_per_1k_tokens", validator=Rule(_rules.one_of(RATE_UNITS)))
    """The unit the rates were written in, to show them so; ``price`` is already converted."""

    @any_model.default
    def _any_without_a_list(self) -> bool:
        return not self.models and not self.auto_discover

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
class ComplexityWeights:
    """``[routing.complexity_weights]`` (contract section 8)."""

    context_length: float = field(default=1.0, validator=Rule(_rules.number(0, 1_000)))
    code_blocks: float = field(default=1.0, validator=Rule(_rules.number(0, 1_000)))
    multi_file: float = field(default=1.0, validator=Rule(_rules.number(0, 1_000)))
    reasoning_keywords: float = field(default=1.0, validator=Rule(_rules.number(0, 1_000)))
    conversation_depth: float = field(default=1.0, validator=Rule(_rules.number(0, 1_000)))


@frozen
class RoutingConfig:
    """``[routing]``: which tier a request is for, and how often and how long it is tried."""

    complexity_threshold_low: float = field(default=0.4, validator=Rule(_rules.number(0, 1)))
    complexity_threshold_high: float = field(default=0.7, validator=Rule(_rules.number(0, 1)))
    enforce_tier: bool = False
    """The tier is a floor as well as a ceiling."""
    extra_keywords: tuple[str, ...] = field(default=(), converter=_texts, validator=Rule(_rules.keywords))
    retries: int = field(default=2, validator=Rule(_rules.whole(0, 10)))
    """Further tries of one provider, when no other candidate is left."""
    backoff_s: float = field(default=1.0, validator=Rule(_rules.seconds()))
    """Before the first of them; doubles with each, and is shortened at random by up to a half."""
    deadline_s: float = field(default=600.0, validator=Rule(_rules.seconds()))
    """From the arrival of a request until its answer begins: attempts and waits together."""
    complexity_weights: ComplexityWeights = ComplexityWeights()

    def __attrs_post_init__(self) -> None:
        if self.complexity_threshold_low > self.complexity_threshold_high:
            raise ValueError("complexity_threshold_low: is above complexity_threshold_high; write them in order")


@frozen
class Limit:
    """Bounds on one client or on all; None: none."""

    requests_per_minute: int | None = field(default=None, validator=Rule(_rules.optional(_rules.whole(1, 10**9))))
    tokens_per_minute: int | None = field(default=None, validator=Rule(_rules.optional(_rules.whole(1, 10**12))))
    concurrent_requests: int | None = field(default=None, validator=Rule(_rules.optional(_rules.whole(1, 10**6))))


@frozen
class AgentLimit:
    """``[[limits.agents]]``: ``agent`` is an id or a name. What is None is as in ``[limits.agent]``."""

    agent: str = field(validator=Rule(_rules.name))
    limit: Limit = Limit()
    models: tuple[str, ...] = field(default=(), converter=_texts, validator=Rule(_rules.names))
    """Models it may ask for; empty: any."""


@frozen
class LimitsConfig:
    """``[limits]``: for all clients together, for each agent, and for some agents by name."""

    total: Limit = Limit()
    agent: Limit = Limit()
    agents: tuple[AgentLimit, ...] = ()


@frozen
class DiscoveryConfig:
    """``[discovery]``: reading ``/models`` of the providers with ``auto_discover``."""

    interval_s: float = field(default=3_600.0, validator=Rule(_rules.seconds(1)))
    timeout_s: float = field(default=5.0, validator=Rule(_rules.seconds()))


@frozen
class TokenstatsConfig:
    """``[tokenstats]``: a market feed. Its presence switches it on."""

    url: str = field(validator=Rule(_rules.provider_url))
    poll_interval_secs: float = field(default=60.0, validator=Rule(_rules.seconds(0)))
    """Effective minimum 5."""
    min_reliability: float = field(default=0.5, validator=Rule(_rules.number(0, 1)))
    stale_after_secs: float = field(default=600.0, validator=Rule(_rules.seconds()))
    blend_ratio: float = field(default=3.0, validator=Rule(_rules.number(0, 1_000)))
    """Completion to prompt tokens, in the feed's own ranking; ours is by expected cost."""
    source: str | None = None
    price_factor: float = field(default=8.0, validator=Rule(_rules.number(1, 1_000_000)))
    """A price that is this many times off the median of the other hosts of its model is not believed."""
    keys: Mapping[str, Secret] = field(factory=dict)
    """API keys by provider id, source, or ``source:provider_id``."""


@frozen
class LoggingConfig:
    """``[logging]``."""

    level: str = field(default="info", validator=Rule(_rules.one_of(LOG_LEVELS)))
    format: str = field(default="auto", validator=Rule(_rules.one_of(LOG_FORMATS)))
    """``auto``: for people on a terminal, else JSON."""
    log_requests: bool = True
    """One line for each request."""
    log_prompts: bool = False
    """With the text of the last user message in it."""


@frozen
class TelemetryConfig:
    """``[telemetry]``. Where traces go is told by the standard ``OTEL_*`` variables."""

    traces: bool = False
    service_name: str = field(default="arbstr", validator=Rule(_rules.name))


@frozen
class Config:
    """Everything. ``warnings`` are sentences for the operator: nothing is blocked by them."""

    server: ServerConfig = ServerConfig()
    database: DatabaseConfig = DatabaseConfig()
    vault: VaultConfig | None = None
    providers: tuple[ProviderConfig, ...] = field(default=(), validator=Rule(_names_differ))
    policies: PoliciesConfig = PoliciesConfig()
    routing: RoutingConfig = RoutingConfig()
    aliases: Mapping[str, str] = field(factory=dict)
    """Model names that clients may use for other names: ``{"fast": "gpt-4o-mini"}``."""
    limits: LimitsConfig = LimitsConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    tokenstats: TokenstatsConfig | None = None
    logging: LoggingConfig = LoggingConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    warnings: tuple[str, ...] = ()
