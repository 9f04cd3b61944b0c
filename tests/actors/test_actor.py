"""The life of one actor: hooks, failures, replies that come later, tasks it owns."""

from __future__ import annotations

import logging
import queue
from types import TracebackType
from typing import Any

import pykka
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import ActorDeadError, ActorSystem, Reply, SystemNotRunning, TrioActor, TrioActorRef


class Recorder(TrioActor):
    """Writes its life down. A message that is an exception is raised, a callable is called with the actor."""

    def __init__(self, log: list[Any]) -> None:
        super().__init__()
        self.log = log

    async def on_start(self) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append("start")

    async def on_stop(self) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append("stop")

    async def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append(exception_value)

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        if callable(message):
            return message(self)
        self.log.append(message)
        return message


@pytest.fixture
def log() -> list[Any]:
    return []


# -- hooks


async def test_hooks_run_in_order_when_an_actor_is_stopped(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Recorder, log)
        ref.tell("message")
        assert await ref.stop(block=False) is True
        assert log == ["start", "message", "stop"]
        assert not ref.is_alive()
        assert await ref.stop(block=False) is False


async def test_plain_hooks_run_when_a_subclass_has_no_async_ones(log: list[Any]) -> None:
    class Plain(TrioActor):
        def on_start(self) -> None:
            log.append("start")

        def on_stop(self) -> None:
            log.append("stop")

    async with ActorSystem.run() as system:
        await system.start(Plain).terminate()
    assert log == ["start", "stop"]


async def test_actor_dies_and_nobody_is_left_waiting_when_on_start_fails(log: list[Any]) -> None:
    class Stillborn(Recorder):
        async def on_start(self) -> None:
            await trio.lowlevel.checkpoint()
            raise LookupError("no luck")

    async with ActorSystem.run() as system:
        ref = system.start(Stillborn, log)
        with pytest.raises(ActorDeadError):
            await ref.request("anyone")
        await ref.wait_stopped()
    assert log == []


async def test_on_failure_runs_instead_of_on_stop_when_a_told_message_raises(log: list[Any]) -> None:
    error = LookupError("told")
    async with ActorSystem.run() as system:
        ref = system.start(Recorder, log)
        ref.tell(error)
        await ref.wait_stopped()
        assert log == ["start", error]
        assert ref not in pykka.ActorRegistry.get_all()
        assert ref not in system.refs()


async def test_on_failure_runs_when_an_async_handler_raises_for_a_told_message(log: list[Any]) -> None:
    class Slow(Recorder):
        async def on_receive(self, message: Any) -> None:
            await trio.lowlevel.checkpoint()
            raise message

    error = LookupError("told")
    async with ActorSystem.run() as system:
        ref = system.start(Slow, log)
        with pytest.raises(KeyError):
            await ref.request(KeyError())
        ref.tell(error)
        await ref.wait_stopped()
    assert log == ["start", error]


