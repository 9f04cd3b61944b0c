"""Answers in one piece: what goes out, what is charged, who is tried next."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from attrs import evolve

from arbstr.errors import PermissionRefused
from arbstr.providers import BreakerState
from arbstr.requests import Caller, PlainAnswer
from arbstr.units import Price
from arbstr.wire import parse_embeddings
from tests.requests.rig import CHEAP, DEAR, Answer, World, completion, says, usage


def headers(answer: PlainAnswer | None) -> dict[bytes, bytes]:
    assert answer is not None
    found = dict(answer.headers)
    assert len(found) == len(answer.headers), "a header came twice"
    return found


def error(answer: PlainAnswer | None) -> dict[str, Any]:
    assert answer is not None
    found: dict[str, Any] = json.loads(answer.body)["error"]
    return found


def failing(status: int, body: bytes = b"", **fields: str) -> Answer:
    return Answer([body] if body else [], status, {name.replace("_", "-"): value for name, value in fields.items()})


async def test_the_answer_carries_its_cost_and_the_receipt_says_the_same_when_all_goes_well(world: World) -> None:
    a = world.provider("a", says("hi", usage(10, 20)))
    world.provider("b", says(), price=DEAR)
    request = world.request()
    answer = await world.chat(request)

    assert answer is not None
    assert answer.status == 200
    assert json.loads(answer.body) == {**json.loads(completion("hi", usage(10, 20))), "arbstr_provider": "a"}
    found = headers(answer)
    assert found[b"x-arbstr-provider"] == b"a"
    assert found[b"x-arbstr-cost-msat"] == b"50"
    assert found[b"x-arbstr-cost-sats"] == b"0.05"
    assert found[b"x-arbstr-saved-dearest-msat"] == b"450"
    assert found[b"x-arbstr-latency-ms"].isdigit()
    assert b"x-arbstr-retries" not in found
    assert a.sent == [request.call.body]
    receipt = await world.receipt()
    assert receipt["request_id"] == request.request_id
    assert (receipt["outcome"], receipt["http_status"], receipt["provider"]) == ("ok", 200, "a")
    assert (receipt["cost_msat"], receipt["prompt_tokens"], receipt["completion_tokens"]) == (50, 10, 20)
    assert (receipt["estimated"], receipt["error"], receipt["saved_dearest_msat"]) == (0, None, 450)
    assert receipt["correlation_id"] == "mine"
    [hold] = world.holds()
    assert (hold["state"], hold["charged_msat"], hold["hold_id"]) == ("settled", 50, receipt["hold_id"])
    assert world.attempts() == [("a", "success")]
    await world.check_closed(spent=50)


async def test_the_hold_is_on_disk_when_the_provider_is_called(world: World) -> None:
    seen: list[str] = []
    world.provider("a", Answer([lambda: seen.extend(row["state"] for row in world.holds()), completion()]))
    await world.chat()
    assert seen == ["open"]


async def test_tokens_are_counted_when_the_provider_reports_no_usage(world: World) -> None:
    world.provider("a", says("x" * 41))
    answer = await world.chat()
    receipt = await world.receipt()
    assert (receipt["prompt_tokens"], receipt["completion_tokens"], receipt["estimated"]) == (6 + 4, 11, 1)
    assert headers(answer)[b"x-arbstr-cost-msat"] == b"32"
    await world.check_closed(spent=32)


@pytest.mark.parametrize("embeddings", [False, True])
async def test_tokens_are_counted_when_the_provider_reports_none_at_all(world: World, embeddings: bool) -> None:
    request, body = world.request(), completion("x" * 41, usage(0, 0))
    if embeddings:
        call = parse_embeddings(json.dumps({"model": "m", "input": "x" * 41}).encode())
        request, body = evolve(request, call=call), json.dumps({"data": [{}], "usage": usage(0, 0)}).encode()
    world.provider("a", Answer([body]))
    await world.chat(request)
    receipt = await world.receipt()
    assert receipt["estimated"] == 1
    assert receipt["prompt_tokens"] > 0
    assert receipt["completion_tokens"] == (0 if embeddings else 11)
    await world.check_closed(spent=receipt["cost_msat"])


async def test_no_more_is_counted_than_was_allowed_when_the_provider_reports_no_usage(world: World) -> None:
    world.provider("a", says("x" * 400))
    await world.chat(world.request(max_tokens=7))
    assert (await world.receipt())["completion_tokens"] == 7


async def test_the_body_passes_as_it_is_when_it_is_json_but_no_object(world: World) -> None:
    world.provider("a", Answer([b"[1,", b"2]"], 201))
    answer = await world.chat()
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"[1,2]")
    await world.check_closed()


@pytest.mark.parametrize(
    "answer",
    [
        failing(400, b'{"error":{"message":"bad","type":"t","param":null,"code":"c"}}'),
        failing(413, b'{"error":{"message":"long"}}'),
        failing(422, b'{"error":{"message":"no"}}'),
        failing(404, b'{"error":{"message":"no such model"}}'),
    ],
    ids=lambda answer: str(answer.status),
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_refusal_passes_with_its_body_and_nobody_else_is_asked_when_the_request_is_at_fault(
    world: World, answer: Answer, stream: bool
) -> None:
    world.provider("a", answer)
    b = world.provider("b", says(), price=DEAR)
    got = await world.chat(world.request(stream=stream))
    assert got is not None
    assert (got.status, got.body) == (answer.status, answer.parts[0])
    assert headers(got)[b"x-arbstr-provider"] == b"a"
    assert b.requests == []
    assert (await world.describe("a")).failure_count == 0
    assert world.attempts() == [("a", "client_fault")]
    assert (await world.receipt())["http_status"] == answer.status
    await world.check_closed(spent=0)


async def test_the_refusal_is_wrapped_when_its_body_is_not_in_the_usual_shape(world: World) -> None:
    world.provider("a", failing(400, b"<h1>no</h1>"))
    got = await world.chat()
    assert got is not None
    assert got.status == 400
    assert "<h1>no</h1>" in error(got)["message"]


@pytest.mark.parametrize(
    "answer",
    [
        *(failing(status, b'{"error":{"message":"x"}}') for status in (401, 402, 403, 405, 408, 409, 415, 429)),
        *(failing(status, b"oh") for status in (500, 501, 502, 503, 520, 301)),
        failing(404, b"<h1>not found</h1>"),
        failing(404),
        Answer([b"not json"]),
        Answer([b'{"choices":[{"message":{"content":"\xff"}}]}']),
        Answer([b""]),
        Answer([b'{"error":{"message":"overloaded"}}']),
        Answer([b'{"choices":', httpx.ReadError("gone")]),
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.RemoteProtocolError("half"),
        Answer([completion()], 200, {"content-encoding": "br"}),
    ],
)
async def test_the_next_provider_answers_when_one_is_at_fault(world: World, answer: Any) -> None:
    world.provider("a", answer)
    world.provider("b", says("from b", usage(1, 1)), price=DEAR)
    got = await world.chat()
    found = headers(got)
    assert found[b"x-arbstr-provider"] == b"b"
    assert found[b"x-arbstr-retries"] == b"1/a"
    [(_, outcome), (_, success)] = world.attempts()
    special = {401: "denied", 402: "denied", 403: "denied", 429: "rate_limited"}
    expected = special.get(answer.status if isinstance(answer, Answer) else 0, "provider_fault")
    assert (outcome, success) == (expected, "success")
    view = await world.describe("a")
    assert view.breaker_state is BreakerState.OPEN or (view.failure_count == 1 and expected != "rate_limited")
    await world.check_closed(spent=30)


@pytest.mark.parametrize(
    ("last", "status", "reason"),
    [
        (failing(500), 502, "provider_failed"),
        (failing(401), 502, "provider_failed"),
        (failing(429, retry_after="7"), 429, "rate_limited"),
        (httpx.ConnectError("refused"), 502, "provider_failed"),
        (httpx.ConnectTimeout("slow"), 504, "provider_timeout"),
        (Answer([b"x"]), 502, "provider_failed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_last_error_is_reported_with_its_own_meaning_when_all_fail(
    world: World, last: Any, status: int, reason: str, stream: bool
) -> None:
    world.provider("a", failing(503))
    world.provider("b", last, price=DEAR)
    got = await world.chat(world.request(stream=stream))
    assert got is not None
    assert (got.status, error(got)["reason"]) == (status, reason)
    found = headers(got)
    assert found[b"x-arbstr-provider"] == b"b"
    assert found[b"x-arbstr-retries"] == b"1/a, 1/b"
    assert found.get(b"retry-after") == (b"7" if status == 429 else None)
    assert found.get(b"x-arbstr-streaming") == (b"true" if stream else None)
    receipt = await world.receipt()
    assert (receipt["outcome"], receipt["http_status"], receipt["cost_msat"]) == ("failed", status, 0)
    await world.check_closed(spent=0)


async def test_the_next_provider_answers_when_one_is_silent(world: World, clock: trio.testing.MockClock) -> None:
    world.provider("a", ..., first_byte_timeout_s=60.0)
    world.provider("b", says(), price=DEAR)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat)
        await world.until(lambda: bool(world.transports["a"].requests))
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(61)
    assert [name for name, _ in world.attempts()] == ["a", "b"]
    await world.check_closed()


async def test_the_body_of_a_refusal_is_not_waited_for_when_it_does_not_come(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.provider("a", Answer([b"{", ...], 503), idle_timeout_s=60.0)
    world.provider("b", says(), price=DEAR)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat)
        await world.until(lambda: bool(world.transports["a"].bodies))
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(6)
    assert [name for name, _ in world.attempts()] == ["a", "b"]
    await world.check_closed()


async def test_the_hold_grows_when_a_dearer_provider_has_to_answer(world: World) -> None:
    world.provider("a", failing(500))
    world.provider("b", says("x", usage(10, 90)), price=DEAR)
    await world.chat()
    [hold] = world.holds()
    bound = DEAR.cost_msat(24 + 16 + 64, 100)
    assert (hold["amount_msat"], hold["extensions"], hold["provider"]) == (bound, 1, "b")
    await world.check_closed(spent=DEAR.cost_msat(10, 90))


async def test_the_hold_grows_when_a_free_provider_failed_before_one_that_is_not(world: World) -> None:
    free = Price.of(0, 0)
    world.provider("a", failing(500), price=free)
    world.provider("b", says("x", usage(10, 90)), price=DEAR)
    await world.chat()
    [hold] = world.holds()
    assert hold["amount_msat"] == DEAR.cost_msat(104, 100)
    await world.check_closed(spent=DEAR.cost_msat(10, 90))


async def test_an_answer_of_a_free_provider_is_settled_with_nothing(world: World) -> None:
    world.provider("a", says("x", usage(10, 90)), price=Price.of(0, 0))
    answer = await world.chat()
    assert headers(answer)[b"x-arbstr-cost-msat"] == b"0"
    assert [hold["state"] for hold in world.holds()] == ["settled"]
    await world.check_closed(spent=0)


class TestBudget:
    @pytest.fixture
    def deposited(self) -> int:
        return 500  # a bound of CHEAP is 304, one of DEAR is 3,040

    async def test_the_request_is_refused_and_nobody_called_when_nobody_can_be_paid(self, world: World) -> None:
        a = world.provider("a", says(), price=DEAR)
        got = await world.chat()
        assert got is not None
        assert got.status == 402
        assert error(got)["reason"] == "insufficient_balance"
        assert error(got)["available_msat"] == 500
        assert a.requests == []
        assert world.holds() == []
        receipt = await world.receipt()
        assert (receipt["outcome"], receipt["http_status"], receipt["provider"]) == ("failed", 402, None)
        await world.check_closed(spent=0)

    async def test_a_provider_with_a_smaller_bound_answers_when_the_first_cannot_be_paid(self, world: World) -> None:
        # Expected 10 + 100 tokens: 20 + 100 against 100 + 100; bounds 104 + 100: 208 + 100 ... the base fee decides.
        world.provider("a", says(), price=Price.of(5, 0))
        world.provider("b", says("x", usage(10, 10)), price=Price.of(0, 1))
        got = await world.chat()
        assert headers(got)[b"x-arbstr-provider"] == b"b"
        await world.check_closed(spent=10)

    async def test_the_failure_is_reported_when_the_next_cannot_be_paid(self, world: World) -> None:
        world.provider("a", failing(500))
        world.provider("b", says(), price=DEAR)
        got = await world.chat()
        assert got is not None
        assert got.status == 502
        await world.check_closed(spent=0)


class TestRoom:
    @pytest.fixture
    def deposited(self) -> int:
        return 1_000

    async def test_it_is_worth_coming_back_when_who_can_be_paid_has_no_room(self, world: World) -> None:
        release = trio.Event()
        world.provider("a", Answer([release, completion()]), max_concurrent=1)
        world.provider("b", says(), price=DEAR)
        world.keep_the_directory_as_it_is()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.chat)
            await world.until(lambda: bool(world.transports["a"].bodies))
            got = await world.chat()
            release.set()
        assert got is not None
        assert got.status == 503
        assert headers(got)[b"retry-after"] == b"1"
        await world.check_closed()


async def test_the_next_provider_answers_when_one_gives_no_permit(world: World) -> None:
    release = trio.Event()
    world.provider("a", Answer([release, completion()]), max_concurrent=1)
    world.provider("b", says(), price=DEAR)
    world.keep_the_directory_as_it_is()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat)
        await world.until(lambda: bool(world.transports["a"].bodies))
        got = await world.chat()
        release.set()
    assert headers(got)[b"x-arbstr-provider"] == b"b"
    assert b"x-arbstr-retries" not in headers(got)
    await world.check_closed()


@pytest.mark.parametrize("ends", ["before", "after"])
async def test_the_next_provider_answers_when_the_actor_of_one_has_died(world: World, ends: str) -> None:
    world.provider("a", says())
    world.provider("b", says(), price=DEAR)
    ref = world.directory.ref("a")
    world.keep_the_directory_as_it_is()
    await ref.terminate()
    if ends == "after":  # the ref was taken before
        world.directory._refs["a"] = ref
    assert headers(await world.chat())[b"x-arbstr-provider"] == b"b"
    world.directory._refs.pop("a", None)
    del world.transports["a"]
    await world.check_closed()


async def test_the_client_is_told_to_come_back_when_everybody_is_shut(world: World) -> None:
    world.provider("a", failing(429, retry_after="20"))
    await world.chat()
    got = await world.chat()
    assert got is not None
    assert got.status == 503
    assert "open circuits" in error(got)["message"]
    assert 15 <= int(headers(got)[b"retry-after"]) <= 20
    assert [row["http_status"] for row in await world.receipts()] == [429, 503]
    await world.check_closed(spent=0)


async def test_a_model_nobody_serves_is_refused_and_recorded(world: World) -> None:
    world.provider("a", says(), models=("other",))
    got = await world.chat()
    assert got is not None
    assert got.status == 400
    assert (await world.receipt())["http_status"] == 400
    await world.check_closed(spent=0)


@pytest.mark.parametrize("caller", [Caller(None, "admin", "admin"), Caller(None, "client", "client")])
async def test_who_is_no_agent_spends_nothing_when_accounts_are_on(world: World, caller: Caller) -> None:
    a = world.provider("a", says())
    with pytest.raises(PermissionRefused):
        await world.chat(world.request(caller=caller))
    assert a.requests == []


async def test_the_debt_is_recorded_when_usage_is_beyond_hold_and_balance(world: World) -> None:
    world.provider("a", says("x", usage(10, 1_000_000)))
    await world.chat(world.request(n=4))
    report_spent = CHEAP.cost_msat(10, 1_000_000)
    await world.check_closed(spent=report_spent)
    got = await world.chat()
    assert error(got)["reason"] == "outstanding_debt"


class TestWithoutAccounts:
    @pytest.fixture
    def held_accounts(self) -> bool:
        return False

    async def test_the_answer_is_priced_and_recorded_and_nothing_is_held(self, world: World) -> None:
        world.provider("a", says("x", usage(10, 20)))
        answer = await world.chat(world.request(caller=Caller(None, "client", "client")))
        assert headers(answer)[b"x-arbstr-cost-msat"] == b"50"
        receipt = await world.receipt()
        assert (receipt["cost_msat"], receipt["agent_id"], receipt["outcome"]) == (50, None, "ok")
        assert world.holds() == []

    async def test_a_stream_of_any_length_passes(self, world: World) -> None:
        from tests.requests.rig import DONE, piece, streams

        world.provider("a", streams(*[piece("x" * 4_000)] * 50, DONE), price=DEAR)
        client = await world.stream(caller=Caller(None, "client", "client"))
        assert client.got.endswith(DONE)
        assert (await world.receipt())["completion_tokens"] == 50_000


class TestCrowd:
    @pytest.fixture
    def deposited(self) -> int:
        return 10 * 304 + 303

    async def test_exactly_ten_are_answered_when_two_hundred_come_with_a_budget_for_ten(self, world: World) -> None:
        release = trio.Event()
        world.provider("a", Answer([release, completion("x", usage(104, 100))]))
        statuses: list[int] = []

        async def one() -> None:
            answer = await world.chat()
            assert answer is not None
            statuses.append(answer.status)

        a = world.transports["a"]
        a.answers = [release, Answer([completion("x", usage(104, 100))])]
        original = a.handle_async_request

        async def waiting(request: httpx.Request) -> httpx.Response:
            a.requests.append(request)
            await release.wait()
            a.answers = [says("x", usage(104, 100))]
            return await original(request)

        a.handle_async_request = waiting  # type: ignore[method-assign]  # each waits for all
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(one)
            await world.until(lambda: len(statuses) == 190)
            release.set()
        assert sorted(statuses) == [200] * 10 + [402] * 190
        await world.check_closed(spent=10 * 304)
        assert len(await world.receipts()) == 200


@pytest.mark.parametrize(
    ("claimed", "charged"),
    [(usage(10, 1_000_000), (10, 20)), (usage(2_000_000, 20), (None, 20)), (usage(10, 20), (10, 20))],
)
async def test_a_provider_that_claims_more_than_is_possible_is_paid_for_what_is_possible(
    world: World, claimed: dict[str, int], charged: tuple[int | None, int]
) -> None:
    world.provider("a", says("hi", claimed))
    answer = await world.chat(world.request(max_tokens=20))
    assert headers(answer)[b"x-arbstr-cost-msat"]
    receipt = await world.receipt()
    [hold] = world.holds()
    assert receipt["cost_msat"] <= hold["amount_msat"], "the hold is a cap"
    assert receipt["completion_tokens"] == charged[1]
    if charged[0] is not None:
        assert receipt["prompt_tokens"] == charged[0]
    lied = claimed != usage(10, 20)
    assert (receipt["error"] is not None) == lied
    if lied:
        assert "claimed" in receipt["error"]
    await world.check_closed(spent=receipt["cost_msat"])


async def test_an_answer_is_charged_when_its_provider_takes_a_limit_of_0_for_none(world: World) -> None:
    world.provider("a", says("hi", usage(10, 500)))
    answer = await world.chat(world.request(max_tokens=0))
    assert answer is not None
    assert answer.status == 200
    await world.check_closed(spent=CHEAP.cost_msat(10, 500))
