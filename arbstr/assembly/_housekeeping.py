"""What is done every few seconds, whatever happens: leases are renewed and swept, and what is open is counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio
from attrs import define

from actors import InboxFull, TrioActorRef
from arbstr.accounts import Accounts, RemoteBank
from arbstr.providers import Fleet
from arbstr.requests import Requests
from arbstr.store import HoldTotals, Store, StoreError, StoreUnavailable, read_hold_totals
from arbstr.telemetry import OpenHolds

logger = logging.getLogger("arbstr")

HOUSEKEEPING_S = 5.0


@define(eq=False)
class Keeper:
    """``open_holds`` is as of the last round; None without accounts, and before the first."""

    fleet: Fleet
    catalog: TrioActorRef  # type: ignore[type-arg]  # only its being alive is asked
    requests: Requests
    accounts: Accounts | RemoteBank | None
    store: Store
    open_holds: OpenHolds | None = None

    async def run(self) -> None:
        """Go on until cancelled. Raises RuntimeError when there is nobody left to send requests to."""
        while True:
            self._count_holds()
            await trio.sleep(HOUSEKEEPING_S)
            if not self.fleet.alive:
                raise RuntimeError("the provider actors crash faster than they can be restarted; the log says why")
            if not self.catalog.is_alive():
                raise RuntimeError("the market's actor crashes faster than it can be restarted; the log says why")
            try:
                self.requests.renew_leases()
                if self.accounts is not None:
                    self.accounts.sweep()
            except InboxFull as error:  # an actor that is this busy is told next time: leases are much longer
                logger.warning("housekeeping was cut short: %s", error)

    def _count_holds(self) -> None:
        if self.accounts is None:
            return
        if isinstance(self.accounts, RemoteBank):
            self.open_holds = OpenHolds(*self.accounts.open_holds())
            return
        count_open_holds(self.store, self._counted)

    def _counted(self, holds: OpenHolds) -> None:
        self.open_holds = holds


def count_open_holds(store: Store, done: Callable[[OpenHolds], None]) -> None:
    """Have them counted; what cannot be counted now is not reported."""

    def counted(totals: HoldTotals | None, error: StoreError | None) -> None:
        if totals is not None:
            age_s = 0.0 if totals.oldest_ns is None else max(0.0, (time.time_ns() - totals.oldest_ns) / 1e9)
            done(OpenHolds(totals.count, totals.held_msat, age_s))

    try:
        store.call(read_hold_totals, counted)
    except StoreUnavailable as error:
        logger.warning("open holds were not counted: %s", error)
