"""A provider whose answers are read to their end when the client has left: paid for what it reports, and bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from attrs import evolve

from arbstr.config import Limit, LimitsConfig
from arbstr.requests import ModelRequest, _actor
from arbstr.wire import Usage
from tests.requests.rig import CHEAP, DEAR, DONE, Answer, Client, World, piece, says, streams, usage
from tests.requests.rig import usage_event as usage_of_stream

BIG = piece("x" * 400)


@pytest.fixture
def learned(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Usage]:
    seen: list[Usage] = []

    class Learning:
        def completion_tokens(self, *_: object) -> int:
            return 256

        def cached_tokens(self, *_: object) -> int:
            return 0

        def observe(self, *details: Any) -> None:
            seen.append(details[-1])

    world.context.router = evolve(world.context.router, estimator=Learning())
    return seen


Begin = Callable[..., trio.CancelScope]


@pytest.fixture
async def begin(world: World) -> AsyncIterator[Begin]:
    """Has a request on its way, for this client; the scope is the client's patience."""

    async def ask(scope: trio.CancelScope, request: ModelRequest, client: Client) -> None:
        with scope:
            await world.chat(request, client)

    def begun(client: Client, **fields: Any) -> trio.CancelScope:
        scope = trio.CancelScope()
        nursery.start_soon(ask, scope, world.request(**fields), client)
        return scope

    async with trio.open_nursery() as nursery:
        yield begun


async def over(world: World) -> dict[str, Any]:
    await world.until(lambda: world.requests.in_flight == 0)
    return await world.receipt()


async def test_a_stream_is_settled_with_what_the_provider_reports_when_the_client_has_left(
    world: World, begin: Begin, learned: list[Usage]
) -> None:
    go = trio.Event()
    world.provider("a", streams(piece("x"), go, piece("y"), usage_of_stream(10, 70), DONE), on_disconnect="drain")
    client = Client()
    scope = begin(client, stream=True)
    await world.until(lambda: bool(client.writes))
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert world.requests.in_flight == 1
    assert world.rows("SELECT * FROM receipts") == []
    assert not world.transports["a"].bodies[0].closed
    go.set()
    receipt = await over(world)
    assert (receipt["outcome"], receipt["http_status"], receipt["estimated"]) == ("client_disconnected", 499, 0)
    assert client.got == piece("x")
    assert world.attempts() == [("a", "success")]
    assert learned == [Usage(10, 70)]
    await world.check_closed(spent=CHEAP.cost_msat(10, 70))


@pytest.mark.parametrize("writes", [0, 1])
async def test_a_stream_is_read_on_when_a_write_finds_the_client_gone(world: World, writes: int) -> None:
    go = trio.Event()
    world.provider("a", streams(piece("x"), piece("y"), go, usage_of_stream(10, 70), DONE), on_disconnect="drain")
    client = await world.stream(Client(leaves_after=writes))
    assert world.requests.in_flight == 1
    go.set()
    assert (await over(world))["cost_msat"] == CHEAP.cost_msat(10, 70)
    assert len(client.writes) == writes
    await world.check_closed(spent=CHEAP.cost_msat(10, 70))


@pytest.mark.parametrize("answer", [says("x", usage(10, 70)), says("x" * 400)])
async def test_a_plain_answer_is_paid_for_when_the_client_has_left(world: World, begin: Begin, answer: Answer) -> None:
    go = trio.Event()
    world.provider("a", Answer([go, *answer.parts]), on_disconnect="drain")
    scope = begin(Client())
    await world.until(lambda: bool(world.transports["a"].bodies))
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert world.requests.in_flight == 1
    go.set()
    receipt = await over(world)
    assert (receipt["outcome"], receipt["http_status"]) == ("client_disconnected", 499)
    assert world.attempts() == [("a", "success")]
    await world.check_closed(spent=CHEAP.cost_msat(10, 70 if not receipt["estimated"] else 100))


async def test_a_plain_answer_is_cut_and_free_when_the_client_leaves_and_the_provider_does_not_drain(
    world: World,
    begin: Begin,
) -> None:
    world.provider("a", Answer([...]))
    scope = begin(Client())
    await world.until(lambda: bool(world.transports["a"].bodies))
    scope.cancel()
    assert (await over(world))["outcome"] == "client_disconnected"
    await world.check_closed(spent=0)


@pytest.mark.parametrize("stream", [False, True])
async def test_nobody_else_is_tried_when_the_provider_fails_behind_the_client(
    world: World, begin: Begin, stream: bool
) -> None:
    world.configure(retries=3, backoff_s=0.001)
    go = trio.Event()
    world.provider("a", Answer([go], 503), on_disconnect="drain")
    b = world.provider("b", says(), price=DEAR)
    scope = begin(Client(), stream=stream)
    await world.until(lambda: bool(world.transports["a"].bodies))
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    go.set()
    receipt = await over(world)
    assert (receipt["outcome"], receipt["cost_msat"]) == ("client_disconnected", 0)
    assert b.requests == []
    assert len(world.transports["a"].requests) == 1
    await world.check_closed(spent=0)


