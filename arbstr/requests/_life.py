"""One request from the choice of a provider to the answer: attempts as planned, one answer, one closing of the books.

When the client leaves, the provider is cut off and the books are closed with what passed, unless this provider's
answers are read to their end (``on_disconnect = "drain"``): then they are closed with what it reports. Nothing of a
plain answer has passed before all of it is there: one that is cut off before is not charged, even if the provider bills
us for it (M4, M7); who does not want to bear that drains.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import trio
from attrs import frozen

from arbstr.errors import ArbstrError, BillingRefused, DeadlineExceeded
from arbstr.providers import UpstreamAnswer
from arbstr.requests._answer import plain_headers, put_off_answer, refusal, stream_headers
from arbstr.requests._asking import Asking, PutOff
from arbstr.requests._attempts import Attempts
from arbstr.requests._books import Books
from arbstr.requests._context import RequestContext
from arbstr.requests._interface import ClientGone, ModelRequest, PlainAnswer, Responder
from arbstr.requests._limits import Place
from arbstr.requests._outlet import Outlet
from arbstr.requests._plain import Whole, take_plain
from arbstr.requests._plan import Plan
from arbstr.requests._purse import Purse
from arbstr.requests._record import Attempt, Record
from arbstr.requests._relay import estimated_tokens
from arbstr.requests._stream import Streaming
from arbstr.routing import Candidate, Demand, Router, Selection
from arbstr.wire import Usage, error_event, with_member

_GONE = "the client closed its connection"


@frozen
class Intake:
    """What a request comes in with, and keeps: the router of that moment, what it asks for, its place in the limits."""

    router: Router
    demand: Demand
    place: Place


class Owner(Protocol):
    """Who runs the life."""

    def run_beside(self, work: Callable[[], Awaitable[None]]) -> None:
        """Start a task that ends with the request at the latest."""
        ...

    def detach(self) -> bool:
        """Nobody waits for the answer any more, and the request goes on. False when it cannot."""
        ...

    def client_lost(self) -> None:
        """The client was found to have left, by somebody who is not the request's own task."""
        ...


