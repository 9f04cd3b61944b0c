"""Supervision: actors that start others, and start them anew when they crash. After OTP's ``supervisor``.

A supervisor says in data who its children are; what then happens is decided here and nowhere else. Its children start
in order, each once ``on_start`` of the one before has returned, and stop in reverse order, before the supervisor does.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Final

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from actors._actor import TrioActor
from actors._cell import Cell, Exit, nobody_claims
from actors._errors import ActorDeadError, RestartLimitReached, SystemNotRunning
from actors._parcel import NOTHING, Parcel
from actors._typing import Ask

if TYPE_CHECKING:
    from actors._life import Life
    from actors._ref import TrioActorRef
    from actors._system import ActorSystem

__all__ = [
    "KILL",
    "ChildInfo",
    "ChildSpec",
    "Kill",
    "Restart",
    "StartChild",
    "StopChild",
    "Strategy",
    "Supervisor",
    "WhichChildren",
]

_logger = logging.getLogger("pykka")


class Restart(StrEnum):
    """When a child is started anew.

    |               | crashed | stopped | by the strategy |
    |---------------|---------|---------|-----------------|
    | ``PERMANENT`` | yes     | yes     | yes             |
    | ``TRANSIENT`` | yes     | no      | yes             |
    | ``TEMPORARY`` | no      | no      | no              |

    *Crashed*: what kills an actor that has no supervisor: a message that was told raises, ``on_start`` raises, a task
    it has spawned raises, it is cancelled. *Stopped*: it was asked to, by its ref or by itself. *By the strategy*: it
    has to go because a sibling has crashed. One that is not started anew is no longer a child.
    """

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class Strategy(StrEnum):
    """Who is started anew with a child that has crashed: nobody, all the others, or those after it.

    They are stopped in reverse order first, then all are started in order.
    """

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"


class Kill(Enum):
    KILL = "kill"


KILL: Final = Kill.KILL
"""As the ``shutdown`` of a child: it is not asked to stop but cancelled. Its ``on_stop`` still runs."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child. ``factory`` makes a new actor each time: a class, a ``partial``, a lambda; it must not block.

    ``shutdown``: seconds the child has to stop by itself before it is cancelled, or ``KILL``. After that its hooks
    still have the actor's ``shutdown_timeout_s``. A supervisor needs as much as its own children together; ``math.inf``
    leaves it to them.
    """

    id: str
    factory: Callable[[], TrioActor]
    restart: Restart = Restart.PERMANENT
    shutdown: float | Kill = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "restart", Restart(self.restart))  # it may be a plain word out of a file
        if self.shutdown is not KILL and not self.shutdown >= 0:
            raise ValueError(f"child {self.id!r} needs seconds or KILL as its shutdown, not {self.shutdown}")


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """One look at a child. ``running`` is False while it waits to be started anew; ``restarts`` counts them."""

    id: str
    ref: TrioActorRef[Any]
    restart: Restart
    restarts: int
    running: bool


@dataclass(frozen=True)
class StartChild(Ask["TrioActorRef[Any]"]):
    """Start one more child, after all others. Answer: its ref, once its ``on_start`` has returned.

    A start that fails is not repeated: what was raised goes to the asker, ActorDeadError if the child was cancelled or
    stopped before it was up. ValueError if there is a child of that id, SystemNotRunning when the system is closing.
    """

    spec: ChildSpec


@dataclass(frozen=True)
class StopChild(Ask[bool]):
    """Stop a child and forget its spec. Answer: True once it has stopped, False if there is no such child."""

    id: str


@dataclass(frozen=True)
class WhichChildren(Ask["tuple[ChildInfo, ...]"]):
    """Answer: a ChildInfo for each child, in the order of their start."""


class Supervisor(TrioActor):
    """Starts ``children`` in order and keeps them up; usable as it is or as a base class.

    A child that is started anew keeps its ref, URN, proxies and the messages behind the one that crashed it, which is
    not repeated; its asker, and those who wait for a taken reply, get ActorDeadError. Its new instance is made by the
    factory.

    If more than ``intensity`` starts anew are needed within any ``period_s`` seconds of Trio's clock (the strategy's
    for one crash count as one), the supervisor stops its children and fails itself with RestartLimitReached: its own
    supervisor starts it anew, or ``on_failure`` runs and it is dead. Starts that fail are repeated within the same
    limit, the first ones too.

    ``on_start`` of a subclass runs before the children are started, ``on_stop`` and ``on_failure`` after they have
    stopped. Messages it defines go to ``on_receive``; it handles them one by one, and while children start or stop it
    handles none. A child that waits for an answer of its supervisor in ``on_start`` waits in vain.

    A supervisor that is cancelled cancels its children, last first, within ``shutdown_timeout_s`` one by one and then
    all at once.
    """

    def __init__(
        self,
        children: Iterable[ChildSpec] = (),
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        intensity: int = 3,
        period_s: float = 5.0,
    ) -> None:
        super().__init__()
        limit = _Limit(intensity, period_s)
        self._actor_children = _Children(self._actor_life, children, strategy, limit, self.shutdown_timeout_s)
        self._actor_life.children = self._actor_children

    @staticmethod
    def refs_of(children: Iterable[ChildInfo]) -> dict[str, TrioActorRef[Any]]:
        """By id: ``refs = Supervisor.refs_of(await supervisor.request(WhichChildren()))``."""
        return {child.id: child.ref for child in children}

    def _handle_receive(self, message: Any) -> Any:
        match message:
            case _Down():
                return self._actor_children.see_to(message.child)
            case StartChild():
                return self._actor_start_child(message.spec)
            case StopChild():
                return self._actor_children.stop(message.id)
            case WhichChildren():
                return self._actor_children.infos()
        return super()._handle_receive(message)

    async def _actor_start_child(self, spec: ChildSpec) -> None:
        # A bad spec is the asker's mistake, and even if nobody waits for the answer no failure of the supervisor.
        reply = self.take_reply()
        try:
            ref = await self._actor_children.add(spec)
        except Exception as error:
            _logger.info(f"{self} has not started child {spec.id!r}: {error!r}")
            reply.set_exception(error)
        else:
            reply.set(ref)


@dataclass(frozen=True, slots=True)
class _Down:
    """A child has ended by itself."""

    child: _Child


class _Limit:
    """How often within a sliding window. The window is half open: what was exactly ``period_s`` ago is forgotten."""

    def __init__(self, intensity: int, period_s: float) -> None:
        if intensity < 0:
            raise ValueError(f"the intensity is a number of restarts, not {intensity}")
        if not period_s > 0:
            raise ValueError(f"the period is a time above zero in seconds, not {period_s}")
        self.intensity = intensity
        self.period_s = period_s
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Count one at ``now``; False if that is one too many."""
        while self._times and now - self._times[0] >= self.period_s:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) <= self.intensity