@pytest.mark.parametrize("end", [[httpx.ReadError("gone")], [], [piece("y"), httpx.ReadError("gone")]])
async def test_what_was_counted_is_charged_when_the_stream_breaks_behind_the_client(
    world: World, begin: Begin, end: list[Any]
) -> None:
    go = trio.Event()
    world.provider("a", streams(piece("x"), go, *end), on_disconnect="drain")
    client = Client()
    scope = begin(client, stream=True)
    await world.until(lambda: bool(client.writes))
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    go.set()
    assert (await over(world))["estimated"] == 1
    assert world.attempts() == [("a", "provider_fault")]
    await world.check_closed(spent=CHEAP.cost_msat(10, len(end) or 1))


async def test_it_ends_when_the_provider_falls_silent(
    world: World, begin: Begin, clock: trio.testing.MockClock
) -> None:
    world.provider("a", streams(piece("x"), ...), on_disconnect="drain", idle_timeout_s=60.0)
    client = Client()
    scope = begin(client, stream=True)
    await world.until(lambda: bool(client.writes))
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(61)
    await over(world)
    await world.check_closed(spent=CHEAP.cost_msat(10, 1))


async def test_it_ends_when_it_takes_longer_than_any_request_may(
    world: World, begin: Begin, clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_actor, "MAX_REQUEST_S", 100.0)
    world.provider("a", streams(piece("x"), ...), on_disconnect="drain", idle_timeout_s=1_000.0)
    client = Client()
    scope = begin(client, stream=True)
    await world.until(lambda: bool(client.writes))
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(101)
    receipt = await over(world)
    assert (receipt["outcome"], receipt["http_status"]) == ("client_disconnected", 499)
    await world.check_closed(spent=CHEAP.cost_msat(10, 1))


async def test_it_is_settled_by_what_passed_when_the_program_stops(world: World, begin: Begin) -> None:
    world.provider("a", streams(piece("x"), ...), on_disconnect="drain")
    client = Client()
    scope = begin(client, stream=True)
    await world.until(lambda: bool(client.writes))
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    [ref] = [ref for ref in world.system.refs() if ref.actor_class is _actor.RequestActor]
    await ref.terminate()
    assert (await over(world))["outcome"] == "client_disconnected"
    await world.check_closed(spent=CHEAP.cost_msat(10, 1))


async def test_nothing_is_read_on_when_the_program_is_stopping(world: World, begin: Begin) -> None:
    world.provider("a", streams(piece("x"), ...), on_disconnect="drain")
    client = Client()
    scope = begin(client, stream=True)
    await world.until(lambda: bool(client.writes))
    world.context.stopping = True
    scope.cancel()
    assert (await over(world))["outcome"] == "shutdown"
    await world.check_closed(spent=CHEAP.cost_msat(10, 1))


async def test_nothing_is_read_on_when_a_write_finds_the_client_gone_and_the_program_is_stopping(world: World) -> None:
    world.provider("a", streams(piece("x"), piece("y"), ...), on_disconnect="drain")
    world.context.stopping = True
    await world.stream(Client(leaves_after=1))
    assert (await world.receipt())["outcome"] == "client_disconnected"
    await world.check_closed(spent=CHEAP.cost_msat(10, 2))


async def test_a_write_that_waits_for_the_client_gives_way_when_it_has_left(world: World, begin: Begin) -> None:
    world.provider("a", streams(piece("x"), piece("y"), usage_of_stream(10, 70), DONE), on_disconnect="drain")
    client = Client(reads=trio.Event())
    scope = begin(client, stream=True)
    await world.until(lambda: client.status is not None)
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    await over(world)
    assert client.writes == []
    await world.check_closed(spent=CHEAP.cost_msat(10, 70))


async def test_its_place_and_its_hold_are_kept_until_it_has_ended(world: World, begin: Begin) -> None:
    world.context.limits.configure(LimitsConfig(agent=Limit(concurrent_requests=1)), rate_limit_rps=0)
    go = trio.Event()
    world.provider("a", streams(piece("x"), go, DONE), says(), on_disconnect="drain")
    client = Client()
    scope = begin(client, stream=True)
    await world.until(lambda: bool(client.writes))
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    refused = await world.chat()
    assert refused is not None
    assert refused.status == 429
    [before] = world.holds()
    world.requests.renew_leases()
    await trio.testing.wait_all_tasks_blocked()
    await world.flush()
    assert world.holds()[0]["lease_ns"] > before["lease_ns"]
    go.set()
    await over(world)
    answer = await world.chat()
    assert answer is not None
    assert answer.status == 200
    assert world.context.limits.in_flight == 0
    await world.check_closed()


class TestCap:
    @pytest.fixture
    def deposited(self) -> int:
        return 304

    async def test_it_ends_when_the_hold_cannot_grow_and_no_debt_is_made(self, world: World, begin: Begin) -> None:
        go = trio.Event()
        world.provider("a", streams(piece("x"), go, *[BIG] * 20, DONE), on_disconnect="drain")
        client = Client()
        scope = begin(client, stream=True)
        await world.until(lambda: bool(client.writes))
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        assert (await over(world))["outcome"] == "client_disconnected"
        [agent] = world.store_check().agents
        assert (agent.debt_msat, agent.spent_msat) == (0, CHEAP.cost_msat(10, 101))
