"""What is done every few seconds, whatever happens: leases are renewed and swept, and what is open is counted."""

from __future__ import annotations

import logging
import time

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
class HoldCount:
    """``holds`` is as of the last time that somebody looked; None before the first."""

    store: Store
    holds: OpenHolds | None = None

    def look(self) -> None:
        try:
            self.store.call(read_hold_totals, self._counted)
        except StoreUnavailable as error:
            logger.warning("open holds were not counted: %s", error)

    def _counted(self, totals: HoldTotals | None, error: StoreError | None) -> None:
        if totals is not None:
            age_s = 0.0 if totals.oldest_ns is None else max(0.0, (time.time_ns() - totals.oldest_ns) / 1e9)
            self.holds = OpenHolds(totals.count, totals.held_msat, age_s)


async def keep_accounts(accounts: Accounts, count: HoldCount) -> None:
    """The same for a process that has nothing but accounts."""
    while True:
        count.look()
        await trio.sleep(HOUSEKEEPING_S)
        accounts.sweep()


@define(eq=False)
class Keeper:
    """``accounts`` and ``count`` are None where there are none."""

    fleet: Fleet
    catalog: TrioActorRef  # type: ignore[type-arg]  # only its being alive is asked
    requests: Requests
    accounts: Accounts | RemoteBank | None = None
    count: HoldCount | None = None

    async def run(self) -> None:
        """Go on until cancelled. Raises RuntimeError when there is nobody left to send requests to."""
        while True:
            if self.count is not None:
                self.count.look()
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

    @property
    def open_holds(self) -> OpenHolds | None:
        if isinstance(self.accounts, RemoteBank):
            return OpenHolds(*self.accounts.open_holds())
        return None if self.count is None else self.count.holds