class _State(Enum):
    STARTING = "the supervisor waits for on_start"
    UP = "left to itself"
    PAUSING = "stopped by the supervisor, to be started anew"
    ENDING = "stopped by the supervisor for good"


class _Child:
    """The supervisor's side of a child: a ``Keeper``. ``cell`` is None until the factory has made the first actor."""

    def __init__(self, spec: ChildSpec, children: _Children) -> None:
        self.spec = spec
        self._children = children
        self.cell: Cell | None = None
        self.ref: TrioActorRef[Any] | None = None
        self.state = _State.STARTING
        self.settled = trio.Event()
        self.error: BaseException | None = None  # of the last failure

    # -- as the cell sees it

    def is_up(self) -> None:
        self.state = _State.UP
        self.settled.set()

    def goes_on(self, exit: Exit) -> bool:
        if self.spec.restart == Restart.TEMPORARY or self.state is _State.ENDING or self._children.ending:
            return False
        if self.spec.restart == Restart.TRANSIENT and self.state is _State.UP:
            return exit.reason != "stopped"
        return True

    def is_down(self) -> None:
        if self.cell is not None and self.cell.life.exit is not None:
            self.error = self.cell.life.exit.error
        if self.state is _State.UP:
            self._children.post(self)
        self.settled.set()

    # -- as the supervisor sees it

    @property
    def restarts(self) -> int:
        return 0 if self.cell is None else self.cell.inbox.tally.restarts

    @property
    def running(self) -> bool:
        return self.cell is not None and not self.cell.life.over.settled

    @property
    def ended(self) -> bool:
        """For good: there is nothing left to start anew."""
        return self.cell is not None and self.cell.exit is not None

    def end(self) -> None:
        """For good, an instance that is no longer running."""
        if self.cell is not None:
            self.cell.end(self.cell.life.exit or Exit("cancelled"))

    def _is_up(self) -> bool:
        # Also if it has crashed since: that has been posted, and is seen to in its turn.
        return self.state is _State.UP

    async def start(self, system: ActorSystem) -> bool:
        """The first instance or the next. False if ``on_start``, or making the instance, has failed."""
        self.state = _State.STARTING
        self.settled = trio.Event()
        try:
            if self.cell is None:
                with nobody_claims():
                    actor = self._make(system)
                    system.admit(actor._actor_life.cell, self)
                self.ref, self.cell = actor.actor_ref, actor._actor_life.cell
            else:
                self.cell.revive(lambda: self._make(system))
                system.launch(self.cell)
        except Exception as error:  # of a factory: it is the child that has failed
            _logger.error(f"The factory of child {self.spec.id!r} has failed:", exc_info=error)
            self.error = error
            await trio.lowlevel.checkpoint()  # or a factory that always fails stops the world until the limit
            return False
        await self.settled.wait()
        return self._is_up()

    @disable_ki_protection
    def _make(self, system: ActorSystem) -> TrioActor:
        return system.construct(self._call_factory)

    def _call_factory(self) -> TrioActor:
        actor = self.spec.factory()
        if not isinstance(actor, TrioActor):
            raise TypeError(f"the factory of child {self.spec.id!r} must make a TrioActor, not {actor!r}")
        return actor

    async def shut_down(self) -> None:
        """Have the instance stopped as the spec says. If cancelled, it has been asked to stop, or cancelled."""
        if self.cell is None:
            return
        life, shutdown = self.cell.life, self.spec.shutdown
        if not isinstance(shutdown, Kill):
            with contextlib.suppress(ActorDeadError):  # it is about to end
                life.ask_to_stop()
            with trio.move_on_after(shutdown):
                await life.over
                return
        life.cancel()
        await life.over

    def cancel(self) -> None:
        if self.cell is not None:
            self.cell.life.cancel()

    async def wait(self) -> None:
        """Until no instance is running."""
        if self.cell is not None:
            await self.cell.life.over


