"""A value that comes later: blocking for threads, awaitable for tasks. Knows nothing of actors."""

from __future__ import annotations

import functools
import math
import queue
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

import pykka
import trio
from pykka._future import _Unset
from trio.lowlevel import Abort, enable_ki_protection, wait_task_rescheduled

from actors._deadlines import Deadlines
from actors._errors import AskTimeout, refuse_on_trio_thread
from actors._wake import TaskWaker, ThreadWaker, Waker

__all__ = ["TrioFuture", "wait_for"]

T = TypeVar("T")
J = TypeVar("J")
M = TypeVar("M")
R = TypeVar("R")

_WAITING_THREADS = 100
_THREAD_LEAVES_AFTER_S = 0.5  # after the task, which thus decides what the end of the time looks like
_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("threads that wait for futures")

ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class TrioFuture(pykka.Future[T]):
    """Set once, from any thread or task; a second time raises ``queue.Full``, as in Pykka.

    ``get()`` blocks a thread and is refused on a Trio thread; ``await future`` waits in a task and may be done many
    times. A cancelled wait takes nothing from the others.
    """

    # Set when the asker is gone. The receiver skips a message whose answer nobody can read any more.
    abandoned = False

    # Defaults live on the class, Pykka's two fields as well: every ask makes a future, and most of these are never
    # touched.
    _get_hook: Callable[[float | None], T] | None = None
    _get_hook_result: Any = _Unset()
    _awaited: Callable[[], Awaitable[T]] | None = None
    _done = False
    _value: Any = None
    _exc_info: ExcInfo | None = None
    _waiting: Sequence[Waker] = ()

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @property
    def settled(self) -> bool:
        """There is a value or an exception. Always False for what combinators make."""
        return self._done

    # -- setting: any thread

    def set(self, value: T | None = None) -> None:
        self.settle(value, None)

    def set_exception(self, exc_info: ExcInfo | None = None) -> None:
        """Without an argument: the exception that is being handled."""
        self.settle(None, sys.exc_info() if exc_info is None else exc_info)

    @enable_ki_protection
    def settle(self, value: Any, exc_info: ExcInfo | None) -> None:
        """Both of the above in one; the last argument decides."""
        with self._lock:
            if self._done or self._get_hook is not None:
                raise queue.Full
            self._value = value
            self._exc_info = exc_info
            self._done = True
            waiting, self._waiting = self._waiting, ()
        for waker in waiting:
            waker.wake()

    def set_get_hook(self, func: Callable[[float | None], T]) -> None:
        with self._lock:
            if self._done:
                raise queue.Full
            self._get_hook = func

    def then_call(self, function: Callable[[TrioFuture[T]], object]) -> None:
        """Have ``function(self)`` called once this is set: by whoever sets it, in its thread, or now if it is set.

        For who cannot wait. It must neither wait nor raise. Not for what combinators make.
        """
        caller = _Caller(function, self)
        if not self._register(caller):
            caller.wake()

    # -- reading from a thread

    def get(self, *, timeout: float | None = None) -> Any:
        """Block until set. Raises what was set as the exception, or AskTimeout after ``timeout`` seconds.

        Raises WouldDeadlock on a Trio thread, even when the value is there: whether it is must not decide over an
        error.
        """
        refuse_on_trio_thread("Future.get()", "`await future`")
        if self._get_hook is not None:
            return super().get(timeout=timeout)
        if not self.wait_in_thread(timeout):
            raise AskTimeout(timeout)
        return self.result()

    def wait_in_thread(self, timeout_s: float | None) -> bool:
        """Block until set; False if that takes longer than ``timeout_s`` seconds."""
        waker = ThreadWaker()
        if self._register(waker) and not waker.wait(timeout_s):
            self._unregister(waker)
        return self._done

    def expect_in_thread(self) -> ThreadWaker:
        """What wakes a thread once this is set. For its only reader, before anybody else has it: without the lock."""
        waker = ThreadWaker()
        self._waiting = (waker,)
        return waker

    def _register(self, waker: Waker) -> bool:
        with self._lock:
            if not self._done:
                self._waiting = (*self._waiting, waker)
            return not self._done

    def _unregister(self, waker: Waker) -> None:
        with self._lock:
            self._waiting = tuple(each for each in self._waiting if each is not waker)

    def result(self) -> Any:
        """The value that was set, or raise the exception that was set."""
        if self._exc_info is None:
            return self._value
        exc_type, error, traceback = self._exc_info
        if error is None:
            assert exc_type is not None
            error = exc_type()
        try:
            raise error.with_traceback(traceback)
        finally:
            del error  # it holds this frame

    # -- reading from a task

    def __await__(self) -> Generator[Any, None, T]:
        if not trio.lowlevel.in_trio_task():
            # Another event loop, or a plain generator: Pykka's way, which gives way once and then blocks.
            yield
            return cast("T", self.get())
        return (yield from self._value_in_task().__await__())

    __iter__ = __await__

    async def _value_in_task(self) -> T:
        if self._get_hook is None:
            await self._wait()
            return cast("T", self.result())
        if isinstance(self._get_hook_result, _Unset):
            if self._awaited is None:  # a stranger's hook, which may block
                return await trio.to_thread.run_sync(self.get, abandon_on_cancel=True)
            self._get_hook_result = await self._awaited()
        else:
            await trio.lowlevel.checkpoint()
        return cast("T", self._get_hook_result)

    async def _wait(self) -> None:
        """Park until set. Always a checkpoint."""
        waker = TaskWaker()
        if not self._register(waker):
            await trio.lowlevel.checkpoint()
            return
        try:
            await wait_task_rescheduled(waker.forget)
        finally:
            if not self._done:
                self._unregister(waker)

    async def answer_by(self, deadlines: Deadlines, timeout_s: float) -> Any:
        """Await the value as its only reader, at most ``timeout_s`` seconds; the future is abandoned if that fails.

        In the run that ``deadlines`` belongs to. Raises what was set as the exception, or AskTimeout.
        """
        waker = TaskWaker()
        if not self._register(waker):  # answered by a thread in no time, or a dead letter
            await trio.lowlevel.checkpoint()
            return self.result()
        entry = deadlines.add(trio.current_time() + timeout_s, waker)

        def give_up(raise_cancel: object) -> Abort:
            # At this moment and not when the asker runs again: in between the actor could begin with the message.
            self.abandoned = not self._done
            return waker.forget(raise_cancel)

        try:
            await wait_task_rescheduled(give_up)
        finally:
            deadlines.discard(entry)
            if not self._done:
                self.abandoned = True
        if self.abandoned:
            raise AskTimeout(timeout_s)
        return self.result()

    # -- combinators: Pykka's hook for threads, a coroutine for tasks. A function may be called once by each of the two.

    @staticmethod
    def derive(hook: Callable[[float | None], M], awaited: Callable[[], Awaitable[M]]) -> TrioFuture[M]:
        """A future made of others: by ``hook(timeout)`` in a thread, by ``await awaited()`` in a task."""
        future: TrioFuture[M] = TrioFuture()
        future.set_get_hook(hook)
        future._awaited = awaited
        return future

    def map(self, func: Callable[[T], M]) -> TrioFuture[M]:
        async def awaited() -> M:
            return func(await self)

        return TrioFuture.derive(lambda timeout: func(self.get(timeout=timeout)), awaited)

    def filter(self: pykka.Future[Iterable[J]], func: Callable[[J], bool]) -> TrioFuture[Iterable[J]]:
        return cast("TrioFuture[Iterable[J]]", self).map(lambda items: list(filter(func, items)))

    def join(self: pykka.Future[Any], *futures: pykka.Future[Any]) -> TrioFuture[Iterable[Any]]:
        sources = [self, *futures]

        async def awaited() -> Iterable[Any]:
            return [await _in_task(source) for source in sources]

        return TrioFuture.derive(lambda timeout: [source.get(timeout=timeout) for source in sources], awaited)

    def reduce(self: pykka.Future[Iterable[J]], func: Callable[[R, J], R], *args: R) -> TrioFuture[R]:
        return cast("TrioFuture[Iterable[J]]", self).map(lambda items: functools.reduce(func, items, *args))


