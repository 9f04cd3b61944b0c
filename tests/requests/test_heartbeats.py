"""Comments that keep a stream warm: when they come, what they do not commit to, and how such a stream ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from arbstr.requests import ModelRequest
from tests.requests.rig import CHEAP, DEAR, DONE, Answer, Client, World, piece, says, streams

BEAT = b": arbstr\n\n"


@pytest.fixture
def warm(world: World) -> World:
    world.context.heartbeat_s = 5.0
    return world


async def passes(clock: trio.testing.MockClock, seconds: float) -> None:
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


async def test_the_client_gets_comments_while_the_provider_has_not_begun(
    warm: World, clock: trio.testing.MockClock
) -> None:
    go = trio.Event()
    warm.provider("a", go, streams(piece("x"), DONE))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm.stream, client)
        await warm.until(lambda: bool(warm.transports["a"].requests))
        await passes(clock, 4)
        assert client.status is None
        await passes(clock, 1.1)
        assert (client.status, client.got) == (200, BEAT)
        await passes(clock, 5.1)
        go.set()
    assert client.got == BEAT * 2 + piece("x") + DONE
    assert client.headers[b"content-type"] == b"text/event-stream"
    assert client.headers[b"x-arbstr-tier"]
    assert b"x-arbstr-provider" not in client.headers
    await warm.check_closed(spent=CHEAP.cost_msat(10, 1))


async def test_the_client_gets_comments_while_the_provider_pauses_and_none_while_it_does_not(
    warm: World, clock: trio.testing.MockClock
) -> None:
    first, second = trio.Event(), trio.Event()
    warm.provider("a", streams(piece("x"), first, piece("y"), second, DONE))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm.stream, client)
        await warm.until(lambda: bool(client.writes))
        await passes(clock, 3)
        first.set()
        await passes(clock, 3)
        assert client.got == piece("x") + piece("y")
        await passes(clock, 2.1)
        second.set()
    assert client.got == piece("x") + piece("y") + BEAT + DONE
    assert client.headers[b"x-arbstr-provider"] == b"a"
    await warm.check_closed()


async def test_the_next_provider_streams_when_one_fails_behind_a_comment(
    warm: World, clock: trio.testing.MockClock
) -> None:
    go = trio.Event()
    warm.provider("a", go, Answer([], 503))
    warm.provider("b", streams(piece("x"), DONE), price=DEAR)
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm.stream, client)
        await warm.until(lambda: bool(warm.transports["a"].requests))
        await passes(clock, 5.1)
        assert client.got == BEAT
        go.set()
    assert client.got == BEAT + piece("x") + DONE
    assert warm.attempts() == [("a", "provider_fault"), ("b", "success")]
    await warm.check_closed()


async def test_the_failure_is_an_event_when_everybody_fails_behind_a_comment(
    warm: World, clock: trio.testing.MockClock
) -> None:
    warm.configure(retries=1, backoff_s=20.0)
    warm.provider("a", Answer([b"no"], 503), Answer([b"no"], 429))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm.stream, client)
        await warm.until(lambda: bool(warm.transports["a"].bodies))
        await passes(clock, 6)
        assert client.got == BEAT
        await passes(clock, 15)
    assert client.got.startswith(BEAT)
    assert b"[DONE]" not in client.got
    assert client.events[-1]["error"]["reason"] == "rate_limited"
    assert client.finished
    receipt = await warm.receipt()
    assert (receipt["outcome"], receipt["http_status"], receipt["cost_msat"]) == ("failed", 429, 0)
    await warm.check_closed(spent=0)


async def test_the_deadline_ends_a_stream_that_only_comments_have_begun(
    warm: World, clock: trio.testing.MockClock
) -> None:
    warm.configure(deadline_s=12.0)
    warm.provider("a", streams(b": wait\n\n", ...), idle_timeout_s=1_000.0)
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm.stream, client)
        await warm.until(lambda: bool(warm.transports["a"].bodies))
        for _ in range(3):
            await passes(clock, 5)
    assert client.events[-1]["error"]["reason"] == "deadline_exceeded"
    assert (await warm.receipt())["http_status"] == 504
    await warm.check_closed(spent=0)


class SlowAtComments(Client):
    """Takes pieces at once, and a comment only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = trio.Event()
        self.beats = 0

    async def write(self, data: bytes) -> None:
        if data == BEAT:
            self.beats += 1
            await self.taken.wait()
        await super().write(data)


