"""The money side of one request: one hold that covers the attempt at hand, and one end of it.

Two of a kind: with accounts the hold is an account actor's; without, requests are priced and recorded, not held.
"""

from __future__ import annotations

import logging
from enum import Enum, auto
from typing import Any, Protocol

import trio

from actors import TrioActorRef
from arbstr.accounts import Bank, Ended, Extend, Held, Holder, Release, Renew, RequestApproval, Reserve, Settle
from arbstr.errors import (
    ApprovalNeeded,
    ArbstrError,
    AuthenticationFailed,
    BillingRefused,
    LedgerUnavailable,
    NotAnswered,
)
from arbstr.routing import Candidate
from arbstr.store import ApprovalRow, ReceiptOnly, ReceiptRow, Receipts, StoreUnavailable, new_approval_id

logger = logging.getLogger(__name__)


class Purse(Protocol):
    """Pays for one request. ``held_msat`` is the cap on what it may cost as things stand."""

    held_msat: int

    async def cover(self, candidate: Candidate, bound_msat: int) -> None:
        """See to it that at least ``bound_msat`` is held, durably. Raises BillingRefused or LedgerUnavailable.

        ApprovalNeeded when a human may be asked: see ``ask``. When it is cancelled, ``end`` sees to whatever came of
        it.
        """
        ...

    async def ask(self) -> ApprovalRow:
        """Ask a human about the first that ``cover`` raised ApprovalNeeded for; the money is held meanwhile.

        Raises BillingRefused, LedgerUnavailable. Until ``claim`` or ``put_off`` is called, ``end`` withdraws it.
        """
        ...

    def claim(self, approval_id: str) -> None:
        """A human has allowed it: from now on ``cover`` takes what was granted."""
        ...

    def put_off(self) -> None:
        """The client knows of the approval and comes for it itself, or it has ended: ``end`` leaves it alone."""
        ...

    def renew(self, evidence_msat: int) -> None:
        """The request lives and has consumed this much so far."""
        ...

    async def end(self, charge_msat: int, receipt: ReceiptRow, *, delivered: bool) -> bool:
        """Charge (``delivered``) or release, and file the receipt. Call it shielded, once.

        True when that is on disk. False when it could not be confirmed in time: it is not lost, the account goes on
        trying, and after a crash the hold is resolved from what is on record.
        """
        ...


class UnheldPurse:
    """No accounts: anything is covered, receipts are filed."""

    def __init__(self, store: Receipts) -> None:
        self._store = store
        self.held_msat = 1 << 62

    async def cover(self, candidate: Candidate, bound_msat: int) -> None:
        return

    async def ask(self) -> ApprovalRow:
        raise ValueError("without accounts nothing is refused, and nobody is asked")

    def claim(self, approval_id: str) -> None:
        return

    def put_off(self) -> None:
        return

    def renew(self, evidence_msat: int) -> None:
        return

    async def end(self, charge_msat: int, receipt: ReceiptRow, *, delivered: bool) -> bool:
        return file_receipt(self._store, receipt)


class _Hold(Enum):
    """What we know of the hold. Its size says nothing: a provider that is free is covered by a hold of 0."""

    NONE = auto()
    UNSURE = auto()  # asked for, and not answered
    OPEN = auto()


