"""What is known about the market at one moment, for ``GET /providers`` (contract section 16.4) and for metrics."""

from __future__ import annotations

from typing import Any, Final

from attrs import evolve, field, frozen

_NOT_CONFIGURED: Final = "no [tokenstats] in the configuration: there is no market feed"


@frozen
class Skipped:
    """Quotes of the feed that nothing is bought by, and why.

    ``reason`` is ``missing_api_key``, ``low_reliability`` or ``stale_quotes`` as in the contract, or ``unknown_price``,
    ``invalid_endpoint``, ``too_many_providers``. The summary of stale quotes has ``*`` for its names.
    """

    source: str
    provider: str
    provider_id: str
    endpoint: str | None
    models_count: int
    reason: str
    hint: str
    reliability: float | None = None


@frozen
class Quarantined:
    """A price that is not believed: the model keeps its place at the provider, and is not bought there."""

    provider: str
    """Its name here."""
    model: str
    reason: str


@frozen
class DiscoveryState:
    """How the last reading of one provider's list went."""

    provider: str
    models: int | None
    """How many are known; None: it has never answered, and the list counts as written."""
    last_success_at: float | None = None
    """Seconds since 1970."""
    last_error: str | None = None
    """None: the last reading succeeded, or there was none yet."""


@frozen
class MarketCounts:
    """Since the start of the program."""

    polls_ok: int = 0
    polls_failed: int = 0
    discoveries_ok: int = 0
    discoveries_failed: int = 0
    applied: int = 0
    """How often the wanted providers have changed."""


@frozen
class MarketReport:
    """A value, replaced as a whole. Times are seconds since 1970."""

    enabled: bool = False
    url: str | None = None
    last_poll_at: float | None = None
    last_success_at: float | None = None
    last_error: str | None = None
    quotes_seen: int = 0
    nodes_seen: int = 0
    routable_market_providers: int = 0
    """New providers from the feed with a model that may be bought. Priced providers of the file are not counted."""
    skipped: tuple[Skipped, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    notes: tuple[str, ...] = (_NOT_CONFIGURED,)
    discovery: tuple[DiscoveryState, ...] = ()
    counts: MarketCounts = field(factory=MarketCounts)


class MarketBoard:
    """Where the report hangs: written by the catalog, read by everybody. Readers take ``report`` and keep it.

    It outlives a restart of the catalog, so that its counts go on.
    """

    def __init__(self) -> None:
        self._report = MarketReport()

    @property
    def report(self) -> MarketReport:
        return self._report

    def publish(self, report: MarketReport) -> None:
        """Replace everything but the counts."""
        self._report = evolve(report, counts=self._report.counts)

    def count(self, **more: int) -> None:
        """Add to the counts of these names."""
        counts = self._report.counts
        added: dict[str, Any] = {name: getattr(counts, name) + number for name, number in more.items()}
        self._report = evolve(self._report, counts=evolve(counts, **added))
