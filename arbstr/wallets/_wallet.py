"""What a wallet must promise, so that a payment is never made twice and never forgotten.

A wallet knows nothing of agents, balances or policies. It is asked to pay an order under a key, and later what became
of that key. Rails that differ (Lightning, Cashu, a simulation) differ behind this.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from attrs import frozen


class WalletError(Exception):
    """The wallet did not answer, or not in a way that says what it did. What was asked may have been done."""


class WalletState(StrEnum):
    PENDING = "pending"
    """Under way; it will end."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Definitely not paid, and it will not be: the same key is never paid afterwards."""
    UNKNOWN = "unknown"
    """The wallet cannot say. Money may have left."""

    @property
    def definite(self) -> bool:
        return self in (WalletState.SUCCEEDED, WalletState.FAILED)


@frozen
class PaymentOrder:
    """What is to be paid. Amounts in msat; the fee comes on top and must not exceed its limit."""

    key: str
    """Names the payment; a wallet pays a key at most once, whatever the rest of the order says."""
    amount_msat: int
    fee_limit_msat: int = 0
    destination: str | None = None
    asset: str | None = None
    destination_type: str | None = None


@frozen
class Result:
    """What is known of a payment. The fee counts only when it succeeded."""

    state: WalletState
    fee_msat: int = 0
    payment_hash: str | None = None
    preimage: str | None = None
    error: str | None = None


@frozen
class Invoice:
    """A request for money: ``destination`` is what a payer needs, ``expires_ns`` is UTC."""

    destination: str
    payment_hash: str
    amount_msat: int
    memo: str
    expires_ns: int


class Wallet(Protocol):
    """Every call may raise WalletError, and may be cancelled by the caller's deadline; neither undoes anything."""

    async def pay(self, order: PaymentOrder) -> Result:
        """Pay, or say what became of this key when it was asked before."""

    async def lookup(self, key: str) -> Result:
        """What became of a key. Moves no money.

        FAILED for one that was never asked for is a promise not to pay it from now on. A wallet that cannot promise
        that (an order of a dead process may still be on its way to it) answers UNKNOWN until it can.
        """

    async def invoice(self, amount_msat: int, memo: str, expiry_s: int) -> Invoice: ...

    async def balance(self) -> int:
        """What the wallet could spend, in msat."""