async def test_failure_is_logged_and_the_actor_ends_when_a_last_hook_raises(
    log: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Clumsy(Recorder):
        async def on_stop(self) -> None:
            raise LookupError("while stopping")

    async with ActorSystem.run() as system:
        assert await system.start(Clumsy, log).stop(block=False) is True
    assert "Unhandled exception in Clumsy" in caplog.text


async def test_last_hook_is_cut_off_when_it_takes_longer_than_the_shutdown_timeout(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Endless(TrioActor):
        shutdown_timeout_s = 2.5

        async def on_stop(self) -> None:
            await trio.sleep_forever()

    async with ActorSystem.run() as system:
        started = trio.current_time()
        await system.start(Endless).terminate()
        assert trio.current_time() - started == pytest.approx(2.5)
    assert "cut off after 2.5 s" in caplog.text


async def test_queued_askers_are_refused_before_on_stop_ends_when_an_actor_stops() -> None:
    release = trio.Event()

    class SlowToStop(TrioActor):
        async def on_stop(self) -> None:
            await release.wait()

    async with ActorSystem.run() as system:
        ref = system.start(SlowToStop)
        stopped, behind, again = ref.stop(block=False), ref.ask("behind", block=False), ref.stop(block=False)
        with pytest.raises(ActorDeadError, match="before handling the message"):
            await behind
        release.set()
        assert await stopped is True
        assert await again is True


async def test_messages_queued_before_the_stop_are_handled_when_an_actor_stops_itself(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Recorder, log)
        ref.tell(lambda actor: actor.stop())
        ref.tell("queued before the stop was")
        await ref.wait_stopped()
    assert log == ["start", "queued before the stop was", "stop"]


async def test_other_tasks_run_in_between_when_an_inbox_never_gets_empty() -> None:
    class Busy(TrioActor):
        burst = 4

        def __init__(self) -> None:
            super().__init__()
            self.handled = 0

        def on_receive(self, message: Any) -> None:
            self.handled += 1
            self.actor_ref.tell(message)

    made: list[Busy] = []

    def make() -> Busy:
        made.append(Busy())
        return made[0]

    async with ActorSystem.run() as system:
        ref = system.start(make)
        ref.tell("round and round")
        for _ in range(10):
            before = made[0].handled
            await trio.lowlevel.checkpoint()
            assert made[0].handled - before <= 2 * 4  # a checkpoint may span two turns of the actor
        ref.cancel()


async def test_asks_can_be_made_through_a_proxy_when_awaited(log: list[Any]) -> None:
    class Account(TrioActor):
        def __init__(self) -> None:
            super().__init__()
            self.balance_msat = 0

        async def deposit(self, amount_msat: int) -> int:
            await trio.lowlevel.checkpoint()
            self.balance_msat += amount_msat
            return self.balance_msat

    async with ActorSystem.run() as system:
        proxy = system.start(Account).proxy()
        assert await proxy.deposit(5) == 5
        proxy.deposit.defer(5)
        assert await proxy.balance_msat == 10


# -- take_reply


class Deferring(TrioActor):
    def __init__(self) -> None:
        super().__init__()
        self.replies: list[Reply] = []

    def on_receive(self, message: Any) -> str:
        if message == "keep":
            self.replies.append(self.take_reply())
        elif message == "keep and raise":
            self.replies.append(self.take_reply())
            raise LookupError("after taking the reply")
        elif message == "answer and raise":
            self.take_reply().set("answered")
            raise LookupError("after answering")
        elif isinstance(message, str):
            for reply in self.replies:
                reply.set(message)
            self.replies.clear()
        return "the handler's own"


def _deferring(system: ActorSystem) -> tuple[TrioActorRef[Deferring], Deferring]:
    made: list[Deferring] = []

    def make() -> Deferring:
        made.append(Deferring())
        return made[0]

    return system.start(make), made[0]


async def test_asker_gets_the_later_answer_when_the_reply_was_taken() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _deferring(system)
        kept = [ref.ask("keep", block=False) for _ in range(2)]
        assert await ref.request("now") == "the handler's own"
        assert [await each for each in kept] == ["now", "now"]


async def test_asker_gets_an_exception_when_a_taken_reply_is_set_to_one() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _deferring(system)
        kept = ref.ask("keep", block=False)
        await wait_all_tasks_blocked()
        actor.replies[0].set_exception(LookupError("later"))
        with pytest.raises(LookupError, match="later"):
            await kept


async def test_asker_gets_the_answer_when_another_thread_gives_it() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _deferring(system)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert await ref.request("keep") == "from a thread"

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            await trio.to_thread.run_sync(actor.replies[0].set, "from a thread")


async def test_unanswered_reply_raises_actor_dead_error_when_the_actor_stops() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _deferring(system)
        kept = ref.ask("keep", block=False)
        await ref.terminate()
        with pytest.raises(ActorDeadError, match="before it answered"):
            await kept
        actor.replies[0].set("too late, and harmless")
        assert actor.replies[0].abandoned


async def test_reply_can_still_be_answered_when_on_stop_does_it() -> None:
    class Polite(Deferring):
        def on_stop(self) -> None:
            for reply in self.replies:
                reply.set("goodbye")

    async with ActorSystem.run() as system:
        ref = system.start(Polite)
        kept = ref.ask("keep", block=False)
        await ref.terminate()
        assert await kept == "goodbye"


async def test_second_answer_is_refused_when_a_reply_is_answered_twice() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _deferring(system)
        kept = ref.ask("keep", block=False)
        await wait_all_tasks_blocked()
        actor.replies[0].set(1)
        with pytest.raises(queue.Full):
            actor.replies[0].set(2)
        assert await kept == 1


async def test_reply_says_that_it_is_abandoned_when_the_asker_was_cancelled() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _deferring(system)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.request, "keep")
            await wait_all_tasks_blocked()
            seen = [actor.replies[0].abandoned]
            nursery.cancel_scope.cancel()
        assert [*seen, actor.replies[0].abandoned] == [False, True]
        actor.replies[0].set("nobody reads it")


async def test_answers_are_dropped_when_the_message_was_told() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _deferring(system)
        ref.tell("keep")
        await wait_all_tasks_blocked()
        assert actor.replies[0].abandoned
        actor.replies[0].set(1)
        actor.replies[0].set(2)
        assert ref.is_alive()


async def test_exception_goes_to_the_asker_when_the_handler_raises_after_taking_the_reply() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _deferring(system)
        with pytest.raises(LookupError, match="after taking"):
            await ref.request("keep and raise")
        actor.replies[0].set("too late, and harmless")
        assert ref.is_alive()


async def test_actor_fails_when_the_handler_raises_after_answering() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _deferring(system)
        assert await ref.request("answer and raise") == "answered"
        await ref.wait_stopped()


async def test_taking_a_reply_is_refused_when_there_is_none_to_take() -> None:
    class Greedy(TrioActor):
        def on_start(self) -> None:
            with pytest.raises(RuntimeError, match="message handler"):
                self.take_reply()

        def on_receive(self, message: Any) -> None:
            self.take_reply().set("first")
            with pytest.raises(RuntimeError, match="already been taken"):
                self.take_reply()

    async with ActorSystem.run() as system:
        ref = system.start(Greedy)
        assert await ref.request("ask") == "first"
        assert ref.is_alive()


async def test_taking_a_reply_is_refused_when_a_spawned_task_does_it(log: list[Any]) -> None:
    class Confused(TrioActor):
        async def on_receive(self, message: Any) -> None:
            done = trio.Event()
            self.spawn(self._take, done)
            await done.wait()

        async def _take(self, done: trio.Event) -> None:
            with pytest.raises(RuntimeError):
                self.take_reply()
            done.set()

    async with ActorSystem.run() as system:
        assert await system.start(Confused).request("go") is None


async def test_abandoned_replies_are_let_go_when_many_were_taken_and_never_answered() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _deferring(system)
        for _ in range(300):
            ref.tell("keep")
            await wait_all_tasks_blocked()
        assert len(actor._actor_life._owed) < 150


# -- spawn


async def test_task_runs_beside_the_handlers_when_spawned(log: list[Any]) -> None:
    class Worker(Recorder):
        def on_receive(self, message: Any) -> Any:
            self.spawn(self._answer_later, self.take_reply(), message)

        async def _answer_later(self, reply: Reply, message: Any) -> None:
            await trio.lowlevel.checkpoint()
            reply.set(message)

    async with ActorSystem.run() as system:
        ref = system.start(Worker, log)
        assert [await each for each in [ref.ask(n, block=False) for n in range(3)]] == [0, 1, 2]


async def test_tasks_are_cancelled_and_awaited_before_on_stop_when_the_actor_stops(log: list[Any]) -> None:
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            log.append("task ended")

    async with ActorSystem.run() as system:
        ref = system.start(Recorder, log)
        for _ in range(2):
            await ref.request(lambda actor: actor.spawn(work))
        await ref.terminate()
    assert log == ["start", "task ended", "task ended", "stop"]


async def test_only_that_task_ends_when_its_scope_is_cancelled(log: list[Any]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Recorder, log)
        scope = await ref.request(lambda actor: actor.spawn(trio.sleep_forever))
        assert isinstance(scope, trio.CancelScope)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert await ref.request("alive") == "alive"


async def test_actor_fails_and_answers_everyone_when_a_spawned_task_raises(log: list[Any]) -> None:
    error = LookupError("in a task")
    go = trio.Event()

    async def work() -> None:
        await go.wait()
        raise error

    async def stuck() -> None:
        await trio.sleep_forever()

    async with ActorSystem.run() as system:
        bystander = system.start(Recorder, [])
        ref = system.start(Recorder, log)
        await ref.request(lambda actor: actor.spawn(work))
        in_hand = ref.ask(lambda actor: stuck(), block=False)
        queued = ref.ask("queued", block=False)
        await wait_all_tasks_blocked()
        go.set()
        with pytest.raises(ActorDeadError, match="while handling"):
            await in_hand
        with pytest.raises(ActorDeadError, match="before handling"):
            await queued
        await ref.wait_stopped()
        assert await bystander.request("alive") == "alive"
    assert log == ["start", error]


async def test_on_start_is_cancelled_and_on_failure_runs_when_a_task_spawned_there_raises(log: list[Any]) -> None:
    error = LookupError("early")

    class Hasty(Recorder):
        async def on_start(self) -> None:
            self.spawn(self._fail)
            await trio.sleep_forever()

        async def _fail(self) -> None:
            raise error

    async with ActorSystem.run() as system:
        await system.start(Hasty, log).wait_stopped()
    assert log == [error]


async def test_only_the_failure_remains_when_a_spawned_nursery_ends_with_cancellation_and_failure(
    log: list[Any],
) -> None:
    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(_raise_on_cancel)

    async def _raise_on_cancel() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("while being cancelled")

    async with ActorSystem.run() as system:
        ref = system.start(Recorder, log)
        await ref.request(lambda actor: actor.spawn(work))
        await wait_all_tasks_blocked()
        await ref.terminate()
    assert log == ["start", "stop"]  # it was stopping already: logged, and on_stop still runs


async def test_task_is_left_behind_when_it_does_not_end_within_the_shutdown_timeout(
    log: list[Any], autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    async with ActorSystem.run() as system:
        ref = system.start(Recorder, log)
        await ref.request(lambda actor: actor.spawn(stubborn))
        started = trio.current_time()
        await ref.terminate()
        assert trio.current_time() - started == pytest.approx(Recorder.shutdown_timeout_s)
    assert log == ["start", "stop"]
    assert "1 tasks of Recorder" in caplog.text


async def test_spawning_is_refused_when_the_actor_is_not_running(log: list[Any]) -> None:
    class TooEarly(TrioActor):
        def __init__(self) -> None:
            super().__init__()
            self.spawn(trio.sleep_forever)

    class TooLate(Recorder):
        async def on_stop(self) -> None:
            with pytest.raises(ActorDeadError):
                self.spawn(trio.sleep_forever)
            self.log.append("refused")

    async with ActorSystem.run() as system:
        with pytest.raises(SystemNotRunning):
            system.start(TooEarly)
        await system.start(TooLate, log).terminate()
    assert log == ["start", "refused"]


async def test_failed_tasks_log_is_at_error_level_when_a_spawned_task_raises(
    log: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        raise LookupError("in a task")

    async with ActorSystem.run() as system:
        ref = system.start(Recorder, log)
        ref.tell(lambda actor: actor.spawn(work) and None)
        await ref.wait_stopped()
    assert [record.levelno for record in caplog.records if record.levelno >= logging.ERROR] == [logging.ERROR]


async def test_actor_works_when_a_subclass_calls_its_attributes_what_it_likes() -> None:
    class Crowded(TrioActor):
        def __init__(self) -> None:
            super().__init__()
            for name in ("_system", "_scope", "_tasks", "_current", "_task", "_inbox", "_life", "_failure", "_done"):
                setattr(self, name, "mine")

        def _run(self) -> str:
            return "mine"

        _fail = _end = _close = _answer = _begin = _run

        def on_receive(self, message: Any) -> str:
            self.spawn(trio.sleep_forever)
            self.take_reply().set(self._fail())
            return "ignored"

    async with ActorSystem.run() as system:
        assert await system.start(Crowded).request("whose?") == "mine"
