"""The owner of the actors: entering, the order of stopping, crashes, threads."""

from __future__ import annotations

import threading
from typing import Any

import pykka
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import ActorDeadError, ActorSystem, SystemNotRunning, TrioActor, WouldDeadlock


class Named(TrioActor):
    """Writes its name down when it stops. A message that is callable is called."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__()
        self.name = name
        self.log = log

    def on_stop(self) -> None:
        self.log.append(self.name)

    def on_receive(self, message: Any) -> Any:
        return message() if callable(message) else message


@pytest.fixture
def log() -> list[str]:
    return []


async def _block() -> None:
    await trio.sleep_forever()


def _raise(error: BaseException) -> None:
    raise error


# -- which system


async def test_class_starts_in_the_system_of_the_context_when_several_run(log: list[str]) -> None:
    async with ActorSystem.run() as outer, ActorSystem.run() as inner:
        assert ActorSystem.current() is inner
        ref = Named.start("a", log)
        assert inner.refs() == [ref]
        assert outer.refs() == []


async def test_outer_system_is_current_again_when_the_inner_has_ended() -> None:
    async with ActorSystem.run() as outer:
        async with ActorSystem.run():
            pass
        assert ActorSystem.current() is outer
    with pytest.raises(SystemNotRunning):
        ActorSystem.current()


async def test_actor_starts_others_in_its_own_system_when_several_run(log: list[str]) -> None:
    async with ActorSystem.run() as outer, ActorSystem.run() as inner:
        ref = outer.start(Named, "a", log)
        child = await ref.request(lambda: Named.start("b", log))
        assert outer.refs() == [ref, child]
        assert inner.refs() == []


async def test_constructor_starts_others_in_the_same_system_when_several_run(log: list[str]) -> None:
    class Parent(TrioActor):
        def __init__(self) -> None:
            super().__init__()
            self.child = Named.start("child", log)

    async with ActorSystem.run() as outer, ActorSystem.run() as inner:
        outer.start(Parent)
        assert len(outer.refs()) == 2
        assert inner.refs() == []


def test_starting_is_refused_when_no_system_runs(log: list[str]) -> None:
    with pytest.raises(SystemNotRunning):
        Named.start("a", log)
    assert pykka.ActorRegistry.get_all() == []


async def test_starting_is_refused_when_the_system_has_ended(log: list[str]) -> None:
    async with ActorSystem.run() as system:
        pass
    for start in (lambda: system.start(Named, "a", log), lambda: system.spawn(_block)):
        with pytest.raises(SystemNotRunning):
            start()
    assert pykka.ActorRegistry.get_all() == []


async def test_starting_is_refused_when_the_system_is_closing(log: list[str]) -> None:
    class Restless(Named):
        def on_stop(self) -> None:
            super().on_stop()
            with pytest.raises(SystemNotRunning):
                Named.start("b", self.log)

    async with ActorSystem.run() as system:
        system.start(Restless, "a", log)
    assert log == ["a"]


async def test_starting_fails_loudly_when_an_actor_forgets_its_base_class() -> None:
    class Forgetful(TrioActor):
        def __init__(self) -> None:
            pass

    async with ActorSystem.run() as system:
        with pytest.raises(AssertionError, match=r"super\(\).__init__"):
            system.start(Forgetful)
        assert system.refs() == []


async def test_nothing_is_left_behind_when_a_constructor_raises() -> None:
    class Broken(TrioActor):
        def __init__(self) -> None:
            super().__init__()
            raise LookupError("in the constructor")

    async with ActorSystem.run() as system:
        with pytest.raises(LookupError):
            system.start(Broken)
        assert system.refs() == []
        assert pykka.ActorRegistry.get_all() == []


# -- the order of stopping


async def test_last_started_stops_first_when_the_block_ends(log: list[str]) -> None:
    async with ActorSystem.run() as system:
        for name in "abc":
            system.start(Named, name, log)
    assert log == ["c", "b", "a"]


async def test_queued_messages_are_handled_first_when_the_block_ends(log: list[str]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Named, "a", log)
        ref.tell(lambda: log.append("message"))
    assert log == ["message", "a"]


async def test_later_actors_can_still_ask_earlier_ones_when_they_stop(log: list[str]) -> None:
    class Settling(TrioActor):
        def __init__(self, ledger: Any) -> None:
            super().__init__()
            self._ledger = ledger

        async def on_stop(self) -> None:
            log.append(await self._ledger.request("settled"))

    for leave in ("in order", "cancelled", "raising"):
        with trio.CancelScope() as scope:
            try:
                async with ActorSystem.run() as system:
                    ledger = system.start(Named, "ledger", log)
                    system.start(Settling, ledger)
                    await wait_all_tasks_blocked()
                    if leave == "cancelled":
                        scope.cancel()
                        await trio.sleep_forever()
                    if leave == "raising":
                        raise LookupError
            except LookupError:
                assert leave == "raising"
    assert log == ["settled", "ledger"] * 3


async def test_last_started_stops_first_when_the_block_is_cancelled(log: list[str]) -> None:
    with trio.CancelScope() as scope:
        async with ActorSystem.run() as system:
            refs = [system.start(Named, name, log) for name in "abc"]
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert log == ["c", "b", "a"]
    assert not any(ref.is_alive() for ref in refs)


async def test_stop_all_stops_everyone_in_reverse_and_the_system_goes_on(log: list[str]) -> None:
    async with ActorSystem.run() as system:
        for name in "abc":
            system.start(Named, name, log)
        await system.stop_all()
        assert log == ["c", "b", "a"]
        assert system.refs() == []
        assert await system.start(Named, "d", log).request("alive") == "alive"


async def test_the_rest_is_cancelled_when_the_grace_is_over(log: list[str], autojump_clock: Any) -> None:
    async with ActorSystem.run() as system:
        for name in "abc":
            ref = system.start(Named, name, log)
            ref.tell(_block)
        started = trio.current_time()
        await system.stop_all(grace_s=3)
        assert trio.current_time() - started == pytest.approx(3)
    assert sorted(log) == ["a", "b", "c"]


async def test_grace_bounds_the_whole_exit_when_nobody_stops_by_himself(log: list[str], autojump_clock: Any) -> None:
    started = trio.current_time()
    async with ActorSystem.run(grace_s=2) as system:
        for name in "abc":
            system.start(Named, name, log).tell(_block)
    assert trio.current_time() - started == pytest.approx(2)


async def test_slow_last_hooks_run_side_by_side_when_the_grace_of_a_cancelled_block_is_over(
    autojump_clock: Any,
) -> None:
    class Slow(TrioActor):
        async def on_stop(self) -> None:
            await trio.sleep_forever()

    with trio.move_on_after(1):
        async with ActorSystem.run(grace_s=2) as system:
            for _ in range(5):
                system.start(Slow)
            await trio.sleep_forever()
    # 1 s until the cancellation, 2 s of grace for the last one started, then the 5 s of all the others at once
    assert trio.current_time() == pytest.approx(1 + 2 + Slow.shutdown_timeout_s, abs=1)


async def test_stop_all_is_refused_when_one_of_the_actors_calls_it(log: list[str]) -> None:
    class Suicidal(TrioActor):
        async def on_receive(self, message: str) -> None:
            if message == "all":
                await ActorSystem.current().stop_all()
            elif message == "terminate":
                await self.actor_ref.terminate()
            else:
                await self.actor_ref.wait_stopped()

    async with ActorSystem.run() as system:
        ref = system.start(Suicidal)
        for message in ("all", "terminate", "wait"):
            with pytest.raises(WouldDeadlock):
                await ref.request(message)
        assert ref.is_alive()


async def test_terminate_cancels_the_handler_when_the_grace_is_over(log: list[str], autojump_clock: Any) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Named, "a", log)
        asked = ref.ask(_block, block=False)
        started = trio.current_time()
        await ref.terminate(grace_s=0.5)
        assert trio.current_time() - started == pytest.approx(0.5)
        with pytest.raises(ActorDeadError):
            await asked
        await ref.terminate()  # a second time does nothing
    assert log == ["a"]


async def test_actor_stops_when_another_thread_cancels_it(log: list[str]) -> None:
    async with ActorSystem.run() as system:
        ref = system.start(Named, "a", log)
        ref.tell(_block)
        await trio.to_thread.run_sync(ref.cancel)
        await ref.wait_stopped()
    assert log == ["a"]


# -- what leaves the block


async def test_exception_leaves_the_block_as_it_is_when_the_body_raises(log: list[str]) -> None:
    error = LookupError("body")

    async def program() -> None:
        async with ActorSystem.run() as system:
            system.start(Named, "a", log)
            raise error

    with pytest.raises(LookupError) as caught:
        await program()
    assert caught.value is error
    assert log == ["a"]


async def test_group_leaves_the_block_as_it_is_when_the_body_raises_one() -> None:
    error = LookupError()

    async def program() -> None:
        async with ActorSystem.run():
            raise ExceptionGroup("body", [error])

    with pytest.raises(ExceptionGroup, match="body") as caught:
        await program()
    assert caught.value.exceptions == (error,)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_everyone_stops_in_order_and_the_block_raises_when_a_handler_raises_more_than_a_failure(
    error: BaseException, log: list[str]
) -> None:
    async def program() -> None:
        async with ActorSystem.run() as system:
            for name in "ab":
                system.start(Named, name, log)
            asked = system.start(Named, "c", log).ask(lambda: _raise(error), block=False)
            with pytest.raises(ActorDeadError):
                await asked
            await trio.sleep_forever()

    with pytest.raises(type(error)) as caught:
        await program()
    assert caught.value is error
    assert log == ["c", "b", "a"]


async def test_block_raises_when_a_spawned_task_raises_more_than_a_failure(log: list[str]) -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    class Owner(Named):
        def on_start(self) -> None:
            self.spawn(interrupted)

    async def program() -> None:
        async with ActorSystem.run() as system:
            system.start(Owner, "a", log)
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        await program()
    assert log == ["a"]


async def test_block_raises_when_a_task_of_the_system_raises(log: list[str]) -> None:
    async def broken() -> None:
        raise LookupError("task of the system")

    async def program() -> None:
        async with ActorSystem.run() as system:
            system.start(Named, "a", log)
            system.spawn(broken)
            await trio.sleep_forever()

    with pytest.raises(LookupError, match="task of the system"):
        await program()
    assert log == ["a"]


async def test_block_raises_a_group_when_two_actors_crash_at_once(log: list[str]) -> None:
    class Touchy(Named):
        def on_stop(self) -> None:
            raise SystemExit(self.name)

    async def program() -> None:
        async with ActorSystem.run() as system:
            for name in "ab":
                system.start(Touchy, name, log)
            await wait_all_tasks_blocked()

    with pytest.raises(BaseExceptionGroup) as caught:
        await program()
    assert [type(each) for each in caught.value.exceptions] == [SystemExit, SystemExit]
    assert pykka.ActorRegistry.get_all() == []


async def test_tasks_of_the_system_outlive_the_actors_when_the_block_ends(log: list[str]) -> None:
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("task")

    async with ActorSystem.run() as system:
        system.spawn(work)
        system.spawn(work).cancel()
        await wait_all_tasks_blocked()
        assert log == ["task"]
        system.start(Named, "actor", log)
    assert log == ["task", "actor", "task"]


async def test_tasks_are_refused_when_another_thread_starts_them() -> None:
    async with ActorSystem.run() as system:
        with pytest.raises(RuntimeError, match="thread of their actor system"):
            await trio.to_thread.run_sync(system.spawn, _block)


async def test_block_ends_when_it_is_entered_in_a_cancelled_scope(log: list[str]) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with ActorSystem.run() as system:
            system.start(Named, "a", log)
            await trio.lowlevel.checkpoint()
    assert log == ["a"]
    assert pykka.ActorRegistry.get_all() == []


# -- threads


def test_block_in_a_thread_stops_everyone_in_reverse_when_it_ends(log: list[str]) -> None:
    with ActorSystem.in_thread() as system:
        for name in "abc":
            Named.start(name, log)
        assert len(system.refs()) == 3
    assert log == ["c", "b", "a"]
    assert not [thread for thread in threading.enumerate() if thread.name == "actor system"]


def test_body_raises_what_it_raises_when_in_a_thread() -> None:
    with pytest.raises(LookupError), ActorSystem.in_thread():
        raise LookupError


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_crash_is_raised_at_the_exit_when_the_system_runs_in_a_thread(error: BaseException, log: list[str]) -> None:
    def program() -> None:
        with ActorSystem.in_thread() as system:
            other = system.start(Named, "a", log)
            ref = system.start(Named, "b", log)
            with pytest.raises(ActorDeadError):
                ref.ask(lambda: _raise(error), timeout=10)
            other.actor_stopped.wait(10)

    with pytest.raises(type(error)) as caught:
        program()
    assert caught.value is error
    assert log == ["b", "a"]


async def test_thread_rig_is_refused_when_entered_on_a_trio_thread() -> None:
    with pytest.raises(WouldDeadlock), ActorSystem.in_thread():
        pass


def test_exit_gives_up_when_a_handler_blocks_the_thread(log: list[str]) -> None:
    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(10)

    def program() -> None:
        with ActorSystem.in_thread(grace_s=0, timeout_s=0.01) as system:
            system.start(Named, "a", log).tell(block)
            blocked.wait(10)

    with pytest.raises(TimeoutError, match="blocks its thread"):
        program()
    release.set()
    for thread in threading.enumerate():
        if thread.name == "actor system":
            thread.join(10)
    assert log == ["a"]


def test_starting_and_stopping_work_when_many_threads_do_it_at_once(log: list[str]) -> None:
    with ActorSystem.in_thread() as system:

        def work() -> None:
            for _ in range(20):
                ref = system.start(Named, "x", log)
                assert ref.ask("hello", timeout=10) == "hello"
                assert ref.stop(timeout=10)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert system.refs() == []
    assert len(log) == 120