class AccountPurse:
    """One agent pays, by way of a bank. The hold's key is the request id, so that no request can hold twice (M5)."""

    def __init__(
        self,
        bank: Bank,
        store: Receipts,
        *,
        holder: Holder,
        key: str,
        model: str,
        correlation_id: str | None,
        owner: TrioActorRef,  # type: ignore[type-arg]  # any actor
        approval_id: str | None = None,
    ) -> None:
        """``approval_id``: what the request has come for; it is held under that, then, and not under ``key``."""
        self._bank = bank
        self._store = store
        self._holder = holder
        self._request_id = key
        self._key = approval_id or key
        self._model = model
        self._correlation_id = correlation_id
        self._owner = owner
        self._approval_id = approval_id
        self._needed: tuple[Candidate, int] | None = None
        self._withdraws = False
        """There may be an approval of which only we know."""
        self._hold = _Hold.NONE
        self.held_msat = 0

    async def cover(self, candidate: Candidate, bound_msat: int) -> None:
        if self._hold is _Hold.OPEN:
            if bound_msat > self.held_msat:
                self.held_msat = await self._ask_for(Extend(self._key, bound_msat, candidate.provider))
            return
        # From here on there may be a hold, whether or not we live to learn of it.
        self._hold = _Hold.UNSURE
        message = Reserve(
            self._request_id,
            bound_msat,
            self._model,
            candidate.provider,
            self._correlation_id,
            self._owner,
            self._holder.budget_id,
            approval_id=self._approval_id,
        )
        try:
            self.held_msat = await self._ask_for(message)
        except ApprovalNeeded:
            self._needed = self._needed or (candidate, bound_msat)
            raise
        self._hold, self._withdraws = _Hold.OPEN, False

    async def ask(self) -> ApprovalRow:
        assert self._needed is not None, "nobody said that a human could be asked"
        candidate, bound_msat = self._needed
        self._key = new_approval_id()
        self._hold, self._withdraws = _Hold.UNSURE, True
        message = RequestApproval(
            self._key,
            bound_msat,
            self._model,
            candidate.provider,
            self._correlation_id,
            self._holder.budget_id,
            self._request_id,
        )
        row: ApprovalRow = await self._request(message)
        return row

    def claim(self, approval_id: str) -> None:
        self._approval_id = approval_id

    def put_off(self) -> None:
        self._hold, self._withdraws = _Hold.NONE, False

    async def _ask_for(self, message: Reserve | Extend) -> int:
        held: Held = await self._request(message)
        return held.amount_msat

    async def _request(self, message: Reserve | Extend | RequestApproval) -> Any:
        try:
            return await self._bank.request(self._holder, message)
        except NotAnswered:
            raise
        except (BillingRefused, LedgerUnavailable, AuthenticationFailed):
            # An answer: nothing came of it, and nobody need wait for the end of a hold that never was.
            if isinstance(message, RequestApproval):
                self.put_off()
            elif self._hold is _Hold.UNSURE and not self._withdraws:
                self._hold = _Hold.NONE
            raise

    def renew(self, evidence_msat: int) -> None:
        if self._hold is _Hold.OPEN:
            # Whose it is: an account that has failed since has forgotten it.
            self._tell(Renew(self._key, evidence_msat, owner=self._owner))

    async def end(self, charge_msat: int, receipt: ReceiptRow, *, delivered: bool) -> bool:
        if self._hold is _Hold.NONE:
            return file_receipt(self._store, receipt)
        message: Settle | Release
        if delivered:
            message = Settle(self._key, charge_msat, receipt)
        else:
            message = Release(self._key, receipt.error or receipt.outcome, receipt, self._withdraws)
        try:
            ended: Ended = await self._bank.request(self._holder, message)
        except trio.Cancelled:
            self._tell(message)
            raise
        except NotAnswered as error:
            # An ask that was given up may be skipped by its receiver; a tell is not, and a repeat is harmless (M3).
            self._tell(message)
            logger.error("request %s: its end is not confirmed yet: %s", self._key, error)
            return False
        except ArbstrError as error:
            logger.error("request %s: its end was refused: %s", self._key, error)
            return False
        if not ended.recorded:
            file_receipt(self._store, receipt)
        return True

    def _tell(self, message: Renew | Settle | Release) -> None:
        try:
            self._bank.tell(self._holder, message)
        except NotAnswered as error:
            logger.error("request %s: %s did not reach its account: %s", self._key, type(message).__name__, error)


def file_receipt(store: Receipts, receipt: ReceiptRow) -> bool:
    """Queue a receipt that moves no money. False when the store takes nothing more."""
    try:
        store.submit(ReceiptOnly(receipt))
    except StoreUnavailable as error:
        logger.error("receipt of request %s is lost: %s", receipt.request_id, error)
        return False
    return True
