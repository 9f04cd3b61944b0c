"""Cancelled at every step, stopped, broken: one receipt, no open hold, the permit back, the connection closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from actors import TrioActorRef
from arbstr.accounts import Deposit
from arbstr.errors import ArbstrError, InternalError, ShuttingDown
from arbstr.requests import ModelRequest, RequestActor, _actor, _life
from arbstr.routing import Router
from tests.requests.rig import CHEAP, DEAR, DONE, Answer, Client, World, completion, piece, says, streams, usage

BIG = piece("x" * 400)
LAST_STEP = 600


class At(trio.abc.Instrument):
    """Calls ``act`` behind the n-th step of the tasks that ``counts`` picks."""

    def __init__(self, step: int, act: Callable[[], object], counts: Callable[[str], bool] = lambda name: True) -> None:
        self._left = step
        self._act = act
        self._counts = counts
        self.acted = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.acted or not self._counts(task.name):
            return
        self._left -= 1
        if self._left < 0:
            self.acted = True
            self._act()

    def __enter__(self) -> At:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)


async def plain(world: World) -> tuple[ModelRequest, Client]:
    world.transports["a"].answers = [says("x", usage(10, 20))]
    return world.request(), Client()


async def stream(world: World) -> tuple[ModelRequest, Client]:
    world.transports["a"].answers = [streams(piece("one"), BIG, BIG, BIG, DONE)]
    return world.request(stream=True, stream_cost=True), Client()


async def failover(world: World) -> tuple[ModelRequest, Client]:
    world.transports["a"].answers = [Answer([b"no"], 503)]
    world.transports["b"].answers = [streams(piece("one"), DONE)]
    return world.request(stream=True), Client()


async def refused(world: World) -> tuple[ModelRequest, Client]:
    world.transports["a"].answers = [Answer([b"{}"], 400)]
    return world.request(), Client()


async def leaving(world: World) -> tuple[ModelRequest, Client]:
    world.transports["a"].answers = [streams(piece("one"), BIG, BIG, DONE)]
    return world.request(stream=True), Client(leaves_after=2)


async def broken(world: World) -> tuple[ModelRequest, Client]:
    world.transports["a"].answers = [streams(piece("one"))]
    return world.request(stream=True), Client()


async def retrying(world: World) -> tuple[ModelRequest, Client]:
    world.configure(retries=1, backoff_s=0.001)
    world.transports["a"].answers = [Answer([b"no"], 503), says("x", usage(10, 20))]
    world.transports["b"].answers = [Answer([b"no"], 500)]
    return world.request(), Client()


async def warm(world: World) -> tuple[ModelRequest, Client]:
    world.context.heartbeat_s = 0.001
    world.transports["a"].answers = [streams(0.003, piece("one"), 0.003, BIG, DONE)]
    return world.request(stream=True), Client()


SCENES = [plain, stream, failover, refused, leaving, broken, retrying, warm]


def market(world: World) -> None:
    # Never shut, however often the scene has them fail.
    world.provider("a", says(), breaker_failures=1_000)
    world.provider("b", says(), price=DEAR, breaker_failures=1_000)


async def check(world: World, request: ModelRequest, client: Client, *, receipts: tuple[int, ...] = (1,)) -> Any:
    await world.check_closed()
    found = world.rows("SELECT * FROM receipts WHERE request_id = ?", request.request_id)
    assert len(found) in receipts
    receipt = found[0] if found else None
    if b"[DONE]" in client.got:
        assert receipt is not None
        assert receipt["outcome"] == "ok"
    return receipt


@pytest.mark.parametrize("scene", SCENES)
async def test_the_books_are_closed_when_the_client_leaves_at_any_step(world: World, scene: Any) -> None:
    market(world)
    outcomes: dict[str, int] = {}
    for step in range(LAST_STEP):
        request, client = await scene(world)
        with trio.CancelScope() as scope, At(step, scope.cancel) as instrument, trio.fail_after(15):
            await world.requests.answer(request, client)
        receipt = await check(world, request, client)
        outcomes[receipt["outcome"]] = outcomes.get(receipt["outcome"], 0) + 1
        if not instrument.acted:
            break
    else:
        pytest.fail("it takes more steps than expected")
    assert outcomes["client_disconnected"] > 5


@pytest.mark.parametrize("scene", [plain, stream, failover, leaving, broken, retrying, warm])
async def test_the_books_are_closed_when_the_client_leaves_a_provider_that_drains_at_any_step(
    world: World, scene: Any
) -> None:
    world.provider("a", says(), breaker_failures=1_000, on_disconnect="drain")
    world.provider("b", says(), price=DEAR, breaker_failures=1_000, on_disconnect="drain")
    outcomes: dict[str, int] = {}
    read_on = 0
    for step in range(LAST_STEP):
        request, client = await scene(world)
        with trio.CancelScope() as scope, At(step, scope.cancel) as instrument, trio.fail_after(15):
            await world.requests.answer(request, client)
        read_on += world.requests.in_flight
        await world.until(lambda: world.requests.in_flight == 0)
        receipt = await check(world, request, client)
        outcomes[receipt["outcome"]] = outcomes.get(receipt["outcome"], 0) + 1
        if not instrument.acted:
            break
    else:
        pytest.fail("it takes more steps than expected")
    assert outcomes["client_disconnected"] > 5
    assert read_on > 0  # how often depends on how fast the disk is


class TestSmallBudget:
    @pytest.fixture
    def deposited(self) -> int:
        return 520

    async def test_no_debt_is_made_when_the_client_leaves_at_any_step_of_a_growing_stream(
        self, world: World, deposited: int
    ) -> None:
        market(world)
        for step in range(LAST_STEP):
            world.transports["a"].answers = [streams(piece("one"), BIG, BIG, BIG, DONE)]
            await self.refill(world, deposited, f"step {step}")
            request, client = world.request(stream=True), Client()
            with trio.CancelScope() as scope, At(step, scope.cancel) as instrument, trio.fail_after(15):
                await world.requests.answer(request, client)
            await check(world, request, client)
            [agent] = world.store_check().agents
            assert agent.debt_msat == 0
            if not instrument.acted:
                break
        assert client.events[-1]["error"]["reason"] == "budget_exhausted"

    async def refill(self, world: World, to_msat: int, key: str) -> None:
        [agent] = world.store_check().agents
        if agent.available_msat < to_msat:
            assert world.accounts is not None
            deposit = Deposit(key, to_msat - agent.available_msat)
            await world.accounts.ref(world.agent.agent_id).request(deposit)


@pytest.mark.parametrize("scene", SCENES)
async def test_the_books_are_closed_when_the_actor_is_stopped_at_any_step(world: World, scene: Any) -> None:
    market(world)
    outcomes: dict[str, int] = {}

    def stop() -> None:
        for ref in world.system.refs():
            if ref.actor_class is RequestActor:
                ref.cancel()

    for step in range(LAST_STEP):
        request, client = await scene(world)
        with At(step, stop, _is_of_a_request) as instrument, trio.fail_after(15):
            try:
                await world.requests.answer(request, client)
            except InternalError:
                pass
            else:
                assert not client.writes or client.finished or client.leaves_after
        # Not one step done: it was never there.
        receipt = await check(world, request, client, receipts=(0, 1) if step < 4 else (1,))
        if receipt is not None:
            outcomes[receipt["outcome"]] = outcomes.get(receipt["outcome"], 0) + 1
        if not instrument.acted:
            break
    else:
        pytest.fail("it takes more steps than expected")
    assert outcomes["shutdown"] > 2


def _is_of_a_request(task_name: str) -> bool:
    return task_name == "request" or "RequestActor" in task_name


async def test_nobody_waits_when_the_client_leaves_before_the_first_step(world: World) -> None:
    market(world)
    request = world.request()
    with trio.CancelScope() as scope, trio.fail_after(1):
        scope.cancel()
        await world.requests.answer(request, Client())
    assert scope.cancelled_caught
    assert not [ref for ref in world.system.refs() if ref.actor_class is RequestActor]
    receipt = await check(world, request, Client())
    assert (receipt["outcome"], receipt["http_status"]) == ("client_disconnected", 499)


async def request_actor(world: World) -> TrioActorRef[RequestActor]:
    [ref] = [ref for ref in world.system.refs() if ref.actor_class is RequestActor]
    return ref


async def test_the_receipt_says_shutdown_when_the_proxy_cancels(world: World) -> None:
    world.provider("a", streams(piece("one"), ...))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat, world.request(stream=True), client)
        await world.until(lambda: bool(client.writes))
        world.context.stopping = True
        nursery.cancel_scope.cancel()
    receipt = await world.receipt()
    assert (receipt["outcome"], receipt["http_status"]) == ("shutdown", 503)
    await world.check_closed(spent=CHEAP.cost_msat(10, 1))


async def test_the_client_is_told_of_the_shutdown_when_the_system_stops_the_actor(world: World) -> None:
    world.provider("a", ...)
    world.context.stopping = True
    errors: list[ArbstrError] = []

    async def ask() -> None:
        try:
            await world.chat()
        except ArbstrError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await world.until(lambda: bool(world.transports["a"].requests))
        await (await request_actor(world)).terminate()
    assert isinstance(errors[0], ShuttingDown)
    assert (await world.receipt())["outcome"] == "shutdown"
    await world.check_closed(spent=0)


async def test_a_request_is_refused_when_the_system_is_closed(world: World) -> None:
    world.provider("a", says())
    await world.system._close(1.0)
    with pytest.raises(ShuttingDown):
        await world.chat()


async def test_no_failure_is_logged_when_an_actor_is_stopped(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.provider("a", ...)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_swallowing, world.chat)
        await world.until(lambda: bool(world.transports["a"].requests))
        (await request_actor(world)).cancel()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def _swallowing(chat: Callable[[], Any]) -> None:
    with pytest.raises(InternalError):
        await chat()


async def test_the_request_ends_when_it_takes_longer_than_any_may(
    world: World, clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_actor, "MAX_REQUEST_S", 100.0)
    world.provider("a", streams(piece("one"), ...), idle_timeout_s=1_000.0)
    client = Client()
    with pytest.RaisesGroup(pytest.RaisesExc(ArbstrError, match="longer than 100 s")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.chat, world.request(stream=True), client)
            await world.until(lambda: bool(client.writes))
            clock.jump(101)
    receipt = await world.receipt()
    assert (receipt["outcome"], receipt["http_status"]) == ("failed", 504)
    await world.check_closed(spent=CHEAP.cost_msat(10, 1))


class Defective(Client):
    """A client's end with a defect at its second write."""

    async def write(self, data: bytes) -> None:
        if self.writes:
            raise RuntimeError("defect")
        await super().write(data)


