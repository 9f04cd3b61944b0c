"""The owner of the actors: one Trio run, one nursery, the order in which actors were started.

Actors live in a shielded place of their own, so that a cancelled program does not take all of them down at once:
whoever was started last is stopped first and can still use, in ``on_stop``, whoever was started before it.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar, TypeVarTuple, cast, overload

import trio

from actors._actor import TrioActor
from actors._cell import Cell, Keeper, nobody_claims
from actors._dead_letters import DeadLetters
from actors._deadlines import Deadlines
from actors._doorbell import Doorbell
from actors._errors import SystemNotRunning, WouldDeadlock, refuse_on_trio_thread
from actors._ref import TrioActorRef
from actors._registry import register
from actors._statistics import SystemStatistics, Totals, of_system

__all__ = ["ActorSystem"]

A = TypeVar("A", bound=TrioActor)
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

_logger = logging.getLogger("pykka")

_current: contextvars.ContextVar[ActorSystem] = contextvars.ContextVar("actor_system")
_defaults: list[ActorSystem] = []  # of this process, the last one entered at the end

GRACE_S = 5.0


class ActorSystem:
    """Made by ``run()`` inside a Trio program or by ``in_thread()`` outside of one, never directly."""

    def __init__(self) -> None:
        self.deadlines = Deadlines()
        self.dead_letters = DeadLetters()
        self._ended = Totals()
        self._token = trio.lowlevel.current_trio_token()
        self._doorbell = Doorbell() if Doorbell.works_here() else None
        self.thread = threading.get_ident()
        self._nursery: trio.Nursery | None = None
        self._ready = trio.Event()
        self._over = trio.Event()
        self._body = trio.CancelScope()
        self._closing = False
        self._cells: dict[TrioActorRef[Any], Cell] = {}  # in the order of their start
        self._crashes: list[BaseException] = []

    # -- entering

    @classmethod
    @contextlib.asynccontextmanager
    async def run(cls, *, grace_s: float = GRACE_S) -> AsyncIterator[Self]:
        """A system in the running Trio program. Its tasks have ended when the block is left.

        Left in order, the actors are asked to stop, the last one started first, for at most ``grace_s`` seconds in all.
        Left by an exception or a cancellation they are cancelled, in the same order. What an actor raised that is more
        than a failure (KeyboardInterrupt, SystemExit) cancels the block and comes out of it.
        """
        system = cls()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(system._host, name="actor system")
                try:
                    with trio.CancelScope(shield=True):  # it only has to open a nursery
                        await system._ready.wait()
                    with system._entered(), system._body:
                        yield system
                        await system._close(grace_s)
                finally:
                    with trio.CancelScope(shield=True):
                        await system._cancel_all(grace_s)
                    system._over.set()
        except BaseExceptionGroup as group:
            # The host raises nothing, so this is the nursery's wrapping of what left the block.
            error = group.exceptions[0] if len(group.exceptions) == 1 else group
        else:
            error = None
        finally:
            system._bury_all()
        if system._crashes:
            raise system._crash() from error
        if error is not None:
            raise error

    @classmethod
    @contextlib.contextmanager
    def in_thread(cls, *, grace_s: float = GRACE_S, timeout_s: float = 10.0) -> Iterator[Self]:
        """A system on a Trio run in a background thread, for programs and tests that have none.

        Leaving asks the actors to stop as ``run()`` does, and raises what the run has crashed with. TimeoutError if it
        does not come up, or has not ended ``timeout_s`` seconds after the grace.
        """
        refuse_on_trio_thread("ActorSystem.in_thread()", "`async with ActorSystem.run()`")
        rig = _Rig(cls, grace_s)
        system = cast("Self", rig.start(timeout_s))
        try:
            with system._entered():
                yield system
        finally:
            rig.stop(grace_s + timeout_s)

    @classmethod
    def current(cls) -> ActorSystem:
        """The system of this context, else the one last entered in this process. Raises SystemNotRunning."""
        system = _current.get(None)
        if system is not None and system.is_running():
            return system
        for system in reversed(_defaults):
            if system.is_running():
                return system
        raise SystemNotRunning("no actor system is running; enter ActorSystem.run() or ActorSystem.in_thread()")

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        outer = _current.set(self)
        _defaults.append(self)
        try:
            yield
        finally:
            _defaults.remove(self)
            _current.reset(outer)

    # -- starting

    def start(self, actor_class: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> TrioActorRef[A]:
        """Construct an actor here and now and start its task. Any thread.

        Raises SystemNotRunning, also when the system is closing, and what the constructor raises.
        """
        self._check_running()
        with nobody_claims():
            actor = self.construct(actor_class, *args, **kwargs)
            self.admit(actor._actor_life.cell, None)
        return actor.actor_ref

    def admit(self, cell: Cell, keeper: Keeper | None) -> None:
        """Start an actor that has just been constructed; ``keeper`` if it has a supervisor. Any thread.

        Raises SystemNotRunning, and TypeError if it has been started before.
        """
        if cell.system is not None:
            raise TypeError(f"{cell} has been started before; make a new actor each time")
        cell.bind(self, keeper)
        self._cells[cell.ref] = cell
        register(cell.ref)
        _logger.debug("Starting %s", cell)  # not formatted without need
        if self.on_thread():
            self.launch(cell)
        elif not self.call_soon(self.launch, cell):
            cell.bury()
            raise SystemNotRunning("the run of this actor system is over")

    def construct(self, actor_class: Callable[P, A], *args: P.args, **kwargs: P.kwargs) -> A:
        """Call a class or factory so that actors started by it are started in this system."""
        outer = self._become_current()
        try:
            actor = actor_class(*args, **kwargs)
        finally:
            if outer is not None:
                _current.reset(outer)
        assert hasattr(actor, "_actor_ref"), (
            "TrioActor.__init__() has not been called; does the actor's __init__() call super().__init__()?"
        )
        return actor

    def launch(self, cell: Cell) -> None:
        """Give the instance of a cell its task. On the system's thread."""
        if self._over.is_set():
            cell.bury()
        else:
            life = cell.life
            life.bind(self)
            assert self._nursery is not None
            outer = self._become_current()  # in the task's context: what an actor starts, it starts in its own system
            self._nursery.start_soon(life.live, name=str(cell))
            if outer is not None:
                _current.reset(outer)

    def _become_current(self) -> contextvars.Token[ActorSystem] | None:
        # Not set without need: setting makes a new map of the context's variables, which the actor's task then keeps.
        return None if _current.get(None) is self else _current.set(self)

    def spawn(
        self, async_fn: Callable[[*Ts], Awaitable[Any]], /, *args: *Ts, name: str | None = None
    ) -> trio.CancelScope:
        """Start a task that belongs to the system: it is cancelled after the last actor has stopped.

        An exception that escapes it ends the system and comes out of its block. The scope cancels the task. Only on the
        system's own thread. Raises SystemNotRunning.
        """
        self._check_running()
        scope = trio.CancelScope()
        self.start_task(self._in_scope, scope, async_fn, args, name=name or repr(async_fn))
        return scope

    async def _in_scope(
        self, scope: trio.CancelScope, async_fn: Callable[[*Ts], Awaitable[Any]], args: tuple[*Ts]
    ) -> None:
        with scope:
            await async_fn(*args)

    def start_task(self, async_fn: Callable[[*Ts], Awaitable[Any]], /, *args: *Ts, name: str) -> None:
        """For actors and the system itself: what escapes the task crashes the system."""
        if not self.on_thread():
            raise RuntimeError("tasks are started on the thread of their actor system")
        assert self._nursery is not None
        self._nursery.start_soon(self._guarded, async_fn, args, name=name)

    async def _guarded(self, async_fn: Callable[[*Ts], Awaitable[Any]], args: tuple[*Ts]) -> None:
        try:
            await async_fn(*args)
        except trio.Cancelled:
            raise
        except BaseException as error:
            self.crash(error)

    def crash(self, error: BaseException) -> None:
        """Something has escaped a task. On the system's thread."""
        # Not through the nursery, which would cancel everyone at once: the block shuts down in order and raises it.
        self._crashes.append(error)
        self._body.cancel()

    async def _host(self) -> None:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self.deadlines.run, name="deadlines of asks")
                if self._doorbell is not None:
                    self.start_task(self._doorbell.run, name="calls from other threads")
                self._ready.set()
                await self._over.wait()
                self._nursery.cancel_scope.cancel()

    # -- looking

    def is_running(self) -> bool:
        return not self._closing

    @overload
    def refs(self) -> list[TrioActorRef[Any]]: ...
    @overload
    def refs(self, actor_class: type[A]) -> list[TrioActorRef[A]]: ...
    def refs(self, actor_class: type[Any] = TrioActor) -> list[TrioActorRef[Any]]:
        """The actors of this system that have not ended, in the order of their start; of one class and its subclasses.

        ``pykka.ActorRegistry`` has those of all systems in the process.
        """
        return [ref for ref in list(self._cells) if issubclass(ref.actor_class, actor_class)]

    def statistics(self) -> SystemStatistics:
        """What the actors of this system have done so far, those that have ended included. Any thread."""
        return of_system(self._ended, [ref.actor_inbox for ref in self.refs()], self.dead_letters.counts)

    def on_thread(self) -> bool:
        """The caller is on the thread of this system's Trio run."""
        return threading.get_ident() == self.thread

    def call_soon(self, function: Callable[[*Ts], object], *args: *Ts) -> bool:
        """Have the Trio thread call ``function``; any thread. False if its run is over."""
        if self._doorbell is not None and self._doorbell.ring(partial(function, *args) if args else function):
            return True
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            return False
        return True

    def _check_running(self) -> None:
        if self._closing:
            raise SystemNotRunning("this actor system is closing or closed and starts nothing")

    # -- stopping

    async def stop_all(self, *, grace_s: float = GRACE_S) -> None:
        """Ask the actors to stop, last started first, one by one; cancel who is left after ``grace_s`` seconds.

        Children are stopped by their supervisors. The system goes on and may start new ones. Not from within one of its
        actors: raises WouldDeadlock.
        """
        self._refuse_own_actor()
        with trio.move_on_after(grace_s) as grace:
            for ref in reversed(self._roots()):
                ref.stop(block=False)
                await ref.wait_stopped()
        if grace.cancelled_caught:
            await self._cancel_at_once()

    async def _close(self, grace_s: float) -> None:
        self._closing = True
        await self.stop_all(grace_s=grace_s)

    async def _cancel_all(self, grace_s: float) -> None:
        """Cancel in order; who is left after the grace, all at once."""
        self._closing = True
        with trio.move_on_after(grace_s) as grace:
            while roots := self._roots():  # again for those that were started meanwhile
                for ref in reversed(roots):
                    ref.cancel()
                    await ref.wait_stopped()
        if grace.cancelled_caught:
            await self._cancel_at_once()

    async def _cancel_at_once(self) -> None:
        refs = self._roots()
        for ref in refs:
            ref.cancel()
        for ref in refs:
            await ref.wait_stopped()

    def _roots(self) -> list[TrioActorRef[Any]]:
        # Children are stopped by their supervisors, also when these are cancelled.
        return [ref for ref, cell in self._cells.items() if cell.keeper is None]

    def _refuse_own_actor(self) -> None:
        task = trio.lowlevel.current_task()
        if any(ref.actor_inbox.receiver is task for ref in self._cells):
            raise WouldDeadlock("stop_all() by an actor of the system", "a task of the system: `system.spawn(...)`")

    def actor_failed(self, ref: TrioActorRef[Any], error: BaseException) -> None:
        """An actor has failed with what it was not asked for; called by its life, on this system's thread.

        For a subclass that wants to know. Must not raise.
        """

    def forget(self, ref: TrioActorRef[Any]) -> None:
        """The actor has ended; called by its life."""
        if self._cells.pop(ref, None) is not None:
            self._ended.add(ref.actor_inbox)

    def _bury_all(self) -> None:
        # Who was started from another thread too late to get a task. The registry is the process's, so leave nothing in
        # it.
        for cell in list(self._cells.values()):
            cell.bury()

    def _crash(self) -> BaseException:
        if len(self._crashes) == 1:
            return self._crashes[0]
        return BaseExceptionGroup("several actors crashed", self._crashes)


class _Rig:
    """A Trio run in a background thread that lasts as long as a ``with`` block elsewhere."""

    def __init__(self, system_class: type[ActorSystem], grace_s: float) -> None:
        self._system_class = system_class
        self._grace_s = grace_s
        self._up = threading.Event()
        self._system: ActorSystem | None = None
        self._leave: trio.Event | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="actor system", daemon=True)

    def start(self, timeout_s: float) -> ActorSystem:
        self._thread.start()
        if not self._up.wait(timeout_s):
            raise TimeoutError(f"the actor system did not come up within {timeout_s} s")
        if self._system is None:
            self._raise_error()
        return cast("ActorSystem", self._system)

    def stop(self, timeout_s: float) -> None:
        assert self._system is not None
        assert self._leave is not None
        self._system.call_soon(self._leave.set)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the actor system has not ended within {timeout_s} s; a handler blocks its thread")
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # for the thread that owns the block
            self._error = error
        finally:
            self._up.set()

    async def _main(self) -> None:
        self._leave = trio.Event()
        async with self._system_class.run(grace_s=self._grace_s) as self._system:
            self._up.set()
            await self._leave.wait()
