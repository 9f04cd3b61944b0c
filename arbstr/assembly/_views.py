"""What the parts know, in the words of those who look on: the market for ``/providers``, gauges for the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

import trio
from attrs import asdict, define, field

from actors import ActorSystem
from arbstr.accounts import RemoteBank
from arbstr.assembly._housekeeping import Keeper
from arbstr.market import MarketBoard, MarketReport
from arbstr.providers import Directory, ProviderView
from arbstr.store import Store
from arbstr.telemetry import OpenHolds, Settlements


@define(eq=False)
class Gauges:
    """Read at each scrape of the metrics (``arbstr.telemetry.Surroundings``)."""

    system: ActorSystem
    directory: Directory
    store: Store
    keeper: Keeper

    def providers(self) -> Iterable[ProviderView]:
        return self.directory.snapshot

    def requests_in_flight(self) -> int:
        return self.keeper.requests.in_flight

    def inbox_depths(self) -> Iterator[tuple[str, int]]:
        for ref in self.system.refs():
            yield ref.actor_class.__name__, ref.actor_inbox.depth

    def tasks(self) -> int:
        return trio.lowlevel.current_statistics().tasks_living

    def writes_waiting(self) -> int:
        return self.store.waiting

    def open_holds(self) -> OpenHolds | None:
        return self.keeper.open_holds

    def settlements(self) -> Settlements | None:
        accounts = self.keeper.accounts
        if not isinstance(accounts, RemoteBank):
            return None
        backlog = accounts.backlog
        return Settlements(backlog.waiting, backlog.searched, backlog.dead)


@define(eq=False)
class MarketView:
    """The ``market`` object of ``/providers`` (contract section 16.4), made anew when the report is another one."""

    board: MarketBoard
    _shown: MarketReport | None = None
    _object: Mapping[str, object] = field(factory=dict)

    def __call__(self) -> Mapping[str, object]:
        report = self.board.report
        if report is not self._shown:
            self._shown, self._object = report, market_object(report)
        return self._object


def market_object(report: MarketReport) -> Mapping[str, object]:
    """The predecessor's members, and beside them what is quarantined and how discovery goes."""
    shown: dict[str, object] = {
        "enabled": report.enabled,
        "url": report.url,
        "last_poll_at": _time(report.last_poll_at),
        "last_success_at": _time(report.last_success_at),
        "quotes_seen": report.quotes_seen,
        "nodes_seen": report.nodes_seen,
        "routable_market_providers": report.routable_market_providers,
        "skipped": [_without_nothing(asdict(one), ("endpoint", "reliability")) for one in report.skipped],
        "quarantined": [asdict(one) for one in report.quarantined],
        "notes": list(report.notes),
        "discovery": [{**asdict(one), "last_success_at": _time(one.last_success_at)} for one in report.discovery],
        "counts": asdict(report.counts),
    }
    if report.last_error is not None:
        shown["last_error"] = report.last_error
    return shown


def _without_nothing(fields: dict[str, object], names: tuple[str, ...]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None or name not in names}


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
