"""TrioFuture: set from anywhere, read by threads and tasks."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from typing import Any

import pykka
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import AskTimeout, TrioFuture, WouldDeadlock


def _numbers(*values: int) -> TrioFuture[Any]:
    future: TrioFuture[Any] = TrioFuture()
    future.set(list(values))
    return future


async def test_all_waiting_tasks_get_the_value_when_it_is_set() -> None:
    future: TrioFuture[int] = TrioFuture()
    got: list[int] = []

    async def wait() -> None:
        got.append(await future)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        future.set(7)
    assert got == [7, 7, 7]
    assert await future == 7


async def test_task_wakes_when_a_thread_sets_the_value() -> None:
    future: TrioFuture[str] = TrioFuture()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, future.set, "from a thread")
        assert await future == "from a thread"


async def test_thread_wakes_when_a_task_sets_the_value() -> None:
    future: TrioFuture[str] = TrioFuture()
    got: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, lambda: got.append(future.get(timeout=10)))
        future.set("from a task")
    assert got == ["from a task"]


async def test_other_waiters_go_on_when_one_is_cancelled() -> None:
    future: TrioFuture[int] = TrioFuture()
    got: list[int] = []

    async def wait() -> None:
        got.append(await future)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        with trio.CancelScope() as scope:
            scope.cancel()
            await future
        future.set(1)
    assert got == [1]


async def test_exception_is_raised_to_each_reader_when_one_was_set() -> None:
    future: TrioFuture[int] = TrioFuture()
    try:
        raise LookupError("gone")
    except LookupError:
        future.set_exception()
    for _ in range(2):
        with pytest.raises(LookupError, match="gone"):
            await future
    with pytest.raises(LookupError):
        await trio.to_thread.run_sync(future.get)


async def test_exception_class_is_enough_when_set_without_an_instance() -> None:
    future: TrioFuture[int] = TrioFuture()
    future.set_exception((LookupError, None, None))
    with pytest.raises(LookupError):
        await future


def test_second_value_is_refused_when_one_is_set() -> None:
    future: TrioFuture[int] = TrioFuture()
    future.set(1)
    with pytest.raises(queue.Full):
        future.set(2)
    with pytest.raises(queue.Full):
        future.set_exception((LookupError, LookupError(), None))
    with pytest.raises(queue.Full):
        future.set_get_hook(lambda _: 3)
    assert future.get() == 1


def test_one_setter_wins_when_threads_race() -> None:
    future: TrioFuture[int] = TrioFuture()
    refused: list[int] = []
    line = threading.Barrier(8)

    def race(number: int) -> None:
        line.wait()
        try:
            future.set(number)
        except queue.Full:
            refused.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted([future.get(), *refused]) == list(range(8))


def test_get_times_out_when_a_thread_waits_in_vain() -> None:
    future: TrioFuture[int] = TrioFuture()
    for timeout in (0, 0.001, -1):
        with pytest.raises(AskTimeout):
            future.get(timeout=timeout)
    future.set(1)
    assert future.get(timeout=0) == 1


async def test_combinators_can_be_awaited_when_their_sources_come_later() -> None:
    future: TrioFuture[Any] = TrioFuture()
    made: list[Any] = [
        future.map(len),
        future.filter(lambda number: number > 1),
        future.reduce(lambda left, right: left + right),
        future.reduce(lambda left, right: left + right, 100),
        future.join(_numbers(4), future),
    ]
    got: dict[int, Any] = {}

    async def read(place: int) -> None:
        got[place] = await made[place]

    async with trio.open_nursery() as nursery:
        for place in range(len(made)):
            nursery.start_soon(read, place)
        await wait_all_tasks_blocked()
        assert got == {}
        future.set([1, 2, 3])
    assert got == {0: 3, 1: [2, 3], 2: 6, 3: 106, 4: [[1, 2, 3], [4], [1, 2, 3]]}


async def test_function_is_called_once_when_a_combinator_is_awaited_twice() -> None:
    calls: list[Any] = []
    made = _numbers(1).map(lambda value: calls.append(value) or value)  # type: ignore[func-returns-value]  # by intent
    assert [await made, await made] == [[1], [1]]
    assert calls == [[1]]


async def test_combinators_work_when_a_thread_reads_them() -> None:
    made = _numbers(1, 2, 3).filter(lambda number: number > 1).map(sum)
    assert await trio.to_thread.run_sync(made.get) == 5


async def test_exception_passes_through_when_a_source_has_one() -> None:
    future: TrioFuture[Any] = TrioFuture()
    future.set_exception((LookupError, LookupError("source"), None))
    for made in (future.map(len), future.join(_numbers(1)), _numbers(1).join(future)):
        with pytest.raises(LookupError, match="source"):
            await made


async def test_type_error_is_raised_when_a_filtered_value_is_no_iterable() -> None:
    future: TrioFuture[Any] = TrioFuture()
    future.set(1)
    with pytest.raises(TypeError):
        await future.filter(bool)


async def test_threading_future_is_waited_for_in_a_worker_when_joined_in_a_task() -> None:
    stranger: pykka.ThreadingFuture[Any] = pykka.ThreadingFuture()
    made = _numbers(1).join(stranger)
    async with trio.open_nursery() as nursery:
        got: list[Any] = []

        async def read() -> None:
            got.append(await made)

        nursery.start_soon(read)
        stranger.set("from elsewhere")
    assert got == [[[1], "from elsewhere"]]


async def test_unknown_hook_runs_in_a_worker_thread_when_awaited() -> None:
    future: TrioFuture[int] = TrioFuture()
    future.set_get_hook(lambda _: threading.get_ident())
    assert await future != threading.get_ident()


async def test_get_is_refused_when_called_on_a_trio_thread() -> None:
    for future in (_numbers(1), TrioFuture[Any](), _numbers(1).map(len)):
        with pytest.raises(WouldDeadlock, match="await future"):
            future.get(timeout=0)
    with pytest.raises(WouldDeadlock):
        pykka.get_all([_numbers(1)])


async def test_await_falls_back_to_pykkas_way_when_another_event_loop_runs() -> None:
    future: TrioFuture[str] = TrioFuture()

    async def in_asyncio() -> str:
        return await future

    got: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, lambda: got.append(asyncio.run(in_asyncio())))
        future.set("for asyncio")
    assert got == ["for asyncio"]


def test_future_can_be_driven_as_a_generator_when_nothing_runs() -> None:
    future = _numbers(1)
    steps = iter(future)
    assert next(steps) is None
    with pytest.raises(StopIteration) as caught:
        next(steps)
    assert caught.value.value == [1]
    assert sys.exc_info()[0] is None


async def test_await_is_a_checkpoint_when_the_value_is_already_there() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await _numbers(1)
    assert scope.cancelled_caught
    made = _numbers(1).map(len)
    assert await made == 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await made
    assert scope.cancelled_caught


async def test_who_cannot_wait_is_called_when_the_future_is_set_and_at_once_when_it_was() -> None:
    future: TrioFuture[int] = TrioFuture()
    heard: list[int] = []
    future.then_call(lambda each: heard.append(each.result()))
    assert heard == []
    future.set(3)
    assert heard == [3]
    future.then_call(lambda each: heard.append(each.result() + 1))
    assert heard == [3, 4]
    assert await future == 3
