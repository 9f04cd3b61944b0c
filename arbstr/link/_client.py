"""A link that is made anew when it breaks, and a memory of what the other side must still be told.

An ask that was under way when the connection ended is answered with ``LinkLost``: who asked decides what to do. What is
*owed* is different: it is repeated on every new connection until it is answered, so the other side must take a repeat
for what it is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio
from attrs import define, field

from arbstr.link._codec import Codec
from arbstr.link._peer import Done, LinkError, LinkFull, LinkLost, Peer, Reply, Unsendable

logger = logging.getLogger(__name__)

MAX_OWED: Final = 20_000
"""Messages that are kept for the other side."""
FIRST_RETRY_S: Final = 0.02
LAST_RETRY_S: Final = 0.5
GREETING_S: Final = 10.0
AGAIN_S: Final = 1.0
"""Until what is owed is tried again, where the other side could not take it."""


class Talk(Protocol):
    """What the two sides say beside the asks."""

    def hello(self) -> Any:
        """The first message on every connection, an ask."""
        ...

    def welcomed(self, answer: Any) -> None:
        """The answer to it has come; from now on the link is up."""
        ...

    def handle(self, message: Any, reply: Reply | None) -> None:
        """The other side says something by itself. Must neither wait nor raise."""
        ...

    def is_final(self, answer: Any) -> bool:
        """False: what is owed was not taken, and is to be told again."""
        ...


@define(eq=False)
class _Owed:
    message: Any
    lazily: bool
    waiting: list[Done] = field(factory=list)
    again: bool = False


class Link:
    """The way to one other process. Lives on the Trio thread of ``run``.

    Cancelling ``run`` ends the connection at once; ``drain`` first, for everything owed to arrive.
    """

    def __init__(self, connect: Callable[[], Awaitable[trio.abc.Stream]], codec: Codec, talk: Talk) -> None:
        self._connect = connect
        self._codec = codec
        self._talk = talk
        self._peer: Peer | None = None
        self._owed: dict[str, _Owed] = {}
        self._ending = False
        self._paid: trio.Event | None = None

    @property
    def is_up(self) -> bool:
        return self._peer is not None

    @property
    def waiting(self) -> int:
        """Messages that are owed."""
        return len(self._owed)

    # Saying

    def ask(self, message: Any, done: Done, *, lazily: bool = False) -> None:
        """``done`` comes with the answer, or with why there is none. Raises LinkLost, LinkFull: nothing was sent."""
        self._up().ask(message, done, lazily=lazily)

    def tell(self, message: Any) -> None:
        """Raises LinkLost, LinkFull: nothing was sent."""
        self._up().tell(message)

    def _up(self) -> Peer:
        if self._peer is None:
            raise LinkLost("the link is down")
        return self._peer

    def owe(self, key: str, message: Any, done: Done | None = None, *, lazily: bool = False) -> None:
        """Have it arrive, however often the link breaks; ``done`` comes with the answer, whenever that is.

        Of one ``key`` the first message counts: a repeat only waits for the same answer. ``lazily`` as in ``Peer.ask``.
        Raises LinkFull.
        """
        owed = self._owed.get(key)
        if owed is None:
            if len(self._owed) >= MAX_OWED:
                raise LinkFull(f"{MAX_OWED} messages are owed already")
            owed = self._owed[key] = _Owed(message, lazily)
            self._send_owed(key, owed)
        if done is not None:
            owed.waiting.append(done)

    def _send_owed(self, key: str, owed: _Owed) -> None:
        owed.again = False
        try:
            self.ask(
                owed.message,
                lambda answer, error: self._owed_answered(key, owed, answer, error),
                lazily=owed.lazily,
            )
        except LinkLost:
            pass  # the next connection begins with it
        except LinkFull:
            owed.again = True

    def _owed_answered(self, key: str, owed: _Owed, answer: Any, error: LinkError | None) -> None:
        if isinstance(error, LinkLost):
            return
        if error is None and not self._talk.is_final(answer):
            owed.again = True
            return
        if isinstance(error, Unsendable):
            logger.error("what is owed for %s can never be told: %s", key, error)
        del self._owed[key]
        if self._paid is not None and not self._owed:
            self._paid.set()
        for done in owed.waiting:
            done(answer, error)

    # The connection

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the link up until cancelled or ``close_soon``. Started when it is up for the first time."""
        retry_s = FIRST_RETRY_S
        started = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._repeat_refused)
            while not self._ending:
                try:
                    stream = await self._connect()
                except OSError as error:
                    logger.debug("the link cannot be made: %s", error)
                    retry_s = min(2 * retry_s, LAST_RETRY_S)
                else:
                    if await self._use(stream, None if started else task_status):
                        started, retry_s = True, FIRST_RETRY_S
                    else:
                        retry_s = min(2 * retry_s, LAST_RETRY_S)
                if not self._ending:
                    await trio.sleep(retry_s)
            nursery.cancel_scope.cancel()

    async def _use(self, stream: trio.abc.Stream, task_status: trio.TaskStatus[None] | None) -> bool:
        """One connection, until its end. Whether it came to be up."""
        peer = Peer(stream, self._codec, self._talk.handle)
        was_up = False

        def welcomed(answer: Any, error: LinkError | None) -> None:
            nonlocal was_up
            if error is not None:
                return
            greeting.cancel()
            self._talk.welcomed(answer)
            self._peer, was_up = peer, True
            for key, owed in list(self._owed.items()):
                self._send_owed(key, owed)
            if task_status is not None:
                task_status.started()

        async def give_up() -> None:
            with greeting:
                await trio.sleep_forever()
            if not was_up:
                logger.warning("the other side of the link does not answer")
                peer.abort()

        greeting = trio.CancelScope(deadline=trio.current_time() + GREETING_S)
        peer.ask(self._talk.hello(), welcomed)
        try:
            async with trio.open_nursery() as running:
                running.start_soon(give_up)
                broken = await peer.run()
                running.cancel_scope.cancel()
            if broken is not None:
                logger.error("the link is given up: %s", broken)
        finally:
            if self._peer is peer:
                self._peer = None
        return was_up

    async def _repeat_refused(self) -> None:
        while True:
            await trio.sleep(AGAIN_S)
            for key, owed in list(self._owed.items()):
                if owed.again:
                    self._send_owed(key, owed)

    async def drain(self, within_s: float) -> bool:
        """Wait until nothing is owed; False when that takes longer than ``within_s``."""
        if self._owed:
            self._paid = trio.Event()
            with trio.move_on_after(within_s):
                await self._paid.wait()
        return not self._owed

    def close_soon(self) -> None:
        """End the connection when all that was said has been written, and make no other."""
        self._ending = True
        if self._peer is not None:
            self._peer.close_soon()
