"""Attempts as planned: who is asked again, who never is, what is waited for, and the one deadline of it all."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio
import trio.testing

from arbstr.providers import Describe, Outcome, ProviderActor, Report
from arbstr.requests import PlainAnswer
from tests.requests.rig import CHEAP, DEAR, DONE, Answer, Client, World, completion, piece, says, streams, usage
from tests.requests.test_plain import error, failing, headers

PASSING = [
    *(failing(status) for status in (408, 409, 500, 503, 520)),
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("slow"),
    httpx.ReadError("gone"),
]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """All that providers' actors are told."""
    told: list[Report] = []
    receive = ProviderActor.on_receive

    def on_receive(self: ProviderActor, message: Any) -> Any:
        if isinstance(message, Report):
            told.append(message)
        return receive(self, message)

    monkeypatch.setattr(ProviderActor, "on_receive", on_receive)
    return told


async def asked(world: World, name: str, times: int) -> None:
    await world.until(lambda: len(world.transports[name].requests) == times)
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_provider_answers_when_its_fault_has_passed(world: World, fault: Any, stream: bool) -> None:
    world.configure(retries=2, backoff_s=0.001)
    last = streams(piece("x"), DONE) if stream else says()
    a = world.provider("a", fault, fault, last, breaker_failures=10)
    client = Client()
    answer = await world.chat(world.request(stream=stream), client)
    found = client.headers if answer is None else headers(answer)
    assert found[b"x-arbstr-retries"] == b"2/a"
    assert len(a.requests) == 3
    assert {request.headers["idempotency-key"] for request in a.requests} == {a.requests[0].headers["idempotency-key"]}
    assert [hold["extensions"] for hold in world.holds()] == [0]
    await world.check_closed()


async def test_a_provider_that_is_limiting_us_answers_when_it_was_given_the_time_it_asked_for(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.configure(retries=2, backoff_s=0.001)
    world.provider("a", failing(429, retry_after="20"), says())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat)
        await asked(world, "a", 1)
        clock.jump(19)
        await asked(world, "a", 1)
        clock.jump(1.1)
    assert world.attempts() == [("a", "rate_limited"), ("a", "success")]
    await world.check_closed()


async def test_everybody_is_tried_before_anybody_is_asked_again(world: World) -> None:
    world.configure(retries=1, backoff_s=0.001)
    world.provider("a", failing(500))
    world.provider("b", failing(502), says(), price=DEAR)
    answer = await world.chat()
    assert headers(answer)[b"x-arbstr-retries"] == b"2/a, 1/b"
    assert [name for name, _ in world.attempts()] == ["a", "b", "a", "b"]
    await world.check_closed()


async def test_the_provider_hears_of_a_fault_that_repeats_itself_as_one(world: World, reports: list[Report]) -> None:
    world.configure(retries=2, backoff_s=0.001)
    world.provider("a", failing(500), failing(500), says(), breaker_failures=10)
    await world.chat()
    await world.check_closed()
    assert [(report.outcome, report.repeated) for report in reports] == [
        (Outcome.PROVIDER_FAULT, False),
        (Outcome.PROVIDER_FAULT, True),
        (Outcome.SUCCESS, False),
    ]


async def test_nobody_is_asked_more_often_than_configured(world: World) -> None:
    world.configure(retries=2, backoff_s=0.001)
    a = world.provider("a", failing(500), breaker_failures=10)
    answer = await world.chat()
    assert answer is not None
    assert (answer.status, len(a.requests)) == (502, 3)
    assert headers(answer)[b"x-arbstr-retries"] == b"3/a"
    await world.check_closed(spent=0)


@pytest.mark.parametrize(
    ("fault", "stream"),
    [
        *((failing(status), False) for status in (401, 402, 403, 404, 405, 415, 304)),
        (Answer([b"not json"]), False),
        (Answer([b'{"error":{"message":"overloaded"}}']), False),
        (Answer([b'{"choices":', httpx.ReadError("gone")]), False),
        (Answer([completion()], 200, {"content-encoding": "br"}), False),
        (Answer([piece("x"), DONE]), True),
        (streams(httpx.ReadError("gone")), True),
        (streams(), True),
        (httpx.ReadTimeout("silent"), False),
        (failing(500, retry_after="61"), False),
    ],
)
async def test_the_same_provider_is_never_asked_again_when_it_may_have_billed_or_will_not_change(
    world: World, fault: Any, stream: bool
) -> None:
    world.configure(retries=5, backoff_s=0.001)
    a = world.provider("a", fault)
    answer = await world.chat(world.request(stream=stream))
    assert answer is not None
    assert answer.status in (502, 504)
    assert len(a.requests) == 1
    await world.check_closed(spent=0)


async def test_the_same_provider_is_never_asked_again_when_it_was_silent(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.configure(retries=5, backoff_s=0.001)
    world.provider("a", ..., first_byte_timeout_s=60.0)
    world.provider("b", Answer([b'{"choices"', ...]), idle_timeout_s=60.0, price=DEAR)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat)
        for name in ("a", "b"):
            await asked(world, name, 1)
            clock.jump(61)
    assert world.attempts() == [("a", "provider_fault"), ("b", "provider_fault")]
    assert (await world.receipt())["http_status"] == 504
    await world.check_closed(spent=0)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_the_request_ends_at_once_when_it_is_at_fault_itself(world: World, status: int) -> None:
    world.configure(retries=5, backoff_s=0.001)
    world.provider("a", failing(500), failing(status, b'{"error":{"message":"no"}}'), breaker_failures=10)
    answer = await world.chat()
    assert answer is not None
    assert answer.status == status
    assert headers(answer)[b"x-arbstr-retries"] == b"2/a"
    await world.check_closed(spent=0)


