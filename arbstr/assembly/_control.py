"""What the parent and its processes say to each other over a socket pair, and the child's end of it."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import trio
from attrs import define, field

from arbstr.link import Codec, LinkError, LinkMessage, Peer, Reply, frame

logger = logging.getLogger("arbstr")


class Stop(LinkMessage, frozen=True, array_like=True, tag=1):
    """Let what is under way end, then end."""


class Expire(LinkMessage, frozen=True, array_like=True, tag=2):
    """Let nothing more go on."""


class Use(LinkMessage, frozen=True, array_like=True, tag=3):
    """Use the configuration of this text from now on. Answered with ``Used``."""

    generation: int
    text: str


class Ready(LinkMessage, frozen=True, array_like=True, tag=11):
    """The process can be used. ``demo``: agent, name and token of the demonstration's agent, if it was made."""

    demo: tuple[str, str, str] | None = None


class Failed(LinkMessage, frozen=True, array_like=True, tag=12):
    """The process cannot be, and ends."""

    why: str


class Used(LinkMessage, frozen=True, array_like=True, tag=13):
    generation: int
    problem: str | None


FROM_PARENT: Final = Codec(Stop | Expire | Use)
FROM_CHILD: Final = Codec(Ready | Failed | Used)
SAY_S: Final = 5.0
"""For the other side to take a message; it reads all the time."""


def say_failed(control: socket.socket, why: str) -> None:
    """Before there are reins, or after: with the parent gone it says nothing."""
    with suppress(OSError):
        control.setblocking(True)
        control.settimeout(SAY_S)
        control.sendall(frame(FROM_CHILD.encode([(0, Failed(why))])))


def _nothing() -> None:
    pass


@define(eq=False)
class Reins:
    """The child's end. The parent's death is a word to stop, and so is SIGTERM to this process alone, if it is heeded:
    who stops a whole group of processes at once tells everybody, and some are needed longer.

    ``use`` applies a configuration and raises ValueError when it cannot be.
    """

    control: socket.socket
    use: Callable[[str], Awaitable[None]]
    stop: Callable[[], None]
    expire: Callable[[], None] = _nothing
    heeds_sigterm: bool = True
    parent_gone: bool = False
    _peer: Peer | None = None
    _nursery: trio.Nursery | None = None
    _stopping: bool = field(default=False)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(self.control))
        self._peer = Peer(stream, FROM_PARENT, self._follow)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                nursery.start_soon(self._follow_parent, self._peer)
                task_status.started()
                async for _ in signals:
                    if self.heeds_sigterm:
                        self._stop()

    async def _follow_parent(self, peer: Peer) -> None:
        await peer.run()
        logger.warning("the process that started this one has ended")
        self.parent_gone = True
        self._stop()

    def say(self, message: LinkMessage) -> None:
        if self._peer is not None:
            try:
                self._peer.tell(message)
            except LinkError as error:
                logger.debug("the parent is not told: %s", error)

    def _follow(self, message: Any, reply: Reply | None) -> None:
        match message:
            case Stop():
                self._stop()
            case Expire():
                self.expire()
            case Use():
                assert self._nursery is not None
                self._nursery.start_soon(self._use, message)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self.stop()

    async def _use(self, message: Use) -> None:
        problem = None
        try:
            await self.use(message.text)
        except ValueError as error:
            problem = str(error)
        self.say(Used(message.generation, problem))
