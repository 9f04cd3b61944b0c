"""Processes that take turns at one listening socket; here they are tasks, which wait in the same queue."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from arbstr.edge import Shares, Turn

BURST = 32


@pytest.fixture
async def listener() -> AsyncIterator[trio.SocketListener]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener


async def connect(listener: trio.SocketListener, count: int) -> list[trio.SocketStream]:
    port = listener.socket.getsockname()[1]
    return [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(count)]


async def accept(turn: Turn, listener: trio.SocketListener, all_in: trio.Event, shares: Shares) -> None:
    async with trio.SocketListener(listener.socket.dup()) as own:  # each process has its own descriptor of it
        mine = turn.listener(own)
        while True:
            await (await mine.accept()).aclose()
            if shares.of(0) + shares.of(1) == BURST:
                all_in.set()


async def test_a_burst_is_shared_when_two_accept_from_one_queue(
    listener: trio.SocketListener, nursery: trio.Nursery
) -> None:
    shares, all_in = Shares(2), trio.Event()
    streams = await connect(listener, BURST)
    for number in (0, 1):
        nursery.start_soon(accept, Turn(shares, number), listener, all_in, shares)
    await all_in.wait()
    assert abs(shares.of(0) - shares.of(1)) <= 4
    for stream in streams:
        await stream.aclose()
    nursery.cancel_scope.cancel()


async def test_all_are_taken_by_the_one_that_is_ahead_when_the_others_do_not_come(
    listener: trio.SocketListener, nursery: trio.Nursery
) -> None:
    shares, all_in = Shares(2), trio.Event()
    streams = await connect(listener, BURST)
    nursery.start_soon(accept, Turn(shares, 1), listener, all_in, shares)
    await all_in.wait()
    assert (shares.of(0), shares.of(1)) == (0, BURST)
    for stream in streams:
        await stream.aclose()
    nursery.cancel_scope.cancel()


async def test_who_is_behind_takes_the_next_ones_when_another_has_more(
    listener: trio.SocketListener, nursery: trio.Nursery
) -> None:
    shares, all_in = Shares(2), trio.Event()
    shares.add(0, BURST - 8)
    for number in (0, 1):
        nursery.start_soon(accept, Turn(shares, number), listener, all_in, shares)
    streams = await connect(listener, 8)
    await all_in.wait()
    assert shares.of(1) >= 4
    for stream in streams:
        await stream.aclose()
    nursery.cancel_scope.cancel()


async def test_nothing_is_counted_of_connections_that_were_left_or_of_a_process_that_has_ended() -> None:
    shares = Shares(3)
    turn = Turn(shares, 1)
    for _ in range(3):
        turn.entered()
    turn.left()
    assert shares.of(1) == 2
    assert shares.is_ahead(1)
    shares.clear(1)
    assert not shares.is_ahead(1)


async def test_waiting_ends_when_the_listener_is_closed(listener: trio.SocketListener) -> None:
    mine = Turn(Shares(2), 0).listener(listener)

    async def close() -> None:
        await trio.testing.wait_all_tasks_blocked()
        await mine.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with pytest.raises(trio.ClosedResourceError):
            await mine.accept()
