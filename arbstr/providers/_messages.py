"""What a ProviderActor is told and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import frozen

from arbstr.config import Model, ProviderConfig, Tier
from arbstr.providers._breaker import BreakerState, Outcome
from arbstr.providers._recent import NONE_RECENT, RecentCounts
from arbstr.units import Price

Check = Callable[[], Awaitable[bool]]
"""Looks whether a provider answers at all, without a request of anybody. Takes a bounded time, raises nothing."""


@frozen
class Acquire:
    """Ask to send one request. Answered at once with a Permit or Shut; nobody waits for a probe or for room.

    An ask that is cancelled or times out before it is handled takes no permit.
    """

    request_id: str


@frozen
class Permit:
    """One request may be sent. It goes back with exactly one Report, in every path, cancellation included."""

    id: int
    probe: bool
    """This request decides whether the breaker closes."""


@frozen
class Shut:
    """Not admitted. ``reason`` is ``breaker_open``, ``probing``, ``busy`` or ``removed``."""

    reason: str
    retry_after_s: float | None
    """Seconds until it is worth asking again, when that is known."""


@frozen
class Report:
    """Gives a permit back and says how the request went. A tell; a repeat or an unknown id changes nothing."""

    permit_id: int
    outcome: Outcome
    ttfb_s: float | None = None
    """Seconds from the call to the first byte of the answer; counted for successes only."""
    duration_s: float = 0.0
    retry_after_s: float | None = None
    """From the provider's answer; matters for RATE_LIMITED."""
    repeated: bool = False
    """The same request has failed here before: it counts once, however often it is tried."""
    error: str | None = None
    """What went wrong, in a few words for the operator; without URL and key. None: the outcome says it."""


@frozen
class Describe:
    """Ask for the ProviderView of this moment."""


@frozen
class Configure:
    """Run with this from now on. An ask, answered with None when it is applied and published.

    Permits, breaker and statistics stay; a changed key ends the open time of a breaker that a denial has opened, and
    denials of requests that are under way with the former key no longer count. Raises ValueError for the configuration
    of another provider.
    """

    config: ProviderConfig
    check: Check | None = None
    """Replaces the one that the actor has; None leaves it."""


@frozen
class Retire:
    """Admit nobody any more. An ask, answered with None when the last permit has come back."""


@frozen
class ProviderView:
    """What everybody may know about a provider: a value, published by its actor.

    ``in_flight``, the counts and the last error may lag behind between two publications, but not about whether
    ``max_concurrent`` is reached. ``Describe`` is up to date.
    """

    config: ProviderConfig
    """What it runs with."""
    breaker_state: BreakerState = BreakerState.CLOSED
    failure_count: int = 0
    open_until: float | None = None
    """Time of the Trio clock from which a probe is admitted. An open breaker whose time is over still reads open:
    compare with the current time."""
    opened_by: Outcome | None = None
    """Why it is not closed: PROVIDER_FAULT, DENIED or RATE_LIMITED."""
    openings: int = 0
    """How often the breaker has opened so far."""
    probing: bool = False
    in_flight: int = 0
    ttfb_ms: float | None = None
    """Decayed mean; None before the first success."""
    ttfb_ms_p50: float | None = None
    ttfb_ms_p99: float | None = None
    recent: RecentCounts = NONE_RECENT
    """Requests and errors of about the last minute."""
    last_error: str | None = None
    last_error_at: float | None = None
    """Time of the Trio clock."""
    expired_permits: int = 0
    """Permits that never came back; each is a defect of the one who took it."""
    unknown_reports: int = 0
    """Reports for a permit that was not out (repeated, or came after its expiry)."""

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def url(self) -> str:
        return self.config.url

    @property
    def models(self) -> tuple[Model, ...]:
        return self.config.models

    @property
    def excluded_models(self) -> dict[str, str]:
        """Models that must not be bought here at present, and why."""
        return {model.id: model.excluded for model in self.config.models if model.excluded is not None}

    @property
    def any_model(self) -> bool:
        """It is also asked for models that are not in ``models``."""
        return self.config.any_model

    @property
    def price(self) -> Price | None:
        """Of every model without a price of its own. None: unknown, so nothing can be bought (M9)."""
        return self.config.price

    @property
    def tier(self) -> Tier:
        return self.config.tier

    @property
    def weight(self) -> int:
        return self.config.weight

    @property
    def source(self) -> str | None:
        return self.config.source

    @property
    def provider_id(self) -> str | None:
        return self.config.provider_id

    @property
    def max_concurrent(self) -> int:
        return self.config.max_concurrent

    @property
    def has_key(self) -> bool:
        return self.config.api_key is not None

    @property
    def masked_key(self) -> str | None:
        key = self.config.api_key
        return None if key is None else key.masked()

    @property
    def busy(self) -> bool:
        return self.in_flight >= self.config.max_concurrent
