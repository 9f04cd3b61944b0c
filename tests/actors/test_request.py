"""Asks from tasks: answers, deadlines, and what happens to a message nobody waits for any more."""

from __future__ import annotations

import contextvars
import math
import threading
from typing import Any

import pytest
import trio
from pykka import Timeout
from trio.testing import wait_all_tasks_blocked

from actors import ActorDeadError, ActorSystem, AskTimeout, InboxFull, TrioActor, WouldDeadlock


class Echo(TrioActor):
    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Exception):
            raise message
        return message


class Gate(TrioActor):
    """Handles one message at a time, each only after ``open`` was set; remembers what it has handled."""

    inbox_capacity = 4

    def __init__(self) -> None:
        super().__init__()
        self.open = trio.Event()
        self.handled: list[Any] = []

    async def on_receive(self, message: Any) -> Any:
        self.handled.append(message)
        await self.open.wait()
        return message


def _gate(system: ActorSystem) -> tuple[Any, Gate]:
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate())
        return made[0]

    return system.start(make), made[0]


async def test_answer_is_returned_when_a_task_asks() -> None:
    async with ActorSystem.run() as system:
        assert await system.start(Echo).request("hello") == "hello"


async def test_answer_is_returned_when_the_handler_is_async() -> None:
    class Slow(TrioActor):
        async def on_receive(self, message: int) -> int:
            await trio.lowlevel.checkpoint()
            return message + 1

    async with ActorSystem.run() as system:
        assert await system.start(Slow).request(1) == 2


async def test_exception_reaches_the_asker_and_the_actor_lives_on_when_a_handler_raises() -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Echo)
        with pytest.raises(LookupError, match="nothing here"):
            await ref.request(LookupError("nothing here"))
        assert await ref.request("still there") == "still there"


async def test_thousand_tasks_get_their_own_answer_when_they_ask_at_once() -> None:
    answers: dict[int, int] = {}

    async def ask(ref: Any, number: int) -> None:
        answers[number] = await ref.request(number)

    async with ActorSystem.run() as system:
        ref = system.start(Echo)
        async with trio.open_nursery() as nursery:
            for number in range(1_000):
                nursery.start_soon(ask, ref, number)
    assert answers == {number: number for number in range(1_000)}


@pytest.mark.parametrize("timeout_s", [0.25, 5.0, 3600.0])
async def test_ask_times_out_exactly_at_its_deadline_when_no_answer_comes(
    timeout_s: float, autojump_clock: Any
) -> None:
    async with ActorSystem.run(grace_s=0) as system:
        ref, _ = _gate(system)
        started = trio.current_time()
        with pytest.raises(AskTimeout) as caught:
            await ref.request("never", timeout_s=timeout_s)
        assert trio.current_time() - started == pytest.approx(timeout_s)
        assert caught.value.timeout_s == timeout_s
        assert isinstance(caught.value, Timeout)


async def test_default_deadline_is_five_seconds_when_none_is_given(autojump_clock: Any) -> None:
    async with ActorSystem.run(grace_s=0) as system:
        ref, _ = _gate(system)
        with trio.fail_after(5.01), pytest.raises(AskTimeout):
            await ref.request("never")


async def test_earlier_deadline_fires_first_when_it_was_added_later(autojump_clock: Any) -> None:
    order: list[float] = []

    async def ask(ref: Any, timeout_s: float) -> None:
        with pytest.raises(AskTimeout):
            await ref.request("never", timeout_s=timeout_s)
        order.append(timeout_s)

    async with ActorSystem.run(grace_s=0) as system:
        ref, _ = _gate(system)
        async with trio.open_nursery() as nursery:
            for timeout_s in (3.0, 1.0, 2.0):
                nursery.start_soon(ask, ref, timeout_s)
                await wait_all_tasks_blocked()
    assert order == [1.0, 2.0, 3.0]


async def test_deadlines_go_on_working_when_thousands_of_asks_were_answered_before(autojump_clock: Any) -> None:
    async with ActorSystem.run(grace_s=0) as system:
        echo = system.start(Echo)
        for number in range(3_000):
            await echo.request(number)
        ref, _ = _gate(system)
        with trio.fail_after(2.01), pytest.raises(AskTimeout):
            await ref.request("never", timeout_s=2)


@pytest.mark.parametrize("timeout_s", [0, -1.0])
async def test_nothing_is_sent_when_the_time_to_ask_is_already_up(timeout_s: float) -> None:
    async with ActorSystem.run() as system:
        ref, gate = _gate(system)
        with pytest.raises(AskTimeout):
            await ref.request("too late", timeout_s=timeout_s)
        await wait_all_tasks_blocked()
        assert gate.handled == []


@pytest.mark.parametrize("timeout_s", [math.inf, math.nan])
async def test_ask_is_refused_when_it_has_no_deadline(timeout_s: float) -> None:
    async with ActorSystem.run() as system:
        with pytest.raises(ValueError, match="finite deadline"):
            await system.start(Echo).request("hello", timeout_s=timeout_s)


