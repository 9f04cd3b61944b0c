"""Messages that end unhandled: each way there is makes one letter, and nothing else does."""

from __future__ import annotations

import logging
import threading
from typing import Any, Literal

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import (
    ActorDeadError,
    ActorSystem,
    AskTimeout,
    DeadLetter,
    InboxFull,
    SystemNotRunning,
    TrioActor,
    TrioActorRef,
)


class Gate(TrioActor):
    """Handles a message once ``open`` is set; raises it if it is an exception."""

    inbox_capacity = 3

    def __init__(self) -> None:
        super().__init__()
        self.open = trio.Event()

    async def on_receive(self, message: Any) -> Any:
        await self.open.wait()
        if isinstance(message, Exception):
            raise message
        return message


def _gate(system: ActorSystem) -> tuple[TrioActorRef[Gate], Gate]:
    ref = system.start(Gate)
    actor = ref._actor_weakref()
    assert actor is not None
    return ref, actor


def _found(system: ActorSystem) -> list[tuple[Any, str]]:
    return [(letter.message, letter.reason) for letter in system.dead_letters.recent]


# -- what is one


async def test_letter_is_made_when_a_message_is_sent_to_a_dead_actor() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _gate(system)
        await ref.terminate()
        with pytest.raises(ActorDeadError):
            ref.tell("told")
        with pytest.raises(ActorDeadError):
            await ref.send("sent")
        with pytest.raises(ActorDeadError):
            await ref.request("requested")
        with pytest.raises(ActorDeadError):
            await ref.ask("asked", block=False)
        with pytest.raises(ActorDeadError):
            await trio.to_thread.run_sync(lambda: ref.ask("asked in a thread", timeout=10))
        assert _found(system) == [
            ("told", "dead"),
            ("sent", "dead"),
            ("requested", "dead"),
            ("asked", "dead"),
            ("asked in a thread", "dead"),
        ]
        assert system.dead_letters.recent[0].recipient == (ref.actor_urn, "Gate")


async def test_letter_is_made_when_a_sender_waits_for_room_and_the_actor_stops() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _gate(system)
        ref.tell("in hand")
        await wait_all_tasks_blocked()
        for number in range(3):
            ref.tell(number)

        async def send() -> None:
            with pytest.raises(ActorDeadError):
                await ref.send("waits in a task")

        def tell() -> None:
            with pytest.raises(ActorDeadError):
                ref.tell("waits in a thread")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(trio.to_thread.run_sync, tell)
            while ref.actor_inbox.statistics().waiting_senders < 2:
                await trio.lowlevel.checkpoint()
            ref.cancel()
        assert _found(system)[:3] == [(0, "stopped"), (1, "stopped"), (2, "stopped")]
        assert sorted(_found(system)[3:]) == [("waits in a task", "dead"), ("waits in a thread", "dead")]


async def test_letter_is_made_when_an_actor_stops_with_messages_queued() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _gate(system)
        ref.tell("in hand")
        await wait_all_tasks_blocked()
        ref.tell("told")
        asked = ref.ask("asked", block=False)
        ref.stop(block=False)
        ref.cancel()
        with pytest.raises(ActorDeadError):
            await asked
        await ref.wait_stopped()
        assert _found(system) == [("told", "stopped"), ("asked", "stopped")]


async def test_letter_is_made_when_a_message_is_queued_behind_the_one_that_kills_the_actor() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _gate(system)
        ref.tell(ValueError("kills"))
        ref.tell("behind")
        actor.open.set()
        await ref.wait_stopped()
        assert _found(system) == [("behind", "stopped")]


def test_letter_is_made_when_an_actor_was_started_too_late_to_live() -> None:
    class Eager(Gate):
        def __init__(self) -> None:
            super().__init__()
            self.actor_ref.tell("told")

    with ActorSystem.in_thread() as system:
        pass
    system._closing = False  # as if the thread that starts it had looked a moment earlier
    with pytest.raises(SystemNotRunning):
        system.start(Eager)
    assert _found(system) == [("told", "stopped")]


async def test_letter_is_made_when_an_ask_is_skipped_because_its_asker_is_gone(autojump_clock: Any) -> None:
    async with ActorSystem.run() as system:
        ref, actor = _gate(system)
        ref.tell("in hand")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.request, "cancelled")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises(AskTimeout):
            await ref.request("timed out", timeout_s=1)
        assert _found(system) == []  # they are still queued
        actor.open.set()
        await wait_all_tasks_blocked()
        assert _found(system) == [("cancelled", "abandoned"), ("timed out", "abandoned")]
        assert ref.statistics().skipped == 2


async def test_letter_is_made_when_a_tick_finds_no_room(autojump_clock: Any) -> None:
    class Ticking(Gate):
        def on_start(self) -> None:
            self.send_after(1, "tick")

    async with ActorSystem.run() as system:
        ref = system.start(Ticking)
        ref.tell("in hand")
        await wait_all_tasks_blocked()
        for number in range(3):
            ref.tell(number)
        await trio.sleep(2)
        assert _found(system) == [("tick", "full")]
        assert ref.statistics().refused == 1
        ref.cancel()


# -- what is none


