"""What happens to one message too many: for each policy, each kind of caller."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from pykka._envelope import Envelope
from pykka.messages import _ActorStop
from trio.testing import wait_all_tasks_blocked

from actors import (
    ActorDeadError,
    ActorSystem,
    AskTimeout,
    InboxFull,
    InboxPolicy,
    MessageDropped,
    TrioActor,
    TrioActorRef,
)
from actors._inbox import Inbox


class Refusing(TrioActor):
    """Handles a message once ``open`` is set, answers with it, and keeps it."""

    inbox_capacity = 2

    def __init__(self) -> None:
        super().__init__()
        self.open = trio.Event()
        self.got: list[Any] = []

    async def on_receive(self, message: Any) -> Any:
        await self.open.wait()
        self.got.append(message)
        return message


class Waiting(Refusing):
    inbox_policy = InboxPolicy.WAIT


class Dropping(Refusing):
    inbox_policy = InboxPolicy.DROP_OLDEST


every_policy = pytest.mark.parametrize("actor_class", [Refusing, Waiting, Dropping])
refuse_or_wait = pytest.mark.parametrize("actor_class", [Refusing, Waiting])


async def _full(system: ActorSystem, actor_class: type[Refusing]) -> tuple[TrioActorRef[Refusing], Refusing]:
    """An actor with "in hand" at work and 0 and 1 in its inbox."""
    ref = system.start(actor_class)
    actor = ref._actor_weakref()
    assert actor is not None
    ref.tell("in hand")
    await wait_all_tasks_blocked()
    ref.tell(0)
    ref.tell(1)
    return ref, actor


def _told(ref: TrioActorRef[Refusing], message: Any) -> None:
    ref.tell(message)


def _asked(ref: TrioActorRef[Refusing], message: Any) -> None:
    ref.ask(message, block=False)


sync_calls = pytest.mark.parametrize("send", [_told, _asked])


# -- REFUSE and WAIT


@refuse_or_wait
@sync_calls
async def test_inbox_full_is_raised_when_a_task_sends_without_awaiting(
    send: Callable[[Any, Any], None], actor_class: type[Refusing]
) -> None:
    async with ActorSystem.run() as system:
        ref, actor = await _full(system, actor_class)
        with pytest.raises(InboxFull):
            send(ref, "one too many")
        assert ref.statistics().refused == 1
        actor.open.set()
        await wait_all_tasks_blocked()
        assert actor.got == ["in hand", 0, 1]


@refuse_or_wait
async def test_inbox_full_is_raised_when_a_callback_outside_of_tasks_sends(actor_class: type[Refusing]) -> None:
    raised: list[InboxFull] = []

    def callback(ref: TrioActorRef[Refusing]) -> None:
        try:
            ref.tell("one too many")
        except InboxFull as error:
            raised.append(error)

    async with ActorSystem.run() as system:
        ref, actor = await _full(system, actor_class)
        system.call_soon(callback, ref)
        await wait_all_tasks_blocked()
        assert len(raised) == 1
        actor.open.set()


@refuse_or_wait
async def test_thread_waits_for_room_when_it_tells(actor_class: type[Refusing]) -> None:
    async with ActorSystem.run() as system:
        ref, actor = await _full(system, actor_class)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, ref.tell, "from a thread")
            while not ref.actor_inbox.statistics().waiting_senders:
                await trio.lowlevel.checkpoint()
            actor.open.set()
        assert await ref.request("last") == "last"
        assert actor.got == ["in hand", 0, 1, "from a thread", "last"]


@refuse_or_wait
async def test_inbox_full_is_raised_when_an_actor_would_wait_for_room_in_its_own_inbox(
    actor_class: type[Refusing],
) -> None:
    class Eager(actor_class):  # type: ignore[misc, valid-type]  # one of two bases
        async def on_receive(self, message: Any) -> Any:
            for number in range(3):
                await self.actor_ref.send(number)

    async with ActorSystem.run() as system:
        with pytest.raises(InboxFull):
            await system.start(Eager).request("fill yourself")


async def test_request_is_refused_at_once_when_the_policy_is_refuse() -> None:
    async with ActorSystem.run() as system:
        ref, actor = await _full(system, Refusing)
        with pytest.raises(InboxFull):
            await ref.request("one too many")
        actor.open.set()


async def test_request_waits_its_turn_when_the_policy_is_wait() -> None:
    answers: list[Any] = []

    async def ask(ref: TrioActorRef[Refusing], message: Any) -> None:
        answers.append(await ref.request(message))

    async with ActorSystem.run() as system:
        ref, actor = await _full(system, Waiting)
        async with trio.open_nursery() as nursery:
            for number in (10, 11, 12):
                nursery.start_soon(ask, ref, number)
                await wait_all_tasks_blocked()
            assert ref.actor_inbox.statistics().waiting_senders == 3
            actor.open.set()
        assert answers == [10, 11, 12]
        assert ref.statistics().refused == 0


async def test_one_deadline_covers_room_and_answer_when_the_policy_is_wait(autojump_clock: Any) -> None:
    async with ActorSystem.run(grace_s=0) as system:
        ref, actor = await _full(system, Waiting)
        started = trio.current_time()
        with pytest.raises(AskTimeout, match="room in the inbox"):
            await ref.request("never gets room", timeout_s=2)
        assert trio.current_time() - started == pytest.approx(2)
        assert ref.actor_inbox.statistics().waiting_senders == 0

        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(AskTimeout, match="an answer"):
                    await ref.request("gets room, and no answer", timeout_s=2)

            nursery.start_soon(ask)
            await trio.sleep(1)
            actor.open.set()
            await trio.lowlevel.checkpoint()
            actor.open = trio.Event()


async def test_nothing_is_sent_when_a_request_is_cancelled_while_it_waits_for_room() -> None:
    async with ActorSystem.run() as system:
        ref, actor = await _full(system, Waiting)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.request, "cancelled")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        actor.open.set()
        await ref.request("last")
        assert actor.got == ["in hand", 0, 1, "last"]
        assert system.dead_letters.total == 0


async def test_actor_dead_error_is_raised_when_the_actor_stops_while_a_request_waits_for_room() -> None:
    async with ActorSystem.run() as system:
        ref, _ = await _full(system, Waiting)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(ActorDeadError):
                    await ref.request("too late")

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            ref.cancel()


# -- DROP_OLDEST


@sync_calls
async def test_oldest_message_is_dropped_when_a_task_sends_one_too_many(send: Callable[[Any, Any], None]) -> None:
    async with ActorSystem.run() as system:
        ref, actor = await _full(system, Dropping)
        for number in (2, 3, 4):
            send(ref, number)
        actor.open.set()
        await wait_all_tasks_blocked()
        assert actor.got == ["in hand", 3, 4]
        assert [letter.message for letter in system.dead_letters.recent] == [0, 1, 2]
        assert ref.statistics().refused == 3


async def test_nobody_waits_when_the_policy_drops() -> None:
    async with ActorSystem.run() as system:
        ref, actor = await _full(system, Dropping)
        await ref.send(2)
        await trio.to_thread.run_sync(ref.tell, 3)
        system.call_soon(ref.tell, 4)
        await wait_all_tasks_blocked()
        actor.open.set()
        await wait_all_tasks_blocked()
        assert actor.got == ["in hand", 3, 4]


async def test_asker_is_told_when_its_question_is_dropped() -> None:
    async with ActorSystem.run() as system:
        ref, actor = await _full(system, Dropping)
        in_thread: list[BaseException] = []

        async def ask_in_thread() -> None:
            try:
                await trio.to_thread.run_sync(lambda: ref.ask("from a thread", timeout=10))
            except MessageDropped as error:
                in_thread.append(error)

        async with trio.open_nursery() as nursery:
            asked = ref.ask("asked", block=False)
            nursery.start_soon(ask_in_thread)
            while ref.statistics().refused < 2:
                await trio.lowlevel.checkpoint()
            ref.tell(2)
            ref.tell(3)
            with pytest.raises(MessageDropped, match="2 messages") as caught:
                await asked
        assert caught.value.capacity == 2
        assert len(in_thread) == 1
        actor.open.set()


async def test_stop_is_never_dropped_when_messages_push_each_other_out() -> None:
    async with ActorSystem.run() as system:
        ref, actor = await _full(system, Dropping)
        stopped = ref.stop(block=False)
        for number in range(2, 10):
            ref.tell(number)
        actor.open.set()
        assert await stopped is True
        assert actor.got == ["in hand"]  # the stop has kept its place, and all before it were pushed out
        assert system.dead_letters.counts["dropped"] == 8
        assert system.dead_letters.counts["stopped"] == 2  # queued behind the stop


def test_new_message_is_dropped_when_the_inbox_holds_only_messages_of_the_system() -> None:
    inbox = Inbox(1, InboxPolicy.DROP_OLDEST)
    inbox.put(Envelope(_ActorStop()))
    inbox.put(Envelope("user"))
    assert inbox.refused == 1
    assert isinstance(inbox.get().message, _ActorStop)
    assert inbox.empty()


async def test_bound_holds_and_the_latest_arrive_when_threads_hammer_a_dropping_actor() -> None:
    class Tally(TrioActor):
        inbox_capacity = 7
        inbox_policy = InboxPolicy.DROP_OLDEST

        def __init__(self) -> None:
            super().__init__()
            self.got: dict[int, list[int]] = {thread: [] for thread in range(4)}

        def on_receive(self, message: tuple[int, int]) -> None:
            self.got[message[0]].append(message[1])

    def hammer(ref: TrioActorRef[Tally], thread: int) -> None:
        for number in range(500):
            ref.tell((thread, number))

    async with ActorSystem.run() as system:
        ref = system.start(Tally)
        actor = ref._actor_weakref()
        assert actor is not None
        async with trio.open_nursery() as nursery:
            for thread in range(4):
                nursery.start_soon(trio.to_thread.run_sync, hammer, ref, thread)
        await ref.terminate()
        seen = ref.statistics()
        assert seen.high_water <= 8  # the stop passes the bound
        assert seen.handled + system.dead_letters.counts["dropped"] == 2000
        assert all(numbers == sorted(set(numbers)) for numbers in actor.got.values())
        assert any(numbers[-1:] == [499] for numbers in actor.got.values())


# -- all of them


@every_policy
def test_order_and_count_are_kept_when_an_inbox_grows_and_shrinks(actor_class: type[Refusing]) -> None:
    inbox = Inbox(100, actor_class.inbox_policy)
    put = 0
    got: list[int] = []
    for grow in (3, 20, 1, 90, 5):
        for _ in range(grow):
            inbox.put(Envelope(put))
            put += 1
        got += [inbox.get().message for _ in range(grow - 1)]
    while not inbox.empty():
        got += [inbox.get().message]
    assert got == list(range(put))


@every_policy
async def test_sending_to_a_dead_actor_is_refused_when_its_inbox_was_full(actor_class: type[Refusing]) -> None:
    async with ActorSystem.run() as system:
        ref, _ = await _full(system, actor_class)
        await ref.terminate(grace_s=0)
        with pytest.raises(ActorDeadError):
            ref.tell("late")
        with pytest.raises(ActorDeadError):
            await ref.send("late")
        with pytest.raises(ActorDeadError):
            await ref.request("late")
        thread_errors: list[BaseException] = []

        def tell() -> None:
            try:
                ref.tell("late")
            except ActorDeadError as error:
                thread_errors.append(error)

        thread = threading.Thread(target=tell)
        thread.start()
        thread.join(10)
        assert len(thread_errors) == 1
