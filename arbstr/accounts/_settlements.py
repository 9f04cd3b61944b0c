"""Tells a vault in another process how holds have ended, for as long as it takes.

What is owed is on disk before anybody is told that a request is settled; this actor only carries it, at least once, and
forgets it when the vault has taken it. Nothing is given up: what the vault says for sure it will never take is kept as
dead, for somebody to look into. While the vault is down one end at a time is tried, with growing pauses.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

import trio
from attrs import define, evolve, frozen

from actors import TrioActor
from arbstr.accounts._vault_client import CannotExtend, NotTold, VaultClient, WillNotEnd
from arbstr.errors import ArbstrError, LedgerUnavailable
from arbstr.secrets import Secret
from arbstr.store import (
    Change,
    DropRemoteHold,
    KeepRemoteHold,
    Ledger,
    ReceiptRow,
    RemoteHoldRow,
    RemoteHolds,
    RemoteHoldState,
    StoreError,
    StoreUnavailable,
)

logger = logging.getLogger(__name__)

MAX_AT_ONCE = 32
FIRST_PAUSE_S = 0.2
"""Then twice as long each time (contract: core, section 12)."""
LONGEST_PAUSE_S = 30.0
LEDGER_RETRY_S = 1.0
LAST_WORD_S = 2.0
"""For what is still waiting when the program stops; the next start goes on."""
SEARCH_S = 3_600.0
"""For a hold whose grant was lost; by then the vault has given it back by itself."""


@frozen
class Owe:
    """Write this end down, with the receipt, if that has not been done; then tell the vault. A tell.

    Once it is taken it is written down however long that takes.
    """

    hold: RemoteHoldRow
    receipt: ReceiptRow | None = None
    written: bool = False


@frozen
class Search:
    """A hold was asked for and no answer came: find it by its key, and give it back. A tell."""

    token: Secret
    key: str
    amount_msat: int
    model: str
    agent_id: str


@frozen
class KeepAlive:
    """Show the vault that a request lives. A tell."""

    reservation_id: str
    amount_msat: int


@frozen
class _Resume:
    pass


@frozen
class _Retry:
    reservation_id: str


@define(eq=False)
class Backlog:
    """What waits for the vault; written by ``Settlements``, read by whoever asks whether more may be bought."""

    waiting: int = 0
    searched: int = 0
    dead: int = 0


def released(hold: RemoteHoldRow, reason: str) -> RemoteHoldRow:
    return evolve(hold, state=RemoteHoldState.ENDING, charge_msat=0, reason=reason)


def pause_s(failures: int) -> float:
    return float(min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE_S))


class Settlements(TrioActor):
    """Delivers the ends of holds, at most ``MAX_AT_ONCE`` at a time. Takes up what an earlier process left."""

    inbox_capacity = 20_000
    shutdown_timeout_s = LAST_WORD_S + 1

    def __init__(self, ledger: Ledger, client: VaultClient, backlog: Backlog) -> None:
        super().__init__()
        self._ledger = ledger
        self._client = client
        self._backlog = backlog
        self._owed: dict[str, RemoteHoldRow] = {}
        self._unwritten = 0
        self._searched = 0
        self._dead = 0
        self._queue: deque[str] = deque()
        self._under_way = 0
        self._failures = 0
        self._paused = False

    def on_start(self) -> None:
        self.spawn(self._client.look)
        self._load(RemoteHoldState.ENDING)
        self._load(RemoteHoldState.DEAD)

    async def on_stop(self) -> None:
        """Tell the vault what can be told in a moment; the rest is on disk."""
        with trio.move_on_after(LAST_WORD_S):
            async with trio.open_nursery() as nursery:
                for hold in list(self._owed.values())[:MAX_AT_ONCE]:
                    nursery.start_soon(self._tell_vault, hold)

    def on_receive(self, message: Any) -> None:
        match message:
            case Owe(hold, written=True):
                self._owe(hold)
            case Owe(hold, receipt):
                self._write_and_owe(hold, receipt)
            case Search():
                self._searched += 1
                self.spawn(self._search, message)
            case KeepAlive():
                self.spawn(self._keep_alive, message)
            case _Retry(reservation_id):
                self._queue.append(reservation_id)
                self._go_on()
            case _Resume():
                self._paused = False
                self._go_on()
        self._count()

    # What is owed

    def _load(self, state: RemoteHoldState) -> None:
        def found(holds: tuple[RemoteHoldRow, ...] | None, error: StoreError | None) -> None:
            if self.actor_stopped.is_set():
                return
            if holds is None:
                logger.warning("holds at the vault cannot be read: %s", error)
                self.spawn(self._load_later, state)
            elif state is RemoteHoldState.DEAD:
                self._dead += len(holds)
                if holds:
                    logger.error("the vault will not take the ends of %d holds; see arbstr settlements", len(holds))
            else:
                for hold in holds:
                    self._owe(hold)
            self._count()

        try:
            self._ledger.ask(RemoteHolds(state), found)
        except StoreUnavailable as error:
            found(None, error)

    async def _load_later(self, state: RemoteHoldState) -> None:
        await trio.sleep(LEDGER_RETRY_S)
        self._load(state)

    def _write_and_owe(self, hold: RemoteHoldRow, receipt: ReceiptRow | None) -> None:
        def written(_: object, error: StoreError | None) -> None:
            self._unwritten -= 1
            if self.actor_stopped.is_set():
                return
            if isinstance(error, StoreUnavailable):
                self._unwritten += 1
                self.spawn(self._write_later, hold, receipt)
            elif error is not None:  # it has ended otherwise, or is another's
                logger.error("request %s: the end of its hold cannot be written: %s", hold.key, error)
            else:
                self._owe(hold)
            self._count()

        self._unwritten += 1
        self._submit(KeepRemoteHold(hold, receipt), written)

    async def _write_later(self, hold: RemoteHoldRow, receipt: ReceiptRow | None) -> None:
        await trio.sleep(LEDGER_RETRY_S)
        self._unwritten -= 1
        self._write_and_owe(hold, receipt)

    def _owe(self, hold: RemoteHoldRow) -> None:
        if hold.reservation_id not in self._owed:
            self._owed[hold.reservation_id] = hold
            self._queue.append(hold.reservation_id)
            self._go_on()

    def _count(self) -> None:
        self._backlog.waiting = len(self._owed) + self._unwritten
        self._backlog.searched = self._searched
        self._backlog.dead = self._dead

    # Telling the vault

    def _go_on(self) -> None:
        at_once = MAX_AT_ONCE if not self._failures else 0 if self._paused else 1
        while self._queue and self._under_way < at_once:
            hold = self._owed.get(self._queue.popleft())
            if hold is not None:
                self._under_way += 1
                self.spawn(self._deliver, hold)

    async def _deliver(self, hold: RemoteHoldRow) -> None:
        try:
            await self._tell_vault(hold)
        finally:
            self._under_way -= 1
        self._go_on()
        self._count()

    async def _tell_vault(self, hold: RemoteHoldRow) -> None:
        """One attempt. When it is cancelled the vault may have heard; it is told again, which changes nothing (M3)."""
        try:
            await self._client.tell_end(hold)
        except WillNotEnd as error:
            self._bury(hold, str(error))
        except NotTold as error:
            self._try_again(hold, str(error), down=error.down)
        else:
            self._failures = 0
            self._forget(hold)

    def _forget(self, hold: RemoteHoldRow) -> None:
        """The vault has heard. It is told once more when that cannot be written: no row is left lying about."""

        def forgotten(_: object, error: StoreError | None) -> None:
            if self.actor_stopped.is_set():
                return
            if isinstance(error, StoreUnavailable):
                self.send_after(LEDGER_RETRY_S, _Retry(hold.reservation_id))
                return
            if error is not None:
                logger.error("request %s: the end of its hold cannot be forgotten: %s", hold.key, error)
            self._owed.pop(hold.reservation_id, None)
            self._count()

        self._submit(DropRemoteHold(hold.reservation_id), forgotten)

    def _bury(self, hold: RemoteHoldRow, why: str) -> None:
        logger.error(
            "request %s: the vault will not take the end of its hold %s with %d msat (%s); see arbstr settlements",
            hold.key,
            hold.reservation_id,
            hold.charge_msat,
            why,
        )
        self._failures = 0
        self._dead += 1
        self._owed.pop(hold.reservation_id, None)
        dead = evolve(hold, state=RemoteHoldState.DEAD, attempts=hold.attempts + 1, last_error=why)
        self._submit(KeepRemoteHold(dead))

    def _try_again(self, hold: RemoteHoldRow, why: str, *, down: bool) -> None:
        tried = evolve(hold, attempts=hold.attempts + 1, last_error=why)
        self._owed[hold.reservation_id] = tried
        self._submit(KeepRemoteHold(tried))
        logger.warning("request %s: the vault has not taken the end of its hold: %s", hold.key, why)
        if self.actor_stopped.is_set():
            return
        if not down:
            self._failures = 0
            self.send_after(pause_s(tried.attempts), _Retry(hold.reservation_id))
            return
        self._queue.appendleft(hold.reservation_id)
        if not self._paused:
            self._paused = True
            self._failures += 1
            self.send_after(pause_s(self._failures), _Resume())

    def _submit(self, change: Change, done: Any = None) -> None:
        """What is not written is as it was: told again at the next start."""
        try:
            self._ledger.submit(change, done)
        except StoreUnavailable as error:
            if done is not None:
                done(None, error)
            else:
                logger.warning("what the vault has heard is not written: %s", error)

    # Beside it

    async def _keep_alive(self, message: KeepAlive) -> None:
        try:
            await self._client.extend(message.reservation_id, message.amount_msat)
        except CannotExtend:
            pass  # the predecessor's gives nothing back by itself
        except ArbstrError as error:
            logger.warning("the vault has not heard that hold %s lives: %s", message.reservation_id, error)

    async def _search(self, search: Search) -> None:
        """The grant of a hold was lost. What the vault does not know is made anew by this, and given back."""
        try:
            with trio.move_on_after(SEARCH_S):
                await self._give_back(search)
        finally:
            self._searched -= 1
            self._count()

    async def _give_back(self, search: Search) -> None:
        failures = 0
        while self._client.is_ours is not False:
            try:
                granted = await self._client.reserve(search.token, search.amount_msat, search.key, search.model)
            except LedgerUnavailable:
                failures += 1
                await trio.sleep(pause_s(failures))
            except ArbstrError:  # refused, so there is none, or none any more
                return
            else:
                hold = RemoteHoldRow(
                    reservation_id=granted.reservation_id,
                    key=search.key,
                    agent_id=search.agent_id,
                    amount_msat=search.amount_msat,
                    model=search.model,
                    provider="",
                    created_ns=time.time_ns(),
                )
                self._write_and_owe(released(hold, "its grant was lost"), None)
                return
        logger.error(
            "request %s: the answer to its reservation was lost, and this vault cannot tell whether it holds %d msat "
            "for it; if it does, it does for ever",
            search.key,
            search.amount_msat,
        )