async def test_message_is_skipped_when_its_asker_was_cancelled_in_the_queue() -> None:
    async with ActorSystem.run() as system:
        ref, gate = _gate(system)
        ref.tell("first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.request, "cancelled")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        ref.tell("last")
        gate.open.set()
        await wait_all_tasks_blocked()
        assert gate.handled == ["first", "last"]


async def test_message_is_skipped_when_its_asker_timed_out_in_the_queue(autojump_clock: Any) -> None:
    async with ActorSystem.run() as system:
        ref, gate = _gate(system)
        ref.tell("first")
        with pytest.raises(AskTimeout):
            await ref.request("too late", timeout_s=1)
        gate.open.set()
        await wait_all_tasks_blocked()
        assert gate.handled == ["first"]


async def test_message_is_skipped_when_a_blocked_thread_timed_out() -> None:
    async with ActorSystem.run() as system:
        ref, gate = _gate(system)
        ref.tell("first")
        with pytest.raises(AskTimeout):
            await trio.to_thread.run_sync(lambda: ref.ask("too late", timeout=0.001))
        gate.open.set()
        await wait_all_tasks_blocked()
        assert gate.handled == ["first"]


async def test_handler_finishes_when_its_asker_is_cancelled_meanwhile() -> None:
    async with ActorSystem.run() as system:
        ref, gate = _gate(system)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.request, "begun")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        gate.open.set()
        assert await ref.request("next") == "next"
        assert gate.handled == ["begun", "next"]


async def test_answer_wins_when_it_comes_at_the_moment_of_the_deadline(autojump_clock: Any) -> None:
    class Late(TrioActor):
        async def on_receive(self, message: float) -> str:
            await trio.sleep(message)
            return "answer"

    async with ActorSystem.run() as system:
        try:
            answer = await system.start(Late).request(1.0, timeout_s=1.0)
        except AskTimeout:
            return  # both are right: Trio shuffles who is woken first. What must not happen is a hang or a crash
        assert answer == "answer"


async def test_asker_is_told_at_once_when_the_actor_is_dead() -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Echo)
        await ref.terminate()
        with pytest.raises(ActorDeadError):
            await ref.request("anyone")
        with pytest.raises(ActorDeadError):
            ref.tell("anyone")
        with pytest.raises(ActorDeadError):
            await ref.send("anyone")
        with pytest.raises(ActorDeadError):
            await ref.ask("anyone", block=False)


async def test_asker_is_told_at_once_when_the_inbox_is_full() -> None:
    async with ActorSystem.run() as system:
        ref, gate = _gate(system)
        for number in range(5):
            ref.tell(number)
            await wait_all_tasks_blocked()
        with pytest.raises(InboxFull) as caught:
            await ref.request("one too many")
        assert caught.value.capacity == 4
        gate.open.set()


async def test_ask_is_refused_when_an_actor_asks_itself() -> None:
    class Narcissus(TrioActor):
        async def on_receive(self, message: str) -> str:
            if message == "look":
                await self.actor_ref.request("in the mirror")
            return message

    async with ActorSystem.run() as system:
        ref = system.start(Narcissus)
        with pytest.raises(WouldDeadlock, match="asking oneself"):
            await ref.request("look")
        assert await ref.request("elsewhere") == "elsewhere"


async def test_answer_crosses_runs_when_the_asker_lives_in_another_trio_run() -> None:
    with_answer: list[Any] = []

    async def elsewhere(ref: Any) -> None:
        with_answer.append(await ref.request("from afar", timeout_s=30))
        with_answer.append(await ref.ask("again", block=False))
        with pytest.raises(LookupError):
            await ref.request(LookupError("afar"))
        await ref.send("third")
        await ref.terminate()

    async with ActorSystem.run() as system:
        ref = system.start(Echo)
        await trio.to_thread.run_sync(trio.run, elsewhere, ref)
        assert with_answer == ["from afar", "again"]
        assert not ref.is_alive()


async def test_ask_times_out_when_the_asker_lives_in_another_trio_run() -> None:
    async def elsewhere(ref: Any) -> None:
        with pytest.raises(AskTimeout):
            await ref.request("too late", timeout_s=0.001)

    async with ActorSystem.run() as system:
        ref, gate = _gate(system)
        ref.tell("first")
        await trio.to_thread.run_sync(trio.run, elsewhere, ref)
        gate.open.set()
        await wait_all_tasks_blocked()
        assert gate.handled == ["first"]


async def test_handler_sees_the_context_of_its_actor_when_the_sender_has_set_another() -> None:
    class Reader(TrioActor):
        def on_receive(self, message: contextvars.ContextVar[str]) -> str:
            return message.get()

    variable = contextvars.ContextVar[str]("variable", default="unset")
    variable.set("of the starter")
    async with ActorSystem.run() as system:
        ref = system.start(Reader)
        variable.set("of the sender")
        assert await ref.request(variable) == "of the starter"
        assert await trio.to_thread.run_sync(lambda: ref.ask(variable, timeout=10)) == "of the starter"


def test_blocking_ask_returns_the_answer_when_a_thread_asks() -> None:
    with ActorSystem.in_thread() as system:
        ref = system.start(Echo)
        assert ref.ask("hello", timeout=10) == "hello"
        with pytest.raises(LookupError):
            ref.ask(LookupError(), timeout=10)


def test_one_deadline_covers_room_and_answer_when_a_thread_asks_a_full_actor() -> None:
    with ActorSystem.in_thread(grace_s=0) as system:
        ref, gate = _gate_in_thread(system)
        for number in range(1, 5):
            ref.tell(number)
        with pytest.raises(AskTimeout, match="room"):
            ref.ask("one too many", timeout=0.001)
        assert gate.handled == [0]


def _gate_in_thread(system: ActorSystem) -> tuple[Any, Gate]:
    busy = threading.Event()

    class Busy(Gate):
        async def on_receive(self, message: Any) -> Any:
            busy.set()
            return await super().on_receive(message)

    made: list[Gate] = []

    def make() -> Gate:
        made.append(Busy())
        return made[0]

    ref = system.start(make)
    ref.tell(0)
    assert busy.wait(10)
    return ref, made[0]
