"""Where Pykka's way would hang, deadlock or forget somebody on Trio: one test for each trap that is known.

More about most of them is elsewhere: futures in ``test_future``, bounds in ``test_inbox`` and ``test_inbox_policy``,
the two checkers' view of the hooks in ``test_typing``.
"""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pykka
import pytest
import trio
from pykka._envelope import Envelope
from pykka.messages import ProxyGetAttr, ProxySetAttr, _ActorStop
from trio.testing import wait_all_tasks_blocked

from actors import (
    ActorDeadError,
    ActorSystem,
    ChildSpec,
    InboxFull,
    Supervisor,
    TrioActor,
    TrioFuture,
    WhichChildren,
    WouldDeadlock,
    wait_for,
)


class Plain(TrioActor):
    """Remembers what it is told; a callable is called (and awaited if that makes a coroutine)."""

    value = 1

    def __init__(self) -> None:
        super().__init__()
        self.got: list[Any] = []

    def on_receive(self, message: Any) -> Any:
        self.got.append(message)
        return message() if callable(message) else message


class Small(Plain):
    inbox_capacity = 2


def _started(system: ActorSystem, actor_class: type[Plain] = Plain) -> tuple[Any, Plain]:
    ref = system.start(actor_class)
    actor = ref._actor_weakref()
    assert actor is not None
    return ref, actor


def _raise(error: BaseException) -> None:
    raise error


# -- what blocks is refused, and before anything is sent


async def test_nothing_is_sent_when_a_blocking_ask_is_refused_on_the_trio_thread() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _started(system)
        with pytest.raises(WouldDeadlock, match=r"await ref\.request"):
            ref.ask("hello")
        await wait_all_tasks_blocked()
        assert actor.got == []


async def test_nobody_is_stopped_when_a_blocking_stop_is_refused_on_the_trio_thread() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _started(system)
        with pytest.raises(WouldDeadlock, match=r"await ref\.terminate"):
            ref.stop()
        with pytest.raises(WouldDeadlock):
            pykka.ActorRegistry.stop_all()
        await wait_all_tasks_blocked()
        assert ref.is_alive()


async def test_attribute_keeps_its_value_when_assigning_through_a_proxy_is_refused() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _started(system)
        with pytest.raises(WouldDeadlock, match="ProxySetAttr"):
            ref.proxy().value = 2
        await wait_all_tasks_blocked()
        assert actor.value == 1
        await ref.request(ProxySetAttr(attr_path=("value",), value=3))
        assert actor.value == 3


async def test_get_is_refused_when_a_handler_waits_for_another_actor_by_blocking() -> None:
    async with ActorSystem.run() as system:
        ref, other = _started(system)[0], _started(system)[0]
        with pytest.raises(WouldDeadlock):
            await ref.request(lambda: other.ask("hello", block=False).get(timeout=1))


async def test_stop_can_be_awaited_when_it_does_not_block() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _started(system)
        assert await ref.stop(block=False) is True
        assert pykka.ActorRegistry.stop_all(block=False) == []


async def test_tasks_go_on_when_one_awaits_a_future() -> None:
    """Pykka's way gives way once and then blocks; Trio does not know that yield at all."""
    future: TrioFuture[int] = TrioFuture()

    async def answer() -> None:
        future.set(7)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert await future == 7