async def test_the_hold_stays_and_lives_and_no_permit_is_out_while_a_request_waits(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.configure(retries=1, backoff_s=10.0)
    world.provider("a", failing(500), says("x", usage(10, 20)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat)
        await asked(world, "a", 1)
        assert (await world.describe("a")).in_flight == 0
        [before] = world.holds()
        assert before["state"] == "open"
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(4.9)
        await asked(world, "a", 1)
        world.requests.renew_leases()
        await trio.testing.wait_all_tasks_blocked()
        await world.flush()
        [after] = world.holds()
        assert after["lease_ns"] > before["lease_ns"]
        clock.jump(5.2)
    assert [hold["hold_id"] for hold in world.holds()] == [before["hold_id"]]
    await world.check_closed(spent=50)


async def test_the_hold_is_released_when_the_client_leaves_a_request_that_waits(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.configure(retries=1, backoff_s=10.0)
    world.provider("a", failing(500), says(), on_disconnect="drain")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat)
        await asked(world, "a", 1)
        nursery.cancel_scope.cancel()
    assert (await world.receipt())["outcome"] == "client_disconnected"
    assert len(world.transports["a"].requests) == 1
    await world.check_closed(spent=0)


async def test_who_had_no_room_is_asked_again_in_a_later_round(world: World, clock: trio.testing.MockClock) -> None:
    world.configure(retries=1, backoff_s=10.0)
    go = trio.Event()
    world.provider("a", Answer([go, completion()]), says(), max_concurrent=1)
    world.provider("b", failing(500), price=DEAR)
    world.keep_the_directory_as_it_is()
    answers: list[PlainAnswer | None] = []

    async def ask() -> None:
        answers.append(await world.chat())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat)
        await asked(world, "a", 1)
        nursery.start_soon(ask)
        await asked(world, "b", 1)
        go.set()
        await world.until(lambda: bool(world.transports["a"].bodies[0].closed))
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(10.1)
    assert headers(answers[0])[b"x-arbstr-provider"] == b"a"
    await world.check_closed()


async def test_a_failure_is_answered_at_once_when_waiting_would_pass_the_deadline(world: World) -> None:
    world.configure(retries=5, backoff_s=100.0, deadline_s=40.0)
    world.provider("a", failing(503))
    answer = await world.chat()
    assert answer is not None
    assert (answer.status, error(answer)["reason"]) == (502, "provider_failed")
    await world.check_closed(spent=0)


@pytest.mark.parametrize(
    ("answer", "stream"),
    [
        (..., False),
        (..., True),
        (Answer([b'{"choices"', ...]), False),
        (streams(...), True),
        (streams(b": wait\n\n", ...), True),
    ],
)
async def test_the_attempt_in_flight_is_cut_and_accounted_at_the_deadline(
    world: World, clock: trio.testing.MockClock, answer: Any, stream: bool
) -> None:
    world.configure(deadline_s=50.0, retries=3)
    b = world.provider("b", says(), price=DEAR)
    world.provider("a", answer, first_byte_timeout_s=1_000.0, idle_timeout_s=1_000.0)
    answers: list[PlainAnswer | None] = []

    async def ask() -> None:
        answers.append(await world.chat(world.request(stream=stream)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await asked(world, "a", 1)
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(51)
    [got] = answers
    assert got is not None
    assert (got.status, error(got)["reason"]) == (504, "deadline_exceeded")
    assert "timed out after 50 seconds" in error(got)["message"]
    assert b"x-arbstr-provider" not in headers(got)
    assert b.requests == []
    [attempt] = world.rows("SELECT * FROM attempts")
    assert (attempt["outcome"], attempt["error"]) == ("abandoned", "cut at the deadline of the request")
    assert (await world.receipt())["http_status"] == 504
    assert (await world.describe("a")).failure_count == 0
    await world.check_closed(spent=0)


async def test_there_is_no_deadline_for_the_rest_of_a_stream_when_its_first_byte_is_out(
    world: World, clock: trio.testing.MockClock
) -> None:
    world.configure(deadline_s=50.0)
    go = trio.Event()
    world.provider("a", streams(piece("x"), go, piece("y"), DONE), idle_timeout_s=1_000.0)
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stream, client)
        await world.until(lambda: bool(client.writes))
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(500)
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert client.got == piece("x") + piece("y") + DONE
    await world.check_closed(spent=CHEAP.cost_msat(10, 2))


async def test_the_next_provider_answers_when_one_has_been_taken_out_since_it_was_chosen(world: World) -> None:
    world.provider("a", says())
    world.provider("b", says(), price=DEAR)
    del world.upstreams["a"]
    assert headers(await world.chat())[b"x-arbstr-provider"] == b"b"
    await world.check_closed()


async def test_a_request_keeps_to_the_router_it_began_with(world: World, clock: trio.testing.MockClock) -> None:
    world.configure(retries=1, backoff_s=10.0)
    world.provider("a", failing(500), says())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat)
        await asked(world, "a", 1)
        world.configure(retries=0)
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(10.1)
    assert world.attempts()[-1] == ("a", "success")
    await world.check_closed()


async def test_the_provider_shows_what_its_last_failure_was(world: World) -> None:
    world.provider("a", failing(500))
    await world.chat()
    assert (await world.directory.ref("a").request(Describe())).last_error == "status 500"
