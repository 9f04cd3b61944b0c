"""Messages that an actor sends itself later, on the virtual clock."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import (
    ActorDeadError,
    ActorSystem,
    ChildSpec,
    InboxPolicy,
    Supervisor,
    SystemNotRunning,
    Timer,
    TrioActor,
    WhichChildren,
)


class Clockwork(TrioActor):
    """Notes when it gets what; calls a callable with itself instead, an exception is raised."""

    inbox_capacity = 2

    def __init__(self, log: list[Any]) -> None:
        super().__init__()
        self.log = log

    def on_receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        if isinstance(message, BaseException):
            raise message
        self.log.append((trio.current_time() - self.log[0], message))
        return None


@pytest.fixture
def log() -> list[Any]:
    return []


def _after(delay_s: float, message: Any = "tick") -> Callable[[Clockwork], Timer]:
    return lambda actor: actor.send_after(delay_s, message)


def _every(period_s: float, message: Any = "tick", **kwargs: Any) -> Callable[[Clockwork], Timer]:
    return lambda actor: actor.send_every(period_s, message, **kwargs)


def _sleep(seconds: float) -> Callable[[Clockwork], Awaitable[None]]:
    async def sleep(_: Clockwork) -> None:
        await trio.sleep(seconds)

    return sleep


def _start(system: ActorSystem, log: list[Any], actor_class: type[Clockwork] = Clockwork) -> Any:
    log.append(trio.current_time())
    return system.start(actor_class, log)


def _ticks(log: list[Any]) -> list[float]:
    return [pytest.approx(at) for at, _ in log[1:]]


# -- once


@pytest.mark.parametrize("delay_s", [0.0, 0.5, 3600.0])
async def test_message_comes_once_at_its_time_when_sent_after_a_delay(
    delay_s: float, log: list[Any], autojump_clock: MockClock
) -> None:
    async with ActorSystem.run() as system:
        timer = await _start(system, log).request(_after(delay_s))
        assert timer.active
        await trio.sleep(delay_s * 3 + 1)
        assert log[1:] == [(pytest.approx(delay_s), "tick")]
        assert not timer.active
        assert timer.cancel() is False


async def test_messages_come_in_the_order_of_their_times_when_several_are_sent(
    log: list[Any], autojump_clock: MockClock
) -> None:
    async with ActorSystem.run() as system:
        ref = _start(system, log)
        for delay_s in (3, 1, 2):
            await ref.request(_after(delay_s, delay_s))
        await trio.sleep(10)
        assert [message for _, message in log[1:]] == [1, 2, 3]


async def test_nothing_comes_when_the_timer_is_cancelled_before_its_time(
    log: list[Any], autojump_clock: MockClock
) -> None:
    async with ActorSystem.run() as system:
        timer = await _start(system, log).request(_after(2))
        await trio.sleep(1)
        assert timer.cancel() is True
        assert timer.cancel() is False
        await trio.sleep(10)
        assert log[1:] == []


async def test_nothing_comes_when_the_timer_is_cancelled_with_its_message_in_the_queue(
    log: list[Any], autojump_clock: MockClock
) -> None:
    async def cancel_late(actor: Clockwork) -> None:
        timer = actor.send_after(1, "tick")
        await trio.sleep(2)
        assert actor.actor_inbox.statistics().queued == 1
        assert timer.active
        assert timer.cancel() is True

    async with ActorSystem.run() as system:
        await _start(system, log).request(cancel_late)
        await trio.sleep(10)
        assert log[1:] == []
        assert system.dead_letters.recent == ()


async def test_cancelling_does_nothing_when_the_handler_of_the_message_does_it(
    log: list[Any], autojump_clock: MockClock
) -> None:
    timers: list[Timer] = []

    def cancel(actor: Clockwork) -> None:
        actor.log.append((0, timers[0].cancel()))

    async with ActorSystem.run() as system:
        timers.append(await _start(system, log).request(_after(1, cancel)))
        await trio.sleep(2)
        assert log[1:] == [(0, False)]


async def test_message_is_a_told_one_when_its_handler_raises(log: list[Any], autojump_clock: MockClock) -> None:
    async with ActorSystem.run() as system:
        ref = _start(system, log)
        await ref.request(_after(1, LookupError()))
        await ref.wait_stopped()
        assert trio.current_time() - log[0] == pytest.approx(1)


async def test_message_is_dropped_and_counted_when_the_inbox_is_full(log: list[Any], autojump_clock: MockClock) -> None:
    async with ActorSystem.run() as system:
        ref = _start(system, log)
        timer = await ref.request(_after(1, "lost"))
        ref.tell(_sleep(2))
        await wait_all_tasks_blocked()
        ref.tell("first")
        ref.tell("second")
        await trio.sleep(10)
        assert [message for _, message in log[1:]] == ["first", "second"]
        assert timer.dropped == 1
        assert not timer.active
        assert [(letter.message, letter.reason) for letter in system.dead_letters.recent] == [("lost", "full")]


async def test_tick_is_dropped_for_a_later_message_when_the_policy_says_so(
    log: list[Any], autojump_clock: MockClock
) -> None:
    class Latest(Clockwork):
        inbox_policy = InboxPolicy.DROP_OLDEST

    async with ActorSystem.run() as system:
        ref = _start(system, log, Latest)
        timer = await ref.request(_every(1))
        ref.tell(_sleep(3.5))
        await trio.sleep(1.5)
        ref.tell("first")
        ref.tell("second")  # the tick of 1 s has to go
        await trio.sleep(0.1)
        assert [(letter.message, letter.reason) for letter in system.dead_letters.recent] == [("tick", "dropped")]
        await trio.sleep(2.1)
        timer.cancel()
        assert [message for _, message in log[1:]] == ["second", "tick"]


# -- every


async def test_messages_come_every_period_when_sent_so(log: list[Any], autojump_clock: MockClock) -> None:
    async with ActorSystem.run() as system:
        timer = await _start(system, log).request(_every(2))
        await trio.sleep(9)
        assert _ticks(log) == [2, 4, 6, 8]
        assert timer.active
        assert timer.dropped == 0


async def test_first_message_comes_at_its_own_time_when_that_is_given(
    log: list[Any], autojump_clock: MockClock
) -> None:
    async with ActorSystem.run() as system:
        await _start(system, log).request(_every(2, first_s=0))
        await trio.sleep(5)
        assert _ticks(log) == [0, 2, 4]


async def test_no_message_comes_any_more_when_a_handler_cancels_its_own_timer(
    log: list[Any], autojump_clock: MockClock
) -> None:
    timers: list[Timer] = []

    def tick(actor: Clockwork) -> None:
        actor.log.append((trio.current_time() - log[0], "tick"))
        if len(actor.log) == 4:
            assert timers[0].cancel() is True

    async with ActorSystem.run() as system:
        timers.append(await _start(system, log).request(_every(1, tick)))
        await trio.sleep(10)
        assert _ticks(log) == [1, 2, 3]


async def test_ticks_do_not_pile_up_when_a_handler_takes_longer_than_the_period(
    log: list[Any], autojump_clock: MockClock
) -> None:
    class Slow(Clockwork):
        inbox_capacity = 100

        async def on_receive(self, message: Any) -> Any:
            answer = super().on_receive(message)
            if message == "tick":
                assert self.actor_inbox.statistics().queued == 0
                await trio.sleep(3.4)
            return answer

    async with ActorSystem.run() as system:
        timer = await _start(system, log, Slow).request(_every(1))
        await trio.sleep(10.2)
        assert _ticks(log) == [1, 4.4, 7.8]  # the tick in the queue, not all that were due meanwhile
        assert timer.dropped == 6  # at 3, 4, 6, 7, 9 and 10 s


async def test_missed_ticks_are_counted_and_not_made_up_for_when_the_loop_stands_still(
    log: list[Any], mock_clock: MockClock
) -> None:
    async with ActorSystem.run() as system:
        timer = await _start(system, log).request(_every(1))
        mock_clock.jump(5.5)
        await wait_all_tasks_blocked()
        assert _ticks(log) == [5.5]
        assert timer.dropped == 4
        mock_clock.jump(0.5)
        await wait_all_tasks_blocked()
        assert _ticks(log) == [5.5, 6]  # in step again


async def test_timers_keep_step_when_the_period_has_no_exact_float(log: list[Any], autojump_clock: MockClock) -> None:
    async with ActorSystem.run() as system:
        await _start(system, log).request(_every(0.1))
        await trio.sleep(100.05)
        assert len(log[1:]) == 1_000
        assert log[-1][0] == pytest.approx(100)


async def test_ticks_go_on_when_the_period_is_shorter_than_the_clock_can_tell(
    log: list[Any], autojump_clock: MockClock
) -> None:
    async with ActorSystem.run() as system:
        timers: list[Timer] = []

        def tick(actor: Clockwork) -> None:
            actor.log.append((0, "tick"))
            if len(actor.log) > 5:
                timers[0].cancel()

        timers.append(await _start(system, log).request(_every(1e-300, tick)))
        await trio.sleep(1)
        assert not timers[0].active
        assert len(log) == 6


# -- the end of the actor


async def test_timers_end_when_their_actor_stops(log: list[Any], autojump_clock: MockClock) -> None:
    async with ActorSystem.run() as system:
        ref = _start(system, log)
        timers = [await ref.request(_every(1)), await ref.request(_after(1))]
        await ref.terminate()
        assert [timer.active for timer in timers] == [False, False]
        assert [timer.cancel() for timer in timers] == [False, False]
        await trio.sleep(10)
        assert log[1:] == []
        assert system.dead_letters.recent == ()


async def test_timers_and_their_queued_messages_end_when_their_actor_is_restarted(
    log: list[Any], autojump_clock: MockClock
) -> None:
    async def crash_with_ticks_in_the_queue(actor: Clockwork) -> None:
        actor.send_after(1, "once")
        actor.send_every(1, "again")
        await trio.sleep(1.5)
        assert actor.actor_inbox.statistics().queued == 2
        raise LookupError

    async with ActorSystem.run() as system:
        log.append(trio.current_time())
        tree = system.start(Supervisor, [ChildSpec("clockwork", lambda: Clockwork(log))])
        ref = Supervisor.refs_of(await tree.request(WhichChildren()))["clockwork"]
        timer = await ref.request(_every(1, "early"))
        timer.cancel()
        ref.tell(crash_with_ticks_in_the_queue)
        await trio.sleep(10)
        assert log[1:] == []
        assert ref.is_alive()


async def test_timers_are_refused_when_the_actor_is_not_running(log: list[Any], autojump_clock: MockClock) -> None:
    class TooEarly(TrioActor):
        def __init__(self) -> None:
            super().__init__()
            self.send_after(1, "tick")

    class TooLate(Clockwork):
        def on_stop(self) -> None:
            with pytest.raises(ActorDeadError):
                self.send_every(1, "tick")
            self.log.append("refused")

    async with ActorSystem.run() as system:
        with pytest.raises(SystemNotRunning):
            system.start(TooEarly)
        await _start(system, log, TooLate).terminate()
    assert log[1:] == ["refused"]


async def test_timers_are_refused_when_another_thread_starts_them(log: list[Any]) -> None:
    async def start_elsewhere(actor: Clockwork) -> None:
        with pytest.raises(RuntimeError, match="thread"):
            await trio.to_thread.run_sync(actor.send_after, 1, "tick")

    async with ActorSystem.run() as system:
        await _start(system, log).request(start_elsewhere)


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
async def test_timers_are_refused_when_their_time_is_none(
    seconds: float, log: list[Any], autojump_clock: MockClock
) -> None:
    async with ActorSystem.run() as system:
        ref = _start(system, log)
        for start in (_after(seconds), _every(seconds), _every(1, first_s=seconds)):
            with pytest.raises(ValueError, match="finite"):
                await ref.request(start)
        with pytest.raises(ValueError, match="above zero"):
            await ref.request(_every(0, first_s=1))


async def test_thousands_of_timers_fire_once_each_when_many_others_are_cancelled(
    log: list[Any], autojump_clock: MockClock
) -> None:
    async with ActorSystem.run() as system:

        class Many(Clockwork):
            inbox_capacity = 10_000

        ref = _start(system, log, Many)

        def start(actor: Clockwork) -> list[Timer]:
            return [actor.send_after(n % 7, n) for n in range(5_000)]

        timers = await ref.request(start)
        for timer in timers[::2]:
            timer.cancel()
        await trio.sleep(10)
        assert sorted(message for _, message in log[1:]) == list(range(1, 5_000, 2))
