"""A language for tests."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from arbstr.link import Codec, LinkMessage, Peer, Reply


class Hello(LinkMessage, frozen=True, array_like=True, tag=1):
    name: str


class Say(LinkMessage, frozen=True, array_like=True, tag=2):
    text: str
    number: int = 0


class Heard(LinkMessage, frozen=True, array_like=True, tag=3):
    text: str


class NotNow(LinkMessage, frozen=True, array_like=True, tag=4):
    pass


CODEC = Codec(Hello | Say | Heard | NotNow)


class Side:
    """Keeps what it hears, and answers when it is told to."""

    def __init__(self, stream: trio.abc.Stream, codec: Codec = CODEC) -> None:
        self.heard: list[Any] = []
        self.replies: list[Reply] = []
        self.at_once: Any = None
        """What every ask is answered with, if not None."""
        self.answers: list[Any] = []
        """Of what this side asked, or why there was none."""
        self.peer = Peer(stream, codec, self._handle)

    def _handle(self, message: Any, reply: Reply | None) -> None:
        self.heard.append(message)
        if reply is None:
            return
        if self.at_once is not None:
            reply(self.at_once)
        else:
            self.replies.append(reply)

    def ask(self, message: Any) -> None:
        self.peer.ask(message, lambda answer, error: self.answers.append(answer if error is None else error))


def pair() -> tuple[Side, Side]:
    ours, theirs = trio.testing.memory_stream_pair()
    return Side(ours), Side(theirs)
