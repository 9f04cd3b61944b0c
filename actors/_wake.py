"""Waking one waiter, a task or a thread, from any thread. Nothing here knows what is waited for."""

from __future__ import annotations

import threading
from typing import Protocol

import trio
from trio.lowlevel import Abort, current_task, current_trio_token, in_trio_run, reschedule

__all__ = ["TaskWaker", "ThreadWaker", "Waker"]


class Waker(Protocol):
    def wake(self) -> None:
        """Let the waiter go on. Any thread; whoever takes the waker off its list calls this once."""


class TaskWaker:
    """Wakes the task that made it, unless that task has been told to ``forget`` in the meantime."""

    __slots__ = ("_task", "_token")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = current_task()
        self._token = current_trio_token()

    def wake(self) -> None:
        if (
            in_trio_run() and current_trio_token() is self._token
        ):  # one thread may see several runs, and guest mode none
            self.resume()
            return
        try:
            self._token.run_sync_soon(self.resume)
        except trio.RunFinishedError:
            self._task = None  # its run is over, and so is the task

    def forget(self, _raise_cancel: object = None) -> Abort:
        """The task is no longer parked (it was cancelled); a wake that is under way must not reach it."""
        self._task = None
        return Abort.SUCCEEDED

    def resume(self) -> None:
        """Wake, in the waiter's own run."""
        task, self._task = self._task, None
        if task is not None:
            reschedule(task)


class ThreadWaker:
    """Blocks the thread that waits, until woken. A bare lock: half the price of ``threading.Event``."""

    __slots__ = ("_gate",)

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()

    def wake(self) -> None:
        self._gate.release()

    def wait(self, timeout_s: float | None) -> bool:
        """Block until woken; False after ``timeout_s`` seconds. None waits without a bound."""
        if timeout_s is None:
            return self._gate.acquire()
        return self._gate.acquire(timeout=min(max(timeout_s, 0.0), threading.TIMEOUT_MAX))