class RequestLife:
    """Run it once. What happened is in the receipt."""

    def __init__(
        self,
        context: RequestContext,
        request: ModelRequest,
        responder: Responder,
        purse: Purse,
        intake: Intake,
        owner: Owner,
    ) -> None:
        routing = intake.router.routing
        self._context = context
        self._request = request
        self._intake = intake
        self._owner = owner
        self._record = Record(request)
        self._books = Books(self._record, purse, intake.demand, context.observers, intake.place)
        self._in_time = trio.CancelScope(deadline=trio.current_time() + routing.deadline_s)
        self._begun = False
        self._outlet = Outlet(
            responder,
            self._stream_headers,
            heartbeat_s=context.heartbeat_s if request.call.stream else 0.0,
            lost=owner.client_lost,
        )
        self._asking = Asking(purse, context.approvals, context.waiting_room, request.approval_id, request.wait_s)
        self._attempts = Attempts(context, self._record, purse, self._taker(), self._is_over, self._is_late)

    def _taker(self) -> Callable[[Attempt, UpstreamAnswer], Awaitable[Whole | None]]:
        if not self._request.call.stream:
            return self._take_plain
        prompt_tokens = self._intake.demand.prompt_tokens
        return Streaming(self._context, self._record, prompt_tokens, self._books, self._outlet, self).take

    async def run(self) -> PlainAnswer | None:
        """Answer the request: the whole answer, or None when it went out through the responder.

        Errors become answers here, since only here is known what was tried. Raises nothing but what is a defect, and
        Cancelled, then with the books still open: call ``close``.
        """
        try:
            return await self._answer()
        except ClientGone:
            await self._close_behind_client()
            return None
        except ArbstrError as error:
            if self._outlet.gone:
                await self._close_behind_client()
                return None
            if self._outlet.close():
                await self._books.close("failed", error.status, error.message)
                return refusal(self._record, error, self._intake.place.headers)
            await self._break_off(error)
            return None

    async def close(self, outcome: str, http_status: int, error: str | None) -> None:
        """Close the books with what is known, if they are open. Shielded and bounded."""
        await self._books.close(outcome, http_status, error)

    def renew(self) -> None:
        """Tell the account that this request lives, and what it has consumed."""
        self._books.renew()

    def let_go(self) -> None:
        """It is over. Whatever refers back goes, so that nothing has to wait for the cycle collector."""
        del self._owner, self._outlet, self._attempts

    # What the stream tells

    def begun(self) -> None:
        if not self._begun:  # moving a deadline costs more than a look
            self._begun = True
            self._in_time.deadline = float("inf")

    def leave(self) -> bool:
        """The client has left. True when the request goes on, to read the provider's answer to its end."""
        at_work = self._attempts.under_way
        if at_work is None or self._context.stopping or not self._context.drains(at_work.provider):
            return False
        if not self._owner.detach():
            return False
        self._outlet.cut()
        return True

    async def complete(self, candidate: Candidate, claimed: Usage, *, estimated: bool) -> None:
        """The whole answer is there: close the books, and learn from it."""
        self._books.consumed(candidate, claimed, estimated=estimated)
        if self._outlet.gone:
            await self._close_behind_client()
        else:
            await self._books.close("ok", 200, None)
        delivered, selection = self._books.delivered, self._record.selection
        if not estimated and delivered is not None and selection is not None:
            self._intake.router.observe(self._request.call, selection, candidate.provider, delivered.usage)

    # The way there

    async def _answer(self) -> PlainAnswer | None:
        selection = self._choose()
        if self._outlet.beats:
            self._owner.run_beside(self._outlet.keep_warm)
        try:
            whole = await self._attempt(selection)
        except BillingRefused as refused:
            put_off = await self._asking.answer_to(refused)
            if put_off is not None:
                return await self._put_off(put_off)
            # Much may have changed while a human was thinking; the time for attempts begins now.
            self._in_time = trio.CancelScope(deadline=trio.current_time() + self._intake.router.routing.deadline_s)
            whole = await self._attempt(self._choose())
        return None if whole is None else await self._answer_whole(whole)

    def _choose(self) -> Selection:
        context, router = self._context, self._intake.router
        selection = self._record.selection = router.select(
            self._intake.demand, context.offers(), now=trio.current_time(), rotation=context.next_rotation()
        )
        return selection

    async def _attempt(self, selection: Selection) -> Whole | None:
        router = self._intake.router
        plan = Plan(
            len(selection.candidates),
            retries=router.routing.retries,
            backoff_s=router.routing.backoff_s,
            deadline=self._in_time.deadline,
        )
        whole = None
        with self._in_time:
            whole = await self._attempts.run(selection, plan)
        if self._in_time.cancelled_caught:
            raise self._too_late()
        return whole

    async def _put_off(self, put_off: PutOff) -> PlainAnswer | None:
        """The request ends here; its money stays set aside until it comes back, or until nobody need wait for it."""
        if not self._outlet.close():  # a heartbeat has begun the stream
            raise put_off.as_error()
        await self._books.close("pending_approval", 202, f"waits for approval {put_off.approval_id}")
        return put_off_answer(self._record, put_off, self._intake.place.headers)

    def _is_over(self) -> bool:
        return self._outlet.committed or self._outlet.gone

    def _is_late(self, attempt: Attempt) -> bool:
        """The time is over, and this attempt had most of it: one that began late is not to blame."""
        most_ns = self._intake.router.routing.deadline_s * 1e9 / 2
        return self._in_time.cancel_called and attempt.duration_ns() >= most_ns

    def _too_late(self) -> DeadlineExceeded:
        deadline_s = self._intake.router.routing.deadline_s
        attempts = self._record.attempts
        if attempts and attempts[-1].error is None and not attempts[-1].failed:
            attempts[-1].error = "cut at the deadline of the request"
        return DeadlineExceeded(f"Provider error: timed out after {deadline_s:g} seconds, attempts and waits together")

    async def _take_plain(self, attempt: Attempt, answer: UpstreamAnswer) -> Whole:
        whole = await take_plain(self._request.call.endpoint, attempt, answer)
        self.begun()
        return whole

    async def _answer_whole(self, whole: Whole) -> PlainAnswer | None:
        candidate, usage = whole.candidate, whole.usage
        if usage is None:
            counted = estimated_tokens(whole.content_bytes, 0, self._books.limit)
            usage = Usage(self._intake.demand.prompt_tokens, counted)
        await self.complete(candidate, usage, estimated=whole.usage is None)
        if self._outlet.gone:
            return None
        headers = plain_headers(self._record, self._books, candidate.provider, self._intake.place.headers)
        body = with_member(whole.body, "arbstr_provider", candidate.provider, sound=whole.sound)
        return PlainAnswer(200, tuple(headers), body)

    async def _break_off(self, error: ArbstrError) -> None:
        """The client has seen a beginning: tell it that this is not the end, without ``[DONE]``."""
        if not self._outlet.committed:  # comments only; it is as if it had been refused
            await self._books.close("failed", error.status, error.message)
        elif error.reason == "budget_exhausted":
            await self._books.close("budget_exhausted", 200, error.message)
        else:
            await self._books.close("stream_incomplete", 200, error.message)
        with suppress(ClientGone):  # the books are closed, and nobody is left to be told
            await self._outlet.end(error_event(error, self._request.request_id), None)

    async def _close_behind_client(self) -> None:
        await self._books.close("client_disconnected", 499, _GONE)

    def _stream_headers(self, provider: str | None) -> list[tuple[bytes, bytes]]:
        return stream_headers(self._record, provider, self._intake.place.headers)
