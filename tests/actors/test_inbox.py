"""The bound of an inbox, the order in it, and those who wait for room."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest
import trio
from pykka._envelope import Envelope
from trio.testing import wait_all_tasks_blocked

from actors import ActorDeadError, ActorSystem, InboxFull, TrioActor
from actors._inbox import Inbox


class Collector(TrioActor):
    """Keeps what it is told, once ``open`` is set."""

    inbox_capacity = 3

    def __init__(self) -> None:
        super().__init__()
        self.open = trio.Event()
        self.got: list[Any] = []

    async def on_receive(self, message: Any) -> None:
        await self.open.wait()
        self.got.append(message)


def _collector(system: ActorSystem) -> tuple[Any, Collector]:
    made: list[Collector] = []

    def make() -> Collector:
        made.append(Collector())
        return made[0]

    return system.start(make), made[0]


async def _fill(ref: Any) -> None:
    ref.tell("in hand")
    await wait_all_tasks_blocked()
    for number in range(3):
        ref.tell(number)


async def test_tell_raises_inbox_full_when_the_bound_is_reached() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _collector(system)
        await _fill(ref)
        with pytest.raises(InboxFull, match="holds 3 messages"):
            ref.tell("one too many")
        with pytest.raises(InboxFull):
            ref.ask("one too many", block=False)
        actor.open.set()
        await wait_all_tasks_blocked()
        assert actor.got == ["in hand", 0, 1, 2]


async def test_send_waits_for_room_when_the_inbox_is_full() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _collector(system)
        await _fill(ref)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.send, "waited")
            await wait_all_tasks_blocked()
            assert ref.actor_inbox.statistics().waiting_senders == 1
            actor.open.set()
        await wait_all_tasks_blocked()
        assert actor.got[-1] == "waited"


async def test_senders_get_room_in_turn_when_several_wait() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _collector(system)
        await _fill(ref)
        async with trio.open_nursery() as nursery:
            for number in range(10, 20):
                nursery.start_soon(ref.send, number)
                await wait_all_tasks_blocked()
            actor.open.set()
        await wait_all_tasks_blocked()
        assert actor.got == ["in hand", 0, 1, 2, *range(10, 20)]


async def test_nobody_gets_past_a_waiting_sender_when_room_appears() -> None:
    inbox = Inbox(1)
    inbox.put(Envelope("first"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.send, Envelope("waits"))
        await wait_all_tasks_blocked()
        assert inbox.get().message == "first"
        with pytest.raises(InboxFull):
            inbox.put(Envelope("pushes in"))
        assert inbox.get().message == "waits"
    assert inbox.empty()


async def test_nothing_is_sent_when_a_waiting_send_is_cancelled() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _collector(system)
        await _fill(ref)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.send, "cancelled")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert ref.actor_inbox.statistics().waiting_senders == 0
        actor.open.set()
        await wait_all_tasks_blocked()
        assert actor.got == ["in hand", 0, 1, 2]


async def test_nothing_is_sent_when_send_is_called_in_a_cancelled_scope() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _collector(system)
        actor.open.set()
        with trio.CancelScope() as scope:
            scope.cancel()
            await ref.send("cancelled")
        await wait_all_tasks_blocked()
        assert actor.got == []


async def test_waiting_send_raises_actor_dead_error_when_the_actor_stops() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _collector(system)
        await _fill(ref)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ActorDeadError):
                    await ref.send("too late")

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            await ref.terminate(grace_s=0)


async def test_inbox_full_is_raised_when_an_actor_overfills_itself_before_its_start() -> None:
    class Eager(TrioActor):
        inbox_capacity = 2

        def __init__(self) -> None:
            super().__init__()
            for number in range(3):
                self.actor_ref.tell(number)

    async with ActorSystem.run() as system:
        with pytest.raises(InboxFull):
            await trio.to_thread.run_sync(system.start, Eager)


async def test_early_messages_are_handled_when_an_actor_tells_itself_before_its_start() -> None:
    got: list[str] = []

    class Eager(TrioActor):
        def __init__(self) -> None:
            super().__init__()
            self.actor_ref.tell("early")

        def on_receive(self, message: str) -> None:
            got.append(message)

    async with ActorSystem.run() as system:
        await system.start(Eager).request("late")
    assert got == ["early", "late"]


@pytest.mark.parametrize("capacity", [0, -1])
def test_inbox_is_refused_when_it_has_no_room_at_all(capacity: int) -> None:
    with pytest.raises(ValueError, match="at least one message"):
        Inbox(capacity)


async def test_statistics_tell_what_is_queued_when_asked() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _collector(system)
        await wait_all_tasks_blocked()
        assert ref.actor_inbox.statistics().receiver_waiting
        await _fill(ref)
        ref.stop(block=False)
        seen = ref.actor_inbox.statistics()
        assert (seen.queued, seen.capacity, seen.receiver_waiting, seen.closed) == (4, 3, False, False)
        actor.open.set()
        await ref.wait_stopped()
        assert ref.actor_inbox.statistics().closed


async def test_get_raises_empty_when_nothing_is_queued() -> None:
    with pytest.raises(queue.Empty):
        Inbox(1).get()


@pytest.mark.parametrize("capacity", [1, 7, 1024])
async def test_every_message_arrives_once_and_in_order_when_eight_threads_hammer_a_bounded_actor(capacity: int) -> None:
    class Tally(TrioActor):
        inbox_capacity = capacity

        def __init__(self) -> None:
            super().__init__()
            self.got: dict[int, list[int]] = {thread: [] for thread in range(8)}
            self.most = 0

        def on_receive(self, message: tuple[int, int]) -> int:
            self.most = max(self.most, self.actor_inbox.statistics().queued)
            self.got[message[0]].append(message[1])
            return message[1]

    tallies: list[Tally] = []

    def make() -> Tally:
        tallies.append(Tally())
        return tallies[0]

    def hammer(ref: Any, thread: int) -> None:
        for number in range(200):
            if number % 3:
                ref.tell((thread, number))
            else:
                assert ref.ask((thread, number), timeout=30) == number

    async with ActorSystem.run() as system:
        ref = system.start(make)
        async with trio.open_nursery() as nursery:
            for thread in range(8):
                nursery.start_soon(trio.to_thread.run_sync, hammer, ref, thread)
            for number in range(200):  # and a task in between
                await ref.send((0, -number))
    got = tallies[0].got
    assert [number for number in got[0] if number > 0] == list(range(1, 200))
    assert all(got[thread] == list(range(200)) for thread in range(1, 8))
    assert tallies[0].most <= capacity


def test_blocked_tell_goes_on_when_room_appears() -> None:
    with ActorSystem.in_thread() as system:
        ref, actor = _collector(system)
        told = threading.Event()

        def tell() -> None:
            for number in range(10):
                ref.tell(number)
            told.set()

        thread = threading.Thread(target=tell)
        thread.start()
        system.call_soon(actor.open.set)
        thread.join(10)
        assert told.is_set()
        ref.stop(timeout=10)
        assert actor.got == list(range(10))
