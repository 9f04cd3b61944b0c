"""Metrics of a program of several processes, as one text.

What is counted from receipts is counted in one place, which sees all of them. What is true of a process at the moment
of a scrape is read from each: what adds up is added up, what does not is told for each, with a ``worker`` label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.registry import Collector

from arbstr.accounts import GaugeFamily, Gauges
from arbstr.telemetry._metrics import Scrape, Surroundings

ADDED_UP: Final = frozenset(
    (
        "arbstr_requests_in_flight",
        "arbstr_inbox_depth",
        "arbstr_provider_in_flight",
        "arbstr_store_writes_waiting",
    )
)
"""Sums mean something; of all others each process has its own."""
ONE_OF: Final = frozenset(("arbstr_holds_open", "arbstr_held_msat", "arbstr_hold_age_seconds"))
"""Only the process of the accounts has them."""
ACCOUNTS: Final = "accounts"
"""The ``worker`` of the process that keeps the accounts."""

OfProcess = tuple[str, Gauges | None]
"""The ``worker`` label of a process, and what it said; None: it did not answer."""


class ProcessGauges:
    """Those of this process."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(Scrape(surroundings))
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def gauges(self) -> Gauges:
        return Gauges(tuple(_family(metric) for metric in self._registry.collect()))


def _family(metric: Metric) -> GaugeFamily:
    samples = tuple((sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples)
    return GaugeFamily(metric.name, metric.documentation, metric.type, samples)


def render_together(counted: CollectorRegistry, processes: Sequence[OfProcess]) -> bytes:
    """The text of ``GET /metrics``: ``counted`` once, and the gauges of all."""
    together = CollectorRegistry()
    together.register(_Together(processes))
    return generate_latest(counted) + generate_latest(together)


class _Together(Collector):
    def __init__(self, processes: Sequence[OfProcess]) -> None:
        self._processes = processes

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("arbstr_worker_up", "Whether the process told its gauges.", labels=["worker"])
        families: dict[str, Metric] = {}
        sums: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
        for worker, gauges in self._processes:
            up.add_metric([worker], gauges is not None)
            for family in () if gauges is None else gauges.families:
                metric = families.setdefault(family.name, Metric(family.name, family.help, family.kind))
                for name, labels, value in family.samples:
                    if family.name in ADDED_UP:
                        key = (family.name, name, tuple(sorted(labels.items())))
                        sums[key] = sums.get(key, 0.0) + value
                    else:
                        own = labels if family.name in ONE_OF else {**labels, "worker": worker}
                        metric.add_sample(name, own, value)
        for (family_name, name, pairs), value in sums.items():
            families[family_name].add_sample(name, dict(pairs), value)
        yield up
        yield from families.values()