async def test_tasks_go_on_when_one_awaits_what_combinators_made() -> None:
    """Pykka's hooks for map, filter, join, reduce and stop block."""
    source: TrioFuture[Any] = TrioFuture()
    made = source.filter(bool).map(sorted).join(source.reduce(max), source.map(len))

    async def answer() -> None:
        source.set([2, 0, 1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert await made == [[1, 2], 2, 3]


async def test_threading_future_is_waited_for_with_wait_for_when_a_task_needs_it() -> None:
    """Awaited as it is, it yields what Trio does not know."""
    future: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
    with pytest.raises(TypeError):
        await future
    future.set(7)
    assert await wait_for(future) == 7


# -- nobody waits for ever


def test_pykka_itself_leaves_an_asker_waiting_when_a_handler_raises_a_base_exception() -> None:
    """The trap as it is in Pykka; below, the same with us. Should this fail one day, Pykka has mended it."""

    class Threaded(pykka.ThreadingActor):
        def on_receive(self, message: Any) -> Any:
            raise message

    ref = Threaded.start()
    with pytest.raises(pykka.Timeout):
        ref.ask(GeneratorExit(), timeout=0.05)
    assert not ref.is_alive()


def test_pykka_itself_leaves_an_asker_waiting_when_the_put_comes_after_the_drain() -> None:
    """The trap as it is in Pykka; below, the same with us."""
    drained = threading.Event()

    class Threaded(pykka.ThreadingActor):
        def _actor_loop_teardown(self) -> None:
            super()._actor_loop_teardown()
            drained.set()

    class Late:
        """Puts for an asker who has looked at the stop flag, and puts only after the end."""

        def put(self, envelope: Any) -> None:
            inbox.put(Envelope(_ActorStop()))
            assert drained.wait(10)
            inbox.put(envelope)

    ref = Threaded.start()
    inbox, ref.actor_inbox = ref.actor_inbox, Late()  # type: ignore[assignment]  # as much of an inbox as this needs
    with pytest.raises(pykka.Timeout):
        ref.ask("late", timeout=0.05)
    assert not ref.is_alive()


async def test_stop_passes_when_the_inbox_is_full() -> None:
    gate = trio.Event()
    async with ActorSystem.run() as system:
        ref, actor = _started(system, Small)
        ref.tell(gate.wait)
        await wait_all_tasks_blocked()
        ref.tell(1)
        ref.tell(2)
        stopped = ref.stop(block=False)
        gate.set()
        assert await stopped is True
        assert actor.got == [gate.wait, 1, 2]


async def test_stopping_takes_no_longer_than_the_grace_when_slow_messages_are_queued(autojump_clock: Any) -> None:
    async def slow() -> None:
        await trio.sleep(1)

    async with ActorSystem.run() as system:
        ref, actor = _started(system)
        for _ in range(10):
            ref.tell(slow)
        started = trio.current_time()
        await ref.terminate(grace_s=2.5)
        assert trio.current_time() - started == pytest.approx(2.5)
        assert len(actor.got) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), BaseException()])
async def test_asker_is_answered_when_a_handler_raises_a_base_exception(error: BaseException) -> None:
    answers: list[ActorDeadError] = []

    async def program() -> None:
        async with ActorSystem.run() as system:
            ref, _ = _started(system)
            asked = [ref.ask(lambda: _raise(error), block=False), ref.ask("queued behind it", block=False)]
            with trio.CancelScope(shield=True):  # the crash cancels this block
                for each in asked:
                    with pytest.raises(ActorDeadError) as caught:
                        await each
                    answers.append(caught.value)
            await trio.sleep_forever()

    with pytest.raises(type(error)):
        await program()
    assert ["while handling" in str(answers[0]), "before handling" in str(answers[1])] == [True, True]


async def test_asker_is_answered_when_the_put_comes_after_the_drain() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _started(system)
        ref.actor_inbox.close()  # as if the actor were past its drain, with the asker past its look at the stop flag
        assert ref.is_alive()
        with pytest.raises(ActorDeadError):
            await ref.ask("late", block=False)
        with pytest.raises(ActorDeadError):
            await ref.request("late")
        with pytest.raises(ActorDeadError):
            ref.tell("late")
        with pytest.raises(ActorDeadError):
            await trio.to_thread.run_sync(lambda: ref.ask("late", timeout=10))
        ref.cancel()


