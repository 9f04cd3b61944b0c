"""Actors on Trio with Pykka's interface.

An actor is a task with a bounded inbox; a ref is the only way to it. From tasks use the awaitable methods of the ref,
from other threads Pykka's blocking ones. The package knows nothing of the program built on it.
"""

from actors._actor import TrioActor
from actors._dead_letters import DeadLetter, DeadLetters, Recipient
from actors._errors import (
    ActorDeadError,
    ActorError,
    AskTimeout,
    InboxFull,
    MessageDropped,
    RestartLimitReached,
    SystemNotRunning,
    WouldDeadlock,
)
from actors._future import TrioFuture, wait_for
from actors._inbox import InboxPolicy, InboxStatistics
from actors._ref import TrioActorRef
from actors._reply import Reply
from actors._statistics import ActorStatistics, SystemStatistics
from actors._supervisor import (
    KILL,
    ChildInfo,
    ChildSpec,
    Restart,
    StartChild,
    StopChild,
    Strategy,
    Supervisor,
    WhichChildren,
)
from actors._system import ActorSystem
from actors._timers import Timer
from actors._typing import Ask
from actors._watch import Terminated

__all__ = [
    "KILL",
    "ActorDeadError",
    "ActorError",
    "ActorStatistics",
    "ActorSystem",
    "Ask",
    "AskTimeout",
    "ChildInfo",
    "ChildSpec",
    "DeadLetter",
    "DeadLetters",
    "InboxFull",
    "InboxPolicy",
    "InboxStatistics",
    "MessageDropped",
    "Recipient",
    "Reply",
    "Restart",
    "RestartLimitReached",
    "StartChild",
    "StopChild",
    "Strategy",
    "Supervisor",
    "SystemNotRunning",
    "SystemStatistics",
    "Terminated",
    "Timer",
    "TrioActor",
    "TrioActorRef",
    "TrioFuture",
    "WhichChildren",
    "WouldDeadlock",
    "wait_for",
]
