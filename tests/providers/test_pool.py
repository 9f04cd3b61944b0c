"""Who gets which connection, in what order, and that no place is ever lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from arbstr.providers._connection import Origin
from arbstr.providers._pool import Pool, PoolLimits

ORIGIN = Origin(False, "provider.example", 80)


@pytest.fixture
def make_pool(network: Any) -> Callable[..., Pool]:
    def make(**limits: Any) -> Pool:
        chosen = {"max_connections": 2, "max_idle": 10, "idle_expiry_s": 5.0, "max_waiting": 10, **limits}
        return Pool(partial(network.connect, ORIGIN), PoolLimits(**chosen))

    return make


async def acquire(pool: Pool, pool_timeout_s: float | None = None) -> Any:
    return await pool.acquire(connect_timeout_s=None, pool_timeout_s=pool_timeout_s)


async def collect(pool: Pool, name: str, into: list[tuple[str, Any]]) -> None:
    into.append((name, await acquire(pool)))


async def test_gives_the_newest_idle_connection_when_there_are_several(make_pool: Any, network: Any) -> None:
    pool = make_pool()
    first, second = await acquire(pool), await acquire(pool)
    pool.release(first)
    pool.release(second)
    assert await acquire(pool) is second
    assert await acquire(pool) is first
    assert (pool.places, pool.idle, len(network.connections)) == (2, 0, 2)


async def test_does_not_yield_when_a_connection_is_idle(make_pool: Any) -> None:
    pool = make_pool()
    pool.release(await acquire(pool))
    with trio.CancelScope() as scope:
        scope.cancel()
        pool.release(await acquire(pool))
    assert not scope.cancelled_caught


async def test_serves_in_the_order_of_asking_when_all_are_taken(make_pool: Any, nursery: trio.Nursery) -> None:
    pool, served = make_pool(), []
    first, second = await acquire(pool), await acquire(pool)
    for name in "abc":
        nursery.start_soon(collect, pool, name, served)
        await wait_all_tasks_blocked()
    assert pool.waiting == 3
    pool.release(second)
    pool.release(first)
    await wait_all_tasks_blocked()
    assert dict(served) == {"a": second, "b": first}
    pool.discard(first)
    await wait_all_tasks_blocked()
    assert [*dict(served)][2] == "c"
    assert dict(served)["c"] not in (first, second)
    assert (pool.places, pool.waiting) == (2, 0)


async def test_does_not_overtake_when_a_connection_comes_back_while_others_wait(
    make_pool: Any, nursery: trio.Nursery
) -> None:
    pool, served = make_pool(max_connections=1), []
    only = await acquire(pool)
    nursery.start_soon(collect, pool, "a", served)
    await wait_all_tasks_blocked()
    pool.release(only)
    nursery.start_soon(collect, pool, "late", served)
    await wait_all_tasks_blocked()
    assert served == [("a", only)]
    pool.release(only)
    await wait_all_tasks_blocked()
    assert served == [("a", only), ("late", only)]


async def test_loses_no_place_when_a_waiting_task_is_cancelled(make_pool: Any, nursery: trio.Nursery) -> None:
    pool, served = make_pool(max_connections=1), []
    only = await acquire(pool)
    async with trio.open_nursery() as impatient:
        impatient.start_soon(collect, pool, "a", served)
        await wait_all_tasks_blocked()
        nursery.start_soon(collect, pool, "b", served)
        await wait_all_tasks_blocked()
        impatient.cancel_scope.cancel()
    assert pool.waiting == 1
    pool.release(only)
    await wait_all_tasks_blocked()
    assert served == [("b", only)]


@pytest.mark.parametrize("cancel_first", [False, True])
async def test_loses_no_place_when_a_task_is_cancelled_as_its_turn_comes(make_pool: Any, cancel_first: bool) -> None:
    pool, served = make_pool(max_connections=1), []
    only = await acquire(pool)
    async with trio.open_nursery() as impatient:
        impatient.start_soon(collect, pool, "a", served)
        await wait_all_tasks_blocked()
        if cancel_first:
            impatient.cancel_scope.cancel()
            pool.release(only)
        else:
            pool.release(only)
            impatient.cancel_scope.cancel()
    assert served == ([] if cancel_first else [("a", only)])
    assert pool.idle == (1 if cancel_first else 0)
    assert pool.places == 1


async def test_loses_no_place_when_connecting_is_cancelled_or_fails(
    make_pool: Any, network: Any, nursery: trio.Nursery
) -> None:
    pool, served = make_pool(max_connections=1), []
    network.gate = trio.Event()
    async with trio.open_nursery() as impatient:
        impatient.start_soon(acquire, pool)
        await wait_all_tasks_blocked()
        nursery.start_soon(collect, pool, "next", served)
        await wait_all_tasks_blocked()
        assert (pool.places, pool.waiting) == (1, 1)
        impatient.cancel_scope.cancel()
    network.gate.set()
    await wait_all_tasks_blocked()
    assert [name for name, _ in served] == ["next"]
    pool.discard(served[0][1])
    network.prepared = [httpx.ConnectError("no")]
    with pytest.raises(httpx.ConnectError):
        await acquire(pool)
    assert (pool.places, network.open) == (0, [])


async def test_is_refused_when_no_place_is_free_in_time(make_pool: Any, autojump_clock: MockClock) -> None:
    pool = make_pool(max_connections=1)
    only = await acquire(pool)
    with pytest.raises(httpx.PoolTimeout):
        await acquire(pool, 7)
    assert trio.current_time() == 7
    pool.release(only)
    assert (await acquire(pool, 7), pool.waiting) == (only, 0)


async def test_is_refused_at_once_when_too_many_are_waiting(make_pool: Any, nursery: trio.Nursery) -> None:
    pool = make_pool(max_connections=1, max_waiting=2)
    await acquire(pool)
    for _ in range(2):
        nursery.start_soon(acquire, pool)
    await wait_all_tasks_blocked()
    with pytest.raises(httpx.PoolTimeout, match="2 requests are waiting"):
        await acquire(pool)
    nursery.cancel_scope.cancel()


async def test_leaves_out_idle_connections_when_the_server_has_closed_them(make_pool: Any, network: Any) -> None:
    pool = make_pool(max_connections=3)
    first, second, third = [await acquire(pool) for _ in range(3)]
    for connection in (first, second, third):
        pool.release(connection)
    third.unread = second.unread = True
    assert await acquire(pool) is first
    assert network.open == [first]
    assert pool.places == 1


async def test_gives_a_new_connection_when_the_one_handed_over_was_just_closed(
    make_pool: Any, network: Any, nursery: trio.Nursery
) -> None:
    pool, served = make_pool(max_connections=1), []
    only = await acquire(pool)
    nursery.start_soon(collect, pool, "a", served)
    await wait_all_tasks_blocked()
    pool.release(only)
    only.unread = True
    await wait_all_tasks_blocked()
    [(_, given)] = served
    assert given is not only
    assert (network.open, pool.places) == ([given], 1)


async def test_leaves_out_idle_connections_when_they_are_too_old(
    make_pool: Any, network: Any, autojump_clock: MockClock
) -> None:
    pool = make_pool(idle_expiry_s=5)
    old, young = await acquire(pool), await acquire(pool)
    pool.release(old)
    await trio.sleep(3)
    pool.release(young)
    await trio.sleep(3)
    assert await acquire(pool) is young
    assert network.open == [young]
    pool.release(young)
    await trio.sleep(5.5)
    assert await acquire(pool) is not young
    assert (len(network.open), pool.places) == (1, 1)


async def test_closes_idle_connections_when_they_are_too_old_and_others_are_used(
    make_pool: Any, network: Any, autojump_clock: MockClock
) -> None:
    pool = make_pool()
    used, idle = await acquire(pool), await acquire(pool)
    pool.release(idle)
    for _ in range(3):
        await trio.sleep(2)
        pool.release(used)
        assert await acquire(pool) is used
    assert network.open == [used]
    assert pool.places == 1


async def test_closes_the_oldest_when_too_many_are_idle(make_pool: Any, network: Any) -> None:
    pool = make_pool(max_connections=3, max_idle=2)
    first, second, third = [await acquire(pool) for _ in range(3)]
    for connection in (first, second, third):
        pool.release(connection)
    assert network.open == [second, third]
    assert (pool.places, pool.idle) == (2, 2)


async def test_notes_that_a_connection_was_used_when_it_is_given_out_again(make_pool: Any) -> None:
    pool = make_pool()
    connection = await acquire(pool)
    assert not connection.reused
    connection.sent = True
    pool.release(connection)
    assert await acquire(pool) is connection
    assert (connection.reused, connection.sent) == (True, False)


async def test_closes_all_and_refuses_all_when_it_is_closed(
    make_pool: Any, network: Any, nursery: trio.Nursery
) -> None:
    pool = make_pool()
    used, idle = await acquire(pool), await acquire(pool)
    refused: list[type[Exception]] = []

    async def refusal() -> None:
        try:
            await acquire(pool)
        except httpx.ConnectError as error:
            refused.append(type(error))

    nursery.start_soon(refusal)
    await wait_all_tasks_blocked()
    network.gate = trio.Event()
    pool.discard(idle)  # the one that waits is connecting now
    nursery.start_soon(refusal)
    await wait_all_tasks_blocked()
    pool.close()
    network.gate.set()
    await wait_all_tasks_blocked()
    assert refused == [httpx.ConnectError] * 2
    assert network.open == []
    pool.release(used)
    with pytest.raises(httpx.ConnectError):
        await acquire(pool)
    assert (pool.places, pool.idle, pool.waiting) == (0, 0, 0)


@settings(max_examples=40)
@given(st.integers(0, 1 << 32), st.integers(1, 4), st.integers(0, 3))
def test_every_place_comes_back_when_tasks_come_fail_and_are_cancelled_at_random(
    seed: int, max_connections: int, max_idle: int
) -> None:
    chance = random.Random(seed)
    opened: list[Any] = []

    class Connection:
        def __init__(self) -> None:
            self.reused, self.sent, self.idle_since, self.closed, self.user = False, False, 0.0, False, None
            opened.append(self)

        def has_unread(self) -> bool:
            return chance.random() < 0.1

        def close(self) -> None:
            self.closed = True

    async def connect(timeout_s: float | None) -> Any:
        await trio.sleep(chance.choice([0, 1, 3]))
        if chance.random() < 0.2:
            raise httpx.ConnectError("no")
        return Connection()

    async def use(pool: Pool) -> None:
        await trio.sleep(chance.randrange(20))
        with trio.move_on_after(chance.choice([0, 1, 2, 5, 100])):
            try:
                connection: Any = await pool.acquire(connect_timeout_s=None, pool_timeout_s=chance.choice([None, 2]))
            except (httpx.ConnectError, httpx.PoolTimeout):
                return
            assert connection.user is None
            assert not connection.closed
            connection.user = object()
            assert sum(not one.closed for one in opened) <= max_connections
            try:
                await trio.sleep(chance.choice([0, 1, 4]))
            except trio.Cancelled:
                pool.discard(connection)
                raise
            connection.user = None
            (pool.release if chance.random() < 0.7 else pool.discard)(connection)

    async def main() -> None:
        limits = PoolLimits(max_connections=max_connections, max_idle=max_idle, idle_expiry_s=3, max_waiting=8)
        pool = Pool(connect, limits)
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(use, pool)
        assert pool.waiting == 0
        assert pool.places == pool.idle == sum(not one.closed for one in opened) <= max_idle

    trio.run(main, clock=MockClock(autojump_threshold=0))