async def test_current_and_queued_askers_are_answered_when_the_actor_is_cancelled() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _started(system)
        in_hand = ref.ask(trio.sleep_forever, block=False)
        queued = [ref.ask(n, block=False) for n in range(3)]
        await wait_all_tasks_blocked()
        ref.cancel()
        with pytest.raises(ActorDeadError, match="while handling"):
            await in_hand
        for each in queued:
            with pytest.raises(ActorDeadError, match="before handling"):
                await each


async def test_current_and_queued_askers_are_answered_when_the_program_is_cancelled() -> None:
    errors: list[ActorDeadError] = []

    async def ask(ref: Any, message: Any) -> None:
        try:
            await ref.request(message)
        except ActorDeadError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with ActorSystem.run() as system:
                ref, _ = _started(system)
                for message in (trio.sleep_forever, 1, 2):
                    nursery.start_soon(ask, ref, message)
                    await wait_all_tasks_blocked()
                scope.cancel()
                await trio.sleep_forever()
    assert len(errors) == 3


async def test_on_stop_runs_shielded_for_a_bounded_time_when_the_actor_is_cancelled(autojump_clock: Any) -> None:
    steps: list[str] = []

    class Flushing(Plain):
        shutdown_timeout_s = 3.0

        async def on_stop(self) -> None:
            await trio.sleep(1)
            steps.append("flushed")
            await trio.sleep_forever()

    async with ActorSystem.run() as system:
        ref, _ = _started(system, Flushing)
        await wait_all_tasks_blocked()
        started = trio.current_time()
        ref.cancel()
        await ref.wait_stopped()
        assert trio.current_time() - started == pytest.approx(3)
    assert steps == ["flushed"]


def test_thread_waiting_for_room_gets_actor_dead_error_when_the_actor_stops() -> None:
    errors: list[BaseException] = []

    def tell(ref: Any) -> None:
        try:
            for number in range(10):
                ref.tell(number)
        except ActorDeadError as error:
            errors.append(error)

    with ActorSystem.in_thread() as system:
        ref, _ = _started(system, Small)
        ref.tell(trio.sleep_forever)
        thread = threading.Thread(target=tell, args=(ref,))
        thread.start()
        while not ref.actor_inbox.statistics().waiting_senders:
            pass
        ref.cancel()
        thread.join(10)
    assert len(errors) == 1


async def test_inbox_is_bounded_when_a_sender_is_faster_than_its_actor() -> None:
    async with ActorSystem.run() as system:
        ref, _ = _started(system, Small)
        ref.tell(trio.sleep_forever)
        await wait_all_tasks_blocked()
        for number in range(Small.inbox_capacity):
            ref.tell(number)
        with pytest.raises(InboxFull):
            ref.tell("one too many")
        assert ref.statistics().depth == Small.inbox_capacity
        ref.cancel()


