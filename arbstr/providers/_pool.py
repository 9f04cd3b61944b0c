"""Who has which connection to one origin. Opening and closing them is what it does with them; HTTP it does not know.

Every operation takes the same time, however many connections there are. Everything but ``acquire`` is synchronous, so
that a cancelled task can give back what it has without waiting.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import NoReturn

import httpx
import outcome
import trio
from attrs import define, field, frozen

from arbstr.providers._connection import Connection


@frozen
class PoolLimits:
    """Of the connections to one origin."""

    max_connections: int
    max_idle: int
    idle_expiry_s: float
    """An idle connection is not used after this time."""
    max_waiting: int
    """Requests that wait for a connection; the next one is refused at once."""


@define(eq=False)
class Pool:
    """Connections to one origin. The newest idle one is used first, so that the others may expire.

    A *place* is the right to have one connection. It is taken before connecting, and either it is free, or it belongs
    to a connection, or to a task that is about to open one. While tasks wait, none is free and none is idle.
    """

    _connect: Callable[[float | None], Awaitable[Connection]]
    _limits: PoolLimits
    _places: int = 0
    _open: set[Connection] = field(factory=set)
    _idle: deque[Connection] = field(factory=deque)
    _waiting: OrderedDict[trio.lowlevel.Task, None] = field(factory=OrderedDict)
    _closed: bool = False

    @property
    def places(self) -> int:
        """Connections, whatever their state, and those that are being made."""
        return self._places

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def acquire(self, *, connect_timeout_s: float | None, pool_timeout_s: float | None) -> Connection:
        """A connection for the caller alone, who ends with ``release`` or ``discard``.

        Waits for a place in the order of asking. Raises httpx.PoolTimeout and what connecting raises. When cancelled,
        nothing is kept. Does not yield when a connection is idle.
        """
        if self._closed:
            raise httpx.ConnectError("the transport is closed")
        connection = self._take_idle()
        if connection is not None:
            return connection
        if self._places < self._limits.max_connections:
            self._places += 1
        else:
            connection = await self._wait(pool_timeout_s)
            if connection is not None and not connection.has_unread():
                return connection
            if connection is not None:
                self._forget(connection)
        return await self._fill_place(connect_timeout_s)

    def release(self, connection: Connection) -> None:
        """Give back a connection that can be used again."""
        if self._closed:
            self.discard(connection)
            return
        connection.idle_since = now = trio.current_time()
        connection.reused, connection.sent = True, False
        if self._waiting:
            self._wake(connection)
            return
        self._idle.append(connection)
        if len(self._idle) > self._limits.max_idle:
            self.discard(self._idle.popleft())
        self._expire(now)

    def discard(self, connection: Connection) -> None:
        """Close a connection and free its place."""
        self._forget(connection)
        self._free_place()

    def close(self) -> None:
        """Close all connections, those in use as well, and refuse whoever waits."""
        self._closed = True
        self._idle.clear()
        for connection in list(self._open):
            connection.close()
        while self._waiting:
            task, _ = self._waiting.popitem(last=False)
            trio.lowlevel.reschedule(task, outcome.Error(httpx.ConnectError("the transport was closed")))

    def _take_idle(self) -> Connection | None:
        if self._idle:
            self._expire(trio.current_time())
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_unread():
                return connection
            self.discard(connection)
        return None

    def _expire(self, now: float) -> None:
        oldest = now - self._limits.idle_expiry_s
        while self._idle and self._idle[0].idle_since < oldest:
            self.discard(self._idle.popleft())

    async def _fill_place(self, timeout_s: float | None) -> Connection:
        try:
            connection = await self._connect(timeout_s)
        except BaseException:
            self._free_place()
            raise
        self._open.add(connection)
        if self._closed:
            self.discard(connection)
            raise httpx.ConnectError("the transport was closed")
        return connection

    def _forget(self, connection: Connection) -> None:
        connection.close()
        self._open.discard(connection)

    def _free_place(self) -> None:
        if self._waiting:
            self._wake(None)
        else:
            self._places -= 1

    # Waiting. A task is either in line or was given something, and then nothing can take it away any more: Trio does
    # not cancel a task that was rescheduled.

    async def _wait(self, timeout_s: float | None) -> Connection | None:
        """In line for what the first gets: a connection, or None for a place without one."""
        if len(self._waiting) >= self._limits.max_waiting:
            raise httpx.PoolTimeout(f"{len(self._waiting)} requests are waiting for a connection already")
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
            return await self._stand_in_line()
        raise httpx.PoolTimeout("no connection was free in time")

    async def _stand_in_line(self) -> Connection | None:
        task = trio.lowlevel.current_task()

        def leave(_: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
            del self._waiting[task]
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting[task] = None
        given: Connection | None = await trio.lowlevel.wait_task_rescheduled(leave)
        return given

    def _wake(self, given: Connection | None) -> None:
        task, _ = self._waiting.popitem(last=False)
        trio.lowlevel.reschedule(task, outcome.Value(given))
