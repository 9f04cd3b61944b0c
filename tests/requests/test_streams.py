"""Streams: byte for byte, complete or said not to be, within the hold, settled in every case."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio
import trio.testing

from arbstr.accounts import Balance, Deposit, Renew, Sweep
from arbstr.store import StoreUnavailable
from tests.requests.rig import (
    CHEAP,
    DEAR,
    DONE,
    Answer,
    Client,
    World,
    event,
    piece,
    says,
    streams,
    usage,
    usage_event,
)

PIECES = [piece("one"), b": still here\n\n", piece("two")]
BROKEN = httpx.ReadError("reset")


async def test_the_bytes_pass_as_they_are_and_done_comes_once_when_all_goes_well(world: World) -> None:
    a = world.provider("a", streams(*PIECES, usage_event(10, 20), DONE))
    client = await world.stream()
    assert client.got == b"".join(PIECES) + DONE
    assert client.finished
    assert client.status == 200
    assert client.headers[b"content-type"] == b"text/event-stream"
    assert client.headers[b"cache-control"] == b"no-cache"
    assert client.headers[b"x-arbstr-streaming"] == b"true"
    assert client.headers[b"x-arbstr-provider"] == b"a"
    assert b'"include_usage":true' in a.sent[0]
    receipt = await world.receipt()
    assert (receipt["outcome"], receipt["http_status"], receipt["stream"], receipt["estimated"]) == ("ok", 200, 1, 0)
    assert (receipt["cost_msat"], world.attempts()) == (50, [("a", "success")])
    await world.check_closed(spent=50)


async def test_the_client_gets_the_same_bytes_when_the_provider_sends_them_torn_anywhere(world: World) -> None:
    whole = piece("h\u00e9") + b": x\r\n\r\n" + usage_event(1, 1) + DONE
    torn = [streams(whole[:position], whole[position:]) for position in range(len(whole) + 1)]
    world.provider("a", *torn, torn[-1])
    got = {(await world.stream()).got for _ in torn}
    assert got == {piece("h\u00e9") + b": x\r\n\r\n" + DONE}
    await world.check_closed(spent=3 * len(torn))


async def test_pieces_pass_at_once_when_the_provider_pauses(world: World) -> None:
    go = trio.Event()
    world.provider("a", streams(piece("one"), go, piece("two"), DONE))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stream, client)
        await world.until(lambda: bool(client.writes))
        assert client.got == piece("one")
        go.set()
    assert client.got == piece("one") + piece("two") + DONE


async def test_usage_comes_with_its_cost_when_the_client_asked_for_usage(world: World) -> None:
    world.provider("a", streams(*PIECES, usage_event(10, 20), DONE))
    request = world.request(stream=True, include_usage=True)
    client = Client()
    await world.chat(request, client)
    *_, last, done = client.events
    assert done == "[DONE]"
    cost = last["usage"].pop("arbstr")
    assert last == {"id": "c", "choices": [], "usage": usage(10, 20)}
    assert (cost["cost_msat"], cost["provider"], cost["request_id"]) == (50, "a", request.request_id)
    assert cost["estimated"] is False


async def test_the_cost_event_comes_only_when_it_is_asked_for(world: World) -> None:
    world.provider("a", streams(*PIECES, DONE))
    asked, unasked = await world.stream(stream_cost=True), await world.stream()
    assert asked.got.startswith(b"".join(PIECES))
    assert asked.events[-1] == "[DONE]"
    assert asked.events[-2]["arbstr"]["cost_msat"] == CHEAP.cost_msat(10, 2)
    assert asked.events[-2]["arbstr"]["estimated"] is True
    assert b"arbstr" not in unasked.got
    world.context.stream_cost_event = True
    assert b"arbstr" in (await world.stream()).got


async def test_a_stream_of_nothing_but_its_end_is_complete(world: World) -> None:
    world.provider("a", streams(usage_event(10, 0), DONE))
    client = await world.stream()
    assert (client.got, client.finished) == (DONE, True)
    await world.check_closed(spent=10)


@pytest.mark.parametrize(
    "first",
    [
        streams(BROKEN),
        streams(),
        streams(b"data: {"),
        streams(event({"error": {"message": "overloaded"}}), DONE),
        streams(b"data: {not json\n\n", DONE),
        streams(b"data: {not json\n\n"),
        streams(usage_event(1, 1), BROKEN),
        streams(b"data: " + b"x" * (1 << 20)),
        Answer([piece("x"), DONE], headers={"content-type": "application/json"}),
        Answer([piece("x"), DONE]),
        Answer([b"no"], 500),
        httpx.ConnectError("refused"),
    ],
)
async def test_the_next_provider_streams_when_one_fails_before_the_first_byte(world: World, first: Any) -> None:
    world.provider("a", first)
    world.provider("b", streams(*PIECES, usage_event(1, 1), DONE), price=DEAR)
    client = await world.stream()
    assert client.got == b"".join(PIECES) + DONE
    assert client.headers[b"x-arbstr-provider"] == b"b"
    assert client.headers[b"x-arbstr-retries"] == b"1/a"
    assert world.attempts() == [("a", "provider_fault"), ("b", "success")]
    assert (await world.describe("a")).failure_count == 1
    await world.check_closed(spent=30)


@pytest.mark.parametrize(
    "end",
    [
        [BROKEN],
        [],
        [b"data: {"],
        [event({"error": {"message": "overloaded"}}), DONE],
        [b'event: error\ndata: {"message":"x"}\n\n', DONE],
        [b"data: " + b"x" * (1 << 20)],
    ],
)
async def test_the_client_is_told_that_it_is_not_all_when_a_stream_breaks_after_the_first_byte(
    world: World, end: list[Any]
) -> None:
    world.provider("a", streams(*PIECES, *end))
    b = world.provider("b", streams(DONE), price=DEAR)
    client = await world.stream()
    assert client.got.startswith(b"".join(PIECES))
    assert b"[DONE]" not in client.got
    assert client.finished
    assert client.events[-1]["error"]["reason"] == "provider_failed"
    assert b.requests == []
    receipt = await world.receipt()
    assert (receipt["outcome"], receipt["http_status"], receipt["estimated"]) == ("stream_incomplete", 200, 1)
    assert (await world.describe("a")).failure_count == 1
    await world.check_closed(spent=CHEAP.cost_msat(10, 2))


async def test_reported_usage_is_charged_when_the_stream_breaks_behind_it(world: World) -> None:
    world.provider("a", streams(*PIECES, usage_event(10, 30), BROKEN))
    client = await world.stream()
    assert b"[DONE]" not in client.got
    assert (await world.receipt())["estimated"] == 0
    await world.check_closed(spent=70)


async def test_the_stream_ends_with_an_error_when_the_provider_falls_silent(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.provider("a", streams(*PIECES, ...), idle_timeout_s=60.0)
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stream, client)
        await world.until(lambda: len(client.writes) == 3)
        clock.jump(61)
    assert client.events[-1]["error"]["reason"] == "provider_timeout"
    assert client.finished
    await world.check_closed(spent=CHEAP.cost_msat(10, 2))


async def test_the_stream_is_complete_when_the_provider_lingers_behind_done(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.provider("a", streams(*PIECES, DONE, ...))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stream, client)
        await world.until(lambda: client.finished)
        clock.jump(1)
    assert client.got == b"".join(PIECES) + DONE
    assert world.attempts() == [("a", "success")]
    await world.check_closed()


async def test_the_stream_is_complete_when_the_connection_breaks_behind_done(world: World) -> None:
    world.provider("a", streams(*PIECES, DONE, BROKEN))
    client = await world.stream()
    assert client.got == b"".join(PIECES) + DONE
    assert (await world.describe("a")).failure_count == 0
    await world.check_closed()


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
async def test_what_passed_is_charged_when_the_client_leaves(world: World, writes: int) -> None:
    world.provider("a", streams(*PIECES, ...))
    world.provider("b", streams(DONE), price=DEAR)
    if writes == 3:  # at the tail
        world.transports["a"].answers = [streams(*PIECES, DONE)]
    client = Client(leaves_after=writes)
    await world.stream(client)
    assert len(client.writes) == writes
    receipt = await world.receipt()
    assert receipt["outcome"] == ("ok" if writes == 3 else "client_disconnected")
    assert world.attempts() == [("a", "success" if writes == 3 else "abandoned")]
    assert (await world.describe("a")).failure_count == 0
    await world.check_closed(spent=CHEAP.cost_msat(10, 2 if writes >= 2 else 1))


async def test_the_provider_is_proven_well_when_the_client_leaves_behind_the_end(world: World) -> None:
    world.provider("a", Answer([], 500), streams(*PIECES, DONE), breaker_failures=3)
    await world.chat(world.request(stream=True))
    assert (await world.describe("a")).failure_count == 1
    await world.stream(Client(leaves_after=3))
    assert (await world.describe("a")).failure_count == 0
    await world.check_closed()


async def test_nothing_is_read_ahead_when_the_client_does_not_read(world: World) -> None:
    read: list[int] = []
    parts = [part for index in range(50) for part in (lambda index=index: read.append(index), piece("x"))]
    world.provider("a", streams(*parts, DONE))
    client = Client(reads=trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stream, client)
        await world.until(lambda: bool(read))
        await trio.testing.wait_all_tasks_blocked()
        assert len(read) == 1
        assert client.reads is not None
        client.reads.set()
    assert client.got == piece("x") * 50 + DONE
    await world.check_closed()


class TestCap:
    """The bound of the first hold is 104 + 2 * 100 = 304 msat; a piece of 400 bytes is 100 tokens."""

    BIG = piece("x" * 400)

    async def test_the_hold_is_extended_when_the_stream_outgrows_it(self, world: World) -> None:
        world.provider("a", streams(*[self.BIG] * 20, DONE))
        client = await world.stream()
        assert client.got == self.BIG * 20 + DONE
        [hold] = world.holds()
        assert hold["extensions"] >= 1
        assert hold["amount_msat"] >= CHEAP.cost_msat(10, 2_000)
        await world.check_closed(spent=CHEAP.cost_msat(10, 2_000))

    async def test_the_extension_is_on_disk_when_the_piece_it_pays_for_goes_out(self, world: World) -> None:
        world.provider("a", streams(self.BIG, self.BIG, DONE))
        held: list[tuple[int, int]] = []

        class Watching(Client):
            async def write(self, data: bytes) -> None:
                await Client.write(self, data)
                [hold] = world.holds()
                held.append((hold["amount_msat"], CHEAP.cost_msat(10, 100 * len(self.writes))))

        await world.stream(Watching())
        assert all(amount >= cost for amount, cost in held[:2])

    async def test_the_hold_is_never_extended_when_the_client_set_a_limit_and_the_provider_keeps_to_it(
        self, world: World
    ) -> None:
        # 100 tokens of prose are some 450 bytes: more than 4 to a token.
        world.provider("a", streams(*[piece("x" * 9)] * 50, usage_event(10, 100), DONE))
        client = await world.stream(max_tokens=100)
        assert client.events[-1] == "[DONE]"
        [hold] = world.holds()
        assert (hold["extensions"], hold["amount_msat"]) == (0, 304)
        await world.check_closed(spent=210)

    @pytest.fixture
    def deposited(self, request: pytest.FixtureRequest) -> int:
        return getattr(request, "param", 1_000_000)

    @pytest.mark.parametrize("deposited", [304, 700, 1_000], indirect=True)
    async def test_the_stream_ends_and_no_debt_is_made_when_the_hold_cannot_grow(
        self, world: World, deposited: int
    ) -> None:
        world.provider("a", streams(*[self.BIG] * 20, usage_event(10, 2_000), DONE))
        client = await world.stream()
        assert b"[DONE]" not in client.got
        assert client.finished
        passed = len(client.writes) - 1
        assert client.got.startswith(self.BIG * passed)
        assert passed == (deposited - 10) // 200
        last = client.events[-1]["error"]
        assert (last["reason"], last["code"]) == ("budget_exhausted", "vault_402")
        receipt = await world.receipt()
        assert (receipt["outcome"], receipt["estimated"]) == ("budget_exhausted", 1)
        await world.check_closed(spent=10 + 200 * passed)
        [agent] = world.store_check().agents
        assert agent.debt_msat == 0
        assert (await world.describe("a")).failure_count == 0

    @pytest.mark.parametrize("deposited", [304], indirect=True)
    async def test_the_request_is_refused_and_free_when_the_first_piece_is_beyond_the_cap(self, world: World) -> None:
        world.provider("a", streams(piece("x" * 4_000), DONE))
        client = Client()
        answer = await world.chat(world.request(stream=True), client)
        assert answer is not None
        assert answer.status == 402
        assert client.status is None
        await world.check_closed(spent=0)

    async def test_the_stream_ends_with_the_ledger_to_blame_when_it_cannot_write_an_extension(
        self, world: World
    ) -> None:
        world.ledger.broken = lambda change: (
            StoreUnavailable("disk full") if getattr(change, "kind", "") == "extend" else None
        )
        world.provider("a", streams(*[self.BIG] * 20, DONE))
        client = await world.stream()
        assert client.events[-1]["error"]["reason"] == "ledger_unavailable"
        assert client.got.startswith(self.BIG)
        receipt = await world.receipt()
        assert receipt["outcome"] == "stream_incomplete"
        await world.check_closed(spent=CHEAP.cost_msat(10, 100))


async def test_the_lease_is_renewed_with_what_was_consumed_while_the_stream_runs(world: World) -> None:
    go = trio.Event()
    world.provider("a", streams(*PIECES, go, DONE))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stream, client)
        await world.until(lambda: len(client.writes) == 3)
        [before] = world.holds()
        world.requests.renew_leases()
        await trio.testing.wait_all_tasks_blocked()
        await world.flush()
        [after] = world.holds()
        assert before["evidence_msat"] == 0
        assert after["evidence_msat"] == CHEAP.cost_msat(10, 2)
        assert after["lease_ns"] > before["lease_ns"]
        go.set()
    world.requests.renew_leases()  # nobody is there
    await world.check_closed()


async def test_a_living_request_keeps_its_hold_when_the_lease_has_run_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    go = trio.Event()
    world.provider("a", streams(*PIECES, go, DONE))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stream, client)
        await world.until(lambda: len(client.writes) == 3)
        late = time.time_ns() + 10**15
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: late)
            assert world.accounts is not None
            world.accounts.ref(world.agent.agent_id).tell(Sweep())
            await trio.testing.wait_all_tasks_blocked()
        assert [hold["state"] for hold in world.holds()] == ["open"]
        go.set()
    await world.check_closed(spent=CHEAP.cost_msat(10, 2))


async def test_a_living_request_keeps_its_hold_when_its_account_has_failed_and_the_clock_jumps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    go = trio.Event()
    world.provider("a", streams(*PIECES, go, DONE))
    client = Client()
    assert world.accounts is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stream, client)
        await world.until(lambda: len(client.writes) == 3)
        failed = world.accounts.ref(world.agent.agent_id)
        failed.tell(Renew(world.holds()[0]["key"], "not a number"))  # type: ignore[arg-type]  # a defect
        await world.until(lambda: not failed.is_alive())
        await world.accounts.ref(world.agent.agent_id).request(Balance())
        late = time.time_ns() + 10**15
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: late)
            world.accounts.ref(world.agent.agent_id).tell(Sweep())
            await trio.testing.wait_all_tasks_blocked()
        assert [hold["state"] for hold in world.holds()] == ["open"]
        go.set()
    await world.check_closed(spent=CHEAP.cost_msat(10, 2))


async def test_a_deposit_lets_the_next_request_in_while_a_stream_runs(world: World) -> None:
    go = trio.Event()
    world.provider("a", streams(*PIECES, go, DONE), says())
    assert world.accounts is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stream)
        await world.until(lambda: bool(world.transports["a"].bodies))
        await world.accounts.ref(world.agent.agent_id).request(Deposit("second", 5))
        assert (await world.chat()) is not None
        go.set()
    await world.check_closed()


async def test_the_content_type_may_be_written_in_any_case_and_with_parameters(world: World) -> None:
    world.provider("a", streams(DONE, headers={"content-type": "Text/Event-Stream; charset=utf-8"}))
    assert (await world.stream()).got == DONE
