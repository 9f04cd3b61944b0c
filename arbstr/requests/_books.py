"""What one request owes: what was delivered, what of it is held for, and the one end of it.

The hold is a cap: whatever passes on is covered before it passes, and no provider is believed beyond what the request
can have used. The books are closed exactly once, shielded from cancellation, with what is known at that moment.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from arbstr.errors import BillingRefused, LedgerUnavailable
from arbstr.requests._context import Observer
from arbstr.requests._limits import Place
from arbstr.requests._purse import Purse
from arbstr.requests._record import Consumption, Record
from arbstr.routing import Candidate, Demand, Saved, savings
from arbstr.store import ReceiptRow
from arbstr.wire import Usage

logger = logging.getLogger(__name__)

CLOSE_BOUND_S = 15.0
"""For closing the books while everything else is being cancelled."""
LONGEST_ANSWER_TOKENS = 262_144
"""Of one choice, where the client sets no limit. No model on offer writes half as much; who claims more is mistaken."""
HEADROOM_TOKENS = 64
"""How far before the cap a growing stream asks for more."""


class Books:
    """Of one request. ``limit`` is how many completion tokens the client allows; None when it says nothing, or 0."""

    def __init__(
        self, record: Record, purse: Purse, demand: Demand, observers: Sequence[Observer], place: Place
    ) -> None:
        self._record = record
        self._request = record.request
        self._purse = purse
        self._demand = demand
        self._observers = observers
        self._place = place
        # 0 is no limit to some providers, which then write as much as they like.
        self.limit = demand.completion_tokens_bound if self._request.call.max_tokens else None
        self.delivered: Consumption | None = None
        """What must be paid for as things stand."""
        self.saved: Saved | None = None
        self.settled = False
        """The end is on disk."""
        self._closed = False

    def consumed(self, candidate: Candidate, claimed: Usage, *, estimated: bool) -> None:
        """This much has been delivered so far, by this provider's word or by our count (``estimated``)."""
        used = self._credible(claimed)
        note = None
        if used is not claimed:
            note = (
                f"claimed {claimed.prompt_tokens} + {claimed.completion_tokens} tokens, "
                f"of which this request can have used {used.prompt_tokens} + {used.completion_tokens}"
            )
        self.delivered = Consumption(candidate, used, estimated, note)

    async def stay_covered(self, candidate: Candidate, claimed: Usage) -> None:
        """The hold is a cap: a stream that comes near it extends it, by much if it can be, and ends there if it cannot.

        Raises BillingRefused (``budget_exhausted``), or LedgerUnavailable.
        """
        used = self._credible(claimed)
        price, prompt, cached = candidate.price, used.prompt_tokens, used.cached_tokens
        ahead = used.completion_tokens + HEADROOM_TOKENS
        if self.limit is not None:  # no further than there, unless the provider has gone further
            ahead = max(used.completion_tokens, min(ahead, self.limit))
        near = price.cost_msat(prompt, ahead, cached)
        if near <= self._purse.held_msat:
            return
        exact = price.cost_msat(prompt, used.completion_tokens, cached)
        generous = price.cost_msat(max(prompt, self._demand.prompt_tokens_bound), 2 * ahead)
        for wanted in (max(generous, near), near, exact):
            try:
                await self._purse.cover(candidate, wanted)
                return
            except BillingRefused as refused:
                logger.info("request %s: hold not extended: %s", self._request.request_id, refused)
            except LedgerUnavailable:
                if exact <= self._purse.held_msat:
                    return
                raise
        raise BillingRefused(
            "Insufficient balance: the stream has used up what could be set aside for it; deposit more",
            reason="budget_exhausted",
            details={"held_msat": self._purse.held_msat},
        )

    def renew(self) -> None:
        """Tell the account that this request lives, and what it has consumed."""
        if not self._closed:
            self._purse.renew(self.delivered.cost_msat if self.delivered else 0)

    async def close(self, outcome: str, http_status: int, error: str | None) -> None:
        """Close the books with what is known. Shielded, at most ``CLOSE_BOUND_S``; harmless when they are closed."""
        if self._closed:
            return
        delivered, selection = self.delivered, self._record.selection
        if delivered is not None and selection is not None:
            self.saved = savings(selection, delivered.candidate, delivered.usage)
        note = delivered.note if delivered is not None else None
        if delivered is not None and note is not None:
            logger.warning("request %s: %s %s", self._request.request_id, delivered.candidate.provider, note)
        receipt = self._record.receipt(
            outcome=outcome, http_status=http_status, error=error or note, consumed=delivered, saved=self.saved
        )
        self._closed = True
        self._place.spent(0 if delivered is None else delivered.tokens, trio.current_time())
        try:
            # The deadline stands even when the timer of asks, which belongs to the actor system, has ended before us.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_BOUND_S):
                self.settled = await self._purse.end(receipt.cost_msat, receipt, delivered=delivered is not None)
        finally:
            self._tell_observers(receipt)

    def _tell_observers(self, receipt: ReceiptRow) -> None:
        for observer in self._observers:
            try:
                observer.finished(self._request, receipt)
            except Exception:  # not ours, and no request may fail for it
                logger.exception("request %s: an observer failed", self._request.request_id)

    def _credible(self, claimed: Usage) -> Usage:
        """Of what a provider says it used, what this request can have used: the cap holds against a liar too.

        A token is at least one byte of the prompt; what an image is worth, only the provider knows. An answer without a
        limit is as long as it is, within what any model can write.
        """
        prompt, completion = claimed.prompt_tokens, claimed.completion_tokens
        if not self._request.call.images:
            prompt = min(prompt, self._demand.prompt_tokens_bound)
        most = self._request.call.n * LONGEST_ANSWER_TOKENS if self.limit is None else self.limit
        completion, cached = min(completion, most), min(claimed.cached_tokens, prompt)
        if (prompt, completion, cached) == (claimed.prompt_tokens, claimed.completion_tokens, claimed.cached_tokens):
            return claimed  # as nearly always, and this is asked twice for each chunk of a stream
        return Usage(prompt, completion, cached, claimed.reported_cost_msat)
