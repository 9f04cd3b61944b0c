"""The actor that owns one request, and the door through which the front end hands requests in."""

from __future__ import annotations

import logging
from typing import Any

import trio
from attrs import frozen

from actors import ActorDeadError, AskTimeout, Reply, SystemNotRunning, TrioActor, TrioActorRef
from arbstr.errors import ArbstrError, DeadlineExceeded, InternalError, PermissionRefused, ShuttingDown
from arbstr.requests._context import RequestContext
from arbstr.requests._interface import ModelRequest, PlainAnswer, Responder
from arbstr.requests._life import RequestLife
from arbstr.requests._purse import AccountPurse, Purse, UnheldPurse

logger = logging.getLogger(__name__)

MAX_REQUEST_S = 6 * 3600.0
"""No answer takes longer; a stream that does is ended."""
CANCEL_BOUND_S = 25.0
"""For a cancelled request to close its books; longer than all the bounds on the way there together."""


@frozen
class Run:
    """Live the request. Answer: PlainAnswer, or None when the answer went out as a stream."""


@frozen
class Cancel:
    """Stop and settle with what is known. A tell. The fields go into the receipt."""

    outcome: str
    http_status: int
    error: str


_GONE = Cancel("client_disconnected", 499, "the client closed its connection")
_SHUTDOWN = Cancel("shutdown", 503, "the proxy is shutting down")
_TOO_LONG = Cancel("failed", 504, "the request took too long")
_DEFECT = Cancel("failed", 500, "a defect inside the proxy")


@frozen
class Renew:
    """Renew the lease of the hold. A tell."""


class RequestActor(TrioActor):
    """Owns one request's attempts, relay and receipt. Stops when the request has ended."""

    inbox_capacity = 64
    shutdown_timeout_s = CANCEL_BOUND_S

    def __init__(self, context: RequestContext, request: ModelRequest, responder: Responder) -> None:
        super().__init__()
        self._living: trio.CancelScope | None = None
        self._cancel = _SHUTDOWN  # who is cancelled without a word is stopped together with the system
        self._life = RequestLife(context, request, responder, self._purse(context, request))

    def _purse(self, context: RequestContext, request: ModelRequest) -> Purse:
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
                if self._living is None:  # whoever cancels no longer waits for Run, and so it is skipped
                    self._living = self.spawn(self._close_books, message, name="end of a request")
                else:
                    self._living.cancel()
            case Renew():
                self._life.renew()
            case other:
                raise TypeError(f"a request does not understand {type(other).__name__}")

    async def _live_request(self, reply: Reply) -> None:
        ending = _DEFECT
        try:
            reply.set(await self._life.run())
        except trio.Cancelled:
            ending = self._cancel
            raise
        finally:
            await self._close_books(ending)

    async def _close_books(self, ending: Cancel) -> None:
        """Whatever it was that ended the request, its books are closed with what is known, and that was its life."""
        await self._life.close(ending.outcome, ending.http_status, ending.error)
        if not self.actor_stopped.is_set():
            self.stop()


class Requests:
    """The requests in flight. ``answer`` is what the front end calls."""

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

    async def answer(self, request: ModelRequest, responder: Responder) -> PlainAnswer | None:
        """Answer one request. When this is cancelled the request is ended and settled before Cancelled goes on."""
        context = self._context
        if context.accounts is not None and request.caller.agent_id is None:
            raise PermissionRefused("the admin token cannot spend; use an agent's token", reason="admin_cannot_spend")
        try:
            ref = context.system.start(RequestActor, context, request, responder)
        except SystemNotRunning as error:
            raise self._lost() from error
        self._in_flight.add(ref)
        try:
            answer: PlainAnswer | None = await ref.request(Run(), timeout_s=MAX_REQUEST_S)
            return answer
        except AskTimeout as error:
            await self._end(ref, _TOO_LONG)
            raise DeadlineExceeded(f"the request took longer than {MAX_REQUEST_S:.0f} s") from error
        except ActorDeadError as error:
            raise self._lost() from error
        except trio.Cancelled:
            await self._end(ref, _SHUTDOWN if context.stopping else _GONE)
            raise
        finally:
            self._in_flight.discard(ref)

    def _lost(self) -> ArbstrError:
        """Why a request has no actor any more."""
        if self._context.stopping or not self._context.system.is_running():
            return ShuttingDown("the server is shutting down; send the request again", retry_after_s=1)
        return InternalError("the request failed inside the proxy")

    async def _end(self, ref: TrioActorRef[RequestActor], cancel: Cancel) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CANCEL_BOUND_S) as scope:
            try:
                ref.tell(cancel)
            except ActorDeadError:
                return
            await ref.wait_stopped()
        if scope.cancelled_caught:
            logger.error("a cancelled request did not end within %.0f s", CANCEL_BOUND_S)
