"""The actor that owns one request, and the door through which the front end hands requests in."""

from __future__ import annotations

import logging
from typing import Any

import trio
from attrs import frozen

from actors import ActorDeadError, AskTimeout, TrioActor, TrioActorRef
from arbstr.errors import DeadlineExceeded, InternalError, PermissionRefused
from arbstr.requests._context import RequestContext
from arbstr.requests._interface import ChatRequest, PlainAnswer, Responder
from arbstr.requests._life import RequestLife
from arbstr.requests._purse import AccountPurse, Purse, UnheldPurse

logger = logging.getLogger(__name__)

MAX_REQUEST_S = 6 * 3600.0
"""No answer takes longer; a stream that does is ended."""
CANCEL_BOUND_S = 20.0
"""For a cancelled request to close its books; longer than that takes when the disk answers."""


@frozen
class Run:
    """Live the request. Answer: PlainAnswer, or None when the answer went out as a stream."""


@frozen
class Cancel:
    """Stop and settle with what is known. A tell. ``outcome`` goes into the receipt."""

    outcome: str
    error: str


@frozen
class Renew:
    """Renew the lease of the hold. A tell."""


class RequestActor(TrioActor):
    """Owns one request's attempts, relay and receipt. Stops when the request has ended."""

    inbox_capacity = 64

    def __init__(self, context: RequestContext, request: ChatRequest, responder: Responder) -> None:
        super().__init__()
        self._living: trio.CancelScope | None = None
        self._cancel = Cancel("failed", "the request's actor was stopped")
        self._life = RequestLife(context, request, responder, self._purse(context, request))

    def _purse(self, context: RequestContext, request: ChatRequest) -> Purse:
        if context.accounts is None or request.caller.agent_id is None:
            return UnheldPurse(context.store)
        return AccountPurse(
            context.accounts,
            context.store,
            agent_id=request.caller.agent_id,
            key=request.request_id,
            model=request.call.model,
            correlation_id=request.correlation_id,
            owner=self.actor_ref,
        )

    def on_receive(self, message: Any) -> None:
        match message:
            case Run():
                self._living = self.spawn(self._live_request, self.take_reply(), name="request")
            case Cancel():
                self._cancel = message
                if self._living is not None:
                    self._living.cancel()
            case Renew():
                self._life.renew()
            case other:
                raise TypeError(f"a request does not understand {type(other).__name__}")

    async def _live_request(self, reply: Any) -> None:
        try:
            reply.set(await self._life.run())
        finally:
            # Cancelled, or a defect: whatever it was, the books are closed with what is known.
            await self._life.abandon(self._cancel.outcome, self._cancel.error)
            self.stop()


class Requests:
    """The requests in flight. ``chat`` is what the front end calls."""

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self._in_flight: set[TrioActorRef[RequestActor]] = set()

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def renew_leases(self) -> None:
        """Have every request in flight renew its hold."""
        for ref in self._in_flight:
            if ref.is_alive():
                ref.tell(Renew())

    async def chat(self, request: ChatRequest, responder: Responder) -> PlainAnswer | None:
        """Answer one request. When this is cancelled the request is ended and settled before Cancelled goes on."""
        if request.caller.role == "admin" and self._context.accounts is not None:
            raise PermissionRefused("the admin token cannot spend; use an agent's token", reason="admin_cannot_spend")
        ref = self._context.system.start(RequestActor, self._context, request, responder)
        self._in_flight.add(ref)
        try:
            answer: PlainAnswer | None = await ref.request(Run(), timeout_s=MAX_REQUEST_S)
            return answer
        except AskTimeout as error:
            await self._end(ref, Cancel("failed", "the request took too long"))
            raise DeadlineExceeded(f"the request took longer than {MAX_REQUEST_S:.0f} s") from error
        except ActorDeadError as error:
            raise InternalError("the request failed inside the proxy") from error
        except trio.Cancelled:
            await self._end(ref, self._reason())
            raise
        finally:
            self._in_flight.discard(ref)

    def _reason(self) -> Cancel:
        if self._context.stopping:
            return Cancel("shutdown", "the proxy is shutting down")
        return Cancel("client_disconnected", "the client closed its connection")

    async def _end(self, ref: TrioActorRef[RequestActor], cancel: Cancel) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CANCEL_BOUND_S) as scope:
            try:
                ref.tell(cancel)
            except ActorDeadError:
                return
            await ref.wait_stopped()
        if scope.cancelled_caught:
            logger.error("a cancelled request did not end within %.0f s", CANCEL_BOUND_S)
