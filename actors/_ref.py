"""The address of an actor: Pykka's calls for threads, awaitable twins for tasks.

| from a thread             | from a task                                 |
|---------------------------|---------------------------------------------|
| ``tell`` (waits for room) | ``tell`` (InboxFull) or ``await send``      |
| ``ask``                   | ``await request`` or ``ask(block=False)``   |
| ``stop``                  | ``await terminate`` or ``stop(block=False)``|

What blocks is refused on a Trio thread before anything is sent, so that a refusal has no effect. What a full inbox does
to each of them is in ``InboxPolicy``.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

import pykka
import trio
from pykka.messages import ProxySetAttr, _ActorStop

from actors._errors import ActorDeadError, AskTimeout, WouldDeadlock, refuse_on_trio_thread
from actors._future import TrioFuture
from actors._inbox import Envelope, Inbox, InboxPolicy
from actors._statistics import ActorStatistics, of_actor
from actors._typing import Ask, Untyped

if TYPE_CHECKING:
    from actors._actor import TrioActor
    from actors._cell import Cell

__all__ = ["TrioActorRef"]

A_co = TypeVar("A_co", bound="TrioActor", covariant=True)
R = TypeVar("R")

_GRACE_S = 5.0


class TrioActorRef(pykka.ActorRef[Any], Generic[A_co]):
    """May be passed around freely, between tasks and threads. Holds no actor alive.

    A message takes nothing of its sender along but itself: no context variables, no cancellation, no deadline.
    """

    actor_class: type[A_co]
    actor_inbox: Inbox

    def __init__(self, actor: A_co, cell: Cell) -> None:
        super().__init__(actor)
        self.cell = cell
        self._ended = cell.ended

    def point_at(self, actor: TrioActor) -> None:
        """Another instance takes over; called by the cell."""
        self._actor_weakref = weakref.ref(actor)
        self.actor_class = cast("type[A_co]", type(actor))

    # -- Pykka's calls

    def tell(self, message: Any) -> None:
        """Queue ``message``. On a Trio thread never blocks; another thread waits for room.

        Raises ActorDeadError, also if the actor stops while a thread waits, and InboxFull as the policy has it.
        """
        envelope = Envelope(message)
        if not self.actor_inbox.offer(envelope):  # itself, not within `put`: a call is a tenth of a tell
            self.actor_inbox.put(envelope)

    @overload
    def ask(self, message: Ask[R], *, block: Literal[False], timeout: float | None = None) -> TrioFuture[R]: ...
    @overload
    def ask(self, message: Ask[R], *, block: Literal[True] = True, timeout: float | None = None) -> R: ...
    @overload
    def ask(self, message: Ask[R], *, block: bool = True, timeout: float | None = None) -> R | TrioFuture[R]: ...
    @overload
    def ask(self, message: Untyped, *, block: Literal[False], timeout: float | None = None) -> TrioFuture[Any]: ...
    @overload
    def ask(self, message: Untyped, *, block: Literal[True] = True, timeout: float | None = None) -> Any: ...
    @overload
    def ask(self, message: Untyped, *, block: bool = True, timeout: float | None = None) -> Any | TrioFuture[Any]: ...
    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any | TrioFuture[Any]:
        """Queue ``message`` and block for the answer, or with ``block=False`` return the future of it.

        A dead actor makes a future that raises ActorDeadError. Raises InboxFull on a Trio thread as the policy has it;
        blocking, also what the handler raised, MessageDropped, AskTimeout after ``timeout`` seconds (then the message
        is skipped if it is still queued), and WouldDeadlock on a Trio thread.
        """
        if block:
            if trio.lowlevel.in_trio_run():
                raise WouldDeadlock("ref.ask(block=True)", _instead_of_ask(message))
            return self._ask_and_wait(message, timeout)
        future: TrioFuture[Any] = TrioFuture()
        try:
            self.actor_inbox.put(Envelope(message, future))
        except ActorDeadError:
            future.set_exception()
        return future

    def _ask_and_wait(self, message: Any, timeout_s: float | None) -> Any:
        future: TrioFuture[Any] = TrioFuture()
        waker = future.expect_in_thread()
        envelope = Envelope(message, future)
        inbox = self.actor_inbox
        try:
            if timeout_s is None:
                if not inbox.offer(envelope):
                    inbox.put(envelope)
                waker.wait(None)
            else:
                begun = time.monotonic()
                inbox.put(envelope, timeout_s=timeout_s)
                if not waker.wait(timeout_s - (time.monotonic() - begun)) and not future.settled:
                    raise AskTimeout(timeout_s)
        finally:
            future.abandoned = True  # by now it is answered, or nobody is left to read it
        return future.result()

    @overload
    def stop(self, *, block: Literal[True] = True, timeout: float | None = None) -> bool: ...
    @overload
    def stop(self, *, block: Literal[False], timeout: float | None = None) -> TrioFuture[bool]: ...
    @overload
    def stop(self, *, block: bool = True, timeout: float | None = None) -> bool | TrioFuture[bool]: ...
    def stop(self, *, block: bool = True, timeout: float | None = None) -> bool | TrioFuture[bool]:
        """Ask the actor to stop once it has handled what is queued. False if it was already dead.

        A full inbox does not refuse this. Raises WouldDeadlock when blocking on a Trio thread.
        """
        if block:
            refuse_on_trio_thread("ref.stop(block=True)", "`await ref.terminate()` or `await ref.stop(block=False)`")
        asked = self.ask(_ActorStop(), block=False)

        def hook(timeout: float | None) -> bool:
            try:
                asked.get(timeout=timeout)
            except ActorDeadError:
                return False
            return True

        async def awaited() -> bool:
            try:
                await asked
            except ActorDeadError:
                return False
            return True

        stopped = TrioFuture.derive(hook, awaited)
        return stopped.get(timeout=timeout) if block else stopped

    def proxy(self) -> pykka.ActorProxy[Any]:
        """Pykka's proxy. Making one costs about 100 µs: keep it, or send messages. Raises ActorDeadError."""
        return pykka.ActorProxy(actor_ref=self)

    # -- awaitable twins

    async def send(self, message: Any) -> None:
        """Queue ``message``, waiting for room. If cancelled, nothing was sent.

        Raises ActorDeadError, also if the actor stops meanwhile, and InboxFull if the actor's own task would wait.
        """
        await self.actor_inbox.send(Envelope(message))

    @overload
    async def request(self, message: Ask[R], *, timeout_s: float = 5.0) -> R: ...
    @overload
    async def request(self, message: Untyped, *, timeout_s: float = 5.0) -> Any: ...
    async def request(self, message: Any, *, timeout_s: float = 5.0) -> Any:
        """Queue ``message`` and return the answer, which must come within ``timeout_s`` seconds (finite).

        If cancelled or too late, the message is skipped unless the actor has already begun with it; what it has begun,
        it finishes. Raises what the handler raised, AskTimeout, ActorDeadError (stopped before the answer), InboxFull
        or MessageDropped as the policy has it, WouldDeadlock when an actor asks itself.
        """
        if not 0.0 < timeout_s < math.inf:
            return await self._request_without_deadline(timeout_s)
        inbox = self.actor_inbox
        if inbox.receiver is trio.lowlevel.current_task():
            raise WouldDeadlock("asking oneself", "tell, or a task that asks: `self.spawn(...)`")
        future: TrioFuture[Any] = TrioFuture()
        envelope = Envelope(message, future)
        if not inbox.offer(envelope):
            if inbox.policy != InboxPolicy.WAIT:
                raise inbox.refuse()
            return await self._request_when_there_is_room(envelope, future, timeout_s)
        system = inbox.system
        if system is not None and system.on_thread():
            return await future.answer_by(system.deadlines, timeout_s)
        return await self._answer_elsewhere(future, timeout_s)

    async def _request_without_deadline(self, timeout_s: float) -> Any:
        if timeout_s <= 0.0:  # the caller's own time is up: nothing is sent
            await trio.lowlevel.checkpoint()
            raise AskTimeout(timeout_s)
        raise ValueError(f"an ask needs a finite deadline, not timeout_s={timeout_s}")

    async def _request_when_there_is_room(self, envelope: Envelope, future: TrioFuture[Any], timeout_s: float) -> Any:
        waited_for = f"room in the inbox of {self}"
        try:
            with trio.move_on_after(timeout_s):
                await self.actor_inbox.send(envelope)
                waited_for = "an answer"
                return await future
        finally:
            future.abandoned = True
        raise AskTimeout(timeout_s, waited_for=waited_for)

    async def _answer_elsewhere(self, future: TrioFuture[Any], timeout_s: float) -> Any:
        # Not in the run that the actor lives in (or it has not started): that run's timer cannot wake this task.
        try:
            with trio.move_on_after(timeout_s):
                return await future
        finally:
            future.abandoned = True
        raise AskTimeout(timeout_s)

    # -- looking

    def statistics(self) -> ActorStatistics:
        """What the actor has done so far; also after its end. Any thread."""
        return of_actor(self.actor_inbox)

    # -- the end

    async def wait_stopped(self) -> None:
        """Return once the actor has stopped: hooks have run, its tasks have ended, askers have been answered.

        For good: a restart by its supervisor is no end.
        """
        self._refuse_self("waiting for one's own end")
        await self._ended

    async def terminate(self, *, grace_s: float = _GRACE_S) -> None:
        """Ask the actor to stop, cancel it if it has not within ``grace_s`` seconds, and return once it has stopped.

        After the cancellation ``on_stop`` still has the actor's ``shutdown_timeout_s``. If this call is cancelled, the
        actor has been asked to stop and may not have yet. Of a supervised actor it is the present instance that has
        stopped on return; its supervisor may start another.
        """
        self._refuse_self("waiting for one's own end")
        life = self.cell.life
        self.stop(block=False)
        with trio.move_on_after(grace_s):
            await life.over
            return
        self._on_its_thread(life.cancel)
        await life.over

    def cancel(self) -> None:
        """Cancel what the actor is doing and have it stop without handling the rest. Any thread; returns at once.

        To a supervisor that is a crash: what it does with a child that is cancelled, it does then.
        """
        self._on_its_thread(self.cell.cancel)

    def _on_its_thread(self, function: Callable[[], object]) -> None:
        system = self.actor_inbox.system
        if system is None or system.on_thread():
            function()
        else:
            system.call_soon(function)

    def _refuse_self(self, what: str) -> None:
        if self.actor_inbox.receiver is trio.lowlevel.current_task():
            raise WouldDeadlock(what, "`self.stop()`")


def _instead_of_ask(message: Any) -> str:
    if isinstance(message, ProxySetAttr):
        return "`await ref.request(ProxySetAttr(...))`; an attribute of a proxy cannot be assigned here"
    return "`await ref.request(...)` or `await ref.ask(..., block=False)`"
