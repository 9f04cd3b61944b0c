"""The actor that owns one request, and the door through which the front end hands requests in."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import trio
from attrs import define, frozen

from actors import ActorDeadError, AskTimeout, Reply, SystemNotRunning, TrioActor, TrioActorRef
from arbstr.accounts import Holder
from arbstr.errors import (
    ArbstrError,
    DeadlineExceeded,
    InternalError,
    PermissionRefused,
    RateLimited,
    ShuttingDown,
)
from arbstr.requests._answer import JSON_TYPE, error_answer
from arbstr.requests._context import RequestContext
from arbstr.requests._interface import Caller, ModelRequest, PlainAnswer, Responder
from arbstr.requests._life import Intake, RequestLife
from arbstr.requests._limits import HeaderList, Place
from arbstr.requests._purse import AccountPurse, Purse, UnheldPurse
from arbstr.routing import Demand, Selection

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
    """Stop and settle with what is known. The fields go into the receipt.

    An ask: answered with None when the request goes on behind the client's back, to read the provider's answer to its
    end; never answered otherwise, for the actor has stopped by then.
    """

    outcome: str
    http_status: int
    error: str


_GONE = Cancel("client_disconnected", 499, "the client closed its connection")
_OUTLASTED = Cancel("client_disconnected", 499, "the client closed its connection, and the answer did not end")
_SHUTDOWN = Cancel("shutdown", 503, "the proxy is shutting down")
_TOO_LONG = Cancel("failed", 504, "the request took too long")
_DEFECT = Cancel("failed", 500, "a defect inside the proxy")


@frozen
class Renew:
    """Renew the lease of the hold. A tell."""


@frozen
class Quote:
    """What a request would cost: what it asks for, and who would answer it, the best first."""

    demand: Demand
    selection: Selection


@define(eq=False)
class Stay:
    """One request's time with us: among those in flight, and within the limits. ``end`` it once it has ended."""

    _in_flight: dict[TrioActorRef[RequestActor], None]
    _place: Place
    ref: TrioActorRef[RequestActor] | None = None
    detached: bool = False
    """Nobody waits for it any more, but it goes on; the actor will end the stay."""

    def begin(self, ref: TrioActorRef[RequestActor]) -> None:
        self.ref = ref
        self._in_flight[ref] = None

    def end(self) -> None:
        """A second call changes nothing."""
        if self.ref is not None:
            self._in_flight.pop(self.ref, None)
        self._place.leave(trio.current_time())


class RequestActor(TrioActor):
    """Owns one request's attempts, relay and receipt. Stops when the request has ended."""

    inbox_capacity = 64
    shutdown_timeout_s = CANCEL_BOUND_S

    def __init__(
        self, context: RequestContext, request: ModelRequest, responder: Responder, intake: Intake, stay: Stay
    ) -> None:
        super().__init__()
        self._stay = stay
        self._living: trio.CancelScope | None = None
        self._reply: Reply | None = None
        self._cancel = _SHUTDOWN  # who is cancelled without a word is stopped together with the system
        self._life = RequestLife(context, request, responder, self._purse(context, request), intake, self)

    def _purse(self, context: RequestContext, request: ModelRequest) -> Purse:
        caller = request.caller
        if context.accounts is None or caller.agent_id is None:
            return UnheldPurse(context.store)
        return AccountPurse(
            context.accounts,
            context.store,
            holder=Holder(caller.agent_id, caller.name, caller.budget_id, caller.token, caller.proven),
            key=request.request_id,
            model=request.call.model,
            correlation_id=request.correlation_id,
            owner=self.actor_ref,
            approval_id=request.approval_id,
        )

    def on_stop(self) -> None:
        self._stay.end()
        self._life.let_go()

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stay.end()
        self._life.let_go()

    def on_receive(self, message: Any) -> None:
        match message:
            case Run():
                self._reply = self.take_reply()
                self._living = self.spawn(self._live_request, self._reply, name="request")
            case Cancel():
                self._end(message, self.take_reply())
            case Renew():
                self._life.renew()
            case other:
                raise TypeError(f"a request does not understand {type(other).__name__}")

    def _end(self, cancel: Cancel, reply: Reply) -> None:
        if self._living is None:  # whoever cancels no longer waits for Run, and so it is skipped
            self._living = self.spawn(self._close_books, cancel, name="end of a request")
        elif cancel is _GONE and self._life.leave():
            reply.set(None)
        else:
            self._cancel = cancel
            self._living.cancel()

    async def _live_request(self, reply: Reply) -> None:
        ending = _DEFECT
        try:
            answer = await self._life.run()
            if not self._stay.detached:
                reply.set(answer)
        except trio.Cancelled:
            ending = self._cancel
            raise
        finally:
            await self._close_books(ending)

    async def _close_books(self, ending: Cancel) -> None:
        """Whatever it was that ended the request, its books are closed with what is known, and that was its life."""
        await self._life.close(ending.outcome, ending.http_status, ending.error)
        if self._reply is not None and ending is _GONE and not self._stay.detached:
            self._reply.set(None)  # dropped, unless it was a heartbeat that found the client gone
        if not self.actor_stopped.is_set():
            self.stop()

    # What the life asks of its owner

    def run_beside(self, work: Callable[[], Awaitable[None]]) -> None:
        self.spawn(work, name="heartbeat")

    def detach(self) -> bool:
        if self._stay.detached:
            return True
        if self.actor_stopped.is_set() or self._reply is None:
            return False
        self._stay.detached = True
        self._cancel = _GONE
        self._reply.set(None)
        self.send_after(MAX_REQUEST_S, _OUTLASTED)
        return True

    def client_lost(self) -> None:
        if self._living is not None and not self._life.leave():
            self._cancel = _GONE
            self._living.cancel()


