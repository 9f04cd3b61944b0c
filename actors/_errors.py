"""What can go wrong between actors.

pykka.ActorDeadError            the actor stopped, or stops before it answers
pykka.Timeout
└── AskTimeout                  no answer within the deadline (also an ActorError)
ActorError
├── AskTimeout
├── InboxFull                   the bound of an inbox was reached and the sender must not block
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