async def test_message_is_skipped_when_its_asker_was_cancelled() -> None:
    gate = trio.Event()
    async with ActorSystem.run() as system:
        ref, actor = _started(system)
        ref.tell(gate.wait)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.request, "nobody waits for this")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        gate.set()
        assert await ref.request("last") == "last"
        assert actor.got == [gate.wait, "last"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_keyboard_interrupt_and_system_exit_come_out_of_the_block_when_a_handler_raises_them(
    error: BaseException,
) -> None:
    def rig() -> None:
        with ActorSystem.in_thread() as system:
            others.append(system.start(Plain))
            asked.append(_started(system)[0].ask(lambda: _raise(error), block=False))

    asked: list[Any] = []
    others: list[Any] = []
    with pytest.raises(type(error)):
        rig()
    with pytest.raises(ActorDeadError):
        asked[0].get(timeout=10)
    assert not others[0].is_alive()


async def test_ref_and_proxy_and_queued_messages_survive_when_a_supervisor_restarts_the_actor() -> None:
    async with ActorSystem.run() as system:
        supervisor = system.start(Supervisor, [ChildSpec("plain", Plain)])
        (child,) = await supervisor.request(WhichChildren())
        ref: Any = child.ref
        proxy, urn = ref.proxy(), ref.actor_urn
        ref.tell(lambda: _raise(LookupError()))
        behind = ref.ask("behind the crash", block=False)
        assert await behind == "behind the crash"
        assert (await proxy.value, await proxy.actor_urn, ref.is_alive()) == (1, urn, True)


# -- order, values, and what is left behind


async def test_first_is_handled_first_when_a_thread_tells_it_and_then_a_task_tells_the_second_and_stops() -> None:
    for _ in range(50):
        async with ActorSystem.run() as system:
            ref, actor = _started(system)
            thread = threading.Thread(target=ref.tell, args=("first",))
            thread.start()
            thread.join()  # the loop stands still meanwhile, which is the point
            ref.tell("second")
            await ref.terminate()
            assert actor.got == ["first", "second"]


async def test_awaitable_value_is_handed_through_when_it_is_no_coroutine_of_the_handler() -> None:
    async def never() -> None:
        raise AssertionError

    async with ActorSystem.run() as system:
        ref, actor = _started(system)
        future = ref.ask("hello", block=False)
        assert await ref.request(lambda: future) is future
        assert await future == "hello"
        coroutine = never()
        actor.value = coroutine  # type: ignore[assignment]  # whatever somebody keeps there
        assert await ref.request(ProxyGetAttr(attr_path=("value",))) is coroutine
        coroutine.close()


async def test_actor_lives_on_when_an_asker_sets_the_answer_itself(caplog: pytest.LogCaptureFixture) -> None:
    async with ActorSystem.run() as system:
        ref, _ = _started(system)
        ref.ask("hello", block=False).set("my own answer")
        assert await ref.request("alive") == "alive"
    assert "answer to its own question" in caplog.text


async def test_registry_is_left_clean_when_a_system_ends_while_a_thread_still_starts_an_actor() -> None:
    constructing, proceed = threading.Event(), threading.Event()
    refs: list[Any] = []

    class Late(Plain):
        def __init__(self) -> None:
            super().__init__()
            constructing.set()
            assert proceed.wait(10)

    async with trio.open_nursery() as nursery:
        async with ActorSystem.run() as system:
            nursery.start_soon(trio.to_thread.run_sync, lambda: refs.append(system.start(Late)))
            await trio.to_thread.run_sync(constructing.wait, 10)
        proceed.set()
    await wait_all_tasks_blocked()  # the callback that would have launched it
    assert pykka.ActorRegistry.get_all() == []
    with pytest.raises(ActorDeadError):
        await refs[0].request("anyone")
    await refs[0].wait_stopped()


def test_registry_is_left_clean_when_the_whole_run_ends_while_a_thread_still_starts_an_actor() -> None:
    with ActorSystem.in_thread() as system:
        other = ActorSystem.in_thread()
        dead = other.__enter__()
        other.__exit__(None, None, None)
        dead._closing = False  # as if the thread had looked a moment earlier
        with pytest.raises(Exception, match="over"):
            dead.start(Plain)
        assert pykka.ActorRegistry.get_all() == []
        assert system.refs() == []


async def test_start_all_and_leave_is_clean_when_tasks_had_no_time_to_run() -> None:
    with trio.CancelScope() as scope:
        async with ActorSystem.run() as system:
            refs = [system.start(Plain) for _ in range(20)]
            scope.cancel()
    assert pykka.ActorRegistry.get_all() == []
    assert not any(ref.is_alive() for ref in refs)


async def test_actor_is_freed_at_once_when_it_has_stopped() -> None:
    async with ActorSystem.run() as system:
        ref, actor = _started(system)
        await ref.request(1)
        weak = weakref.ref(actor)
        del actor
        gc.disable()
        try:
            await ref.terminate()
            await wait_all_tasks_blocked()
            assert weak() is None
        finally:
            gc.enable()
