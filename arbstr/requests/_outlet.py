"""The client's end of one answer: begun once, written to by one at a time, kept warm, cut when the client has left.

Two may want to write to a stream: whoever relays it, and the heartbeat, in a task of its own. The heartbeat never
begins while a write is under way, and a write waits for a heartbeat that has begun; so neither needs a lock, and a
client that does not read keeps up nobody but its own stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from arbstr.requests._interface import ClientGone, Responder

HEARTBEAT = b": arbstr\n\n"

StreamHeaders = Callable[[str | None], Sequence[tuple[bytes, bytes]]]


class Outlet:
    """``headers`` makes those of the stream, naming the provider when there is one. ``lost`` is called when the
    heartbeat finds the client gone."""

    __slots__ = (
        "_beat",
        "_headers",
        "_heartbeat_s",
        "_last",
        "_lost",
        "_responder",
        "_writing",
        "committed",
        "cuttable",
        "ended",
        "gone",
        "started",
    )

    def __init__(
        self, responder: Responder, headers: StreamHeaders, *, heartbeat_s: float, lost: Callable[[], None]
    ) -> None:
        self._responder = responder
        self._headers = headers
        self._heartbeat_s = heartbeat_s
        self._lost = lost
        self._last = trio.current_time() if heartbeat_s else 0.0
        self._beat: trio.Event | None = None  # set when the heartbeat that is under way has been written
        self._writing: trio.CancelScope | None = None
        self.started = False
        """Status and headers are out, or on their way: the answer cannot become another one."""
        self.committed = False
        """Something of a provider's answer is out, or on its way: no other provider can answer."""
        self.ended = False
        """Nothing more will be written."""
        self.gone = False
        """The client has left."""
        self.cuttable = False
        """Whether a write must give way when the client is found to have left."""

    @property
    def beats(self) -> bool:
        return self._heartbeat_s > 0

    async def write(self, data: bytes, provider: str) -> None:
        """Hand on a piece of that provider's answer. Raises ClientGone; then nothing of it has gone out."""
        self.committed = True
        if self.cuttable or self._heartbeat_s:
            await self._write_apart(data, provider)
        else:
            await self._put(data, provider)

    async def end(self, data: bytes, provider: str | None) -> None:
        """Hand on the last piece and end the answer. Raises ClientGone."""
        await self._write_apart(data, provider)
        self.ended = True
        await self._responder.finish()

    def close(self) -> bool:
        """Nothing goes out this way from now on. False when it has been begun: then it has an end of its own."""
        self.ended = not self.started
        return self.ended

    def cut(self) -> None:
        """The client has left: nobody waits for it any longer."""
        self.gone = True
        if self._writing is not None:
            self._writing.cancel()

    async def _write_apart(self, data: bytes, provider: str | None) -> None:
        """Write when no heartbeat does, and such that ``cut`` ends it."""
        if self.gone:
            raise ClientGone
        with trio.CancelScope() as self._writing:
            try:
                while self._beat is not None:
                    await self._beat.wait()
                await self._put(data, provider)
            finally:
                scope, self._writing = self._writing, None
        if scope.cancelled_caught:
            raise ClientGone

    async def _put(self, data: bytes, provider: str | None) -> None:
        try:
            if not self.started:
                self.started = True
                await self._responder.start(200, self._headers(provider))
            await self._responder.write(data)
        except ClientGone:
            self.gone = True
            raise
        if self._heartbeat_s:
            self._last = trio.current_time()

    async def keep_warm(self) -> None:
        """Write a comment whenever the client has got nothing for ``heartbeat_s``, until the answer ends."""
        while not (self.ended or self.gone):
            now = trio.current_time()
            due = self._last + self._heartbeat_s
            if now < due:
                await trio.sleep_until(due)
            elif self._writing is not None:  # the client has not taken yet what it was given before
                await trio.sleep(self._heartbeat_s)
            else:
                await self._beat_once()

    async def _beat_once(self) -> None:
        self._beat = beat = trio.Event()
        try:
            await self._put(HEARTBEAT, None)
        except ClientGone:
            self._lost()
        finally:
            self._beat = None
            beat.set()
