"""The life of one instance of an actor: the task that receives, and everything that ends with it.

``on_start``, then messages until a stop message, a failure or a cancellation, then the end, always the same: refuse and
answer what is queued, end children, tasks, timers and watches, ``on_stop`` (or ``on_failure``), answer the replies
still owed. If the cell goes on, what is queued is left to the next instance instead.

This is apart from the actor so that a subclass may call its attributes what it likes.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple

import trio
from pykka.messages import ProxyGetAttr, _ActorStop
from trio.lowlevel import current_task, disable_ki_protection, enable_ki_protection

from actors._cell import Cell, Exit, answer_stops, settle
from actors._errors import ActorDeadError, SystemNotRunning
from actors._future import ExcInfo, TrioFuture
from actors._inbox import Envelope
from actors._late_scope import LateScope
from actors._parcel import NOTHING, Parcel
from actors._reply import Reply
from actors._timers import Timer, Timers
from actors._watch import Watches

if TYPE_CHECKING:
    from actors._actor import TrioActor
    from actors._ref import TrioActorRef
    from actors._system import ActorSystem

__all__ = ["Life"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_logger = logging.getLogger("pykka")  # where Pykka's users look
_TIDY_REPLIES_ABOVE = 8
_NONE: frozenset[Any] = frozenset()


class Children(Protocol):
    """What a supervisor has and other actors do not."""

    async def start(self) -> None:
        """After ``on_start``. What it raises is a failure."""

    async def end(self) -> None:
        """Before the last hook. Shielded; must not raise."""

    def hurry(self) -> None:
        """The supervisor has been cancelled: from now on nobody is waited for who could be cancelled instead."""


class Life:
    """From construction to the end. ``over`` is set last of all."""

    def __init__(self, actor: TrioActor, cell: Cell | None) -> None:
        self.actor = actor
        self.cell = Cell(actor, self) if cell is None else cell
        self._inbox = self.cell.inbox
        self._scope = LateScope()
        self.over: TrioFuture[None] = TrioFuture()
        self.children: Children | None = None
        self.exit: Exit | None = None  # known from the moment that decides it, long before the life is over
        self.started = False
        self._final = True  # decided together with the exit
        self._halted = False
        self._let_go = False
        self._system: ActorSystem | None = None
        self._current: Envelope | None = None
        self._taken: Reply | None = None
        self._owed: set[Reply] | frozenset[Reply] = _NONE  # an empty set has 0.2 kB, and most actors need neither
        self._tidy_replies_at = _TIDY_REPLIES_ABOVE
        self._tasks: set[trio.CancelScope] | frozenset[trio.CancelScope] = _NONE
        self._tasks_ended: trio.Event | None = None
        self._timers: Timers | None = None
        self._watches: Watches | None = None
        self._failure: ExcInfo | None = None
        self._stop_asked: list[Envelope] = []

    def __str__(self) -> str:
        return self._inbox.name

    def cancel(self) -> None:
        """End this instance without handling the rest. On the thread of the actor."""
        self._interrupt()
        if self.children is not None:
            self.children.hurry()

    def _interrupt(self) -> None:
        """Cancel what is being awaited, the inbox included."""
        self._scope.cancel()
        self._inbox.nudge()

    def ask_to_stop(self) -> None:
        """End this instance, and no other, once it has handled what is queued. Passes the bound; any thread."""
        self._inbox.push(Parcel(self._stop_at_its_turn, passes_bound=True))

    # -- for handlers

    def take_reply(self) -> Reply:
        if self._current is None or self._inbox.receiver is not current_task():
            raise RuntimeError("take_reply() belongs into a message handler, called by the actor's own task")
        if self._taken is not None:
            raise RuntimeError("the reply to this message has already been taken")
        reply = self._taken = Reply(self._current.reply_to)
        if len(self._owed) >= self._tidy_replies_at:
            self._owed = {each for each in self._owed if not each.abandoned}
            self._tidy_replies_at = 2 * len(self._owed) + _TIDY_REPLIES_ABOVE
        self._owed = _with(self._owed, reply)
        return reply

    def spawn(self, async_fn: Callable[[*Ts], Awaitable[Any]], args: tuple[*Ts], name: str | None) -> trio.CancelScope:
        system = self._running_system("spawn()", "starts no task")
        scope = trio.CancelScope()
        system.start_task(self._own, scope, async_fn, args, name=name or f"{self}: {_name_of(async_fn)}")
        self._tasks = _with(self._tasks, scope)
        return scope

    def start_timer(self, first_s: float, period_s: float | None, message: Any) -> Timer:
        system = self._running_system("a timer", "starts no timer")
        if self._timers is None:
            self._timers = Timers(system, self._inbox)
        return self._timers.start(first_s, period_s, message)

    def watch(self, ref: TrioActorRef[Any]) -> None:
        self._running_system("watch()", "watches nobody")
        if self._watches is None:
            self._watches = Watches(self._inbox)
        self._watches.add(ref)

    def unwatch(self, ref: TrioActorRef[Any]) -> bool:
        return self._watches is not None and self._watches.discard(ref)

    def _running_system(self, what: str, what_it_does_not: str) -> ActorSystem:
        if self._halted:
            raise ActorDeadError(f"{self} is stopping and {what_it_does_not}")
        if self._system is None:
            raise SystemNotRunning(f"{what} needs a started actor: use it in on_start, not in __init__")
        if not self._system.on_thread():
            raise RuntimeError(f"{what} belongs to the thread of the actor's system")
        return self._system

    # -- the task

    def bind(self, system: ActorSystem) -> None:
        """The instance gets its task now."""
        self._system = system

    @enable_ki_protection
    async def live(self) -> None:
        self._inbox.receiver = current_task()
        try:
            with self._scope:
                try:
                    await self._set_up()
                    await self._run()
                except BaseException as error:
                    self._conclude_by(error)
                    raise
                finally:
                    await self._end()
        except trio.Cancelled:
            raise
        except BaseException as error:
            assert self._system is not None
            self._system.crash(error)

    async def _set_up(self) -> None:
        try:
            left = _call(self.actor.on_start)
            if type(left) is CoroutineType:
                self._scope.enter()
                await _await(left)
        except BaseException as error:
            failure, fatal = _split(error)
            if failure is not None:
                self._log_failure(failure)
                self._conclude(Exit("failed", failure))
            if fatal is not None:
                raise fatal from None
            return
        self.started = True
        if self.children is not None:
            self._scope.enter()
            await self._start_children(self.children)
        if self.cell.keeper is not None and not self._halted:
            self.cell.keeper.is_up()

    async def _start_children(self, children: Children) -> None:
        try:
            await children.start()
        except BaseException as error:
            failure, fatal = _split(error)
            if failure is not None:
                self._fail(failure)
            if fatal is not None:
                raise fatal from None

    async def _run(self) -> None:
        scope, inbox, tally, burst = self._scope, self._inbox, self._inbox.tally, range(self.actor.burst)
        if scope.cancelled:
            self._conclude(Exit("cancelled"))
        while not self._halted:  # before the first message if on_start has failed
            tally.busy_since = begun = perf_counter()
            for _ in burst:
                envelope = inbox.take()
                if envelope is None:
                    break
                slow = self._begin(envelope)
                if slow is not None:
                    await self._finish(envelope, slow)
                if self._current is not None:  # a handler has seen it
                    self._current = self._taken = None
                    tally.handled += 1
                if self._halted:
                    return  # type: ignore[unreachable]  # the handler has done it
            tally.busy_s += perf_counter() - begun
            tally.busy_since = None
            # One whom a message has woken begins with it, also if the cancellation comes before it runs.
            if scope.cancelled or (not await inbox.wait() and scope.cancelled):
                self._conclude(Exit("cancelled"))

    def _begin(self, envelope: Envelope) -> Coroutine[Any, Any, Any] | None:
        """Handle a message, as far as that goes without waiting. Returns what is left to await."""
        message, reply_to = envelope.message, envelope.reply_to
        kind = type(message)
        if kind is Parcel:
            message = message.open()
            if message is NOTHING:
                return None
        elif kind is _ActorStop:
            self._stop_asked.append(envelope)
            self._conclude(Exit("stopped"))
            return None
        if reply_to is not None and reply_to.abandoned:
            self._skip(message)
            return None
        self._current = envelope
        try:
            answer = _call(self.actor._handle_receive, message)
        except BaseException as error:
            self._failed(envelope, error)
            return None
        # An attribute that holds a coroutine is a value; only a handler's own coroutine is ours to await.
        if type(answer) is CoroutineType and kind is not ProxyGetAttr:
            return answer
        if reply_to is not None and self._taken is None:
            settle(reply_to, answer, None)
        return None

    def _skip(self, message: Any) -> None:
        self._inbox.tally.skipped += 1
        self._inbox.dead_letter(message, "abandoned")

    async def _finish(self, envelope: Envelope, slow: Coroutine[Any, Any, Any]) -> None:
        self._scope.enter()
        try:
            answer = await _await(slow)
        except BaseException as error:
            self._failed(envelope, error)
        else:
            if envelope.reply_to is not None and self._taken is None:
                settle(envelope.reply_to, answer, None)

    # -- answers

    def _failed(self, envelope: Envelope, error: BaseException) -> None:
        """A handler raised. Tells the asker, or lets the actor fail; raises what must end more than the actor."""
        failure, fatal = _split(error)
        self._inbox.tally.failed += failure is not None
        if fatal is not None:
            if not isinstance(fatal, trio.Cancelled):
                _logger.debug(f"{fatal!r} in {self}. Stopping all actors.")
            self.cell.refuse(envelope, "while handling the message")
            if failure is not None:
                self._fail(failure)
            raise fatal
        assert failure is not None
        if self._tell_asker(envelope, failure):
            _logger.info(f"Exception returned from {self} to caller:", exc_info=failure)
        else:
            self._fail(failure)

    def _tell_asker(self, envelope: Envelope, error: Exception) -> bool:
        if envelope.reply_to is None:
            return False
        if self._taken is None:
            settle(envelope.reply_to, None, error)
            return True
        owed = not envelope.reply_to.settled
        self._taken.revoke(error)
        return owed

    def _fail(self, error: Exception) -> None:
        """The actor has failed; the first failure decides, and one on the way out is only logged."""
        if self.over.settled:
            _logger.error(f"Unhandled exception in a task that {self} left behind:", exc_info=error)
            return
        if not self._halted:
            self._failure = (type(error), error, error.__traceback__)
        self._log_failure(error)
        self._conclude(Exit("failed", error))

    def _log_failure(self, error: Exception) -> None:
        _logger.error(f"Unhandled exception in {self}:", exc_info=error)
        if self._system is not None:
            self._system.actor_failed(self.cell.ref, error)

    # -- owned tasks

    async def _own(self, scope: trio.CancelScope, async_fn: Callable[[*Ts], Awaitable[Any]], args: tuple[*Ts]) -> None:
        try:
            with scope:
                await async_fn(*args)
        except BaseException as error:
            failure, fatal = _split(error)
            if failure is not None:
                self._fail(failure)
                self._interrupt()
            if fatal is not None:
                raise fatal from None
        finally:
            self._tasks -= {scope}
            if not self._tasks and self._tasks_ended is not None:
                self._tasks_ended.set()

    async def _end_tasks(self) -> None:
        if not self._tasks:
            return
        self._tasks_ended = trio.Event()
        for scope in self._tasks:
            scope.cancel()
        with trio.move_on_after(self.actor.shutdown_timeout_s, shield=True) as limit:
            await self._tasks_ended.wait()
        if limit.cancelled_caught:
            left = len(self._tasks)
            _logger.error(f"{left} tasks of {self} are left behind after {self.actor.shutdown_timeout_s} s")

    # -- the end

    def _stop_at_its_turn(self) -> object:
        if not self.over.settled:  # else it was cancelled for taking too long, and this is its successor's inbox
            self._conclude(Exit("stopped"))
        return NOTHING

    def _conclude(self, exit: Exit, *, final: bool = False) -> None:
        """This is how it ends; whatever comes after does not change that."""
        if self._halted:
            return
        self._halted = True
        self.exit = exit
        self._final = final or not self.cell.goes_on(exit)
        if self._final:
            self.cell.mark_stopped()

    def _conclude_by(self, error: BaseException) -> None:
        failure, fatal = _split(error)
        if fatal is None or isinstance(fatal, trio.Cancelled):
            self._conclude(Exit("cancelled"))
        else:
            self._conclude(Exit("failed", failure or fatal), final=True)  # the whole system ends

    async def _end(self) -> None:
        """Waits are shielded and bounded by ``shutdown_timeout_s``; whatever happens, nobody is left unanswered."""
        self._inbox.tally.rest()
        try:
            self._revoke_all()
            if self._final:
                self._stop_asked += self.cell.close()
            if self.children is not None:
                await self.children.end()
            await self._end_tasks()
            await self._last_hook()
        finally:
            self._settle_debts()

    def _revoke_all(self) -> None:
        if self._timers is not None:
            self._timers.cancel_all()
        if self._watches is not None:
            self._watches.discard_all()

    async def _last_hook(self) -> None:
        if self._failure is not None:
            await self._call_last_hook(self.actor.on_failure, *self._failure)
        elif self.started:
            await self._call_last_hook(self.actor.on_stop)

    async def _call_last_hook(self, hook: Callable[..., Any], *args: Any) -> None:
        try:
            left = _call(hook, *args)
            if type(left) is CoroutineType:
                with trio.move_on_after(self.actor.shutdown_timeout_s, shield=True) as limit:
                    await _await(left)
                if limit.cancelled_caught:
                    _logger.error(f"{_name_of(hook)} of {self} was cut off after {self.actor.shutdown_timeout_s} s")
        except BaseException as error:
            failure, fatal = _split(error)
            if failure is not None:
                self._fail(failure)
            if fatal is not None:
                raise fatal from None

    def _settle_debts(self) -> None:
        assert self.exit is not None
        for reply in self._owed:
            reply.revoke(None if reply.abandoned else ActorDeadError(f"{self} stopped before it answered"))
        self._owed = _NONE
        stops, self._stop_asked = self._stop_asked, []
        self._current = self._taken = self._failure = self._inbox.receiver = None
        self.over.set(None)
        keeper = self.cell.keeper
        if self._final:
            self.cell.end(self.exit, stops)
        else:
            answer_stops(stops)
        if keeper is not None:
            keeper.is_down()

    def let_go(self) -> None:
        # Actors come and go by the thousand: none should have to wait for the cycle collector.
        if not self._let_go:
            self._let_go = True
            self.actor = weakref.proxy(self.actor)
            self.cell = weakref.proxy(self.cell)
            self.children = None

    def bury(self) -> None:
        """End an instance whose task never ran."""
        if not self.over.settled:
            self._conclude(Exit("cancelled"), final=True)
            self._stop_asked += self.cell.close()
            self._settle_debts()


@disable_ki_protection
def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


@disable_ki_protection
async def _await(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


def _with(some: set[T] | frozenset[T], another: T) -> set[T]:
    if isinstance(some, frozenset):
        return {another}
    some.add(another)
    return some


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _split(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """What is a failure of the actor, and what must travel on: a cancellation, KeyboardInterrupt, SystemExit."""
    if isinstance(error, Exception):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        failures, fatal = error.split(Exception)
        return failures, fatal
    return None, error
