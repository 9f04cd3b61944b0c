"""Requests above their agent's limit: put off, waited for, come for; withdrawn when their client leaves."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import trio
from attrs import evolve

from actors import TrioActorRef
from arbstr.accounts import Approvals, Freeze, Release, Resolve, SetPolicy
from arbstr.errors import BillingRefused, InternalError
from arbstr.requests import ModelRequest, PlainAnswer, RequestActor, WaitingRoom
from arbstr.store import ApprovalRow, FindApproval, PendingApprovals, Question
from tests.requests.rig import CHEAP, DEAR, DONE, Answer, Client, World, piece, says, streams, usage
from tests.requests.test_cancellation import LAST_STEP, At, _is_of_a_request
from tests.requests.test_ledger import failing

LIMITS: dict[str, Any] = {
    "max_transaction_msat": 100,
    "daily_limit_msat": 1_000_000,
    "approval_timeout_ms": 300_000,
}
"""Below what any request of these tests may cost, with a human behind it."""


@pytest.fixture
async def office(world: World) -> TrioActorRef[Approvals]:
    """Where a human decides about the agent's requests."""
    assert world.accounts is not None
    ref = world.system.start(Approvals, world.ledger, world.accounts.ref, None)  # type: ignore[arg-type]  # no payments
    world.context.approvals = ref
    world.context.waiting_room = WaitingRoom(60.0)
    await limit(world, **LIMITS)
    return ref


async def limit(world: World, **limits: Any) -> None:
    assert world.accounts is not None
    await world.accounts.ask(world.agent.agent_id, SetPolicy(**limits))


def asking(world: World, *, wait_s: float = 0, approval_id: str | None = None, **fields: Any) -> ModelRequest:
    return evolve(world.request(**fields), wait_s=wait_s, approval_id=approval_id)


async def put_off(world: World, **fields: Any) -> dict[str, Any]:
    """Send a request that is answered with 202."""
    answer = await world.chat(asking(world, **fields))
    assert answer is not None
    assert answer.status == 202, answer
    body: dict[str, Any] = json.loads(answer.body)
    return body


async def refusal(world: World, request: ModelRequest) -> dict[str, Any]:
    answer = await world.chat(request)
    assert answer is not None
    assert answer.status >= 400, answer
    error: dict[str, Any] = json.loads(answer.body)["error"]
    return {"status": answer.status, **error}


async def ask(world: World, question: Question[Any]) -> Any:
    """Of the ledger, after all that was decided before."""
    arrived = trio.Event()
    answers: list[Any] = []

    def answered(answer: Any, error: object) -> None:
        assert error is None
        answers.append(answer)
        arrived.set()

    world.store.ask(question, answered)
    await arrived.wait()
    return answers[0]


async def pending(world: World) -> list[ApprovalRow]:
    return list(await ask(world, PendingApprovals()))


def is_asked(world: World) -> bool:
    return bool(world.rows("SELECT 1 FROM approvals WHERE status = 'pending'"))


async def approval(world: World, approval_id: str) -> ApprovalRow:
    row: ApprovalRow = await ask(world, FindApproval(approval_id))
    return row


async def decide(world: World, verdict: Any = "approve", why: str | None = None) -> None:
    """As a human does as soon as there is something to decide."""
    ref = world.context.approvals
    assert ref is not None
    await world.until(lambda: is_asked(world))
    found = await pending(world)
    await ref.request(Resolve(found[0].approval_id, verdict, "ada", why))


async def test_a_request_is_put_off_with_its_money_held_when_it_is_above_the_limit(world: World, office: Any) -> None:
    a = world.provider("a", says())
    answer = await world.chat(asking(world))
    assert answer is not None
    body, headers = json.loads(answer.body), dict(answer.headers)
    (row,) = await pending(world)
    assert answer.status == 202
    assert body["id"] == body["approval_id"] == row.approval_id
    assert (body["object"], body["status"], body["model"]) == ("approval", "pending_approval", "m")
    assert (body["amount_msat"], body["poll_url"]) == (row.amount_msat, f"/v1/approvals/{row.approval_id}")
    assert headers[b"location"] == body["poll_url"].encode()
    assert headers[b"retry-after"] == b"5"
    assert headers[b"x-should-retry"] == b"false"
    assert a.requests == []
    receipt = await world.receipt()
    assert (receipt["outcome"], receipt["http_status"], receipt["cost_msat"]) == ("pending_approval", 202, 0)
    [agent] = world.store_check().agents
    assert agent.held_msat == row.amount_msat > 100


