"""The inbox of one actor: a bounded queue that any thread may put into and one task receives from.

A deque under a short lock keeps the order of ``put`` calls across threads and tasks. A memory channel does not: what a
foreign thread sends reaches it through the run's callback queue, and a task that sends later overtakes it.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from queue import Empty
from threading import get_ident
from typing import TYPE_CHECKING, Any

import trio
from pykka import _envelope
from pykka.messages import _ActorStop
from trio.lowlevel import Abort, checkpoint, current_task, enable_ki_protection, in_trio_run, wait_task_rescheduled

from actors._errors import ActorDeadError, AskTimeout, InboxFull
from actors._wake import TaskWaker, ThreadWaker, Waker

if TYPE_CHECKING:
    from actors._future import TrioFuture
    from actors._system import ActorSystem

    class Envelope(_envelope.Envelope[Any]):
        """Pykka's, with the one kind of future that our refs put in."""

        reply_to: TrioFuture[Any] | None

else:
    Envelope = _envelope.Envelope

__all__ = ["Envelope", "Inbox", "InboxStatistics"]


@dataclass(frozen=True, slots=True)
class InboxStatistics:
    """One look at an inbox. ``queued`` may exceed ``capacity`` by the system messages in it."""

    queued: int
    capacity: int
    waiting_senders: int
    receiver_waiting: bool
    closed: bool


class _Sender:
    """One who waits for room with an envelope in hand. ``admitted`` stays None while waiting."""

    __slots__ = ("admitted", "envelope", "waker")

    def __init__(self, envelope: _envelope.Envelope[Any], waker: Waker) -> None:
        self.envelope = envelope
        self.waker = waker
        self.admitted: bool | None = None


