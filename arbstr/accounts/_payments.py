"""Takes payments from their decision to their end: between two words of the account, the wallet's.

    HELD ─► SENDING on disk ─► the wallet is asked ─► SUCCEEDED, FAILED, the other rail, or UNKNOWN and asked again

The account decides and writes; this actor only knows where each payment stands. When it ends, everything that matters
is on disk: the next one releases what was never sent, and asks the wallet about the rest until that says what it did.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal

import trio
from attrs import define, field, frozen

from actors import ActorDeadError, AskTimeout, InboxFull, Reply, SystemNotRunning, TrioActor, TrioActorRef
from arbstr.accounts._machine import AFTER_CRASH, FINAL, AfterCrash, Next, after_answer
from arbstr.accounts._payment_messages import Draft, MovePayment, Pay, Withdraw
from arbstr.accounts._rules import MAX_MSAT
from arbstr.errors import ArbstrError, BillingRefused, ClientError, LedgerUnavailable, Overloaded
from arbstr.store import (
    Ledger,
    PaymentRow,
    PaymentState,
    StoreError,
    StoreUnavailable,
    UnfinishedPayments,
    new_hold_id,
)
from arbstr.wallets import PaymentOrder, Rails, Result, WalletError, WalletState

logger = logging.getLogger(__name__)

S = PaymentState

UNANSWERED = (ActorDeadError, AskTimeout, InboxFull, SystemNotRunning)
"""The account did not answer; it may have understood."""

AccountOf = Callable[[str], TrioActorRef[Any]]
"""The account actor of an agent, alive."""

PAY_S = 30.0
"""For one call to a wallet's ``pay``; then its answer is in doubt."""
LOOKUP_S = 10.0
DECISION_S = 10.0
"""For the account's decision about a new payment."""
MOVE_S = 30.0
"""For the account to write down a step; asked again then, for as long as it takes."""
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 300.0
MAX_DRIVEN = 1_024
"""Payments that are under way at once; a new one above it is refused."""
SWEEP_S = 60.0
"""Between two looks for payments that nobody drives, because a word to or from the account was lost."""
MAX_LOOKUPS = 32
"""Questions to wallets at once."""


@frozen
class SendPayment:
    """Pay or withdraw. Answer: PaymentRow, when it has ended, is in doubt, waits for a human, or ``wait_s`` is over.

    Whatever the answer says, and if nobody waits for it, the payment goes on. BillingRefused (409) for a key that was
    used for something else, (429) when too many wait for a human; LedgerUnavailable, Overloaded: nothing was begun.
    """

    agent_id: str
    amount_msat: int
    destination: str
    asset: str | None = None
    purpose: str | None = None
    destination_type: str | None = None
    preferred_rail: str | None = None
    key: str | None = None
    kind: Literal["payment", "withdrawal"] = "payment"
    wait_s: float = field(default=PAY_S, kw_only=True)


@frozen
class Execute:
    """Send a payment that is HELD since a human approved it. Answer: PaymentRow, as for ``SendPayment``."""

    payment: PaymentRow
    wait_s: float = field(default=PAY_S, kw_only=True)


@frozen
class _Sweep:
    pass


@define(eq=False)
class _Driven:
    """A payment under way, as it was last heard of."""

    row: PaymentRow | None = None
    told: trio.Event = field(factory=trio.Event)
    """There is something to tell: it has ended, or is in doubt."""

    def is_now(self, row: PaymentRow) -> None:
        self.row = row
        if row.state in FINAL or row.state is S.UNKNOWN:
            self.told.set()


