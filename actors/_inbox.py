"""The inbox of one actor: a bounded queue that any thread may put into and one task receives from.

A deque under a short lock keeps the order of ``put`` calls across threads and tasks. A memory channel does not: what a
foreign thread sends reaches it through the run's callback queue, and a task that sends later overtakes it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from queue import Empty, Full
from threading import get_ident
from typing import TYPE_CHECKING, Any

import trio
from pykka import _envelope
from trio.lowlevel import Abort, checkpoint, current_task, enable_ki_protection, in_trio_run, wait_task_rescheduled

from actors._dead_letters import DeadLetter, Reason, Recipient
from actors._errors import ActorDeadError, AskTimeout, InboxFull, MessageDropped
from actors._parcel import NOTHING, Parcel, is_of_the_system
from actors._statistics import Tally
from actors._wake import TaskWaker, ThreadWaker, Waker

if TYPE_CHECKING:
    from actors._future import TrioFuture
    from actors._system import ActorSystem

    class Envelope(_envelope.Envelope[Any]):
        """Pykka's, with the one kind of future that our refs put in."""

        reply_to: TrioFuture[Any] | None

else:
    Envelope = _envelope.Envelope

_SHORT = 8  # messages; taking the first of a list moves the rest, which is nothing for so few

__all__ = ["Envelope", "Inbox", "InboxPolicy", "InboxStatistics"]


@dataclass(frozen=True, slots=True)
class InboxStatistics:
    """One look at an inbox. ``queued`` may exceed ``capacity`` by the system messages in it."""

    queued: int
    capacity: int
    waiting_senders: int
    receiver_waiting: bool
    closed: bool


class InboxPolicy(StrEnum):
    """What happens to a message that finds the inbox full. Messages of the system (stop) always pass.

    | who sends, and how                        | REFUSE        | WAIT                       | DROP_OLDEST |
    |-------------------------------------------|---------------|----------------------------|-------------|
    | a task: ``await send``                    | waits         | waits                      | drops       |
    | a task: ``await request``                 | InboxFull     | waits, within its deadline | drops       |
    | a task: ``tell``, ``ask(block=False)``    | InboxFull     | InboxFull: it cannot wait  | drops       |
    | Trio's thread outside of tasks: the same  | InboxFull     | InboxFull: it cannot wait  | drops       |
    | a foreign thread: ``tell``, ``ask``       | waits         | waits                      | drops       |
    | a timer                                   | a dead letter | a dead letter              | drops       |

    *Waits*: until there is room, in turn; ActorDeadError if the actor stops first. A blocking ``ask`` waits within its
    ``timeout``. An actor's own task is never made to wait for room in its own inbox, which only it can make: InboxFull.

    *Drops*: the oldest message of a user becomes a dead letter and its asker is answered with MessageDropped, the new
    one takes its place, and nobody ever waits. Should the inbox hold nothing but messages of the system, the new one
    is dropped.

    REFUSE is right where the sender can do something about it, WAIT where askers may queue up for their turn, and
    DROP_OLDEST where only the latest counts (readings, positions).
    """

    REFUSE = "refuse"
    WAIT = "wait"
    DROP_OLDEST = "drop_oldest"


class _Sender:
    """One who waits for room with an envelope in hand. ``admitted`` stays None while waiting."""

    __slots__ = ("admitted", "envelope", "waker")

    def __init__(self, envelope: _envelope.Envelope[Any], waker: Waker) -> None:
        self.envelope = envelope
        self.waker = waker
        self.admitted: bool | None = None


