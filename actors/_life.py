"""The life of one actor: the task that receives, one message at a time, and everything that belongs to it.

``on_start``, then messages until a stop message, a failure or a cancellation, then the end, always the same: refuse and
answer what is queued, end the tasks the actor owns, ``on_stop`` (or ``on_failure``), answer the replies still owed.

This is apart from the actor so that a subclass may call its attributes what it likes.
"""

from __future__ import annotations

import logging
import queue
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVarTuple

import pykka
import trio
from pykka.messages import ProxyGetAttr, _ActorStop
from trio.lowlevel import current_task, disable_ki_protection, enable_ki_protection

from actors._errors import ActorDeadError, SystemNotRunning
from actors._future import ExcInfo, TrioFuture
from actors._inbox import Envelope
from actors._reply import Reply

if TYPE_CHECKING:
    from actors._actor import TrioActor
    from actors._system import ActorSystem

__all__ = ["Life"]

Ts = TypeVarTuple("Ts")

_logger = logging.getLogger("pykka")  # where Pykka's users look
_TIDY_REPLIES_ABOVE = 64


class Life:
    """From construction to the end. ``scope`` is around all of it; ``ended`` is set last of all."""

    def __init__(self, actor: TrioActor) -> None:
        self._actor = actor
        self._inbox = actor.actor_inbox
        self._stopped = actor.actor_stopped
        self.scope = trio.CancelScope()
        self.ended: TrioFuture[None] = TrioFuture()
        self._system: ActorSystem | None = None
        self._started = False
        self._current: Envelope | None = None
        self._taken: Reply | None = None
        self._owed: set[Reply] = set()
        self._tidy_replies_at = _TIDY_REPLIES_ABOVE
        self._tasks: set[trio.CancelScope] = set()
        self._tasks_ended: trio.Event | None = None
        self._failure: ExcInfo | None = None
        self._stop_asked: list[Envelope] = []

    def __str__(self) -> str:
        return self._inbox.name

    def bind(self, system: ActorSystem) -> None:
        """The actor has been started in ``system``; its task comes next."""
        self._system = system
        self._inbox.bind(system)

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
        self._owed.add(reply)
        return reply

    def spawn(self, async_fn: Callable[[*Ts], Awaitable[Any]], args: tuple[*Ts], name: str | None) -> trio.CancelScope:
        if self._system is None:
            raise SystemNotRunning("spawn() needs a started actor: use it in on_start, not in __init__")
        if self._stopped.is_set():
            raise ActorDeadError(f"{self} is stopping and starts no task")
        scope = trio.CancelScope()
        self._system.start_task(self._own, scope, async_fn, args, name=name or f"{self}: {_name_of(async_fn)}")
        self._tasks.add(scope)
        return scope

    # -- the task

    @enable_ki_protection
    async def live(self) -> None:
        self._inbox.receiver = current_task()
        with self.scope:
            try:
                await self._set_up()
                await self._run()
            finally:
                await self._end()

    async def _set_up(self) -> None:
        try:
            left = _call(self._actor.on_start)
            if type(left) is CoroutineType:
                await _await(left)
        except BaseException as error:
            failure, fatal = _split(error)
            if failure is not None:
                self._actor._handle_failure(type(failure), failure, failure.__traceback__)
            if fatal is not None:
                raise fatal from None
        else:
            self._started = True

    async def _run(self) -> None:
        inbox, stopped, burst = self._inbox, self._stopped, range(self._actor.burst)
        while not stopped.is_set():  # set before the first message if on_start has failed
            await inbox.wait()
            for _ in burst:
                envelope = inbox.take()
                if envelope is None:
                    break
                slow = self._begin(envelope)
                if slow is not None:
                    await self._finish(envelope, slow)
                self._current = self._taken = None
                if stopped.is_set():
                    return

    def _begin(self, envelope: Envelope) -> Coroutine[Any, Any, Any] | None:
        """Handle a message, as far as that goes without waiting. Returns what is left to await."""
        message, reply_to = envelope.message, envelope.reply_to
        if type(message) is _ActorStop:
            self._stop_asked.append(envelope)
            self._mark_stopped()
            return None
        if reply_to is not None and reply_to.abandoned:
            return None
        self._current = envelope
        try:
            answer = _call(self._actor._handle_receive, message)
        except BaseException as error:
            self._failed(envelope, error)
            return None
        # An attribute that holds a coroutine is a value; only a handler's own coroutine is ours to await.
        if type(answer) is CoroutineType and type(message) is not ProxyGetAttr:
            return answer
        if reply_to is not None and self._taken is None:
            _settle(reply_to, answer, None)
        return None

    async def _finish(self, envelope: Envelope, slow: Coroutine[Any, Any, Any]) -> None:
        try:
            answer = await _await(slow)
        except BaseException as error:
            self._failed(envelope, error)
        else:
            if envelope.reply_to is not None and self._taken is None:
                _settle(envelope.reply_to, answer, None)

    # -- answers

    def _failed(self, envelope: Envelope, error: BaseException) -> None:
        """A handler raised. Tells the asker, or lets the actor fail; raises what must end more than the actor."""
        failure, fatal = _split(error)
        if fatal is not None:
            if not isinstance(fatal, trio.Cancelled):
                _logger.debug(f"{fatal!r} in {self}. Stopping all actors.")
            self._refuse(envelope, "while handling the message")
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
            _settle(envelope.reply_to, None, error)
            return True
        owed = not envelope.reply_to.settled
        self._taken.revoke(error)
        return owed

    def _refuse(self, envelope: Envelope, when: str) -> None:
        if envelope.reply_to is not None and not envelope.reply_to.settled:
            _settle(envelope.reply_to, None, ActorDeadError(f"{self} stopped {when}"))

    def _fail(self, error: Exception) -> None:
        """The actor has failed; the first failure decides, and one on the way out is only logged."""
        if self.ended.settled:
            _logger.error(f"Unhandled exception in a task that {self} left behind:", exc_info=error)
            return
        if not self._stopped.is_set():
            self._failure = (type(error), error, error.__traceback__)
        self._actor._handle_failure(type(error), error, error.__traceback__)

    # -- owned tasks

    async def _own(self, scope: trio.CancelScope, async_fn: Callable[[*Ts], Awaitable[Any]], args: tuple[*Ts]) -> None:
        try:
            with scope:
                await async_fn(*args)
        except BaseException as error:
            failure, fatal = _split(error)
            if failure is not None:
                self._fail(failure)
                self.scope.cancel()
            if fatal is not None:
                raise fatal from None
        finally:
            self._tasks.discard(scope)
            if not self._tasks and self._tasks_ended is not None:
                self._tasks_ended.set()

    async def _end_tasks(self) -> None:
        if not self._tasks:
            return
        self._tasks_ended = trio.Event()
        for scope in self._tasks:
            scope.cancel()
        with trio.move_on_after(self._actor.shutdown_timeout_s, shield=True) as limit:
            await self._tasks_ended.wait()
        if limit.cancelled_caught:
            left = len(self._tasks)
            _logger.error(f"{left} tasks of {self} are left behind after {self._actor.shutdown_timeout_s} s")

    # -- the end

    async def _end(self) -> None:
        """Waits are shielded and bounded by ``shutdown_timeout_s``; whatever happens, nobody is left unanswered."""
        try:
            self._close()
            await self._end_tasks()
            await self._last_hook()
        finally:
            self._settle_debts()

    def _close(self) -> None:
        self._mark_stopped()
        for envelope in self._inbox.close():
            if type(envelope.message) is _ActorStop:
                self._stop_asked.append(envelope)
            else:
                self._refuse(envelope, "before handling the message")

    def _mark_stopped(self) -> None:
        if not self._stopped.is_set():
            pykka.ActorRegistry.unregister(self._actor.actor_ref)
            self._stopped.set()
            _logger.debug(f"Stopped {self}")

    async def _last_hook(self) -> None:
        if self._failure is not None:
            await self._call_last_hook(self._actor.on_failure, *self._failure)
        elif self._started:
            await self._call_last_hook(self._actor.on_stop)

    async def _call_last_hook(self, hook: Callable[..., Any], *args: Any) -> None:
        try:
            left = _call(hook, *args)
            if type(left) is CoroutineType:
                with trio.move_on_after(self._actor.shutdown_timeout_s, shield=True) as limit:
                    await _await(left)
                if limit.cancelled_caught:
                    _logger.error(f"{_name_of(hook)} of {self} was cut off after {self._actor.shutdown_timeout_s} s")
        except BaseException as error:
            failure, fatal = _split(error)
            if failure is not None:
                self._fail(failure)
            if fatal is not None:
                raise fatal from None

    def _settle_debts(self) -> None:
        for reply in self._owed:
            reply.revoke(ActorDeadError(f"{self} stopped before it answered"))
        self._owed.clear()
        for envelope in self._stop_asked:
            if envelope.reply_to is not None:
                _settle(envelope.reply_to, None, None)
        if self._system is not None:
            self._system.forget(self._actor.actor_ref)
        self._let_go()
        self.ended.set(None)

    def _let_go(self) -> None:
        # Actors come and go by the thousand: none should have to wait for the cycle collector.
        self._current = self._taken = self._failure = self._inbox.receiver = None
        self._actor = weakref.proxy(self._actor)

    def bury(self) -> None:
        """End an actor whose task never ran."""
        self._close()
        self._settle_debts()


@disable_ki_protection
def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


@disable_ki_protection
async def _await(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


def _settle(future: TrioFuture[Any], value: Any, error: BaseException | None) -> None:
    try:
        future.settle(value, None if error is None else (type(error), error, error.__traceback__))
    except queue.Full:
        _logger.warning("an asker has set the answer to its own question")


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
