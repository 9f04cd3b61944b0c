"""What can go wrong between actors.

pykka.ActorDeadError            the actor stopped, or stops before it answers
pykka.Timeout
└── AskTimeout                  no answer within the deadline (also an ActorError)
ActorError
├── AskTimeout
├── InboxFull                   the bound of an inbox was reached and the sender must not block
├── MessageDropped              the question was pushed out of a full inbox by later messages
├── RestartLimitReached         the children of a supervisor would not stay up
├── SystemNotRunning            no actor system here, or it is closing
└── WouldDeadlock               a call that blocks, made where blocking would stop what it waits for
"""

from __future__ import annotations

import pykka
import trio
from pykka import ActorDeadError

__all__ = [
    "ActorDeadError",
    "ActorError",
    "AskTimeout",
    "InboxFull",
    "MessageDropped",
    "RestartLimitReached",
    "SystemNotRunning",
    "WouldDeadlock",
    "refuse_on_trio_thread",
]


class ActorError(Exception):
    """Something went wrong between actors, not inside one."""


class AskTimeout(ActorError, pykka.Timeout):
    """No answer within ``timeout_s``. The message is skipped if it is still queued, but may have been handled."""

    def __init__(self, timeout_s: float | None, *, waited_for: str = "an answer") -> None:
        super().__init__(f"waited {timeout_s} seconds for {waited_for}")
        self.timeout_s = timeout_s


class InboxFull(ActorError):
    """The inbox holds ``capacity`` messages; nothing was sent. Slow down, or ``await ref.send(message)``."""

    def __init__(self, actor: str, capacity: int) -> None:
        super().__init__(f"the inbox of {actor} holds {capacity} messages; use `await ref.send(...)` to wait for room")
        self.actor = actor
        self.capacity = capacity


class MessageDropped(ActorError):
    """The actor never saw the question: its inbox of ``capacity`` messages was full and drops the oldest.

    For the asker; who tells learns nothing. Seen from outside it is a dead letter of the actor's system.
    """

    def __init__(self, actor: str, capacity: int) -> None:
        super().__init__(f"{actor} holds {capacity} messages at most and has dropped the oldest for a later one")
        self.actor = actor
        self.capacity = capacity


class RestartLimitReached(ActorError):
    """The failure of a supervisor whose children would not stay up. ``child`` is the id of the last that went down.

    Its own failure, if it had one, is the ``__cause__``.
    """

    def __init__(self, child: str, intensity: int, period_s: float) -> None:
        super().__init__(f"child {child!r} is down, after {intensity} restarts of children within {period_s} s")
        self.child = child
        self.intensity = intensity
        self.period_s = period_s


class SystemNotRunning(ActorError):
    """There is no running actor system for this; enter ``ActorSystem.run()`` or ``ActorSystem.in_thread()`` first."""


class WouldDeadlock(ActorError):
    """A blocking ``call`` was refused and had no effect; ``instead`` names what does the same without blocking."""

    def __init__(self, call: str, instead: str) -> None:
        super().__init__(f"{call} would block what it waits for; use {instead}")
        self.call = call
        self.instead = instead


def refuse_on_trio_thread(call: str, instead: str) -> None:
    """Raise WouldDeadlock when the calling thread is running Trio: whoever is waited for may need this very thread."""
    if trio.lowlevel.in_trio_run():
        raise WouldDeadlock(call, instead)