@pytest.mark.parametrize("where", ["transport", "select", "responder", "answer", "savings"])
async def test_the_books_are_closed_and_the_client_is_told_when_there_is_a_defect(
    world: World, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*_: object, **__: object) -> Any:
        raise RuntimeError("defect")

    a = world.provider("a", streams(piece("one"), piece("two"), DONE))
    client: Client = Client()
    if where == "transport":
        a.answers = [RuntimeError("defect")]
    elif where == "answer":
        a.answers = [streams(RuntimeError("defect"))]
    elif where == "select":
        monkeypatch.setattr(Router, "select", raising)
    elif where == "responder":
        client = Defective()
    elif where == "savings":
        with monkeypatch.context() as patch:
            patch.setattr(_life, "with_member", raising)
            a.answers = [Answer([completion("x", usage(10, 20))])]
            with pytest.raises(InternalError):
                await world.chat()
        await world.check_closed(spent=50)
        assert (await world.receipt())["outcome"] == "ok"
        return
    with pytest.raises(InternalError):
        await world.chat(world.request(stream=True), client)
    receipt = await world.receipt()
    assert (receipt["outcome"], receipt["http_status"]) == ("failed", 500)
    await world.check_closed(spent=CHEAP.cost_msat(10, 2) if where == "responder" else 0)
    monkeypatch.undo()
    a.answers = [says("x", usage(1, 1))]
    assert (await world.chat()) is not None
