"""Death watch: who is told about whose end, and that it is exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import (
    ActorDeadError,
    ActorSystem,
    ChildSpec,
    Supervisor,
    SystemNotRunning,
    Terminated,
    TrioActor,
    TrioActorRef,
    WhichChildren,
)


class Worker(TrioActor):
    """Calls what it is sent; an exception is raised."""

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message() if callable(message) else message


class Watcher(TrioActor):
    """Calls what it is sent with itself; keeps everything else."""

    inbox_capacity = 2

    def __init__(self, got: list[Any]) -> None:
        super().__init__()
        self.got = got

    def on_receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        self.got.append(message)
        return None


@pytest.fixture
def got() -> list[Any]:
    return []


def _watch(ref: Any) -> Callable[[Watcher], None]:
    return lambda watcher: watcher.watch(ref)


def _unwatch(ref: Any) -> Callable[[Watcher], bool]:
    return lambda watcher: watcher.unwatch(ref)


async def test_terminated_says_stopped_when_the_watched_is_asked_to_stop(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        watcher, worker = system.start(Watcher, got), system.start(Worker)
        await watcher.request(_watch(worker))
        await worker.terminate()
        await wait_all_tasks_blocked()
        assert got == [Terminated(worker, "stopped", None)]


async def test_terminated_says_failed_and_with_what_when_the_watched_fails(got: list[Any]) -> None:
    error = LookupError()
    async with ActorSystem.run() as system:
        watcher, worker = system.start(Watcher, got), system.start(Worker)
        await watcher.request(_watch(worker))
        worker.tell(error)
        await wait_all_tasks_blocked()
        assert got == [Terminated(worker, "failed", error)]


async def test_terminated_says_failed_when_the_watched_fails_to_start(got: list[Any]) -> None:
    error = LookupError()

    class Stillborn(TrioActor):
        def on_start(self) -> None:
            raise error

    async with ActorSystem.run() as system:
        watcher = system.start(Watcher, got)
        worker = system.start(Stillborn)
        await watcher.request(_watch(worker))
        await wait_all_tasks_blocked()
        assert got == [Terminated(worker, "failed", error)]


async def test_terminated_says_cancelled_when_the_watched_is_cancelled(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        watcher, worker = system.start(Watcher, got), system.start(Worker)
        await watcher.request(_watch(worker))
        worker.cancel()
        await wait_all_tasks_blocked()
        assert got == [Terminated(worker, "cancelled", None)]


async def test_terminated_comes_at_once_when_the_watched_is_dead_already(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        watcher, worker = system.start(Watcher, got), system.start(Worker)
        await worker.terminate()
        for _ in range(2):  # having been told, one may ask again
            await watcher.request(_watch(worker))
            await wait_all_tasks_blocked()
        assert got == [Terminated(worker, "stopped", None)] * 2


async def test_terminated_comes_once_when_an_actor_is_watched_twice(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        watcher, worker = system.start(Watcher, got), system.start(Worker)
        for _ in range(2):
            await watcher.request(_watch(worker))
        await worker.terminate()
        await wait_all_tasks_blocked()
        assert len(got) == 1


async def test_every_watcher_is_told_when_many_watch_one(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        worker = system.start(Worker)
        for _ in range(100):
            await system.start(Watcher, got).request(_watch(worker))
        await worker.terminate()
        await wait_all_tasks_blocked()
        assert got == [Terminated(worker, "stopped", None)] * 100


async def test_nothing_comes_when_the_watch_is_ended(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        watcher, worker = system.start(Watcher, got), system.start(Worker)
        await watcher.request(_watch(worker))
        assert await watcher.request(_unwatch(worker)) is True
        assert await watcher.request(_unwatch(worker)) is False
        await worker.terminate()
        await wait_all_tasks_blocked()
        assert got == []
        assert worker.cell.watchers is None


async def test_nothing_comes_when_the_watch_is_ended_with_the_news_in_the_queue(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        watcher, worker = system.start(Watcher, got), system.start(Worker)
        await watcher.request(_watch(worker))

        async def unwatch_late(watcher: Watcher) -> None:
            await worker.terminate()
            assert watcher.actor_inbox.statistics().queued == 1
            assert watcher.unwatch(worker)

        await watcher.request(unwatch_late)
        await wait_all_tasks_blocked()
        assert got == []


async def test_terminated_passes_the_bound_when_the_inbox_of_the_watcher_is_full(got: list[Any]) -> None:
    gate = trio.Event()
    async with ActorSystem.run() as system:
        watcher = system.start(Watcher, got)
        workers = [system.start(Worker) for _ in range(5)]
        for worker in workers:
            await watcher.request(_watch(worker))
        watcher.tell(lambda _: gate.wait())
        await wait_all_tasks_blocked()
        for number in range(Watcher.inbox_capacity):
            watcher.tell(number)
        for worker in workers:
            await worker.terminate()
        gate.set()
        await wait_all_tasks_blocked()
        assert got == [0, 1, *(Terminated(worker, "stopped", None) for worker in workers)]


async def test_terminated_comes_after_everything_else_when_the_watched_says_goodbye(got: list[Any]) -> None:
    class Polite(TrioActor):
        def __init__(self, friend: TrioActorRef[Any]) -> None:
            super().__init__()
            self.friend = friend

        async def on_stop(self) -> None:
            await trio.lowlevel.checkpoint()
            self.friend.tell("goodbye")

    async with ActorSystem.run() as system:
        watcher = system.start(Watcher, got)
        worker = system.start(Polite, watcher)
        await watcher.request(_watch(worker))
        await worker.terminate()
        await wait_all_tasks_blocked()
        assert got == ["goodbye", Terminated(worker, "stopped", None)]


async def test_watched_forgets_the_watcher_when_that_dies_first(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        watcher, worker = system.start(Watcher, got), system.start(Worker)
        await watcher.request(_watch(worker))
        await watcher.terminate()
        assert not worker.cell.watchers
        await worker.terminate()
        assert got == []


async def test_both_are_told_of_the_other_when_they_watch_each_other(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        left, right = system.start(Watcher, got), system.start(Watcher, got)
        await left.request(_watch(right))
        await right.request(_watch(left))
        await right.terminate()
        await wait_all_tasks_blocked()
        assert got == [Terminated(right, "stopped", None)]


async def test_terminated_comes_when_the_watched_lives_in_the_system_of_another_thread(got: list[Any]) -> None:
    told = trio.Event()

    class Alerting(Watcher):
        def on_receive(self, message: Any) -> Any:
            super().on_receive(message)
            if isinstance(message, Terminated):
                told.set()

    def elsewhere(worker: list[Any], ready: Callable[[], object], leave: threading.Event) -> None:
        with ActorSystem.in_thread() as other:
            worker.append(other.start(Worker))
            ready()
            assert leave.wait(10)

    async with ActorSystem.run() as system:
        watcher, there, ready, leave = system.start(Alerting, got), list[Any](), trio.Event(), threading.Event()
        async with trio.open_nursery() as nursery:
            token = trio.lowlevel.current_trio_token()
            nursery.start_soon(trio.to_thread.run_sync, elsewhere, there, lambda: token.run_sync_soon(ready.set), leave)
            await ready.wait()
            await watcher.request(_watch(there[0]))
            leave.set()
        await told.wait()
        assert got == [Terminated(there[0], "stopped", None)]


async def test_nothing_comes_when_the_watched_is_only_restarted(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        watcher = system.start(Watcher, got)
        tree = system.start(Supervisor, [ChildSpec("worker", Worker)])
        worker = Supervisor.refs_of(await tree.request(WhichChildren()))["worker"]
        await watcher.request(_watch(worker))
        worker.tell(LookupError())
        assert await worker.request("alive") == "alive"
        await wait_all_tasks_blocked()
        assert got == []
        await tree.terminate()
        await wait_all_tasks_blocked()
        assert got == [Terminated(worker, "stopped", None)]


async def test_terminated_says_failed_when_a_supervisor_gives_the_watched_up(got: list[Any]) -> None:
    error = LookupError()
    async with ActorSystem.run() as system:
        watcher = system.start(Watcher, got)
        tree = system.start(Supervisor, [ChildSpec("worker", Worker)], intensity=0)
        worker = Supervisor.refs_of(await tree.request(WhichChildren()))["worker"]
        await watcher.request(_watch(worker))
        worker.tell(error)
        await tree.wait_stopped()
        await wait_all_tasks_blocked()
        assert got == [Terminated(worker, "failed", error)]


async def test_watches_end_when_the_watcher_is_restarted(got: list[Any]) -> None:
    async with ActorSystem.run() as system:
        worker = system.start(Worker)
        tree = system.start(Supervisor, [ChildSpec("watcher", lambda: Watcher(got))])
        watcher = Supervisor.refs_of(await tree.request(WhichChildren()))["watcher"]
        await watcher.request(_watch(worker))

        async def crash_with_the_news_in_the_queue(_: Watcher) -> None:
            await worker.terminate()
            raise LookupError

        watcher.tell(crash_with_the_news_in_the_queue)
        await watcher.request(lambda _: None)
        await wait_all_tasks_blocked()
        assert got == []
        await watcher.request(_watch(worker))
        await wait_all_tasks_blocked()
        assert got == [Terminated(worker, "stopped", None)]


async def test_watching_is_refused_when_it_makes_no_sense(got: list[Any]) -> None:
    class TooEarly(TrioActor):
        def __init__(self, worker: TrioActorRef[Any]) -> None:
            super().__init__()
            self.watch(worker)

    class TooLate(Watcher):
        def on_stop(self) -> None:
            with pytest.raises(ActorDeadError):
                self.watch(self.actor_ref)
            self.got.append("refused")

    async with ActorSystem.run() as system:
        watcher = system.start(TooLate, got)
        with pytest.raises(SystemNotRunning):
            system.start(TooEarly, watcher)
        with pytest.raises(ValueError, match="itself"):
            await watcher.request(_watch(watcher))
        with pytest.raises(TypeError, match="TrioActorRef"):
            await watcher.request(_watch("nobody"))
        await watcher.terminate()
    assert got == ["refused"]


async def test_watcher_is_told_when_the_watched_is_buried_without_having_lived(got: list[Any]) -> None:
    late: list[Any] = []
    constructing, proceed = threading.Event(), threading.Event()

    class Late(Worker):
        def __init__(self) -> None:
            super().__init__()
            constructing.set()
            assert proceed.wait(10)

    async with ActorSystem.run() as outer, trio.open_nursery() as nursery:
        watcher = outer.start(Watcher, got)
        async with ActorSystem.run() as system:
            nursery.start_soon(trio.to_thread.run_sync, lambda: late.append(system.start(Late)))
            await trio.to_thread.run_sync(constructing.wait, 10)
        proceed.set()
        while not late:
            await trio.lowlevel.checkpoint()
        await watcher.request(_watch(late[0]))
        await late[0].wait_stopped()
        await wait_all_tasks_blocked()
        assert got == [Terminated(late[0], "cancelled", None)]