class _Children:
    """Those of one instance of a supervisor. All on its thread, and all but ``hurry`` and ``post`` by its task.

    A KeyboardInterrupt must not come between the making of a child and its first step: so only factories see one.
    """

    def __init__(
        self, life: Life, specs: Iterable[ChildSpec], strategy: Strategy, limit: _Limit, patience_s: float
    ) -> None:
        self._life = life
        self._strategy = Strategy(strategy)
        self._limit = limit
        self._patience_s = patience_s
        self._patience = trio.CancelScope(shield=True)
        self._children: dict[str, _Child] = {}  # in the order of their start
        self.ending = False
        for spec in specs:
            self._append(spec)

    def _append(self, spec: ChildSpec) -> _Child:
        if spec.id in self._children:
            raise ValueError(f"{self._life} has a child {spec.id!r} already")
        child = self._children[spec.id] = _Child(spec, self)
        return child

    @property
    def _system(self) -> ActorSystem:
        system = self._life.cell.system
        assert system is not None, "only a started supervisor starts children"
        return system

    # -- asked by messages

    def infos(self) -> tuple[ChildInfo, ...]:
        return tuple(
            ChildInfo(child.spec.id, child.ref, child.spec.restart, child.restarts, child.running)
            for child in self._children.values()
            if child.ref is not None and not child.ended
        )

    @enable_ki_protection
    async def add(self, spec: ChildSpec) -> TrioActorRef[Any]:
        if not self._system.is_running():
            raise SystemNotRunning("this actor system is closing and starts nothing")
        child = self._append(spec)
        if not await child.start(self._system):
            self._drop(child)
            raise child.error or ActorDeadError(f"child {spec.id!r} ended before it was up")
        assert child.ref is not None
        return child.ref

    @enable_ki_protection
    async def stop(self, id: str) -> bool:
        child = self._children.get(id)
        if child is None or child.ended:
            return False
        await self._end(child)
        return True

    # -- crashes

    def post(self, child: _Child) -> None:
        """A child has ended by itself. Any moment, also while the supervisor is busy with others."""
        with contextlib.suppress(ActorDeadError):
            self._life.cell.inbox.push(Parcel(lambda: NOTHING if self.ending else _Down(child), passes_bound=True))

    @enable_ki_protection
    async def see_to(self, child: _Child) -> None:
        if self._children.get(child.spec.id) is not child or child.running:
            return  # it was seen to together with another
        if child.ended:
            del self._children[child.spec.id]
        else:
            await self._start_anew(child, set())

    async def start(self) -> None:
        """All, in order. Raises RestartLimitReached."""
        awaited = set(self._children.values())
        fallen = await self._start_in_order(awaited)
        if fallen is not None:
            await self._start_anew(fallen, awaited)

    async def _start_anew(self, fallen: _Child, awaited: set[_Child]) -> None:
        """Whoever the strategy says, and those who still wait for their start, until all are up."""
        again: _Child | None = fallen
        while again is not None:
            self._count(again)
            affected = self._affected(again)
            for child in reversed(affected):
                await self._pause(child)
            awaited.update(affected)
            again = await self._start_in_order(awaited)

    def _count(self, child: _Child) -> None:
        limit = self._limit
        if not limit.allows(trio.current_time()):
            raise RestartLimitReached(child.spec.id, limit.intensity, limit.period_s) from child.error
        _logger.info(f"{self._life} starts child {child.spec.id!r} anew")

    def _affected(self, fallen: _Child) -> list[_Child]:
        children = list(self._children.values())
        match self._strategy:
            case Strategy.ONE_FOR_ONE:
                return [fallen]
            case Strategy.ONE_FOR_ALL:
                return children
            case Strategy.REST_FOR_ONE:
                return children[children.index(fallen) :]

    async def _pause(self, child: _Child) -> None:
        if child.running:
            child.state = _State.PAUSING
            await child.shut_down()
        if child.ended:  # a temporary one, or one that was about to end anyway
            del self._children[child.spec.id]

    async def _start_in_order(self, awaited: set[_Child]) -> _Child | None:
        """Start those of ``awaited`` who are still children and take them off; stop at the first failure."""
        for child in list(self._children.values()):
            if child not in awaited:
                continue
            if not await child.start(self._system):
                if not child.ended and child.spec.restart != Restart.TEMPORARY:
                    return child
                self._drop(child)
            awaited.discard(child)
        return None

    # -- the end

    async def _end(self, child: _Child) -> None:
        child.state = _State.ENDING
        await child.shut_down()
        self._drop(child)

    def _drop(self, child: _Child) -> None:
        child.end()
        self._children.pop(child.spec.id, None)

    def hurry(self) -> None:
        self._patience.cancel()

    async def end(self) -> None:
        """All, last first."""
        self.ending = True
        with self._patience:
            for child in reversed(list(self._children.values())):
                await self._end(child)
        if self._children:
            with trio.CancelScope(shield=True):
                await self._cancel_all()

    async def _cancel_all(self) -> None:
        children = list(reversed(self._children.values()))
        with trio.move_on_after(self._patience_s):
            for child in children:
                await self._cancel(child)
        for child in children:
            child.cancel()
        for child in children:
            await self._cancel(child)

    async def _cancel(self, child: _Child) -> None:
        child.state = _State.ENDING
        child.cancel()
        await child.wait()
        self._drop(child)