class Inbox:
    """Satisfies Pykka's ``ActorInbox``. ``class_name`` and ``urn`` are the actor's, for errors and dead letters.

    Messages of the system (stop) pass the bound: a full inbox must not refuse them. Whoever waits for room keeps their
    turn: freed room goes to the one who waits longest, and nobody who comes later gets past.
    """

    __slots__ = (
        "_closed",
        "_highest",
        "_is_deque",
        "_lock",
        "_mark",
        "_nudged",
        "_parked",
        "_queue",
        "_senders",
        "_thread",
        "_wake_posted",
        "capacity",
        "class_name",
        "policy",
        "receiver",
        "refused",
        "system",
        "tally",
        "urn",
    )

    def __init__(
        self,
        capacity: int,
        policy: InboxPolicy = InboxPolicy.REFUSE,
        *,
        class_name: str = "actor",
        urn: str = "",
    ) -> None:
        if capacity < 1:
            raise ValueError(f"the inbox of {class_name} needs room for at least one message, not {capacity}")
        self.capacity = capacity
        self.policy = policy
        self.class_name = class_name
        self.urn = urn
        # A plain lock, held for a few bytecodes and never across a wait. Finalizers must not send.
        self._lock = threading.Lock()
        # A list while it has never been long: an empty deque has 0.7 kB, more than all else here together.
        self._queue: list[Any] | deque[Any] = []
        self._is_deque = False
        self._senders: deque[_Sender] | tuple[()] = ()  # a deque once somebody waits: an empty one has 0.6 kB
        self._closed = False
        self.tally = Tally()  # of the actor: it is here because this outlives an instance that is replaced
        self._highest = 0  # seen when something is taken: the depth only falls by that, and an append should be cheap
        self.refused = 0
        # At this depth a message takes the slow way: too many for a list, full, or (0) closed. So the fast way has one
        # comparison for all three.
        self._mark = min(_SHORT, capacity)
        self._parked: trio.lowlevel.Task | None = None  # set to None on the Trio thread only
        self._wake_posted = False
        self._nudged = False
        self.system: ActorSystem | None = None
        self._thread: int | None = None
        self.receiver: trio.lowlevel.Task | None = None

    @property
    def name(self) -> str:
        return f"{self.class_name} ({self.urn})" if self.urn else self.class_name

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
            raise self.refuse()
        waker = ThreadWaker()
        sender = self._line_up(envelope, waker)
        if sender.admitted is None and not waker.wait(timeout_s) and self._withdraw(sender):
            raise AskTimeout(timeout_s, waited_for=f"room in the inbox of {self.name}")
        if not sender.admitted:
            raise self._dead(envelope)

    async def send(self, envelope: _envelope.Envelope[Any]) -> None:
        """Queue the envelope, waiting for room as long as it takes. Any task of any run.

        If cancelled while waiting, nothing was sent. A checkpoint for cancellation always, for the schedule only when
        it has to wait: a full schedule point would cost more than the send, and the capacity bounds how long one goes
        without. Raises ActorDeadError when closed, also while waiting, and InboxFull in the receiver's own task.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.offer(envelope):
            await self._send_later(envelope)

    @enable_ki_protection
    async def _send_later(self, envelope: _envelope.Envelope[Any]) -> None:
        if self.receiver is current_task():
            raise self.refuse()  # it would wait for itself
        sender = self._line_up(envelope, TaskWaker())
        if sender.admitted is None:
            # Once admitted, the wake-up may still be on its way from another thread: then let it come.
            await wait_task_rescheduled(lambda _: Abort.SUCCEEDED if self._withdraw(sender) else Abort.FAILED)
        if not sender.admitted:
            raise self._dead(envelope)

    @enable_ki_protection
    def offer(self, envelope: _envelope.Envelope[Any]) -> bool:
        """Queue the envelope if there is room or the policy makes some; never blocks, any thread.

        Raises ActorDeadError when closed.
        """
        with self._lock:
            queue = self._queue
            below_mark = len(queue) < self._mark
            if below_mark:
                queue.append(envelope)
        if not below_mark:
            return self._offer_at_mark(envelope)
        if self._parked is not None:
            self._wake_receiver()
        return True

    def _offer_at_mark(self, envelope: _envelope.Envelope[Any]) -> bool:
        dropped: _envelope.Envelope[Any] | None = None
        with self._lock:
            closed = self._closed
            if not closed:
                if self._is_full() and not is_of_the_system(envelope.message):
                    if self.policy != InboxPolicy.DROP_OLDEST:
                        return False
                    dropped = self._pop_oldest() or envelope
                if dropped is not envelope:
                    self._append(envelope)
        if closed:
            raise self._dead(envelope)
        if self._parked is not None:
            self._wake_receiver()
        if dropped is not None:
            self._drop(dropped)
        return True

    def _is_full(self) -> bool:
        return len(self._queue) >= self.capacity

    def _append(self, envelope: _envelope.Envelope[Any]) -> None:
        self._queue.append(envelope)
        if len(self._queue) > _SHORT and isinstance(self._queue, list):
            self._queue = deque(self._queue)
            self._is_deque = True
            self._mark = self.capacity

    def _pop_oldest(self) -> _envelope.Envelope[Any] | None:
        for place, envelope in enumerate(self._queue):
            if not is_of_the_system(envelope.message):
                del self._queue[place]
                found: _envelope.Envelope[Any] = envelope
                return found
        return None

    def _drop(self, envelope: _envelope.Envelope[Any]) -> None:
        self._count_refused()
        if envelope.reply_to is not None:
            error = MessageDropped(self.name, self.capacity)
            with contextlib.suppress(Full):  # the asker itself was quicker
                envelope.reply_to.set_exception((MessageDropped, error, None))
        self.dead_letter(envelope.message, "dropped")

    def push(self, message: Any) -> None:
        """Queue a message of the system, past the bound; never blocks, any thread. Raises ActorDeadError if closed."""
        assert is_of_the_system(message), f"{message!r} would not pass the bound"
        self.offer(Envelope(message))

    def _line_up(self, envelope: _envelope.Envelope[Any], waker: Waker) -> _Sender:
        sender = _Sender(envelope, waker)
        with self._lock:
            if self._closed:
                sender.admitted = False
                return sender
            if self._is_full():
                if not self._senders:
                    self._senders = deque()
                self._senders.append(sender)
                return sender
            self._append(envelope)  # the receiver works in another thread and was quick
            sender.admitted = True
        if self._parked is not None:
            self._wake_receiver()
        return sender

    def _withdraw(self, sender: _Sender) -> bool:
        with self._lock:
            if sender.admitted is not None:
                return False
            self._senders.remove(sender)  # type: ignore[union-attr]  # the sender is in it, so it is no empty tuple
            return True

    def _must_not_block(self) -> bool:
        # The thread as well: in guest mode the host's callbacks run on Trio's thread, but outside of the run.
        return self.system is None or in_trio_run() or get_ident() == self._thread

    def refuse(self) -> InboxFull:
        """To be raised. The message stays with its sender, so that it is no dead letter."""
        self._count_refused()
        return InboxFull(self.name, self.capacity)

    def _count_refused(self) -> None:
        with self._lock:
            self.refused += 1

    def _dead(self, envelope: _envelope.Envelope[Any]) -> ActorDeadError:
        self.dead_letter(envelope.message, "dead")
        return ActorDeadError(f"{self.name} not found")

    def dead_letter(self, message: Any, reason: Reason) -> None:
        """``message`` will not be handled; those who wait for it are not told here. Any thread, never raises."""
        if reason == "full":
            self._count_refused()
        if self.system is None or is_of_the_system(message):
            return
        if type(message) is Parcel:
            message = message.open()
            if message is NOTHING:
                return
        self.system.dead_letters.add(DeadLetter(message, Recipient(self.urn, self.class_name), reason))

    # -- receiving: the actor's task

    @enable_ki_protection
    async def wait(self) -> bool:
        """Park until there may be something to take, or somebody nudges. True if it was a message that has woken.

        Always a checkpoint. If cancelled, nothing is lost.
        """
        if self._queue:  # it stays so: nobody else takes, and what drops a message puts one
            await checkpoint()
            return False
        with self._lock:
            if not self._queue:
                self._parked = current_task()
        if self._parked is None:
            await checkpoint()
            return False
        self._nudged = False
        await wait_task_rescheduled(self._unpark)
        return not self._nudged

    @enable_ki_protection
    def take(self) -> Envelope | None:
        """The next envelope, or None. Makes room for the sender who waits longest."""
        if not self._queue:
            return None  # what is put at this moment is seen by `wait`
        with self._lock:
            queue = self._queue
            depth = len(queue)
            if depth > self._highest:
                self._highest = depth
            envelope: Envelope = queue.popleft() if self._is_deque else queue.pop(0)  # type: ignore[union-attr, call-arg]
            if not self._senders or depth > self.capacity:
                return envelope
            sender = self._senders.popleft()
            sender.admitted = True
            queue.append(sender.envelope)
        sender.waker.wake()
        return envelope

    @enable_ki_protection
    def close(self) -> list[Envelope]:
        """Refuse everything from now on, also those who wait for room; hand over what is left."""
        with self._lock:
            self._closed = True
            self._mark = 0
            self._highest = max(self._highest, len(self._queue))
            left = list(self._queue)
            self._queue.clear()
            refused, self._senders = self._senders, ()
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

    @property
    def depth(self) -> int:
        return len(self._queue)

    @property
    def high_water(self) -> int:
        return max(self._highest, len(self._queue))

    def statistics(self) -> InboxStatistics:
        with self._lock:
            return InboxStatistics(
                queued=len(self._queue),
                capacity=self.capacity,
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

    def nudge(self) -> None:
        """Wake the receiver if it is parked, though there is nothing to take. On its thread."""
        if self._parked is not None:
            self._nudged = True
            self._resume()

    def _unpark(self, _: object) -> Abort:
        self._parked = None
        return Abort.SUCCEEDED