class Payments(TrioActor):
    """Drives all payments of one ledger, each in a task of its own."""

    def __init__(self, ledger: Ledger, account: AccountOf, rails: Rails) -> None:
        super().__init__()
        self._ledger = ledger
        self._account = account
        self._rails = rails
        self._driven: dict[str, _Driven] = {}
        self._lookups = trio.CapacityLimiter(MAX_LOOKUPS)

    def on_start(self) -> None:
        self._read_unfinished(self._left_behind)
        self.send_every(SWEEP_S, _Sweep())

    def on_receive(self, message: Any) -> None:
        reply = self.take_reply()
        match message:
            case _Sweep():
                self._read_unfinished(self._forgotten)
            case SendPayment():
                if len(self._driven) >= MAX_DRIVEN:
                    raise Overloaded(f"{MAX_DRIVEN} payments are under way; try again later", retry_after_s=5)
                # Known here before the account knows it: whatever is read from disk meanwhile, it is ours.
                transaction_id = new_hold_id()
                self._driven[transaction_id] = _Driven()
                self.spawn(self._begin, transaction_id, message, reply)
            case Execute(payment, wait_s=wait_s):
                self.spawn(self._tell, self._drive_held(payment), wait_s, reply)

    # A new payment

    async def _begin(self, transaction_id: str, message: SendPayment, reply: Reply) -> None:
        driven = self._driven[transaction_id]
        try:
            row = await self._open(transaction_id, message)
            if row.transaction_id not in self._driven and row.state not in FINAL:
                row = await self._open(transaction_id, message)  # it may have ended while word of it came
        except (ArbstrError, *UNANSWERED) as error:
            # After a timeout it may be held yet: then it is, and stays, a payment that was never sent.
            del self._driven[transaction_id]
            driven.told.set()
            refused = error if isinstance(error, ArbstrError) else LedgerUnavailable(str(error), retry_after_s=1)
            reply.set_exception(refused)
            if isinstance(error, AskTimeout):
                await self._never_sent(message.agent_id, transaction_id)
            return
        if row.transaction_id != transaction_id:  # a repeat of an earlier one
            del self._driven[transaction_id]
            driven = self._of_first(row)
        elif row.state is S.HELD:
            driven.row = row
            self.spawn(self._drive, row)
        else:
            del self._driven[transaction_id]
            driven.is_now(row)
            driven.told.set()
        await self._tell(driven, message.wait_s, reply)

    def _of_first(self, row: PaymentRow) -> _Driven:
        driven = self._driven.get(row.transaction_id)
        if driven is None:
            driven = _Driven(row)
            driven.told.set()
        elif driven.row is None:  # its own asker is about to hear of it
            driven.row = row
        return driven

    async def _open(self, transaction_id: str, message: SendPayment) -> PaymentRow:
        draft = Draft(
            amount_msat=message.amount_msat,
            destination=message.destination,
            rail=self._rails.choose(message.amount_msat, message.preferred_rail),
            asset=message.asset,
            purpose=message.purpose,
            destination_type=message.destination_type,
            preferred_rail=message.preferred_rail,
        )
        ask = Pay if message.kind == "payment" else Withdraw
        row: PaymentRow = await self._account(message.agent_id).request(
            ask(transaction_id, draft, message.key), timeout_s=DECISION_S
        )
        return row

    async def _tell(self, driven: _Driven, wait_s: float, reply: Reply) -> None:
        with trio.move_on_after(wait_s):
            await driven.told.wait()
        reply.set(driven.row)

    # Driving

    def _drive_held(self, row: PaymentRow) -> _Driven:
        """Drive it, unless that is being done."""
        driven = self._driven.get(row.transaction_id)
        if driven is None:
            driven = self._driven[row.transaction_id] = _Driven(row)
            self.spawn(self._drive, row)
        return driven

    async def _drive(self, row: PaymentRow) -> None:
        """From HELD to its end. Whenever this is cancelled, what is on disk says what has to be done."""
        moved = await self._move(_moving(row, Next(S.SENDING, row.rail)))
        while moved is not None and moved.state is S.SENDING:
            self._is_now(moved)
            answer = await self._pay(moved)
            fallback = None
            if answer is not None and moved.rail is not None:
                fallback = self._rails.fallback(moved.first_rail or moved.rail, moved.rail, answer.state)
            after = after_answer(S.SENDING, answer, fallback)
            assert after is not None, "from SENDING every answer leads somewhere"
            moved = await self._move(_moving(moved, after, answer))
        await self._see_to_the_end(row, moved, recovery=False)

    async def _see_to_the_end(self, row: PaymentRow, moved: PaymentRow | None, *, recovery: bool) -> None:
        try:
            if moved is not None:
                self._is_now(moved)
            while moved is not None and moved.state not in FINAL:
                moved = await self._look_up(moved, recovery)
                if moved is not None:
                    self._is_now(moved)
        finally:
            driven = self._driven.pop(row.transaction_id, None)
            if driven is not None:
                driven.told.set()

    async def _look_up(self, row: PaymentRow, recovery: bool) -> PaymentRow | None:
        """Ask the wallet until it says, however long that takes. None: it has been moved by somebody else."""
        wait_s = 0.0 if recovery else FIRST_RETRY_S
        while True:
            await trio.sleep(wait_s)
            answer = await self._ask_wallet(row)
            after = after_answer(row.state, answer, None)
            if after is not None:
                return await self._move(_moving(row, after, answer, recovery=recovery))
            wait_s = min(max(wait_s * 2, FIRST_RETRY_S), LAST_RETRY_S)

    def _is_now(self, row: PaymentRow) -> None:
        driven = self._driven.get(row.transaction_id)
        if driven is not None:
            driven.is_now(row)

    # Wallets

    async def _pay(self, row: PaymentRow) -> Result | None:
        """None: no answer, and the money may be gone."""
        wallet = self._rails.wallet(row.rail or "")
        if wallet is None:
            return Result(WalletState.FAILED, error="no_such_rail")  # it was never asked
        order = PaymentOrder(
            key=row.transaction_id,
            amount_msat=row.amount_msat,
            fee_limit_msat=row.fee_limit_msat,
            destination=row.destination,
            asset=row.asset,
            destination_type=row.destination_type,
        )
        with trio.move_on_after(PAY_S):
            try:
                return await wallet.pay(order)
            except WalletError as error:
                logger.warning("payment %s is in doubt: %s", row.transaction_id, error)
        return None

    async def _ask_wallet(self, row: PaymentRow) -> Result | None:
        wallet = self._rails.wallet(row.rail or "")
        if wallet is None:
            logger.error("payment %s is in doubt, and there is no wallet for %s", row.transaction_id, row.rail)
            return None
        async with self._lookups:
            with trio.move_on_after(LOOKUP_S):
                try:
                    return await wallet.lookup(row.transaction_id)
                except WalletError as error:
                    logger.warning("payment %s is still in doubt: %s", row.transaction_id, error)
        return None

    # The account

    async def _move(self, message: _Moving) -> PaymentRow | None:
        """Until the account has done it. None: the payment is not where we thought, and somebody else's."""
        wait_s = FIRST_RETRY_S
        while True:
            try:
                moved: PaymentRow = await self._account(message.agent_id).request(message.move, timeout_s=MOVE_S)
            except (BillingRefused, ClientError) as refusal:
                logger.error("payment %s was not moved: %s", message.move.transaction_id, refusal)
                return None
            except (ArbstrError, *UNANSWERED) as error:
                logger.warning("payment %s is not moved yet: %s", message.move.transaction_id, error)
            else:
                return moved
            await trio.sleep(wait_s)
            wait_s = min(wait_s * 2, LAST_RETRY_S)

    async def _never_sent(self, agent_id: str, transaction_id: str) -> None:
        await self._move(
            _Moving(agent_id, MovePayment(transaction_id, S.HELD, S.FAILED, error="never_sent", recovery=True))
        )

    # What nobody drives

    def _read_unfinished(self, then: Callable[[tuple[PaymentRow, ...]], None]) -> None:
        def read(rows: tuple[PaymentRow, ...] | None, error: StoreError | None) -> None:
            if self.actor_stopped.is_set():
                return
            with suppress(ActorDeadError):  # we have failed since, and another instance reads for itself
                if rows is not None:
                    then(tuple([row for row in rows if row.transaction_id not in self._driven]))
                    return
                logger.error("unfinished payments cannot be read: %s", error)
                if then == self._left_behind:
                    self.spawn(self._read_later)

        try:
            self._ledger.ask(UnfinishedPayments(), read)
        except StoreUnavailable as error:
            read(None, error)

    async def _read_later(self) -> None:
        await trio.sleep(FIRST_RETRY_S)
        self._read_unfinished(self._left_behind)

    def _left_behind(self, rows: tuple[PaymentRow, ...]) -> None:
        """After a start: by whoever was here before us and is gone."""
        for row in rows:
            match AFTER_CRASH[row.state]:
                case AfterCrash.RELEASE:
                    self._take_up(self._release, row)
                case AfterCrash.LOOK_UP:
                    self._take_up(self._resume, row)
                case _:  # it waits for a human
                    pass

    def _forgotten(self, rows: tuple[PaymentRow, ...]) -> None:
        """While we live: an approval whose execution was not asked for, a decision that nobody heard."""
        old_ns = time.time_ns() - int(SWEEP_S * 1e9)
        for row in rows:
            if row.updated_ns > old_ns:
                continue  # word of it may be on its way
            if row.state is S.HELD and row.approval_id is not None:
                self._drive_held(row)
            elif row.state is S.HELD:
                self._take_up(self._release, row)
            elif AFTER_CRASH[row.state] is AfterCrash.LOOK_UP:
                self._take_up(self._resume, row)

    def _take_up(self, what: Callable[[PaymentRow], Awaitable[None]], row: PaymentRow) -> None:
        self._driven[row.transaction_id] = _Driven(row)
        self.spawn(what, row)

    async def _release(self, row: PaymentRow) -> None:
        failed = Result(WalletState.FAILED, error="crash_before_send")
        moved = await self._move(_moving(row, Next(S.FAILED), failed, recovery=True))
        await self._see_to_the_end(row, moved, recovery=True)

    async def _resume(self, row: PaymentRow) -> None:
        await self._see_to_the_end(row, row, recovery=True)


@frozen
class _Moving:
    agent_id: str
    move: MovePayment


def _moving(row: PaymentRow, after: Next, answer: Result | None = None, *, recovery: bool = False) -> _Moving:
    """What the account is asked, so that the payment gets there by this answer."""
    answer = answer or Result(WalletState.UNKNOWN, error=None if after.state is S.SENDING else "no_answer")
    fee_msat = answer.fee_msat if after.state is S.SUCCEEDED else 0
    if not 0 <= fee_msat <= MAX_MSAT:
        logger.error("payment %s: the wallet says it cost a fee of %d msat", row.transaction_id, fee_msat)
        fee_msat = row.fee_limit_msat
    move = MovePayment(
        transaction_id=row.transaction_id,
        before=row.state,
        after=after.state,
        rail=after.rail,
        fee_msat=fee_msat,
        payment_hash=answer.payment_hash,
        preimage=answer.preimage,
        error=answer.error,
        recovery=recovery,
    )
    return _Moving(row.agent_id, move)
