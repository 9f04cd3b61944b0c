"""The numbers of an actor and of a system."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import (
    ActorStatistics,
    ActorSystem,
    ChildSpec,
    InboxFull,
    Supervisor,
    TrioActor,
    TrioActorRef,
    WhichChildren,
)


class Worker(TrioActor):
    """Calls a callable (and awaits it), raises an exception, answers with anything else."""

    inbox_capacity = 5

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Exception):
            raise message
        return message() if callable(message) else message


def _numbers(seen: ActorStatistics) -> dict[str, int]:
    return {name: getattr(seen, name) for name in ("handled", "failed", "restarts", "skipped", "refused")}


async def test_everything_is_zero_when_an_actor_has_just_started() -> None:
    async with ActorSystem.run() as system:
        seen = system.start(Worker).statistics()
        assert seen == ActorStatistics(
            depth=0, high_water=0, capacity=5, handled=0, failed=0, restarts=0, skipped=0, refused=0, busy_s=0.0
        )


async def test_each_message_is_counted_once_when_handlers_return_or_raise() -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Worker)
        for number in range(3):
            await ref.request(number)
        await ref.request(trio.lowlevel.checkpoint)
        with pytest.raises(LookupError):
            await ref.request(LookupError())
        assert _numbers(ref.statistics()) == {"handled": 5, "failed": 1, "restarts": 0, "skipped": 0, "refused": 0}


async def test_numbers_remain_when_the_actor_has_failed() -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Worker)
        await ref.request(1)
        ref.tell(LookupError())
        ref.tell("behind it")
        await ref.wait_stopped()
        seen = ref.statistics()
        assert _numbers(seen) == {"handled": 2, "failed": 1, "restarts": 0, "skipped": 0, "refused": 0}
        assert (seen.depth, seen.high_water) == (0, 2)


async def test_stop_is_not_counted_when_an_actor_ends() -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Worker)
        ref.tell(1)
        await ref.terminate()
        assert ref.statistics().handled == 1


async def test_depth_and_high_water_follow_the_inbox_when_it_fills_and_drains() -> None:
    gate = trio.Event()
    async with ActorSystem.run() as system:
        ref = system.start(Worker)
        ref.tell(gate.wait)
        await wait_all_tasks_blocked()
        for number in range(5):
            ref.tell(number)
        with pytest.raises(InboxFull):
            ref.tell("one too many")
        with pytest.raises(InboxFull):
            await ref.request("one too many")
        seen = ref.statistics()
        assert (seen.depth, seen.high_water, seen.handled, seen.refused) == (5, 5, 0, 2)
        gate.set()
        await wait_all_tasks_blocked()
        seen = ref.statistics()
        assert (seen.depth, seen.high_water, seen.handled) == (0, 5, 6)


async def test_handled_is_exact_when_a_handler_of_a_long_burst_reads_it() -> None:
    seen: list[int] = []

    async with ActorSystem.run() as system:
        ref = system.start(Worker)
        for _ in range(4):
            ref.tell(lambda: seen.append(ref.statistics().handled))
        await ref.request("last")
    assert seen == [0, 1, 2, 3]


async def test_time_in_handlers_is_counted_when_they_compute_and_when_they_wait() -> None:
    def compute() -> None:
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass

    async with ActorSystem.run() as system:
        ref = system.start(Worker)
        await ref.request(compute)
        assert 0.02 <= ref.statistics().busy_s < 1
        gate = trio.Event()
        ref.tell(gate.wait)
        await wait_all_tasks_blocked()
        before = ref.statistics().busy_s
        compute()
        assert ref.statistics().busy_s - before >= 0.02  # while it is still at it
        gate.set()
        await wait_all_tasks_blocked()
        idle = ref.statistics().busy_s
        compute()
        assert ref.statistics().busy_s == idle
        ref.tell(trio.sleep_forever)
        await wait_all_tasks_blocked()
        ref.cancel()
        await ref.wait_stopped()
        ended = ref.statistics().busy_s
        compute()
        assert ref.statistics().busy_s == ended


async def test_restarts_are_counted_and_the_rest_goes_on_when_a_supervised_actor_crashes(autojump_clock: Any) -> None:
    async with ActorSystem.run() as system:
        supervisor = system.start(Supervisor, [ChildSpec("worker", Worker)], intensity=5)
        (child,) = await supervisor.request(WhichChildren())
        ref: TrioActorRef[Any] = child.ref
        await ref.request(1)
        for _ in range(2):
            ref.tell(LookupError())
            assert await ref.request("alive") == "alive"
        assert _numbers(ref.statistics()) == {"handled": 5, "failed": 2, "restarts": 2, "skipped": 0, "refused": 0}
        assert system.statistics().restarts == 2


async def test_system_sums_over_the_living_and_the_ended_when_asked() -> None:
    async with ActorSystem.run() as system:
        first, second = system.start(Worker), system.start(Worker)
        for ref in (first, second):
            for number in range(3):
                ref.tell(number)
            await ref.request(0)
        with pytest.raises(LookupError):
            await second.request(LookupError())
        await first.terminate()
        with pytest.raises(Exception, match="not found"):
            first.tell("late")
        seen = system.statistics()
        assert (seen.actors, seen.started, seen.handled, seen.failed) == (1, 2, 9, 1)
        assert (seen.depth, seen.high_water) == (0, 4)
        assert seen.dead_letters["dead"] == 1
        assert seen.busy_s >= second.statistics().busy_s > 0
    seen = system.statistics()
    assert (seen.actors, seen.started, seen.handled) == (0, 2, 9)


def test_numbers_can_be_read_when_another_thread_asks() -> None:
    with ActorSystem.in_thread() as system:
        ref = system.start(Worker)
        for number in range(10):
            ref.ask(number, timeout=10)
        ref.stop(timeout=10)
        assert ref.statistics().handled == 10
        assert system.statistics().handled == 10