async def test_it_is_answered_once_a_human_has_allowed_it(world: World, office: Any) -> None:
    world.provider("a", says("hello", usage(10, 20)))
    body = await put_off(world)
    await decide(world, why="it may")
    answer = await world.chat(asking(world, approval_id=body["id"]))
    assert answer is not None
    assert answer.status == 200
    assert (await refusal(world, asking(world, approval_id=body["id"])))["reason"] == "approval_used"
    first, second, third = await world.receipts()
    assert [one["outcome"] for one in (first, second, third)] == ["pending_approval", "ok", "failed"]
    assert second["hold_id"] == "tx_" + body["id"].removeprefix("apr_")
    await world.check_closed(spent=CHEAP.cost_msat(10, 20))


async def test_a_stream_goes_on_when_a_human_allows_it_while_it_waits(world: World, office: Any) -> None:
    world.provider("a", streams(piece("one"), DONE))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat, asking(world, stream=True, wait_s=50), client)
        await decide(world)
    assert client.events[-1] == "[DONE]"
    assert (await world.receipt())["outcome"] == "ok"
    await world.check_closed(spent=CHEAP.cost_msat(10, 1))


async def test_it_is_refused_with_the_reason_when_a_human_denies_it_while_it_waits(world: World, office: Any) -> None:
    a = world.provider("a", says())
    errors: list[dict[str, Any]] = []

    async def ask() -> None:
        errors.append(await refusal(world, asking(world, wait_s=50)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await decide(world, "deny", "too dear")
    assert (errors[0]["status"], errors[0]["reason"]) == (403, "approval_denied")
    assert "too dear" in errors[0]["message"]
    assert a.requests == []
    assert (await world.receipt())["outcome"] == "failed"
    await world.check_closed(spent=0)


async def test_it_is_put_off_when_nobody_has_decided_by_the_time_it_would_wait(world: World, office: Any) -> None:
    world.provider("a", says("hello", usage(10, 20)))
    body = await put_off(world, wait_s=0.01)
    assert [row.approval_id for row in await pending(world)] == [body["id"]]
    await decide(world)
    answer = await world.chat(asking(world, approval_id=body["id"]))
    assert answer is not None
    assert answer.status == 200
    await world.check_closed(spent=CHEAP.cost_msat(10, 20))


async def test_it_waits_for_no_longer_than_is_configured(world: World, office: Any) -> None:
    world.provider("a", says())
    world.context.waiting_room = WaitingRoom(0.01)
    with trio.fail_after(5):
        await put_off(world, wait_s=50)


async def test_it_is_put_off_at_once_when_too_many_wait_already(world: World, office: Any) -> None:
    world.provider("a", says("hello", usage(10, 20)))
    world.context.waiting_room = WaitingRoom(60.0, places=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat, asking(world, wait_s=50))
        await world.until(lambda: is_asked(world))
        first = (await pending(world))[0].approval_id
        with trio.fail_after(5):
            await put_off(world, wait_s=50)
        await office.request(Resolve(first, "deny", "ada"))


async def test_those_who_wait_hear_where_to_look_when_the_program_stops(world: World, office: Any) -> None:
    world.provider("a", says())
    answers: list[PlainAnswer | None] = []

    async def ask() -> None:
        answers.append(await world.chat(asking(world, wait_s=50)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await world.until(lambda: is_asked(world))
        world.context.waiting_room.close()
    assert answers[0] is not None
    assert answers[0].status == 202
    assert len(await pending(world)) == 1
    with trio.fail_after(5):
        await put_off(world, wait_s=50)  # and nobody waits from now on


async def test_it_waits_once_more_when_it_comes_before_a_human_has_decided(world: World, office: Any) -> None:
    world.provider("a", says("hello", usage(10, 20)))
    body = await put_off(world)
    again = await put_off(world, approval_id=body["id"])
    assert (again["id"], again["expires_at"]) == (body["id"], body["expires_at"])
    answers: list[PlainAnswer | None] = []

    async def ask() -> None:
        answers.append(await world.chat(asking(world, wait_s=50, approval_id=body["id"])))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await decide(world)
    assert answers[0] is not None
    assert answers[0].status == 200
    await world.check_closed(spent=CHEAP.cost_msat(10, 20))


async def test_the_approval_stays_when_a_client_leaves_that_knows_of_it(world: World, office: Any) -> None:
    world.provider("a", says("hello", usage(10, 20)))
    body = await put_off(world)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat, asking(world, wait_s=50, approval_id=body["id"]))
        await world.until(lambda: world.requests.in_flight == 1)
        nursery.cancel_scope.cancel()
    assert [row.approval_id for row in await pending(world)] == [body["id"]]


async def test_nobody_is_asked_when_another_provider_is_within_the_limit(world: World, office: Any) -> None:
    await limit(world, **{**LIMITS, "max_transaction_msat": 1_000})
    dear = world.provider("dear", says(), price=DEAR)
    world.provider("a", says("hello", usage(10, 20)))
    answer = await world.chat(asking(world))
    assert answer is not None
    assert answer.status == 200
    assert (dear.requests, await pending(world)) == ([], [])
    await world.check_closed(spent=CHEAP.cost_msat(10, 20))


async def test_a_human_is_asked_about_the_first_that_is_above_the_limit(world: World, office: Any) -> None:
    world.provider("dear", says(), price=DEAR)
    world.provider("a", says())
    await put_off(world)
    (row,) = await pending(world)
    assert world.holds()[0]["provider"] == "a"
    assert row.amount_msat < 1_000


async def test_a_provider_that_is_dearer_than_what_was_granted_is_not_asked(world: World, office: Any) -> None:
    a = world.provider("a", Answer([b"no"], 503))
    dear = world.provider("dear", says(), price=DEAR)
    body = await put_off(world)
    await decide(world)
    answer = await world.chat(asking(world, approval_id=body["id"]))
    assert answer is not None
    assert answer.status == 502
    assert (len(a.requests), dear.requests) == (1, [])
    await world.check_closed(spent=0)


async def test_a_stream_ends_when_it_has_used_up_what_was_granted(world: World, office: Any) -> None:
    big = piece("x" * 4_000)
    world.provider("a", streams(piece("one"), big, big, big, DONE))
    body = await put_off(world, stream=True)
    await decide(world)
    client = Client()
    assert await world.chat(asking(world, stream=True, approval_id=body["id"]), client) is None
    assert client.events[-1]["error"]["reason"] == "budget_exhausted"
    (row,) = world.rows("SELECT amount_msat, charged_msat FROM holds")
    assert row["amount_msat"] == (await approval(world, body["id"])).amount_msat >= row["charged_msat"]
    await world.check_closed()


@pytest.mark.parametrize(
    ("limits", "status", "reason"),
    [
        ({"max_transaction_msat": 100, "daily_limit_msat": 1_000_000}, 403, "exceeds_max_transaction"),
        ({**LIMITS, "daily_limit_msat": 100}, 403, "exceeds_daily_limit"),
        ({**LIMITS, "models": ("other",)}, 403, "model_not_allowed"),
    ],
)
async def test_nobody_is_asked_about_what_is_refused_anyway(
    world: World, office: Any, limits: Any, status: int, reason: str
) -> None:
    world.provider("a", says())
    await limit(world, **limits)
    error = await refusal(world, asking(world, wait_s=50))
    assert (error["status"], error["reason"]) == (status, reason)
    assert await pending(world) == []
    await world.check_closed(spent=0)


async def test_what_was_granted_is_given_back_when_the_policy_forbids_it_by_now(world: World, office: Any) -> None:
    world.provider("a", says())
    assert world.accounts is not None
    body = await put_off(world)
    await decide(world)
    await world.accounts.ask(world.agent.agent_id, Freeze())
    assert (await refusal(world, asking(world, approval_id=body["id"])))["reason"] == "frozen"
    assert (await approval(world, body["id"])).status == "approved"  # it may be unfrozen in time


@pytest.mark.parametrize("approval_id", ["apr_00000000000000000000000000", "nonsense"])
async def test_an_approval_that_there_is_not_is_told(world: World, office: Any, approval_id: str) -> None:
    world.provider("a", says())
    error = await refusal(world, asking(world, approval_id=approval_id))
    assert (error["status"], error["reason"]) == (404, "approval_not_found")
    await world.check_closed(spent=0)


async def test_the_error_is_an_event_when_a_heartbeat_has_begun_the_stream(world: World, office: Any) -> None:
    world.context.heartbeat_s = 0.005
    world.provider("a", says())
    client = Client()
    assert await world.chat(asking(world, stream=True, wait_s=0.05), client) is None
    (row,) = await pending(world)
    (event,) = client.events
    assert (event["error"]["reason"], event["error"]["approval_id"]) == ("approval_pending", row.approval_id)
    assert (await world.receipt())["outcome"] == "failed"


# Leaving


async def granting(world: World) -> ModelRequest:
    return asking(world, wait_s=50)


async def streaming(world: World) -> ModelRequest:
    return asking(world, stream=True, wait_s=50)


async def coming(world: World) -> ModelRequest:
    body = await put_off(world)
    await decide(world)
    return asking(world, approval_id=body["id"])


@pytest.mark.parametrize("scene", [granting, streaming, coming])
async def test_nothing_is_held_or_spent_unseen_when_the_client_leaves_at_any_step(
    world: World, office: Any, scene: Any
) -> None:
    world.provider("a", says(), breaker_failures=1_000)
    outcomes: Counter[str] = Counter()
    for step in range(LAST_STEP):
        request = await begin(world, scene)
        async with trio.open_nursery() as human:
            if scene is not coming:
                human.start_soon(decide_if_it_is_not_too_late, world)
            with trio.CancelScope() as scope, At(step, scope.cancel) as instrument, trio.fail_after(15):
                await world.requests.answer(request, Client())
            human.cancel_scope.cancel()
        outcomes[await outcome_of(world, scene, request)] += 1
        if not instrument.acted:
            break
    else:
        pytest.fail("it takes more steps than expected")
    assert outcomes["client_disconnected"] > 5
    assert outcomes["it was never there"] == 0
    assert outcomes["ok"] >= 1


@pytest.mark.parametrize("scene", [granting, streaming, coming])
async def test_nothing_is_held_or_spent_unseen_when_the_actor_is_stopped_at_any_step(
    world: World, office: Any, scene: Any
) -> None:
    world.provider("a", says(), breaker_failures=1_000)
    outcomes: Counter[str] = Counter()

    def stop() -> None:
        for ref in world.system.refs():
            if ref.actor_class is RequestActor:
                ref.cancel()

    for step in range(LAST_STEP):
        request = await begin(world, scene)
        async with trio.open_nursery() as human:
            if scene is not coming:
                human.start_soon(decide_if_it_is_not_too_late, world)
            with At(step, stop, _is_of_a_request) as instrument, trio.fail_after(15), suppress(InternalError):
                await world.requests.answer(request, Client())
            human.cancel_scope.cancel()
        outcomes[await outcome_of(world, scene, request)] += 1
        if not instrument.acted:
            break
    else:
        pytest.fail("it takes more steps than expected")
    assert outcomes["shutdown"] > 2
    assert outcomes["it was never there"] <= 4  # not one step of it was done
    assert outcomes["ok"] >= 1


async def approved(world: World) -> str:
    await limit(world, **LIMITS)
    body = await put_off(world)
    await decide(world)
    return str(body["id"])


async def not_limited(world: World) -> None:
    await limit(world, max_transaction_msat=1_000_000, daily_limit_msat=1_000_000)


@pytest.mark.parametrize("scene", [approved, not_limited])
async def test_a_request_is_charged_when_others_come_for_what_it_holds_and_leave_at_any_step(
    world: World, office: Any, scene: Any
) -> None:
    goes_on = trio.Event()
    world.provider("a", streams(piece("one"), goes_on, DONE))
    first, client = asking(world, stream=True, approval_id=await scene(world)), Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.chat, first, client)
        await world.until(lambda: bool(client.events))
        for step in range(LAST_STEP):
            other = asking(world, approval_id=first.approval_id or first.request_id)
            with trio.CancelScope() as scope, At(step, scope.cancel) as instrument, trio.fail_after(15):
                await world.requests.answer(other, Client())
            if not instrument.acted:
                break
        else:
            pytest.fail("it takes more steps than expected")
        goes_on.set()
    assert client.events[-1] == "[DONE]"
    await world.check_closed(spent=CHEAP.cost_msat(10, 1))


async def begin(world: World, scene: Any) -> ModelRequest:
    world.transports["a"].answers = [says("x", usage(10, 20))]
    if scene is streaming:
        world.transports["a"].answers = [streams(piece("one"), piece("two"), DONE)]
    request: ModelRequest = await scene(world)
    return request


async def outcome_of(world: World, scene: Any, request: ModelRequest) -> str:
    """Nothing is left of it but its receipt."""
    await withdraw_what_is_left(world, scene)
    await world.check_closed()
    found = world.rows("SELECT outcome FROM receipts WHERE request_id = ?", request.request_id)
    return str(found[0]["outcome"]) if found else "it was never there"


async def decide_if_it_is_not_too_late(world: World) -> None:
    with suppress(BillingRefused):  # withdrawn just now
        await decide(world)


async def withdraw_what_is_left(world: World, scene: Any) -> None:
    """Only a client that knows of an approval leaves one behind; a human who was in the middle of it has decided."""
    ref, left = world.context.approvals, await pending(world)
    assert ref is not None
    assert not left or scene is coming
    for row in left:
        assert world.accounts is not None
        message = Release(row.approval_id, "of the test", None, withdraw=True)
        await world.accounts.ask(world.agent.agent_id, message)


# The ledger is away


async def test_nobody_is_asked_when_the_question_cannot_be_written(world: World, office: Any) -> None:
    a = world.provider("a", says())
    world.ledger.broken = failing("reserve")
    with trio.fail_after(2):
        error = await refusal(world, asking(world, wait_s=50))
    assert (error["status"], error["reason"]) == (503, "ledger_unavailable")
    world.ledger.recover()
    assert (a.requests, await pending(world)) == ([], [])
    await world.check_closed(spent=0)


async def test_nothing_is_sent_and_the_grant_stays_when_it_cannot_be_taken(world: World, office: Any) -> None:
    a = world.provider("a", says("hello", usage(10, 20)))
    body = await put_off(world)
    await decide(world)
    world.ledger.broken = failing("approval")
    error = await refusal(world, asking(world, approval_id=body["id"]))
    assert (error["status"], error["reason"]) == (503, "ledger_unavailable")
    assert a.requests == []
    world.ledger.recover()
    answer = await world.chat(asking(world, approval_id=body["id"]))
    assert answer is not None
    assert answer.status == 200
    await world.check_closed(spent=CHEAP.cost_msat(10, 20))


async def test_the_request_is_refused_and_withdrawn_when_its_grant_cannot_be_taken(world: World, office: Any) -> None:
    world.provider("a", says())
    errors: list[dict[str, Any]] = []
    original = failing("approval")

    async def ask_for_it() -> None:
        errors.append(await refusal(world, asking(world, wait_s=50)))

    def broken(change: Any) -> Exception | None:
        claims = getattr(change, "key", "").startswith("claim:")
        return original(change) if claims else None

    world.ledger.broken = broken
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_for_it)
        await decide(world)
    assert (errors[0]["status"], errors[0]["reason"]) == (503, "ledger_unavailable")
    world.ledger.recover()
    assert await pending(world) == []
    await world.check_closed(spent=0)


async def test_the_operator_is_told_when_a_request_lets_the_balance_fall_below_the_floor(
    world: World, office: Any
) -> None:
    world.provider("a", says("hello", usage(10, 20)))
    await limit(world, max_transaction_msat=10_000, daily_limit_msat=10_000, alert_floor_msat=1_000_000)
    await world.chat()
    await world.until(lambda: bool(world.rows("SELECT 1 FROM outbox WHERE event = 'balance_alert'")))
    await world.check_closed(spent=CHEAP.cost_msat(10, 20))
