"""No ledger, no spending; and what has been spent gets into the books however long they are away."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from arbstr.accounts import AgentAccountActor
from arbstr.requests import PlainAnswer
from arbstr.store import StoreBusy, StoreUnavailable
from tests.requests.rig import CHEAP, DONE, Client, World, piece, says, streams, usage


def failing(*kinds: str) -> Callable[[Any], Exception | None]:
    return lambda change: StoreUnavailable("disk full") if getattr(change, "kind", "") in kinds else None


async def passing_time(world: World, clock: trio.testing.MockClock, seconds: float) -> None:
    """Let time pass in small steps, everybody coming to rest in between."""
    for _ in range(int(seconds * 4)):
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(0.25)
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_is_sent_when_the_hold_cannot_be_written(world: World, stream: bool) -> None:
    a = world.provider("a", says())
    world.ledger.broken = failing("reserve")
    with trio.fail_after(2):  # the answer does not wait for the end of a hold that never was
        answer = await world.chat(world.request(stream=stream))
    assert answer is not None
    assert answer.status == 503
    assert json.loads(answer.body)["error"]["reason"] == "ledger_unavailable"
    assert dict(answer.headers)[b"retry-after"] == b"1"
    assert a.requests == []
    world.ledger.recover()
    receipt = await world.receipt()
    assert (receipt["http_status"], receipt["cost_msat"]) == (503, 0)
    assert world.holds() == []
    await world.check_closed(spent=0)
    assert _status(await world.chat()) == 200


async def test_nothing_is_sent_when_the_writer_takes_nothing_more(world: World) -> None:
    a = world.provider("a", says())
    assert world.accounts is not None
    await world.accounts.ref(world.agent.agent_id).request(_balance())
    original = world.ledger.submit

    def submit(change: Any, done: Any = None) -> None:
        raise StoreBusy("20000 changes wait")

    world.ledger.submit = submit  # type: ignore[method-assign]
    assert _status(await world.chat()) == 503
    assert a.requests == []
    world.ledger.submit = original  # type: ignore[method-assign]
    await world.check_closed(spent=0)


async def test_nothing_is_sent_and_the_hold_ends_when_the_ledger_answers_too_late(
    world: World, clock: trio.testing.MockClock
) -> None:
    a = world.provider("a", says())
    world.ledger.silent = True
    answers: list[PlainAnswer | None] = []
    await _asking(world, answers, clock)
    assert [_status(answer) for answer in answers] == [503]
    assert a.requests == []
    world.ledger.recover()
    await world.until(lambda: bool(world.rows("SELECT * FROM receipts")))
    # There is none, if the account saw that its asker had gone.
    assert all(hold["state"] == "released" for hold in world.holds())
    await world.check_closed(spent=0)
    assert len(await world.receipts()) == 1


async def _asking(world: World, answers: list[PlainAnswer | None], clock: trio.testing.MockClock) -> None:
    async def ask() -> None:
        answers.append(await world.chat())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        for _ in range(120):
            if answers:
                break
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(0.25)
    assert answers


async def test_the_answer_comes_as_pending_and_is_settled_later_when_the_settle_cannot_be_written(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.provider("a", says("x", usage(10, 20)))
    world.ledger.broken = failing("settle")
    answers: list[PlainAnswer | None] = []

    async def ask() -> None:
        answers.append(await world.chat())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await world.until(lambda: bool(world.transports["a"].bodies))
        await passing_time(world, clock, 11)
    [answer] = answers
    assert answer is not None
    assert answer.status == 200
    found = dict(answer.headers)
    assert found[b"x-arbstr-settlement"] == b"pending"
    assert b"x-arbstr-cost-msat" not in found
    assert [hold["state"] for hold in world.holds()] == ["open"]
    world.ledger.recover()
    await passing_time(world, clock, 3)
    await world.until(lambda: bool(world.rows("SELECT * FROM receipts")))
    receipt = await world.receipt()
    assert (receipt["outcome"], receipt["cost_msat"]) == ("ok", 50)
    await world.check_closed(spent=50)


async def test_the_stream_ends_as_pending_and_is_settled_later_when_the_settle_cannot_be_written(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.provider("a", streams(piece("one"), DONE))
    world.ledger.broken = failing("settle")
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat, world.request(stream=True, stream_cost=True), client)
        await world.until(lambda: bool(client.writes))
        await passing_time(world, clock, 11)
    assert client.events[-1] == "[DONE]"
    assert client.events[-2]["arbstr"]["settlement"] == "pending"
    world.ledger.recover()
    await passing_time(world, clock, 3)
    await world.until(lambda: bool(world.rows("SELECT * FROM receipts")))
    await world.check_closed(spent=CHEAP.cost_msat(10, 1))


async def test_the_hold_ends_later_when_the_client_leaves_during_a_settle_that_cannot_be_written(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.provider("a", says("x", usage(10, 20)))
    world.ledger.broken = failing("settle")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat)
        await world.until(lambda: bool(world.transports["a"].bodies))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await passing_time(world, clock, 11)
    world.ledger.recover()
    await passing_time(world, clock, 3)
    await world.until(lambda: bool(world.rows("SELECT * FROM receipts")))
    assert (await world.receipt())["outcome"] == "ok"
    await world.check_closed(spent=50)


async def test_what_was_used_is_charged_when_the_account_actor_dies_while_the_answer_is_made(world: World) -> None:
    go = trio.Event()
    world.provider("a", streams(piece("one"), go, DONE))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat, world.request(stream=True), client)
        await world.until(lambda: bool(client.writes))
        await _account(world).terminate()
        go.set()
    assert client.events[-1] == "[DONE]"
    await world.check_closed(spent=CHEAP.cost_msat(10, 1))


@pytest.mark.parametrize("kind", ["reserve", "settle"])
async def test_the_hold_ends_once_when_the_account_actor_dies_with_its_commit_under_way(
    world: World, kind: str
) -> None:
    world.provider("a", says("x", usage(10, 20)))
    await world.chat()  # so that there is an account actor
    original = world.ledger.submit

    def submit(change: Any, done: Any = None) -> None:
        original(change, done)
        if getattr(change, "kind", "") == kind:
            world.ledger.submit = original  # type: ignore[method-assign]
            _account(world).cancel()

    world.ledger.submit = submit  # type: ignore[method-assign]
    status = _status(await world.chat())
    assert status in ((200, 503) if kind == "reserve" else (200,))  # the writer may be faster than the end of the actor
    await world.until(lambda: len(world.rows("SELECT * FROM receipts")) == 2)
    await world.check_closed(spent=50 if status == 503 else 100)


def _account(world: World) -> Any:
    [ref] = [ref for ref in world.system.refs() if ref.actor_class is AgentAccountActor]
    return ref


def _balance() -> object:
    from arbstr.accounts import Balance

    return Balance()


def _status(answer: PlainAnswer | None) -> int:
    assert answer is not None
    return answer.status