async def test_no_letter_is_made_when_the_sender_still_has_the_message() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _gate(system)
        ref.tell("in hand")
        await wait_all_tasks_blocked()
        for number in range(3):
            ref.tell(number)
        with pytest.raises(InboxFull):
            ref.tell("refused")
        with trio.CancelScope() as scope:
            scope.cancel()
            await ref.send("cancelled")
        with pytest.raises(AskTimeout):
            await trio.to_thread.run_sync(lambda: ref.ask("no room in time", timeout=0.001))
        with pytest.raises(AskTimeout):
            await ref.request("no time at all", timeout_s=0)
        actor.open.set()
        await ref.terminate()
        assert _found(system) == []


async def test_no_letter_is_made_when_a_stop_comes_too_late() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _gate(system)
        both = [ref.stop(block=False), ref.stop(block=False)]
        for stopped in both:
            assert await stopped is True
        assert await ref.stop(block=False) is False
        assert _found(system) == []


async def test_no_letter_is_made_when_a_handler_raises() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _gate(system)
        actor.open.set()
        with pytest.raises(ValueError, match="asked"):
            await ref.request(ValueError("asked"))
        ref.tell(ValueError("told"))
        await ref.wait_stopped()
        assert _found(system) == []


# -- looking at them


async def test_last_hundred_are_kept_and_all_are_counted_when_there_are_many() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _gate(system)
        await ref.terminate()
        for number in range(250):
            with pytest.raises(ActorDeadError):
                ref.tell(number)
        assert [letter.message for letter in system.dead_letters.recent] == list(range(150, 250))
        assert system.dead_letters.counts == {"dead": 250, "stopped": 0, "dropped": 0, "abandoned": 0, "full": 0}
        assert system.dead_letters.total == 250


async def test_subscribers_are_told_until_they_unsubscribe() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _gate(system)
        await ref.terminate()
        first: list[DeadLetter] = []
        second: list[DeadLetter] = []
        end_first = system.dead_letters.subscribe(first.append)
        system.dead_letters.subscribe(second.append)
        for number in range(2):
            with pytest.raises(ActorDeadError):
                ref.tell(number)
            end_first()
            end_first()
        assert [letter.message for letter in first] == [0]
        assert [letter.message for letter in second] == [0, 1]


async def test_each_subscription_ends_on_its_own_when_a_callback_has_two() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _gate(system)
        await ref.terminate()
        letters: list[DeadLetter] = []
        end_first = system.dead_letters.subscribe(letters.append)
        system.dead_letters.subscribe(letters.append)
        end_first()
        with pytest.raises(ActorDeadError):
            ref.tell("once")
        assert len(letters) == 1


async def test_no_harm_is_done_when_a_subscriber_raises(caplog: pytest.LogCaptureFixture) -> None:
    def fail(letter: DeadLetter) -> None:
        raise LookupError("subscriber")

    letters: list[DeadLetter] = []
    async with ActorSystem.run() as system:
        system.dead_letters.subscribe(fail)
        system.dead_letters.subscribe(letters.append)
        ref, _ = _gate(system)
        ref.tell("in hand")
        await wait_all_tasks_blocked()
        asked = [ref.ask(number, block=False) for number in range(2)]
        ref.cancel()
        for each in asked:
            with pytest.raises(ActorDeadError):
                await each
    assert [letter.message for letter in letters] == [0, 1]
    assert "subscriber" in caplog.text


async def test_letter_is_counted_and_not_told_when_a_subscriber_causes_it() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _gate(system)
        await ref.terminate()
        told: list[DeadLetter] = []

        def forward(letter: DeadLetter) -> None:
            told.append(letter)
            with pytest.raises(ActorDeadError):
                ref.tell("forwarded to the dead")

        system.dead_letters.subscribe(forward)
        with pytest.raises(ActorDeadError):
            ref.tell("first")
        assert [letter.message for letter in told] == ["first"]
        assert system.dead_letters.total == 2


async def test_every_letter_is_counted_when_threads_make_them_at_once() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _gate(system)
        await ref.terminate()
        told: list[DeadLetter] = []
        system.dead_letters.subscribe(told.append)

        def hammer() -> None:
            for number in range(200):
                with pytest.raises(ActorDeadError):
                    ref.tell(number)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(trio.to_thread.run_sync, hammer)
        assert system.dead_letters.counts["dead"] == len(told) == 800


@pytest.mark.parametrize(("level", "logged"), [(logging.INFO, False), (logging.DEBUG, True)])
async def test_letter_is_logged_without_its_content_when_the_level_is_debug(
    level: Literal[10, 20], logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with ActorSystem.run() as system:
        ref, _ = _gate(system)
        await ref.terminate()
        with caplog.at_level(level, "pykka"), pytest.raises(ActorDeadError):
            ref.tell("a secret")
    assert ("Dead letter (dead): str for Gate" in caplog.text) is logged
    assert "a secret" not in caplog.text


async def test_letters_stay_apart_when_two_systems_run() -> None:
    async with ActorSystem.run() as one, ActorSystem.run() as other:
        ref, _ = _gate(one)
        await ref.terminate()
        with pytest.raises(ActorDeadError):
            ref.tell("to one")
        assert (one.dead_letters.total, other.dead_letters.total) == (1, 0)


def test_letters_can_be_read_when_the_system_is_over() -> None:
    seen = threading.Event()
    with ActorSystem.in_thread() as system:
        system.dead_letters.subscribe(lambda letter: seen.set())
        ref = system.start(Gate)
        ref.stop(timeout=10)
    with pytest.raises(ActorDeadError):
        ref.tell("late")
    assert seen.is_set()
    assert system.dead_letters.recent[-1].message == "late"
