"""An actor system that judges: what goes wrong in an actor goes wrong in the test, and nothing is left for the next."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pykka

from actors._dead_letters import DeadLetter
from actors._errors import refuse_on_trio_thread
from actors._future import TrioFuture
from actors._ref import TrioActorRef
from actors._system import GRACE_S, ActorSystem

__all__ = ["Failure", "RefsLeftBehind", "Rig", "no_refs_left_behind", "running_system"]


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception in an actor that nobody had asked for, whether the actor was restarted or is dead."""

    ref: TrioActorRef[Any]
    error: BaseException


@dataclass
class _Expected:
    kind: type[BaseException]
    match: str | None
    times: int

    def covers(self, error: BaseException) -> bool:
        return self.times > 0 and isinstance(error, self.kind) and re.search(self.match or "", str(error)) is not None

    def __str__(self) -> str:
        return self.kind.__name__ + (f" matching {self.match!r}" if self.match else "")


class RefsLeftBehind(AssertionError):
    """Actors that were started in a test were still registered at its end. They have been asked to stop."""

    def __init__(self, refs: list[pykka.ActorRef[Any]]) -> None:
        super().__init__("still registered: " + ", ".join(map(str, refs)))
        self.refs = refs


class Rig(ActorSystem):
    """An actor system for a test; ``running_system()`` or a fixture makes it.

    In a Trio program: ``async with Rig.run() as system: ...``, and after it ``system.judge()``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._letters: list[DeadLetter] = []
        self.dead_letters.subscribe(self._letters.append)
        self._judging = threading.Lock()
        self._failures: list[Failure] = []
        self._unexpected: list[Failure] = []
        self._expected: list[_Expected] = []

    @property
    def letters(self) -> tuple[DeadLetter, ...]:
        """All dead letters so far."""
        return tuple(self._letters)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All failures of actors so far, expected or not, in their order."""
        with self._judging:
            return tuple(self._failures)

    def expect_failure(self, kind: type[BaseException], *, match: str | None = None, times: int = 1) -> None:
        """From now on ``times`` failures of that ``kind`` are part of the test, and it fails if they do not come.

        ``match`` is searched for in the text of the exception, as in ``pytest.raises``.
        """
        with self._judging:
            self._expected.append(_Expected(kind, match, times))

    def actor_failed(self, ref: TrioActorRef[Any], error: BaseException) -> None:
        super().actor_failed(ref, error)
        failure = Failure(ref, error)
        with self._judging:
            self._failures.append(failure)
            expected = next((each for each in self._expected if each.covers(error)), None)
            if expected is None:
                self._unexpected.append(failure)
            else:
                expected.times -= 1

    def stop_all_blocking(self, *, grace_s: float = GRACE_S, timeout_s: float = 10.0) -> None:
        """``stop_all`` for a thread. Does nothing once the run is over.

        Raises WouldDeadlock on a Trio thread, and TimeoutError if it takes ``timeout_s`` seconds more than the grace.
        """
        refuse_on_trio_thread("Rig.stop_all_blocking()", "`await system.stop_all()`")
        stopped: TrioFuture[None] = TrioFuture()

        async def stop() -> None:
            try:
                await self.stop_all(grace_s=grace_s)
            finally:
                stopped.set()

        def begin() -> None:
            if self._over.is_set():
                stopped.set()
            else:
                self.start_task(stop, name="stop all")

        if self.call_soon(begin) and not stopped.wait_in_thread(grace_s + timeout_s):
            raise TimeoutError(
                f"the actors have not stopped within {grace_s + timeout_s} s; a handler blocks the thread"
            )

    def judge(self) -> None:
        """Raise what has gone wrong in actors and has not been raised yet; then, what was expected and did not come.

        One failure is raised as it is, with a note that names the actor; several as a group.
        """
        failures, missing = self._verdict()
        for failure in failures:
            failure.error.add_note(f"raised in {failure.ref}")
        if len(failures) == 1:
            raise failures[0].error
        if failures:
            raise BaseExceptionGroup(f"{len(failures)} failures in actors", [each.error for each in failures])
        assert not missing, "expected of an actor, but it did not fail: " + ", ".join(map(str, missing))

    def testify(self, error: BaseException) -> None:
        """A test has failed by itself, with ``error``: note there what has gone wrong in actors, and raise nothing."""
        for failure in self._verdict()[0]:
            error.add_note(f"and in {failure.ref}: {failure.error!r}")

    def _verdict(self) -> tuple[list[Failure], list[_Expected]]:
        with self._judging:
            failures, self._unexpected = self._unexpected, []
            missing = [each for each in self._expected if each.times > 0]
            self._expected = []
        return failures, missing


@contextmanager
def running_system(*, grace_s: float = GRACE_S, timeout_s: float = 10.0) -> Iterator[Rig]:
    """A system in a background thread for a test that knows nothing of Trio.

    Leaving the block stops the actors as ``ActorSystem.in_thread()`` does. Then it raises what has failed in an actor
    and was not expected, and RefsLeftBehind. What the block itself raises goes first, and notes what failed besides.
    """
    with _clearing(_is_nobodys):
        system: Rig | None = None
        try:
            with Rig.in_thread(grace_s=grace_s, timeout_s=timeout_s) as system:
                yield system
        except BaseException as error:
            if system is not None:
                system.testify(error)
            raise
        system.judge()


@contextmanager
def no_refs_left_behind() -> Iterator[None]:
    """Raise RefsLeftBehind when the block leaves actors in Pykka's registry, of whatever kind, and clear them away."""
    with _clearing(lambda _: True):
        yield


@contextmanager
def _clearing(is_ours: Callable[[pykka.ActorRef[Any]], bool]) -> Iterator[None]:
    before = set(pykka.ActorRegistry.get_all())
    try:
        yield
    finally:
        left = [ref for ref in pykka.ActorRegistry.get_all() if ref not in before and is_ours(ref)]
        for ref in left:
            ref.stop(block=False)
            pykka.ActorRegistry.unregister(ref)
    if left:
        raise RefsLeftBehind(left)


def _is_nobodys(ref: pykka.ActorRef[Any]) -> bool:
    """A system that goes on when ours has ended looks after its own actors."""
    system = ref.actor_inbox.system if isinstance(ref, TrioActorRef) else None
    return system is None or not system.is_running()