class Requests:
    """The requests in flight. ``answer`` is what the front end calls."""

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self._in_flight: dict[TrioActorRef[RequestActor], None] = {}  # in the order they came: a set has none

    @property
    def in_flight(self) -> int:
        """Also those that go on although their client has left."""
        return len(self._in_flight)

    def renew_leases(self) -> None:
        """Have every request in flight renew its hold."""
        for ref in self._in_flight:
            if ref.is_alive():
                ref.tell(Renew())

    def touch(self, caller: Caller) -> HeaderList:
        """Count a call that is not for a model. Gives the headers that say so, or raises RateLimited."""
        return self._context.limits.touch(caller, trio.current_time())

    def quote(self, request: ModelRequest) -> Quote:
        """Who would answer, and what it would cost: nothing is held, nobody is asked, circuits do not count.

        Raises as the choice of a provider does, and PermissionRefused for a model that is not the caller's to use.
        """
        router = self._context.router
        demand = router.demand(request.call, policy=request.policy, complexity=None)
        self._context.limits.check_models(request.caller, (request.call.model, demand.model))
        return Quote(demand, router.quote(demand, self._context.offers()))

    async def answer(self, request: ModelRequest, responder: Responder) -> PlainAnswer | None:
        """Answer one request. When this is cancelled the request is ended and settled before Cancelled goes on; or,
        where the provider's answers are read to their end, it goes on by itself."""
        if self._context.accounts is not None and request.caller.agent_id is None:
            raise PermissionRefused("the admin token cannot spend; use an agent's token", reason="admin_cannot_spend")
        try:
            intake = await self._take_in(request)
        except RateLimited as limited:
            return error_answer(limited, request.request_id, (JSON_TYPE, *limited.headers))
        stay = Stay(self._in_flight, intake.place)
        try:
            return await self._stay(request, responder, intake, stay)
        finally:
            if not stay.detached:
                stay.end()

    async def _take_in(self, request: ModelRequest) -> Intake:
        context, router, call = self._context, self._context.router, request.call
        demand = router.demand(call, policy=request.policy, complexity=request.complexity)
        models, tokens = (call.model, demand.model), demand.prompt_tokens + demand.completion_tokens
        place: Place
        if context.door is None:
            place = context.limits.enter(request.caller, models=models, tokens=tokens, now=trio.current_time())
        else:
            place = await context.door.enter(request.caller, models=models, tokens=tokens)
        return Intake(router, demand, place)

    async def _stay(
        self, request: ModelRequest, responder: Responder, intake: Intake, stay: Stay
    ) -> PlainAnswer | None:
        context = self._context
        try:
            ref = context.system.start(RequestActor, context, request, responder, intake, stay)
        except SystemNotRunning as error:
            raise self._lost() from error
        stay.begin(ref)
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

    def _lost(self) -> ArbstrError:
        """Why a request has no actor any more."""
        if self._context.stopping or not self._context.system.is_running():
            return ShuttingDown("the server is shutting down; send the request again", retry_after_s=1)
        return InternalError("the request failed inside the proxy")

    async def _end(self, ref: TrioActorRef[RequestActor], cancel: Cancel) -> None:
        """Returns when the request has ended, or goes on without us."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CANCEL_BOUND_S) as scope:
            try:
                await ref.request(cancel, timeout_s=2 * CANCEL_BOUND_S)
            except (ActorDeadError, AskTimeout):
                await ref.wait_stopped()
        if scope.cancelled_caught:
            logger.error("a cancelled request did not end within %.0f s", CANCEL_BOUND_S)
