"""Messages that come late, get lost, or take their actor down: by a seed, so that a test that fails, fails again."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import Any, ClassVar, TypeVar

import trio
from pykka.messages import ProxyCall, ProxyGetAttr

from actors._actor import TrioActor
from actors._errors import ActorDeadError
from actors._system import ActorSystem

__all__ = ["Crash", "Delay", "Drop", "Fault", "Faults", "InjectedCrash"]

A = TypeVar("A", bound=TrioActor)

Of = type | tuple[type, ...] | Callable[[Any], bool] | str


class InjectedCrash(Exception):
    """What an actor fails with when a fault takes it down."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Which messages are met. Of the messages ``of`` a type, those for which a function is true, or the calls of a
    method of that name through a proxy: each with ``chance`` (0 to 1), or just the ``nth`` (from 1) that an actor of
    that class gets."""

    of: Of = object
    chance: float = 1.0
    nth: int | None = None

    def meets(self, message: Any) -> bool:
        if isinstance(self.of, str):
            return isinstance(message, ProxyCall) and message.attr_path[-1] == self.of
        if isinstance(self.of, type | tuple):
            return isinstance(message, self.of)
        return self.of(message)

    def strikes(self, number: int, dice: random.Random) -> bool:
        """Whether it strikes the ``number``-th message it meets."""
        return number == self.nth if self.nth is not None else dice.random() < self.chance


@dataclass(frozen=True, kw_only=True)
class Delay(Fault):
    """The actor waits before it handles the message, and with it all that are queued behind: a number of seconds on
    Trio's clock between ``least_s`` and ``most_s``."""

    least_s: float = 0.0
    most_s: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Drop(Fault):
    """The actor never sees the message. An asker waits until its deadline, or until the actor stops."""


@dataclass(frozen=True, kw_only=True)
class Crash(Fault):
    """The actor fails with ``error`` instead of handling the message, also if it was asked: then the asker gets
    ActorDeadError."""

    error: type[Exception] = InjectedCrash


class Faults:
    """Faults for some actors: ``faults.wrap(Class)`` is that class with the faults in it; ``with
    faults.installed(system):`` meets all actors of a system, supervised and restarted ones too.

    Whether a fault strikes depends on the seed, the place of the fault in the list, the class of the actor and how many
    messages the fault has met there before, and on nothing else. The first that strikes a message decides.
    ``struck`` counts by fault and class.
    """

    _installed: ClassVar[dict[ActorSystem, Faults]] = {}

    def __init__(self, seed: int, *faults: Fault) -> None:
        self.seed = seed
        self.faults = faults
        self.struck: Counter[tuple[Fault, str]] = Counter()
        self._met: Counter[tuple[int, str]] = Counter()
        self._lock = threading.Lock()  # of systems in several threads

    def wrap(self, actor_class: type[A]) -> type[A]:
        """A subclass of the same name. Reads as the class itself in logs and registries."""

        def handle(actor: TrioActor, message: Any) -> Any:
            return self._handle(actor, message, super(wrapped, actor)._handle_receive)

        names = {"__module__": actor_class.__module__, "__qualname__": actor_class.__qualname__}
        wrapped: type[A] = type(actor_class.__name__, (actor_class,), {**names, "_handle_receive": handle})
        return wrapped

    @contextmanager
    def installed(self, system: ActorSystem) -> Iterator[Faults]:
        """For the length of the block, for messages to all actors of ``system``. One set of faults per system."""
        if system in Faults._installed:
            raise RuntimeError("there are faults in this system already; give all of them to one Faults")
        Faults._installed[system] = self
        # Put in only now, so that actors without faults pay nothing; it is inherited again afterwards.
        TrioActor._handle_receive = _handle_with_installed  # type: ignore[method-assign, assignment]  # see above
        try:
            yield self
        finally:
            del Faults._installed[system]
            if not Faults._installed:
                del TrioActor._handle_receive

    def _handle(self, actor: TrioActor, message: Any, handle: Callable[[Any], Any]) -> Any:
        fault, dice = self._strike(actor, message)
        match fault:
            case Crash():
                actor.take_reply().set_exception(ActorDeadError(f"{actor} was taken down by a fault"))
                raise fault.error(f"seed {self.seed}: {fault}")
            case Drop():
                actor.take_reply()
                return None
            case Delay():
                return _late(dice.uniform(fault.least_s, fault.most_s), handle, message)
        return handle(message)

    def _strike(self, actor: TrioActor, message: Any) -> tuple[Fault | None, random.Random]:
        name = type(actor).__name__
        for place, fault in enumerate(self.faults):
            if not fault.meets(message) or (isinstance(fault, Delay) and isinstance(message, ProxyGetAttr)):
                continue
            with self._lock:
                self._met[place, name] += 1
                number = self._met[place, name]
            dice = random.Random(f"{self.seed}/{place}/{name}/{number}")
            if fault.strikes(number, dice):
                with self._lock:
                    self.struck[fault, name] += 1
                return fault, dice
        return None, random.Random(0)


_plainly: Callable[[TrioActor, Any], Any] = TrioActor._handle_receive


def _handle_with_installed(actor: TrioActor, message: Any) -> Any:
    system = actor.actor_inbox.system
    faults = None if system is None else Faults._installed.get(system)
    if faults is None:
        return _plainly(actor, message)
    return faults._handle(actor, message, partial(_plainly, actor))


async def _late(delay_s: float, handle: Callable[[Any], Any], message: Any) -> Any:
    await trio.sleep(delay_s)
    answer = handle(message)
    return await answer if type(answer) is CoroutineType else answer