class _Caller:
    """A waker that calls something."""

    __slots__ = ("_function", "_future")

    def __init__(self, function: Callable[[TrioFuture[Any]], object], future: TrioFuture[Any]) -> None:
        self._function = function
        self._future = future

    def wake(self) -> None:
        self._function(self._future)


async def wait_for(future: pykka.Future[T], timeout_s: float = 5.0) -> T:
    """The value of a future of any of Pykka's runtimes, which must come within ``timeout_s`` seconds (finite).

    A TrioFuture can be awaited as it is. A ``pykka.ThreadingFuture`` cannot: it only knows how to block, so it is
    waited for in a worker thread. If cancelled or too late, this returns at once; the thread ends with the value, or
    soon after ``timeout_s``. Raises what was set as the exception, and AskTimeout. Nobody is told that the answer is no
    longer wanted.
    """
    if not timeout_s < math.inf:
        raise ValueError(f"waiting for a future needs a finite deadline, not timeout_s={timeout_s}")
    with trio.move_on_after(max(timeout_s, 0.0)):
        return await _in_task(future, timeout_s + _THREAD_LEAVES_AFTER_S)
    raise AskTimeout(timeout_s)


async def _in_task(future: pykka.Future[T], thread_timeout_s: float | None = None) -> T:
    if isinstance(future, TrioFuture):
        return cast("T", await future)
    get = functools.partial(future.get, timeout=thread_timeout_s)
    return await trio.to_thread.run_sync(get, abandon_on_cancel=True, limiter=_waiting_threads())


def _waiting_threads() -> trio.CapacityLimiter:
    """Apart from Trio's own, so that futures nobody sets cannot keep other work out of its threads."""
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_WAITING_THREADS)
        _limiter.set(limiter)
        return limiter
