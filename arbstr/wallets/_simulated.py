"""A wallet that moves no real money: for trying things out, and for tests of everything that a real one may do.

What it has done is in a ``SimulatedBook``. Handed to a new wallet after a simulated crash, it tells the truth about
what the dead one did, as a real wallet's node would.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from enum import StrEnum

import trio
from attrs import define, evolve, field, frozen

from arbstr.wallets._wallet import Invoice, PaymentOrder, Result, WalletError, WalletState

DEFAULT_BALANCE_MSAT = 21_000_000 * 100_000_000 * 1_000
"""Enough for everything."""
MAX_REMEMBERED = 100_000
"""Orders in a book. Nobody asks about one that has gone well; without a bound a vault would grow with each payment."""


class Answer(StrEnum):
    """How the call to ``pay`` ends."""

    TELLS = "tells"
    """When it is over."""
    SAYS_PENDING = "says_pending"
    SAYS_UNKNOWN = "says_unknown"
    LOST = "lost"
    """The order arrives, the answer does not: WalletError."""
    REFUSED = "refused"
    """WalletError, and the order never arrived."""
    NEVER = "never"
    """The order arrives, and the call hangs until its caller gives up."""


@frozen
class Behaviour:
    """What the simulation does with one order."""

    outcome: WalletState = WalletState.SUCCEEDED
    """What becomes of it in the end; UNKNOWN: nobody ever finds out."""
    after_s: float = 0.0
    """On Trio's clock, from the order to the outcome."""
    answer: Answer = Answer.TELLS
    doubtful_lookups: int = 0
    """So many lookups say UNKNOWN first."""
    fee_msat: int = 0
    error: str = "no_route"
    """Of a failure."""


SETTLES = Behaviour()

Script = Callable[[PaymentOrder], Behaviour]
"""Pure: the same order, the same behaviour."""


def settle_at_once(_: PaymentOrder) -> Behaviour:
    return SETTLES


@frozen
class _Entry:
    order: PaymentOrder
    behaviour: Behaviour
    over_at: float
    doubts: int


@define
class SimulatedBook:
    """What outlives the process: orders by key, and whoever was paid."""

    balance_msat: int = DEFAULT_BALANCE_MSAT
    entries: dict[str, _Entry] = field(factory=dict)
    barred: set[str] = field(factory=set)
    """Keys that were looked up before they were ordered: never paid from then on."""
    invoices: int = 0
    paid: list[str] = field(factory=list)
    """The keys of orders that went through, in order. A key that is here twice was paid twice."""


class SimulatedWallet:
    """A ``Wallet``. Settles at once unless its script says otherwise."""

    def __init__(self, script: Script = settle_at_once, book: SimulatedBook | None = None) -> None:
        self._script = script
        self.book = book or SimulatedBook()

    async def pay(self, order: PaymentOrder) -> Result:
        behaviour = self._script(order)
        await trio.lowlevel.checkpoint()
        if behaviour.answer is Answer.REFUSED:
            raise WalletError("the wallet cannot be reached, says the simulation")
        entry = self._accept(order, behaviour)
        if entry is None:
            return Result(WalletState.FAILED, error="not_found")
        match behaviour.answer:
            case Answer.LOST:
                raise WalletError("the connection broke, says the simulation")
            case Answer.NEVER:
                await trio.sleep_forever()
            case Answer.SAYS_PENDING:
                return Result(WalletState.PENDING, payment_hash=_hash(order.key))
            case Answer.SAYS_UNKNOWN:
                return Result(WalletState.UNKNOWN, payment_hash=_hash(order.key))
        await trio.sleep_until(entry.over_at)
        return self._result(entry)

    async def lookup(self, key: str) -> Result:
        await trio.lowlevel.checkpoint()
        entry = self.book.entries.get(key)
        if entry is None:
            self.book.barred.add(key)
            return Result(WalletState.FAILED, error="not_found")
        if entry.doubts > 0:
            self.book.entries[key] = evolve(entry, doubts=entry.doubts - 1)
            return Result(WalletState.UNKNOWN, payment_hash=_hash(key))
        if trio.current_time() < entry.over_at:
            return Result(WalletState.PENDING, payment_hash=_hash(key))
        return self._result(entry)

    async def invoice(self, amount_msat: int, memo: str, expiry_s: int) -> Invoice:
        await trio.lowlevel.checkpoint()
        self.book.invoices += 1
        name = f"invoice {self.book.invoices} of {amount_msat} msat: {memo}"
        return Invoice(
            destination=f"lnsim{_hash(name)}",
            payment_hash=_hash(name),
            amount_msat=amount_msat,
            memo=memo,
            expires_ns=time.time_ns() + expiry_s * 1_000_000_000,
        )

    async def balance(self) -> int:
        await trio.lowlevel.checkpoint()
        return self.book.balance_msat

    def _accept(self, order: PaymentOrder, behaviour: Behaviour) -> _Entry | None:
        """The order arrives: from here on the outcome is certain, whoever waits for it. None: the key is barred."""
        book = self.book
        known = book.entries.get(order.key)
        if known is not None or order.key in book.barred:
            return known
        entry = _Entry(order, behaviour, trio.current_time() + behaviour.after_s, behaviour.doubtful_lookups)
        if behaviour.outcome is WalletState.SUCCEEDED:
            if order.amount_msat + behaviour.fee_msat > book.balance_msat:
                entry = evolve(entry, behaviour=evolve(behaviour, outcome=WalletState.FAILED, error="empty_wallet"))
            else:
                book.balance_msat -= order.amount_msat + behaviour.fee_msat
                book.paid.append(order.key)
        book.entries[order.key] = entry
        _forget_oldest(book)
        return entry

    def _result(self, entry: _Entry) -> Result:
        behaviour, key = entry.behaviour, entry.order.key
        match behaviour.outcome:
            case WalletState.SUCCEEDED:
                preimage = hashlib.sha256(f"preimage of {key}".encode()).hexdigest()
                return Result(WalletState.SUCCEEDED, behaviour.fee_msat, _hash(key), preimage)
            case WalletState.FAILED:
                return Result(WalletState.FAILED, payment_hash=_hash(key), error=behaviour.error)
            case state:
                return Result(state, payment_hash=_hash(key))


def _forget_oldest(book: SimulatedBook) -> None:
    if len(book.entries) > MAX_REMEMBERED:
        del book.entries[next(iter(book.entries))]
    if len(book.paid) > 2 * MAX_REMEMBERED:  # seldom and many: the front of a list is dear to take away
        del book.paid[:MAX_REMEMBERED]


def _hash(key: str) -> str:
    """A payment hash: of the preimage, as on the real network."""
    return hashlib.sha256(hashlib.sha256(f"preimage of {key}".encode()).digest()).hexdigest()
