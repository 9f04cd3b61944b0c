"""One end of one connection.

What is said in one turn of the event loop goes out in one write, and what has arrived together is read in one go: at 32
requests at once a system call carries about ten messages.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

import trio

from arbstr.link._codec import Codec, Malformed, Numbered
from arbstr.link._frames import FrameReader, FrameTooLong, frame

logger = logging.getLogger(__name__)

MAX_PENDING: Final = 20_000
"""Asks of ours without an answer, and messages that wait to be written."""
MAX_OWED: Final = 8_192
"""Asks of the other side that we have not answered: nothing more is read until some are."""
MAX_BATCH: Final = 512
RECEIVE_BYTES: Final = 256 * 1024

LAZY_S: Final = 0.02
"""How long what nobody waits for waits for company."""


class Reply(Protocol):
    """Answers one ask, once. After the end of the connection it does nothing."""

    def __call__(self, message: Any, *, lazily: bool = False) -> None: ...


Done = Callable[[Any, "LinkError | None"], None]
"""Called once, with the answer or with why there is none. Must not raise."""


class LinkError(Exception):
    """An ask that has no answer."""


class LinkFull(LinkError):
    """Too many wait already; nothing was sent."""


class LinkLost(LinkError):
    """The connection is not there, or ended before the answer: what was asked may have been done all the same."""


class LinkBroken(LinkError):
    """The other side does not speak as agreed. The connection is of no use any more."""


class Unsendable(LinkError):
    """A message that cannot be written, such as one with half a character in a text; nothing was sent."""


class Peer:
    """``handle(message, reply)`` is called for what the other side says, ``reply`` being None when it was told.

    It runs on the Trio thread and must neither wait nor raise. Nothing is sent or read outside ``run``; what is said
    before it begins goes out when it does.
    """

    def __init__(self, stream: trio.abc.Stream, codec: Codec, handle: Callable[[Any, Reply | None], None]) -> None:
        self._stream = stream
        self._codec = codec
        self._handle = handle
        self._out: list[Numbered] = []
        self._pending: dict[int, Done] = {}
        self._numbers = itertools.count(1)
        self._owed = 0
        self._room: trio.Event | None = None
        self._something: trio.Event | None = None
        self._lazy: trio.Event | None = None
        self._closing = False
        self._aborted = False
        self._running: trio.CancelScope | None = None
        self._over = False

    # Saying

    @property
    def is_open(self) -> bool:
        return not (self._over or self._closing)

    @property
    def pending(self) -> int:
        """Asks of ours without an answer."""
        return len(self._pending)

    def tell(self, message: Any) -> None:
        """Queue it. Raises LinkFull, LinkLost."""
        self._check_room(len(self._out))
        self._say(0, message)

    def ask(self, message: Any, done: Done, *, lazily: bool = False) -> None:
        """Queue it; ``done`` comes with the answer, or LinkLost when the connection ends. Raises LinkFull, LinkLost.

        ``lazily``: it need not go out at once, but with what is said next, or ``LAZY_S`` later.
        """
        self._check_room(max(len(self._out), len(self._pending)))
        number = next(self._numbers)
        self._pending[number] = done
        self._say(number, message, lazily=lazily)

    def _check_room(self, used: int) -> None:
        if self._over or self._closing:
            raise LinkLost("the connection has ended")
        if used >= MAX_PENDING:
            raise LinkFull(f"{used} messages wait already")

    def _say(self, number: int, message: Any, *, lazily: bool = False) -> None:
        self._out.append((number, message))
        wake = self._lazy if lazily else self._something
        if wake is not None:
            wake.set()

    def close_soon(self) -> None:
        """End the connection when all that was said so far has been written."""
        self._closing = True
        if self._something is not None:
            self._something.set()

    def abort(self) -> None:
        """End the connection now, whatever was said."""
        self._closing = True
        self._aborted = True
        self._out.clear()
        if self._running is not None:
            self._running.cancel()

    # The connection

    async def run(self) -> LinkBroken | None:
        """Until either side ends it; cancelling ends it at once. The stream is closed, and every ask has its ``done``.

        Returns why, when the other side did not speak as agreed.
        """
        broken: list[LinkBroken] = []
        try:
            async with trio.open_nursery() as nursery:
                self._running = nursery.cancel_scope
                if self._aborted:
                    nursery.cancel_scope.cancel()
                nursery.start_soon(self._write_all, nursery.cancel_scope)
                nursery.start_soon(self._write_lazily)
                try:
                    await self._read_all()
                except (Malformed, FrameTooLong) as error:
                    broken.append(LinkBroken(str(error)))
                nursery.cancel_scope.cancel()
        finally:
            self._over = True
            await trio.aclose_forcefully(self._stream)
            self._lose_all()
        return broken[0] if broken else None

    async def _write_all(self, scope: trio.CancelScope) -> None:
        try:
            while True:
                while self._out:
                    batch = self._out[:MAX_BATCH]
                    del self._out[:MAX_BATCH]
                    data = self._encoded(batch)
                    if data:
                        await self._stream.send_all(data)
                if self._closing:
                    break
                self._something = trio.Event()
                await self._something.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def _write_lazily(self) -> None:
        while True:
            self._lazy = trio.Event()
            await self._lazy.wait()
            await trio.sleep(LAZY_S)
            if self._something is not None:
                self._something.set()

    def _encoded(self, batch: list[Numbered]) -> bytes:
        try:
            return frame(self._codec.encode(batch))
        except (ValueError, OverflowError) as error:
            if len(batch) == 1:
                self._cannot_say(batch[0][0], error)
                return b""
            # Its neighbours are not to suffer from the one that cannot be written.
            return b"".join([self._encoded([each]) for each in batch])

    def _cannot_say(self, number: int, error: Exception) -> None:
        logger.error("a message cannot be sent: %s", error)
        done = self._pending.pop(number, None)
        if done is not None:
            done(None, Unsendable(str(error)))

    async def _read_all(self) -> None:
        reader = FrameReader()
        try:
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                for payload in reader.feed(data):
                    for number, message in self._codec.decode(payload):
                        self._take(number, message)
                if self._owed >= MAX_OWED:
                    await self._answer_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _answer_some(self) -> None:
        while self._owed >= MAX_OWED:
            self._room = trio.Event()
            await self._room.wait()

    def _take(self, number: int, message: Any) -> None:
        if number < 0:
            done = self._pending.pop(-number, None)
            if done is not None:
                done(message, None)
        elif number == 0:
            self._handle(message, None)
        else:
            self._owed += 1
            self._handle(message, self._replying(number))

    def _replying(self, number: int) -> Reply:
        def reply(message: Any, *, lazily: bool = False) -> None:
            self._owed -= 1
            if self._room is not None:
                self._room.set()
            if not self._over:
                self._say(-number, message, lazily=lazily)

        return reply

    def _lose_all(self) -> None:
        pending, self._pending = self._pending, {}
        self._out.clear()
        for done in pending.values():
            done(None, LinkLost("the connection ended before the answer"))
