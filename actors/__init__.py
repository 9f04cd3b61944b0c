"""Actors on Trio with Pykka's interface.

An actor is a task with a bounded inbox; a ref is the only way to it. From tasks use the awaitable methods of the ref,
from other threads Pykka's blocking ones. The package knows nothing of the program built on it.
"""

from actors._actor import TrioActor
from actors._errors import ActorDeadError, ActorError, AskTimeout, InboxFull, SystemNotRunning, WouldDeadlock
from actors._future import TrioFuture
from actors._inbox import InboxStatistics
from actors._ref import TrioActorRef
from actors._reply import Reply
from actors._system import ActorSystem

__all__ = [
    "ActorDeadError",
    "ActorError",
    "ActorSystem",
    "AskTimeout",
    "InboxFull",
    "InboxStatistics",
    "Reply",
    "SystemNotRunning",
    "TrioActor",
    "TrioActorRef",
    "TrioFuture",
    "WouldDeadlock",
]
