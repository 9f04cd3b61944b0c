"""Cancelling an actor is the same for one that has entered a cancel scope and for one that never needed any.

That is decided by its hooks: plain ones need none. So each test runs with both.
"""

from __future__ import annotations

import contextvars
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
    Terminated,
    TrioActor,
    TrioActorRef,
    WhichChildren,
)


class Plain(TrioActor):
    """Writes its life down. A message that can be called is called with the actor, and awaited if that is left."""

    burst = 2

    def __init__(self, log: list[Any]) -> None:
        super().__init__()
        self.log = log

    def on_start(self) -> Any:
        self.log.append("start")

    def on_stop(self) -> Any:
        self.log.append("stop")

    def on_receive(self, message: Any) -> Any:
        self.log.append(getattr(message, "__name__", message))
        return message(self) if callable(message) else message


class Async(Plain):
    async def on_start(self) -> None:
        await trio.lowlevel.checkpoint()
        super().on_start()

    async def on_stop(self) -> None:
        await trio.lowlevel.checkpoint()
        super().on_stop()


both = pytest.mark.parametrize("kind", [Plain, Async])


@pytest.fixture
def log() -> list[Any]:
    return []


def cancel_yourself(actor: Plain) -> None:
    actor.actor_ref.cancel()


async def sleep(actor: Plain) -> None:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        actor.log.append("woken")
        raise


