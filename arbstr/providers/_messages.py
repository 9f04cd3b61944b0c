"""What a ProviderActor is told and what it answers."""

from __future__ import annotations

from attrs import frozen

from arbstr.config import Model, ProviderConfig, Tier
from arbstr.providers._breaker import BreakerState, Outcome
from arbstr.units import Price


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
    """Not admitted. ``reason`` is ``breaker_open``, ``probing`` or ``busy``."""

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


@frozen
class Describe:
    """Ask for the ProviderView of this moment."""


@frozen
class ProviderView:
    """What everybody may know about a provider: a value, published by its actor.

    ``in_flight`` may lag behind between two publications, but not about whether it has reached ``max_concurrent``.
    """

    name: str
    url: str
    models: tuple[Model, ...]
    any_model: bool
    """It is also asked for models that are not in ``models``."""
    price: Price | None
    """None: unknown, so nothing can be bought (M9)."""
    tier: Tier
    breaker_state: BreakerState
    failure_count: int
    open_until: float | None
    """Time of the Trio clock from which a probe is admitted. An open breaker whose time is over still reads open:
    compare with the current time."""
    probing: bool
    in_flight: int
    max_concurrent: int
    ttfb_ms: float | None
    """Decayed mean; None before the first success."""
    has_key: bool
    masked_key: str | None
    ttfb_ms_p50: float | None = None
    ttfb_ms_p99: float | None = None
    expired_permits: int = 0
    """Permits that never came back; each is a defect of the one who took it."""
    unknown_reports: int = 0
    """Reports for a permit that was not out (repeated, or came after its expiry)."""
    config: ProviderConfig | None = None
    """What it runs with."""

    @property
    def busy(self) -> bool:
        return self.in_flight >= self.max_concurrent
