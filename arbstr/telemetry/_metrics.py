"""Prometheus metrics: counted from receipts as requests end, and read off the system when somebody scrapes.

Names end in their unit. Label values that callers choose are bounded: a model counts under its own name only when a
provider has answered for it, and at most ``MAX_MODELS`` of them do.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Protocol

from attrs import frozen
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from arbstr.providers import BreakerState, ProviderView
from arbstr.store import ReceiptRow

MAX_MODELS = 1_000
OTHER = "other"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0)
"""From what a proxy adds to what a thinking model takes."""


@frozen
class OpenHolds:
    """Money set aside at one moment."""

    count: int
    held_msat: int
    oldest_s: float


@frozen
class Settlements:
    """What a vault in another process is to be told."""

    waiting: int
    searched: int
    """Holds whose grant was lost, to be found and given back."""
    dead: int
    """That it will not take."""


class Surroundings(Protocol):
    """What is read at each scrape, on the Trio thread."""

    def providers(self) -> Iterable[ProviderView]: ...

    def requests_in_flight(self) -> int: ...

    def inbox_depths(self) -> Iterable[tuple[str, int]]:
        """(class of actor, messages queued), one for each actor that lives."""
        ...

    def tasks(self) -> int:
        """Trio tasks that live."""
        ...

    def writes_waiting(self) -> int:
        """Changes queued for the disk."""
        ...

    def open_holds(self) -> OpenHolds | None:
        """None without accounts."""
        ...

    def settlements(self) -> Settlements | None:
        """None without a vault in another process."""
        ...


class Metrics:
    """What is counted from receipts, and with ``surroundings`` also the gauges of this process.

    ``finished`` is called once for each request, on the Trio thread.
    """

    def __init__(self, surroundings: Surroundings | None) -> None:
        self.registry = registry = CollectorRegistry()
        self._models: set[str] = set()
        requests = Counter(
            "arbstr_requests",
            "Requests to models that have ended.",
            ("endpoint", "model", "provider", "outcome", "stream"),
            registry=registry,
        )
        attempts = Counter(
            "arbstr_attempts", "Calls to providers that have ended.", ("provider", "outcome"), registry=registry
        )
        tokens = Counter(
            "arbstr_tokens",
            "Tokens paid for; cached ones are also in prompt.",
            ("provider", "model", "kind"),
            registry=registry,
        )
        cost = Counter("arbstr_cost_msat", "Millisatoshi that answers cost.", ("provider", "model"), registry=registry)
        saved = Counter(
            "arbstr_saved_msat",
            "Millisatoshi less than at the median, or the dearest, candidate.",
            ("against",),
            registry=registry,
        )
        duration = Histogram(
            "arbstr_request_duration_seconds",
            "From the arrival of a request to the end of its books.",
            ("endpoint", "stream"),
            buckets=_SECONDS,
            registry=registry,
        )
        first_byte = Histogram(
            "arbstr_provider_first_byte_seconds",
            "From a call to a provider to the first byte of its answer.",
            ("provider",),
            buckets=_SECONDS,
            registry=registry,
        )
        # Each combination of labels is looked up for every request, and finding it anew takes four times as long.
        self._requests, self._duration = cache(requests.labels), cache(duration.labels)
        self._attempts, self._first_byte = cache(attempts.labels), cache(first_byte.labels)
        self._tokens, self._cost = cache(tokens.labels), cache(cost.labels)
        self._against_median, self._against_dearest = saved.labels("median"), saved.labels("dearest")
        registry.register(PLATFORM_COLLECTOR)
        if surroundings is not None:
            registry.register(Scrape(surroundings))
            ProcessCollector(registry=registry)
            registry.register(GC_COLLECTOR)

    def finished(self, request: object, receipt: ReceiptRow) -> None:
        """Count a request by its receipt."""
        provider, stream = receipt.provider or "", "true" if receipt.stream else "false"
        model = self._model(receipt)
        self._requests(receipt.endpoint, model, provider, receipt.outcome, stream).inc()
        self._duration(receipt.endpoint, stream).observe(receipt.duration_us / 1e6)
        for attempt in receipt.attempts:
            self._attempts(attempt.provider, attempt.outcome).inc()
            if attempt.ttfb_us is not None:
                self._first_byte(attempt.provider).observe(attempt.ttfb_us / 1e6)
        if receipt.prompt_tokens is not None:
            self._count_tokens(receipt, provider, model)

    def _count_tokens(self, receipt: ReceiptRow, provider: str, model: str) -> None:
        for kind, tokens in (
            ("prompt", receipt.prompt_tokens),
            ("cached", receipt.cached_tokens),
            ("completion", receipt.completion_tokens),
        ):
            if tokens:
                self._tokens(provider, model, kind).inc(tokens)
        self._cost(provider, model).inc(receipt.cost_msat)
        self._against_median.inc(receipt.saved_median_msat or 0)
        self._against_dearest.inc(receipt.saved_dearest_msat or 0)

    def _model(self, receipt: ReceiptRow) -> str:
        """As a label: what nobody has served is not worth a time series, nor is the thousandth name."""
        if receipt.prompt_tokens is None:
            return ""
        if receipt.model in self._models:
            return receipt.model
        if len(self._models) >= MAX_MODELS:
            return OTHER
        self._models.add(receipt.model)
        return receipt.model

    def render(self) -> bytes:
        """The text of ``GET /metrics`` (text format 0.0.4)."""
        return generate_latest(self.registry)


class Scrape(Collector):
    """Gauges that are true at the moment of the scrape."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would collect to find the names, before there is anything to look at."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._of_providers()
        yield _gauge("arbstr_requests_in_flight", "Requests to models under way.", self._around.requests_in_flight())
        yield _gauge("arbstr_tasks", "Trio tasks that live.", self._around.tasks())
        depths: Tally[str] = Tally()
        living: Tally[str] = Tally()
        for name, depth in self._around.inbox_depths():
            depths[name] += depth
            living[name] += 1
        actors = GaugeMetricFamily("arbstr_actors", "Actors that live, by class.", labels=["actor"])
        inbox = GaugeMetricFamily(
            "arbstr_inbox_depth", "Messages queued, all actors of a class together.", labels=["actor"]
        )
        for name in sorted(depths):
            actors.add_metric([name], living[name])
            inbox.add_metric([name], depths[name])
        yield actors
        yield inbox
        yield _gauge("arbstr_store_writes_waiting", "Changes queued for the disk.", self._around.writes_waiting())
        holds = self._around.open_holds()
        if holds is not None:
            yield _gauge("arbstr_holds_open", "Holds that have not ended.", holds.count)
            yield _gauge("arbstr_held_msat", "Millisatoshi in open holds.", holds.held_msat)
            yield _gauge("arbstr_hold_age_seconds", "Age of the oldest open hold, 0 without any.", holds.oldest_s)

        owed = self._around.settlements()
        if owed is not None:
            yield _gauge("arbstr_settlements_waiting", "Ends of holds that the vault is to be told.", owed.waiting)
            yield _gauge("arbstr_settlements_dead", "Ends of holds that the vault will not take.", owed.dead)
            yield _gauge("arbstr_holds_searched", "Holds whose grant was lost, to be given back.", owed.searched)

    def _of_providers(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "arbstr_provider_breaker_state",
            "1 for the state that the circuit breaker is in.",
            labels=["provider", "state"],
        )
        in_flight = GaugeMetricFamily(
            "arbstr_provider_in_flight", "Requests to the provider under way.", labels=["provider"]
        )
        ttfb = GaugeMetricFamily(
            "arbstr_provider_ttfb_mean_seconds", "Decayed mean time to the first byte.", labels=["provider"]
        )
        for view in self._around.providers():
            for one in BreakerState:
                state.add_metric([view.name, one], view.breaker_state is one)
            in_flight.add_metric([view.name], view.in_flight)
            if view.ttfb_ms is not None:
                ttfb.add_metric([view.name], view.ttfb_ms / 1_000)
        yield from (state, in_flight, ttfb)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
