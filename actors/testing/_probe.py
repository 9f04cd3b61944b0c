"""An actor that stands where another would, and can be asked what it was told."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

import trio

from actors._actor import TrioActor
from actors._errors import refuse_on_trio_thread
from actors._future import TrioFuture
from actors._ref import TrioActorRef
from actors._reply import Reply
from actors._system import ActorSystem

__all__ = ["Probe"]

M = TypeVar("M")

LIMIT = 10_000  # messages that nobody has taken: a test that forgets a probe must not eat the machine
TIMEOUT_S = 1.0


class Probe:
    """Give ``probe.ref`` to the actors under test, and expect what they send, one message after the other.

    From a thread, ``probe.expect(Deposit)``; from a task, ``await probe.receive(Deposit)``. Both return the next
    message that has not been taken yet, and raise AssertionError if that is of another type or does not come in time.

    ``reply`` is what askers get: a value, an exception to be raised, or a function that makes one of the message. With
    ``reply=Probe.HOLD`` they wait until ``answer``.
    """

    HOLD: Final = object()

    def __init__(self, system: ActorSystem, *, reply: Any = None) -> None:
        self._lock = threading.Lock()
        self._record: list[Any] = []
        self._untaken: deque[Any] = deque()
        self._held: deque[Reply] = deque()
        self._arrived: TrioFuture[None] = TrioFuture()
        self._reply = reply
        self.ref: TrioActorRef[TrioActor] = system.start(_ProbeActor, self)

    @property
    def messages(self) -> tuple[Any, ...]:
        """All messages so far, taken or not."""
        with self._lock:
            return tuple(self._record)

    def reply_with(self, reply: Any) -> None:
        """What askers get from now on; see ``reply`` above."""
        self._reply = reply

    def answer(self, value: Any = None) -> None:
        """Answer the asker who has been held longest; an exception is raised there. LookupError if there is none."""
        with self._lock:
            if not self._held:
                raise LookupError("nobody waits for an answer of this probe")
            reply = self._held.popleft()
        _give(reply, value)

    # -- from a thread

    def expect(
        self,
        kind: type[M] | tuple[type[M], ...] = object,  # type: ignore[assignment]  # any message: M is then object
        *,
        timeout_s: float = TIMEOUT_S,
        where: Callable[[M], bool] | None = None,
    ) -> M:
        """Block until the next message, at most ``timeout_s`` seconds, and return it.

        AssertionError if it is not of that ``kind``, does not satisfy ``where``, or does not come; it says what came
        instead. WouldDeadlock on a Trio thread.
        """
        refuse_on_trio_thread("Probe.expect()", "`await probe.receive(...)`")
        deadline = time.monotonic() + timeout_s
        while (arrival := self._wanted()) is not None:
            if not arrival.wait_in_thread(deadline - time.monotonic()):
                raise self._nothing_came(kind, timeout_s)
        return self._take(kind, where)

    def expect_nothing(self, *, within_s: float = 0.1) -> None:
        """Block for ``within_s`` seconds. AssertionError if a message is there or comes."""
        refuse_on_trio_thread("Probe.expect_nothing()", "virtual time and `probe.messages`")
        arrival = self._wanted()
        if arrival is None or arrival.wait_in_thread(within_s):
            raise AssertionError(f"{self} expected nothing, but got {self._untaken[0]!r}")

    # -- from a task

    async def receive(
        self,
        kind: type[M] | tuple[type[M], ...] = object,  # type: ignore[assignment]  # as above
        *,
        timeout_s: float = TIMEOUT_S,
        where: Callable[[M], bool] | None = None,
    ) -> M:
        """As ``expect``, for tasks. If cancelled, no message was taken."""
        with trio.move_on_after(timeout_s):
            while (arrival := self._wanted()) is not None:
                await arrival
        if self._wanted() is not None:
            raise self._nothing_came(kind, timeout_s)
        return self._take(kind, where)

    # -- within

    def __str__(self) -> str:
        return f"probe {self.ref.actor_urn}"

    def record(self, message: Any, reply: Reply) -> None:
        """The actor has a message, and hands over the answer to it."""
        with self._lock:
            if len(self._untaken) >= LIMIT:
                raise OverflowError(f"{self} holds {LIMIT} messages that the test has not taken")
            self._record.append(message)
            self._untaken.append(message)
            if self._reply is Probe.HOLD and not reply.abandoned:
                self._held.append(reply)
            arrived, self._arrived = self._arrived, TrioFuture()
        arrived.set()
        if self._reply is not Probe.HOLD:
            _give(reply, self._reply(message) if callable(self._reply) else self._reply)

    def _wanted(self) -> TrioFuture[None] | None:
        """None if a message is there, else the arrival of the next."""
        with self._lock:
            return None if self._untaken else self._arrived

    def _take(self, kind: type[M] | tuple[type[M], ...], where: Callable[[M], bool] | None) -> M:
        with self._lock:
            message = self._untaken[0]
            assert isinstance(message, kind), f"{self} expected {_name(kind)}, but got {message!r}"
            assert where is None or where(message), f"{self} got {message!r}, which is not the one that was expected"
            self._untaken.popleft()
        return message

    def _nothing_came(self, kind: Any, timeout_s: float) -> AssertionError:
        return AssertionError(f"{self} expected {_name(kind)}, but nothing came within {timeout_s} s")


class _ProbeActor(TrioActor):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self._probe = probe

    def on_receive(self, message: Any) -> None:
        self._probe.record(message, self.take_reply())


def _give(reply: Reply, answer: Any) -> None:
    if isinstance(answer, BaseException):
        reply.set_exception(answer)
    else:
        reply.set(answer)


def _name(kind: type | tuple[type, ...]) -> str:
    return " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
