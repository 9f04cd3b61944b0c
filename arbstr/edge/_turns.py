"""Processes that accept from one listening socket, and take turns at it.

Whoever wakes up first takes a whole burst: of 32 connections made at once one process of two got up to 32. A socket for
each (SO_REUSEPORT) leaves it to a hash of the addresses, 23 to 9 at its worst, and when a process dies it takes along
what waited in its queue. With turns it was 16 to 16 nearly always, and there is one queue for all.
"""

from __future__ import annotations

import mmap
import select
from ctypes import c_long
from typing import Final

import trio

TURN_S: Final = 0.004
"""How long a process that has more connections than another leaves a new one to the others."""


class Shares:
    """How many connections each process has, in memory that processes forked from this one share."""

    def __init__(self, processes: int) -> None:
        self._memory = mmap.mmap(-1, max(mmap.PAGESIZE, processes * 8))
        self._counts = (c_long * processes).from_buffer(self._memory)

    def of(self, process: int) -> int:
        return int(self._counts[process])

    def add(self, process: int, difference: int) -> None:
        """By the process itself, and nobody else while it lives."""
        self._counts[process] += difference

    def clear(self, process: int) -> None:
        """It has ended."""
        self._counts[process] = 0

    def is_ahead(self, process: int) -> bool:
        """It has more than somebody else."""
        return bool(self._counts[process] > min(self._counts))


class Turn:
    """One process's place among the others."""

    def __init__(self, shares: Shares, process: int) -> None:
        self._shares = shares
        self._process = process

    def listener(self, inner: trio.SocketListener) -> TurnListener:
        return TurnListener(inner, self)

    async def take(self) -> None:
        """Return when the next connection may be ours."""
        if self._shares.is_ahead(self._process):
            await trio.sleep(TURN_S)

    def entered(self) -> None:
        self._shares.add(self._process, 1)

    def left(self) -> None:
        self._shares.add(self._process, -1)


def is_readable(sock: trio.socket.SocketType) -> bool:
    """A connection waits, unless another process is quicker now."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class TurnListener(trio.abc.Listener[trio.SocketStream]):
    """A listener that waits for its turn. What it gave must be told to have ``left``."""

    def __init__(self, inner: trio.SocketListener, turn: Turn) -> None:
        self._inner = inner
        self._turn = turn

    async def accept(self) -> trio.SocketStream:
        # Looked at when a connection is there: whoever waits for one is not ahead of anybody yet.
        while True:
            await trio.lowlevel.wait_readable(self._inner.socket)
            await self._turn.take()
            if is_readable(self._inner.socket):
                break
        stream = await self._inner.accept()
        self._turn.entered()
        return stream

    async def aclose(self) -> None:
        await self._inner.aclose()