@both
async def test_actor_stops_when_cancelled_while_it_waits_for_messages(kind: type[Plain], log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        assert await ref.request("first") == "first"
        ref.cancel()
        await ref.wait_stopped()
        assert log == ["start", "first", "stop"]


@both
async def test_message_is_refused_when_it_comes_after_the_cancellation(kind: type[Plain], log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        await wait_all_tasks_blocked()
        ref.cancel()
        answer = ref.ask("late", block=False)
        with pytest.raises(ActorDeadError):
            await answer
        await ref.wait_stopped()
        assert log == ["start", "stop"]


@both
async def test_message_that_has_woken_the_actor_is_handled_when_it_is_cancelled_before_it_runs(
    kind: type[Plain], log: list[Any]
) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        await wait_all_tasks_blocked()
        ref.tell("first")
        ref.cancel()
        await ref.wait_stopped()
        assert log == ["start", "first", "stop"]


@both
async def test_rest_of_the_burst_is_handled_and_no_more_when_a_handler_cancels_its_actor(
    kind: type[Plain], log: list[Any]
) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        await wait_all_tasks_blocked()
        for message in (cancel_yourself, "of the burst", "behind it"):
            ref.tell(message)
        await ref.wait_stopped()
        assert log == ["start", "cancel_yourself", "of the burst", "stop"]


@both
async def test_actor_stops_when_a_handler_cancels_it_with_nothing_queued(kind: type[Plain], log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        await wait_all_tasks_blocked()
        ref.tell(cancel_yourself)
        await ref.wait_stopped()
        assert log == ["start", "cancel_yourself", "stop"]


@both
async def test_nothing_more_is_handled_when_cancelled_between_two_bursts(kind: type[Plain], log: list[Any]) -> None:
    def cancel_soon(actor: Plain) -> None:
        actor.actor_inbox.system.call_soon(actor.actor_ref.cancel)  # type: ignore[union-attr]  # it has been started

    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        await wait_all_tasks_blocked()
        for message in (cancel_soon, *range(1_000)):
            ref.tell(message)
        await ref.wait_stopped()
        assert log[:3] == ["start", "cancel_soon", 0]
        assert log[-1] == "stop"
        assert len(log) < 100  # a few bursts, until the call has come through


@both
async def test_no_message_is_handled_when_cancelled_before_the_first_step(kind: type[Plain], log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        ref.tell("queued")
        ref.cancel()
        await ref.wait_stopped()
        assert "queued" not in log


async def test_plain_hooks_run_when_cancelled_before_the_first_step(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Plain, log)
        ref.cancel()
        await ref.wait_stopped()
        assert log == ["start", "stop"]


async def test_on_start_is_cancelled_when_that_came_before_the_first_step(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Async, log)
        ref.cancel()
        await ref.wait_stopped()
        assert log == []


@both
async def test_handler_is_interrupted_when_it_waits(kind: type[Plain], log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        await ref.request("plain")
        asked = ref.ask(sleep, block=False)
        ref.tell("behind it")
        await wait_all_tasks_blocked()
        ref.cancel()
        with pytest.raises(ActorDeadError):
            await asked
        await ref.wait_stopped()
        assert log == ["start", "plain", "sleep", "woken", "stop"]


@both
async def test_actor_can_be_cancelled_while_it_waits_when_a_handler_has_waited_before(
    kind: type[Plain], log: list[Any]
) -> None:
    async def give_way(_: Plain) -> None:
        await trio.lowlevel.checkpoint()

    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        await ref.request(give_way)
        ref.cancel()
        await ref.wait_stopped()
        assert log == ["start", "give_way", "stop"]


@both
async def test_actor_stops_when_another_thread_cancels_it(kind: type[Plain], log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        await wait_all_tasks_blocked()
        thread = threading.Thread(target=ref.cancel)
        thread.start()
        await ref.wait_stopped()
        await trio.to_thread.run_sync(thread.join)
        assert log == ["start", "stop"]


@both
async def test_waiting_actor_fails_when_a_task_of_its_own_raises(kind: type[Plain], log: list[Any]) -> None:
    gate = trio.Event()

    async def fall() -> None:
        await gate.wait()
        raise LookupError

    def spawn(actor: Plain) -> None:
        actor.spawn(fall)

    class Watcher(TrioActor):
        def on_receive(self, message: Any) -> None:
            if isinstance(message, Terminated):
                log.append(message.reason)
            else:
                self.watch(message)

    async with ActorSystem.run() as system:
        ref = system.start(kind, log)
        watcher = system.start(Watcher)
        await watcher.request(ref)
        await ref.request(spawn)
        gate.set()
        await ref.wait_stopped()
        await wait_all_tasks_blocked()
        assert log == ["start", "spawn", "failed"]


@both
async def test_actor_without_a_word_to_say_ends_when_the_whole_block_is_cancelled(
    kind: type[Plain], log: list[Any]
) -> None:
    with trio.CancelScope() as scope:
        async with ActorSystem.run() as system:
            await system.start(kind, log).request("first")
            scope.cancel()
            await trio.sleep_forever()
    assert log == ["start", "first", "stop"]


# -- one life after the other


@both
async def test_next_instance_is_left_alone_when_the_one_before_was_cancelled(kind: type[Plain], log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", lambda: kind(log))])
        ref = Supervisor.refs_of(await tree.request(WhichChildren()))["a"]
        for _ in range(2):
            log.clear()
            before = ref.cell.life
            ref.cancel()
            await wait_all_tasks_blocked()
            before.cancel()  # long over
            before.cancel()
            await wait_all_tasks_blocked()
            assert log == ["stop", "start"]
            assert await ref.request("again") == "again"
        log.clear()
        ref.tell("has woken it")
        ref.cancel()
        await wait_all_tasks_blocked()
        assert log == ["has woken it", "stop", "start"]


@both
async def test_next_instance_handles_what_is_queued_when_the_one_before_was_cancelled(
    kind: type[Plain], log: list[Any]
) -> None:
    async with ActorSystem.run() as system:
        tree = system.start(Supervisor, [ChildSpec("a", lambda: kind(log))])
        ref = Supervisor.refs_of(await tree.request(WhichChildren()))["a"]
        log.clear()
        ref.cancel()
        ref.tell("queued")
        await wait_all_tasks_blocked()
        assert log == ["stop", "start", "queued"]


# -- what a task has of the one who started it

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def set_variable(actor: Plain) -> None:
    variable.set(f"set by an actor, which had {variable.get()}")


def get_variable(_: Plain) -> str:
    return variable.get()


def task_name(_: Plain) -> str:
    return trio.lowlevel.current_task().name


@both
async def test_actors_have_the_variables_of_their_starter_and_nobody_elses_when_they_set_them(
    kind: type[Plain], log: list[Any]
) -> None:
    async with ActorSystem.run() as system:
        variable.set("of the starter")
        first = system.start(kind, log)
        await first.request(set_variable)
        assert await first.request(get_variable) == "set by an actor, which had of the starter"
        assert variable.get() == "of the starter"
        await first.terminate()
        assert await system.start(kind, log).request(get_variable) == "of the starter"
        variable.set("another")
        assert await system.start(kind, log).request(get_variable) == "another"


@both
async def test_task_is_called_as_the_actor_when_it_lives(kind: type[Plain], log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        for _ in range(2):
            ref = system.start(kind, log)
            assert await ref.request(task_name) == f"{kind.__name__} ({ref.actor_urn})"
            await ref.terminate()


@pytest.mark.parametrize("where", ["within its block", "within another's", "in a thread"])
@both
async def test_actor_finds_its_own_system_when_started(kind: type[Plain], where: str, log: list[Any]) -> None:
    def start_another(_: Plain) -> ActorSystem:
        return ActorSystem.current()

    def start(system: ActorSystem) -> TrioActorRef[Any]:
        return system.start(kind, log)

    async def start_it(how: Callable[[ActorSystem], TrioActorRef[Any]], system: ActorSystem) -> TrioActorRef[Any]:
        return await trio.to_thread.run_sync(how, system) if where == "in a thread" else how(system)

    async with ActorSystem.run() as outer:
        if where == "within another's":
            async with ActorSystem.run() as inner:
                ref = await start_it(start, outer)
                assert await ref.request(start_another) is outer
                assert ActorSystem.current() is inner
        else:
            ref = await start_it(start, outer)
            assert await ref.request(start_another) is outer
            assert ActorSystem.current() is outer
