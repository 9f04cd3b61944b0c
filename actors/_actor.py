"""What one subclasses: the hooks, the limits, and what a handler may call. How it lives is in ``_life``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVarTuple

import pykka
import trio

from actors._cell import claim
from actors._errors import SystemNotRunning
from actors._future import TrioFuture
from actors._inbox import Inbox, InboxPolicy
from actors._life import Life
from actors._ref import TrioActorRef
from actors._reply import Reply
from actors._stop_flag import StopFlag, new_urn
from actors._timers import Timer

if TYPE_CHECKING:
    import threading

    class _PykkaActor:
        """What we use of ``pykka.Actor``, as it behaves: hooks may be plain or async.

        Pykka types ``on_start``, ``on_stop`` and ``on_failure`` as returning None, and mypy holds every subclass of a
        subclass to that. With this in its place no actor needs an ignore. At run time the base is ``pykka.Actor``.
        """

        actor_urn: str
        actor_stopped: threading.Event
        _actor_ref: TrioActorRef[Any]

        def __init__(self) -> None: ...
        def stop(self) -> None: ...
        def on_start(self) -> Any: ...
        def on_stop(self) -> Any: ...
        def on_failure(
            self,
            exception_type: type[BaseException] | None,
            exception_value: BaseException | None,
            traceback: TracebackType | None,
        ) -> Any: ...
        def on_receive(self, message: Any) -> Any: ...
        def _handle_receive(self, message: Any) -> Any: ...

else:
    _PykkaActor = pykka.Actor

__all__ = ["TrioActor"]

Ts = TypeVarTuple("Ts")


class TrioActor(_PykkaActor):
    """Subclass this. Hooks may be plain functions (the fast way) or coroutines.

    A handler's return value or exception goes to the asker, and after an exception the actor lives on. An exception
    nobody asked for is a failure: ``on_failure`` runs instead of ``on_stop``, and the actor is dead, unless it has a
    supervisor that starts another instance in its place. While an async handler waits, no other message is handled;
    work that takes time belongs into ``spawn`` with ``take_reply``.

    ``inbox_capacity``: messages that may be queued; ``inbox_policy``: what happens to one more. ``burst``: messages
    handled between two checkpoints; what it costs is latency for other tasks, at most ``burst`` handlers long.
    ``shutdown_timeout_s``: seconds that each of ending the owned tasks and the last hook may take; they are shielded
    from cancellation for that long.

    A message is handled in the actor's own context: the sender's context variables do not travel with it. What a
    handler needs to know (a request id, a deadline) belongs into the message.
    """

    inbox_capacity: ClassVar[int] = 1024
    inbox_policy: ClassVar[InboxPolicy] = InboxPolicy.REFUSE
    burst: ClassVar[int] = 32  # Python 3.11: 6.6 µs per tell at 1, 1.6 µs at 32; a checkpoint is most of a tell
    shutdown_timeout_s: ClassVar[float] = 5.0

    actor_inbox: Inbox

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        # Instead of Pykka's constructor, which makes the same, only dearer; its ref would be replaced anyway.
        self.actor_urn = new_urn()
        self.actor_inbox = self._create_actor_inbox()
        self.actor_stopped = StopFlag()
        cell = claim()
        self._actor_life = Life(self, cell)
        if cell is None:
            cell = self._actor_life.cell
            self._actor_ref = cell.ref = TrioActorRef(self, cell)
        else:
            cell.adopt(self, self._actor_life)

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> TrioActorRef[Self]:
        """Start an actor in the current system. Raises SystemNotRunning, and what ``__init__`` raises."""
        from actors._system import ActorSystem  # it starts actors, they find it: one of the two must look late

        return ActorSystem.current().start(cls, *args, **kwargs)

    @property
    def actor_ref(self) -> TrioActorRef[Self]:
        return self._actor_ref

    # -- for handlers

    def take_reply(self) -> Reply:
        """Take over the answer to the message in hand; the handler's return value is then ignored.

        If the actor stops first, an unanswered Reply is answered with ActorDeadError. An exception of the handler still
        goes to an asker who has no answer yet. Raises RuntimeError outside of a handler and a second time.
        """
        return self._actor_life.take_reply()

    def spawn(
        self, async_fn: Callable[[*Ts], Awaitable[Any]], /, *args: *Ts, name: str | None = None
    ) -> trio.CancelScope:
        """Start a task that the actor owns; the scope cancels just this task.

        It is cancelled and awaited when the actor stops, before ``on_stop``. An exception that escapes it is a failure
        of the actor: the handler at work is cancelled, ``on_failure`` is called, the actor dies. Raises ActorDeadError
        once the actor is stopping, SystemNotRunning in ``__init__``.
        """
        return self._actor_life.spawn(async_fn, args, name)

    def send_after(self, delay_s: float, message: Any) -> Timer:
        """Tell this actor ``message`` in ``delay_s`` seconds of Trio's clock.

        The timer ends with this instance of the actor, at a restart too. If the inbox is full by then the message is
        dropped, and ``Timer.dropped`` counts it. Raises ActorDeadError once the actor is stopping, SystemNotRunning in
        ``__init__``, ValueError for a time that is negative or not finite.
        """
        return self._actor_life.start_timer(delay_s, None, message)

    def send_every(self, period_s: float, message: Any, *, first_s: float | None = None) -> Timer:
        """Tell this actor ``message`` every ``period_s`` seconds, the first time after ``first_s`` (if None, a period).

        Without drift, and without piling up: while one tick is queued the next ones are dropped, and what a late loop
        has missed is not made up for. Otherwise as ``send_after``.
        """
        return self._actor_life.start_timer(period_s if first_s is None else first_s, period_s, message)

    def watch(self, ref: TrioActorRef[Any]) -> None:
        """Have ``Terminated`` sent to this actor, exactly once, when the actor behind ``ref`` has ended for good.

        At once if it has ended already. It may live in another system; a restart is no end. Watching an actor twice is
        watching it once. The watch ends with this instance of the watcher, at a restart too. Raises ActorDeadError once
        the actor is stopping, SystemNotRunning in ``__init__``, ValueError when watching itself.
        """
        self._actor_life.watch(ref)

    def unwatch(self, ref: TrioActorRef[Any]) -> bool:
        """No Terminated from now on, also none that is queued. False if it has come, or nobody watched."""
        return self._actor_life.unwatch(ref)

    # -- Pykka's seams

    def _create_actor_inbox(self) -> Inbox:
        return Inbox(self.inbox_capacity, self.inbox_policy, class_name=type(self).__name__, urn=self.actor_urn)

    @staticmethod
    def _create_future() -> TrioFuture[Any]:
        return TrioFuture()

    def _start_actor_loop(self) -> None:
        raise SystemNotRunning("an actor on Trio is started by its class or by its system")