async def test_one_comment_at_most_waits_for_a_client_that_does_not_read_and_providers_are_tried_meanwhile(
    warm: World, clock: trio.testing.MockClock
) -> None:
    go = trio.Event()
    warm.provider("a", go, Answer([], 503))
    warm.provider("b", streams(piece("x"), DONE), price=DEAR)
    client = SlowAtComments()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm.stream, client)
        await warm.until(lambda: bool(warm.transports["a"].requests))
        for _ in range(4):
            await passes(clock, 5.1)
        assert client.beats == 1
        go.set()
        await warm.until(lambda: bool(warm.transports["b"].bodies))
        await trio.testing.wait_all_tasks_blocked()
        assert client.got == b""
        client.taken.set()
    assert client.got == BEAT + piece("x") + DONE
    await warm.check_closed()


async def test_no_comment_is_put_behind_a_piece_that_the_client_has_not_taken(
    warm: World, clock: trio.testing.MockClock
) -> None:
    warm.provider("a", streams(piece("x"), DONE))
    client = Client(reads=trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm.stream, client)
        await warm.until(lambda: client.status is not None)
        for _ in range(4):
            await passes(clock, 5.1)
        assert client.reads is not None
        client.reads.set()
    assert client.got == piece("x") + DONE
    await warm.check_closed()


class Leaving(Client):
    """Is gone when the answer is to begin."""

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.leaves_after = 0
        await super().start(status, headers)


async def test_the_request_ends_when_a_comment_finds_the_client_gone(
    warm: World, clock: trio.testing.MockClock
) -> None:
    warm.provider("a", ...)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm.stream, Leaving())
        await warm.until(lambda: bool(warm.transports["a"].requests))
        await passes(clock, 5.1)
    assert (await warm.receipt())["outcome"] == "client_disconnected"
    assert warm.attempts() == [("a", "abandoned")]
    await warm.check_closed(spent=0)


async def test_the_stream_is_read_to_its_end_when_a_comment_finds_the_client_gone_and_the_provider_drains(
    warm: World, clock: trio.testing.MockClock
) -> None:
    go = trio.Event()
    warm.provider("a", streams(go, piece("x"), DONE), on_disconnect="drain")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(warm.stream, Leaving())
        await warm.until(lambda: bool(warm.transports["a"].bodies))
        await passes(clock, 5.1)
        assert warm.requests.in_flight == 1
    go.set()
    await warm.until(lambda: warm.requests.in_flight == 0)
    assert (await warm.receipt())["outcome"] == "client_disconnected"
    await warm.check_closed(spent=CHEAP.cost_msat(10, 1))


@pytest.mark.parametrize(("heartbeat_s", "stream"), [(0.0, True), (5.0, False)])
async def test_no_comment_comes_when_they_are_off_or_the_answer_is_no_stream(
    world: World, clock: trio.testing.MockClock, heartbeat_s: float, stream: bool
) -> None:
    world.context.heartbeat_s = heartbeat_s
    go = trio.Event()
    world.provider("a", streams(go, piece("x"), DONE) if stream else Answer([go, says().parts[0]]))
    client = Client()
    asked: list[ModelRequest] = [world.request(stream=stream)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat, asked[0], client)
        await world.until(lambda: bool(world.transports["a"].bodies))
        await passes(clock, 30)
        assert client.status is None
        go.set()
    assert BEAT not in client.got
    await world.check_closed()


async def test_comments_of_a_provider_alone_do_not_begin_the_answer(world: World) -> None:
    world.provider("a", streams(b": wait\n\n", b": wait\n\n"))
    world.provider("b", streams(b": soon\n\n", piece("x"), DONE), price=DEAR)
    client = await world.stream()
    assert client.got == b": soon\n\n" + piece("x") + DONE
    assert client.headers[b"x-arbstr-provider"] == b"b"
    await world.check_closed()
