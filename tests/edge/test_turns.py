"""Processes that take turns at one listening socket."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from arbstr.edge import Shares, Turn
from arbstr.edge._turns import TURN_S


class Socket(trio.abc.Listener[Any]):
    """Gives a connection whenever it is asked."""

    async def accept(self) -> Any:
        await trio.lowlevel.checkpoint()
        return object()

    async def aclose(self) -> None: ...


async def test_a_connection_is_left_to_the_others_for_a_moment_when_one_has_more(autojump_clock: Any) -> None:
    shares = Shares(2)
    mine, theirs = Turn(shares, 0), Turn(shares, 1)
    listener = mine.listener(Socket())  # type: ignore[arg-type]
    begun = trio.current_time()
    await listener.accept()
    assert trio.current_time() == begun
    assert (shares.of(0), shares.of(1)) == (1, 0)
    await listener.accept()  # nobody else has come for it
    assert trio.current_time() - begun >= TURN_S
    theirs.entered()
    theirs.entered()
    begun = trio.current_time()
    await listener.accept()
    assert trio.current_time() == begun
    mine.left()
    assert shares.of(0) == 2


async def test_bursts_are_shared_when_two_accept_from_one_queue(autojump_clock: Any) -> None:
    shares = Shares(2)
    queue_in, queue_out = trio.open_memory_channel[object](1_000)
    took = [0, 0]

    class Queue(Socket):
        async def accept(self) -> Any:
            return await queue_out.receive()

    async def process(number: int) -> None:
        listener = Turn(shares, number).listener(Queue())  # type: ignore[arg-type]
        while True:
            await listener.accept()
            took[number] += 1

    async with trio.open_nursery() as nursery:
        for number in (0, 1):
            nursery.start_soon(process, number)
        for _ in range(32):
            queue_in.send_nowait(object())
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert abs(took[0] - took[1]) <= 2


async def test_nothing_is_counted_for_a_process_that_has_ended() -> None:
    shares = Shares(3)
    shares.add(1, 5)
    assert shares.is_ahead(1)
    shares.clear(1)
    assert not shares.is_ahead(1)
