"""Waking Trio from other threads."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import ActorSystem, TrioActor
from actors._doorbell import Doorbell

pytestmark = pytest.mark.skipif(not Doorbell.works_here(), reason="eventfd is Linux's; elsewhere Trio's own is used")


async def test_callbacks_run_in_the_order_of_the_rings_when_a_thread_rings() -> None:
    bell = Doorbell()
    called: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.run)
        for number in range(100):
            await trio.to_thread.run_sync(bell.ring, lambda number=number: called.append(number))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert called == list(range(100))


async def test_callback_waits_when_nobody_answers_yet() -> None:
    bell = Doorbell()
    called: list[str] = []
    assert bell.ring(lambda: called.append("early"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.run)
        await wait_all_tasks_blocked()
        assert called == ["early"]
        nursery.cancel_scope.cancel()


async def test_what_was_rung_for_is_called_and_no_more_when_the_answering_ends() -> None:
    bell = Doorbell()
    called: list[str] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        bell.ring(lambda: called.append("last"))
        await bell.run()
    assert called == ["last"]
    assert not bell.ring(lambda: called.append("too late"))
    assert called == ["last"]


async def test_what_a_callback_raises_comes_out_and_the_others_are_called() -> None:
    bell = Doorbell()
    called: list[str] = []
    for callback in (lambda: {}["missing"], lambda: called.append("behind it")):
        bell.ring(callback)
    with pytest.raises(KeyError):
        await bell.run()
    assert called == ["behind it"]
    assert not bell.ring(print)


async def test_every_callback_runs_once_when_many_threads_ring_at_once() -> None:
    bell = Doorbell()
    called: list[tuple[int, int]] = []

    def ring(thread: int) -> None:
        for number in range(500):
            assert bell.ring(lambda number=number: called.append((thread, number)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.run)
        async with trio.open_nursery() as ringers:
            for thread in range(6):
                ringers.start_soon(trio.to_thread.run_sync, ring, thread)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(called) == len(set(called)) == 3_000
    assert all([n for t, n in called if t == thread] == list(range(500)) for thread in range(6))


def test_no_descriptor_is_left_open_when_systems_come_and_go() -> None:
    with ActorSystem.in_thread():
        pass  # what the first one loads stays
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with ActorSystem.in_thread():
            pass
    assert len(os.listdir("/proc/self/fd")) <= before


class Echo(TrioActor):
    def on_receive(self, message: Any) -> Any:
        return message


def test_threads_are_served_as_well_when_there_is_no_eventfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doorbell, "works_here", staticmethod(lambda: False))
    with ActorSystem.in_thread() as system:
        ref = system.start(Echo)
        assert [ref.ask(number, timeout=10) for number in range(20)] == list(range(20))
        stopped = threading.Thread(target=ref.stop, kwargs={"timeout": 10})
        stopped.start()
        stopped.join(10)
        assert not ref.is_alive()


def test_system_raises_what_a_callback_raised_when_it_ends() -> None:
    def program() -> None:
        with ActorSystem.in_thread() as system:
            system.call_soon(lambda: {}["missing"])
            system.start(Echo).actor_stopped.wait(10)  # everybody is stopped

    with pytest.raises(KeyError):
        program()
