"""Waiting in a task for futures of Pykka's other runtimes."""

from __future__ import annotations

import threading
from typing import Any

import pykka
import pytest
import trio

from actors import ActorSystem, AskTimeout, TrioActor, TrioFuture, wait_for


class Threaded(pykka.ThreadingActor):
    """Answers with the message, or raises it; waits first if it is an event."""

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Exception):
            raise message
        if isinstance(message, threading.Event):
            message.wait(10)
        return message


class Echo(TrioActor):
    def on_receive(self, message: Any) -> Any:
        return message


async def test_answer_of_a_thread_is_returned_when_a_task_waits_for_it() -> None:
    ref = Threaded.start()
    try:
        assert await wait_for(ref.ask("hello", block=False)) == "hello"
        with pytest.raises(LookupError):
            await wait_for(ref.ask(LookupError(), block=False), 5.0)
        assert await wait_for(ref.proxy().actor_urn, timeout_s=5.0) == ref.actor_urn
    finally:
        await wait_for(ref.stop(block=False))


async def test_timeout_that_was_set_as_the_exception_is_raised_as_it_is() -> None:
    ref = Threaded.start()
    try:
        with pytest.raises(pykka.Timeout, match="the actor's own") as caught:
            await wait_for(ref.ask(pykka.Timeout("the actor's own"), block=False))
        assert not isinstance(caught.value, AskTimeout)
    finally:
        await wait_for(ref.stop(block=False))


async def test_other_tasks_run_when_a_task_waits_for_a_thread() -> None:
    stranger: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()

    async def answer() -> None:
        stranger.set(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert await wait_for(stranger) == 1


async def test_ask_timeout_is_raised_when_a_thread_does_not_answer_in_time() -> None:
    stranger: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
    for timeout_s in (0.01, 0.0, -1.0):
        with pytest.raises(AskTimeout):
            await wait_for(stranger, timeout_s)
    stranger.set(1)  # lets the threads go


async def test_waiting_ends_at_once_and_the_value_is_kept_when_it_is_cancelled() -> None:
    stranger: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for, stranger, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    stranger.set(1)
    assert await wait_for(stranger) == 1


async def test_other_work_gets_threads_when_many_wait_for_futures_that_nobody_sets() -> None:
    strangers: list[pykka.ThreadingFuture[int]] = [pykka.ThreadingFuture() for _ in range(60)]
    async with trio.open_nursery() as nursery:
        for stranger in strangers:
            nursery.start_soon(wait_for, stranger)
        await trio.testing.wait_all_tasks_blocked()
        assert await trio.to_thread.run_sync(lambda: "a thread of Trio's own") == "a thread of Trio's own"
        for stranger in strangers:
            stranger.set(1)


async def test_our_own_futures_are_awaited_without_a_thread(autojump_clock: Any) -> None:
    future: TrioFuture[int] = TrioFuture()
    with pytest.raises(AskTimeout):
        await wait_for(future, 3600.0)
    future.set(1)
    assert await wait_for(future.map(str)) == "1"
    async with ActorSystem.run() as system:
        assert await wait_for(system.start(Echo).ask("hello", block=False)) == "hello"


@pytest.mark.parametrize("timeout_s", [float("inf"), float("nan")])
async def test_waiting_is_refused_when_it_has_no_deadline(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="finite deadline"):
        await wait_for(TrioFuture[int](), timeout_s)