class Inbox:
    """Satisfies Pykka's ``ActorInbox``. ``name`` is the actor's, for errors.

    Messages of the system (stop) pass the bound: a full inbox must not refuse them. Whoever waits for room keeps their
    turn: freed room goes to the one who waits longest, and nobody who comes later gets past.
    """

    def __init__(self, capacity: int, name: str = "actor") -> None:
        if capacity < 1:
            raise ValueError(f"the inbox of {name} needs room for at least one message, not {capacity}")
        self._capacity = capacity
        self.name = name
        # A plain lock, held for a few bytecodes and never across a wait. Finalizers must not send.
        self._lock = threading.Lock()
        self._queue: deque[Any] = deque()
        self._senders: deque[_Sender] = deque()
        self._closed = False
        self._parked: trio.lowlevel.Task | None = None  # set to None on the Trio thread only
        self._wake_posted = False
        self.system: ActorSystem | None = None
        self._thread: int | None = None
        self.receiver: trio.lowlevel.Task | None = None

    def bind(self, system: ActorSystem) -> None:
        """The actor has started: ``system`` is where its receiver runs. Until then ``put`` queues and never blocks."""
        self.system = system
        self._thread = system.thread

    # -- sending: any thread

    @enable_ki_protection
    def put(self, envelope: _envelope.Envelope[Any], /, *, timeout_s: float | None = None) -> None:
        """Queue the envelope. On a Trio thread never blocks; another thread waits for room, at most ``timeout_s``.

        Raises ActorDeadError when closed (also while waiting), InboxFull, AskTimeout.
        """
        if self.offer(envelope):
            return
        if self._must_not_block():
            raise self.full()
        waker = ThreadWaker()
        sender = self._line_up(envelope, waker)
        if sender.admitted is None and not waker.wait(timeout_s) and self._withdraw(sender):
            raise AskTimeout(timeout_s, waited_for=f"room in the inbox of {self.name}")
        if not sender.admitted:
            raise self._dead()

    async def send(self, envelope: _envelope.Envelope[Any]) -> None:
        """Queue the envelope, waiting for room as long as it takes. Any task of any run.

        If cancelled while waiting, nothing was sent. A checkpoint for cancellation always, for the schedule only when
        it has to wait: a full schedule point would cost more than the send, and the capacity bounds how long one goes
        without. Raises ActorDeadError when closed, also while waiting.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.offer(envelope):
            await self._send_later(envelope)

    @enable_ki_protection
    async def _send_later(self, envelope: _envelope.Envelope[Any]) -> None:
        sender = self._line_up(envelope, TaskWaker())
        if sender.admitted is None:
            # Once admitted, the wake-up may still be on its way from another thread: then let it come.
            await wait_task_rescheduled(lambda _: Abort.SUCCEEDED if self._withdraw(sender) else Abort.FAILED)
        if not sender.admitted:
            raise self._dead()

    @enable_ki_protection
    def offer(self, envelope: _envelope.Envelope[Any]) -> bool:
        """Queue the envelope if there is room; never blocks, any thread. Raises ActorDeadError when closed."""
        with self._lock:
            if self._closed:
                raise self._dead()
            if len(self._queue) >= self._capacity and type(envelope.message) is not _ActorStop:
                return False
            self._queue.append(envelope)
        if self._parked is not None:
            self._wake_receiver()
        return True

    def _line_up(self, envelope: _envelope.Envelope[Any], waker: Waker) -> _Sender:
        sender = _Sender(envelope, waker)
        with self._lock:
            if self._closed:
                raise self._dead()
            if len(self._queue) >= self._capacity:
                self._senders.append(sender)
                return sender
            self._queue.append(envelope)  # the receiver works in another thread and was quick
            sender.admitted = True
        if self._parked is not None:
            self._wake_receiver()
        return sender

    def _withdraw(self, sender: _Sender) -> bool:
        with self._lock:
            if sender.admitted is not None:
                return False
            self._senders.remove(sender)
            return True

    def _must_not_block(self) -> bool:
        # The thread as well: in guest mode the host's callbacks run on Trio's thread, but outside of the run.
        return self.system is None or in_trio_run() or get_ident() == self._thread

    def full(self) -> InboxFull:
        return InboxFull(self.name, self._capacity)

    def _dead(self) -> ActorDeadError:
        return ActorDeadError(f"{self.name} not found")

    # -- receiving: the actor's task

    @enable_ki_protection
    async def wait(self) -> None:
        """Park until there may be something to take. Always a checkpoint. If cancelled, nothing is lost."""
        with self._lock:
            if not self._queue:
                self._parked = current_task()
        if self._parked is None:
            await checkpoint()
        else:
            await wait_task_rescheduled(self._unpark)

    @enable_ki_protection
    def take(self) -> Envelope | None:
        """The next envelope, or None. Makes room for the sender who waits longest."""
        if not self._queue:
            return None  # what is put at this moment is seen by `wait`
        with self._lock:
            envelope: Envelope = self._queue.popleft()
            if not self._senders or len(self._queue) >= self._capacity:
                return envelope
            sender = self._senders.popleft()
            sender.admitted = True
            self._queue.append(sender.envelope)
        sender.waker.wake()
        return envelope

    @enable_ki_protection
    def close(self) -> list[Envelope]:
        """Refuse everything from now on, also those who wait for room; hand over what is left."""
        with self._lock:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
            refused = list(self._senders)
            self._senders.clear()
            for sender in refused:
                sender.admitted = False
        for sender in refused:
            sender.waker.wake()
        return left

    def get(self) -> Envelope:
        """Take without waiting, as Pykka's interface has it. Raises ``queue.Empty``."""
        envelope = self.take()
        if envelope is None:
            raise Empty
        return envelope

    def empty(self) -> bool:
        return not self._queue

    def statistics(self) -> InboxStatistics:
        with self._lock:
            return InboxStatistics(
                queued=len(self._queue),
                capacity=self._capacity,
                waiting_senders=len(self._senders),
                receiver_waiting=self._parked is not None,
                closed=self._closed,
            )

    # -- waking the receiver

    def _wake_receiver(self) -> None:
        if get_ident() == self._thread and in_trio_run():
            self._resume()
        elif not self._wake_posted:
            assert self.system is not None, "only a started actor has a parked receiver"
            self._wake_posted = True  # many senders, one callback; a second one would do no harm
            self.system.call_soon(self._resume)

    def _resume(self) -> None:
        # The flag first: a put after this line posts again, one before it is seen by the receiver we are about to wake.
        self._wake_posted = False
        parked, self._parked = self._parked, None
        if parked is not None:
            trio.lowlevel.reschedule(parked)

    def _unpark(self, _: object) -> Abort:
        self._parked = None
        return Abort.SUCCEEDED
