"""Approvals: who decides, when it is too late, and what is asked again when one is granted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from attrs import evolve
from trio.testing import wait_all_tasks_blocked

from arbstr.accounts import SendPayment, resolve_orphans
from arbstr.accounts._approvals import LOOK_S, Resolve, WaitFor, request_approval
from arbstr.accounts._messages import Describe, Freeze, MintBudget, Release, Reserve, RevokeBudget, Settle
from arbstr.accounts._payment_messages import Decide, RequestApproval
from arbstr.errors import BillingRefused, NotFound
from arbstr.store import ApprovalStatus, PaymentState
from arbstr.wallets import Answer, Behaviour, WalletState
from tests.accounts.payment_rig import SECOND_NS, Killer, Rig, virtual_ns

S = PaymentState
ASKED = {"max_transaction_msat": 5_000, "daily_limit_msat": 100_000, "approval_timeout_ms": 300_000}


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall time is Trio's."""
    monkeypatch.setattr("time.time_ns", lambda: virtual_ns() if trio.lowlevel.in_trio_run() else 1)


def resolve(approval_id: Any, verdict: Any = "approve") -> Resolve:
    return Resolve(approval_id, verdict, "admin")


async def test_a_payment_above_the_limit_waits_with_its_money_held(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
    assert (row.state, row.decision) == (S.PENDING_APPROVAL, "REQUIRE_HUMAN_APPROVAL")
    assert rig.account().available_msat == 90_000
    (approval,) = rig.pending()
    assert (approval.approval_id, approval.kind, approval.amount_msat) == (row.approval_id, "payment", 10_000)
    assert approval.expires_ns - approval.created_ns == 300 * SECOND_NS
    assert rig.audit()[-2:] == ["PAYMENT_REQUEST", "APPROVAL_REQUESTED"]
    assert rig.events() == ["approval_required"]
    assert rig.paid() == []
    rig.check()


async def test_an_approved_payment_is_really_sent(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        decided = await world.approvals.request(resolve(row.approval_id))
        assert (decided.approval.status, decided.payment.state) == (ApprovalStatus.APPROVED, S.SUCCEEDED)
        for verdict in ("approve", "deny"):
            with pytest.raises(BillingRefused) as refusal:
                await world.approvals.request(resolve(row.approval_id, verdict))
            assert (refusal.value.status, refusal.value.reason) == (409, "approval_resolved")
    assert rig.paid() == [row.transaction_id]
    assert rig.account().available_msat == 90_000
    assert sorted(rig.events()) == ["approval_granted", "approval_required", "payment_settled"]
    assert rig.audit()[-3:] == ["APPROVAL_GRANTED", "PAYMENT_SENDING", "PAYMENT_SETTLED"]
    rig.check()


async def test_an_approved_payment_is_sent_when_whoever_approved_it_could_not_say_so(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        await world.own.request(Decide(row.approval_id or "", "approve", "admin"))  # and nobody executes it
        await trio.sleep(200)
    assert rig.payment(row.transaction_id).state is S.SUCCEEDED
    rig.check()


async def test_a_denied_payment_gives_everything_back(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        decided = await world.approvals.request(Resolve(row.approval_id, "deny", "admin", "not today"))
    assert (decided.approval.status, decided.approval.reason) == (ApprovalStatus.DENIED, "not today")
    assert (rig.payment(row.transaction_id).state, rig.payment(row.transaction_id).error) == (S.FAILED, "not today")
    assert rig.account().available_msat == 100_000
    assert sorted(rig.events()) == ["approval_denied", "approval_required"]
    rig.check()


async def test_an_unknown_approval_is_not_found(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        for message in (resolve("apr_zz"), WaitFor("apr_zz")):
            with pytest.raises(NotFound, match="Approval not found"):
                await world.approvals.request(message)


async def test_one_wins_when_many_decide_at_once(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        outcomes: list[Any] = []

        async def decide(verdict: str) -> None:
            try:
                outcomes.append((await world.approvals.request(resolve(row.approval_id, verdict))).approval.status)
            except BillingRefused as refusal:
                outcomes.append(refusal.reason)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(decide, "approve" if number % 2 else "deny")
    assert outcomes.count("approval_resolved") == 9
    rig.check()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_transaction_msat": 0, "daily_limit_msat": 0}, "deny_all_policy"),
        ({"max_transaction_msat": 5_000, "daily_limit_msat": 9_999}, "exceeds_daily_limit"),
    ],
)
async def test_a_grant_is_a_denial_when_the_policy_has_changed(autojump_clock: Any, limits: Any, reason: str) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        await world.policy(**limits)
        decided = await world.approvals.request(resolve(row.approval_id))
    assert (decided.approval.status, decided.approval.reason) == (ApprovalStatus.DENIED, reason)
    assert (rig.payment(row.transaction_id).error, rig.paid()) == (reason, [])
    assert rig.account().held_msat == 0
    rig.check()


async def test_a_grant_is_a_denial_when_the_agent_is_frozen(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        await world.own.request(Freeze())
        decided = await world.approvals.request(resolve(row.approval_id))
    assert (decided.approval.reason, rig.paid()) == ("frozen", [])


async def test_its_own_hold_is_not_in_its_way_when_it_takes_the_whole_day_and_balance(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(100_000)
        decided = await world.approvals.request(resolve(row.approval_id))
    assert decided.payment.state is S.SUCCEEDED
    rig.check()


@pytest.mark.parametrize("amount", [100_001, 10**9])
async def test_nobody_is_asked_when_the_money_is_not_there(autojump_clock: Any, amount: int) -> None:
    rig = Rig.new(**{**ASKED, "daily_limit_msat": 10**12})
    async with rig.run() as world:
        row = await world.pay(amount)
    assert (row.state, row.reason, rig.pending()) == (S.DENIED, "insufficient_balance", ())


async def test_nobody_is_asked_when_the_day_is_full(autojump_clock: Any) -> None:
    rig = Rig.new(**{**ASKED, "daily_limit_msat": 15_000})
    async with rig.run() as world:
        assert (await world.pay(10_000)).state is S.PENDING_APPROVAL
        assert (await world.pay(6_000)).reason == "exceeds_daily_limit"  # what waits counts


# Expiry


async def test_an_approval_expires_to_the_second(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        await trio.sleep(299.5)
        assert rig.approval(row.approval_id).status is ApprovalStatus.PENDING
        await trio.sleep(1)
        approval = rig.approval(row.approval_id)
    assert approval.status is ApprovalStatus.TIMED_OUT
    assert 0 <= approval.resolved_ns - approval.expires_ns < SECOND_NS  # type: ignore[operator]  # it is resolved
    assert (rig.payment(row.transaction_id).state, rig.account().held_msat) == (S.FAILED, 0)
    assert rig.events()[-1] == "approval_timeout"
    assert rig.audit()[-1] == "APPROVAL_TIMEOUT"
    rig.check()


async def test_a_grant_is_too_late_when_the_approval_has_expired_and_nobody_has_noticed(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        await world.approvals.terminate()  # nobody watches the clock
        await trio.sleep(300)
        decided = await world.own.request(Decide(row.approval_id or "", "approve", "admin"))
    assert decided.approval.status is ApprovalStatus.TIMED_OUT
    assert (rig.paid(), rig.account().held_msat) == ([], 0)
    rig.check()


async def test_an_approval_does_not_expire_before_its_time(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        with pytest.raises(BillingRefused) as refusal:
            await world.own.request(Decide(row.approval_id or "", "expire", "impatience"))
    assert refusal.value.reason == "not_expired"


@pytest.mark.parametrize("down_s", [10, 1_000])
async def test_an_approval_expires_on_time_or_at_the_start_when_the_process_was_down(
    autojump_clock: Any, down_s: float
) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
    rig.ledger = rig.ledger.crash()
    await trio.sleep(down_s)
    async with rig.run():
        await trio.sleep(1)
        assert rig.approval(row.approval_id).status.value == ("timed_out" if down_s > 300 else "pending")
        assert rig.account().held_msat == (0 if down_s > 300 else 10_000)
        await trio.sleep(300)
    assert rig.approval(row.approval_id).status is ApprovalStatus.TIMED_OUT
    assert (rig.paid(), rig.account().held_msat) == ([], 0)
    rig.check()


async def test_an_approved_payment_is_sent_once_or_given_back_when_the_process_dies_anywhere(
    autojump_clock: Any,
) -> None:
    at, places = 0, 1
    while at < places:
        rig = Rig.new(**ASKED)
        rig.script["simulated"] = lambda _: Behaviour(answer=Answer.LOST, after_s=2)
        async with rig.run() as world:
            row = await world.pay(10_000)
        killer = Killer(at)
        async with rig.run(killer) as world:
            await world.approvals.request(resolve(row.approval_id), timeout_s=100)
            await trio.sleep(20)
        places = max(places, at + 2 if killer.count > at else killer.count)
        async with rig.run():
            await trio.sleep(400)
        assert rig.payment(row.transaction_id).state in (S.SUCCEEDED, S.FAILED)
        assert rig.approval(row.approval_id).status is not ApprovalStatus.PENDING
        assert rig.account().held_msat == 0
        rig.check()
        at += 1
    assert places > 8


# Withdrawals


async def test_a_withdrawal_always_waits_and_leaves_as_withdrawn(autojump_clock: Any) -> None:
    rig = Rig.new(max_transaction_msat=50_000, daily_limit_msat=100_000)
    async with rig.run() as world:
        row = await world.pay(20_000, kind="withdrawal")
        assert row.state is S.PENDING_APPROVAL
        (approval,) = rig.pending()
        assert (approval.kind, approval.destination) == ("withdrawal", "to")
        assert approval.expires_ns - approval.created_ns == 300 * SECOND_NS
        decided = await world.approvals.request(resolve(row.approval_id))
    assert decided.payment.state is S.SUCCEEDED
    assert rig.paid() == [row.transaction_id]
    assert (rig.account().withdrawn_msat, rig.account().spent_msat, rig.account().available_msat) == (20_000, 0, 80_000)
    assert "withdrawal_requested" in rig.events()
    assert "WITHDRAWAL_REQUESTED" in rig.audit()
    rig.check()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({}, "deny_all_policy"),
        ({"max_transaction_msat": 50_000, "daily_limit_msat": 10_000}, "exceeds_daily_limit"),
        ({"max_transaction_msat": 5_000, "daily_limit_msat": 100_000}, "exceeds_max_transaction"),
        ({"max_transaction_msat": 10**9, "daily_limit_msat": 10**9}, "insufficient_balance"),
    ],
)
async def test_a_withdrawal_is_denied_by_policy(autojump_clock: Any, limits: Any, reason: str) -> None:
    rig = Rig.new(balance_msat=19_000, **limits) if reason == "insufficient_balance" else Rig.new(**limits)
    async with rig.run() as world:
        row = await world.pay(20_000, kind="withdrawal")
    assert (row.state, row.reason, rig.pending()) == (S.DENIED, reason, ())


async def test_the_operator_hears_that_it_is_pending_when_an_approved_payment_is_in_doubt(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    rig.script["simulated"] = lambda _: Behaviour(answer=Answer.SAYS_UNKNOWN, after_s=50, outcome=WalletState.FAILED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        decided = await world.approvals.request(resolve(row.approval_id), timeout_s=100)
        assert decided.payment.state is S.UNKNOWN
        await trio.sleep(500)
    bodies = [json.loads(str(row[3])) for row in rig.ledger.tables()["outbox"]]
    assert [body["payment_status"] for body in bodies if body["event"] == "approval_granted"] == ["PENDING"]
    assert [body["transaction_id"] for body in bodies if body["event"] == "payment_failed"] == [row.transaction_id]
    rig.check()


# Requests to models


def claim(approval_id: str, key: str = "later", amount_msat: int = 10_000, **more: Any) -> Reserve:
    return Reserve(key, amount_msat, more.pop("model", "m"), "p", approval_id=approval_id, **more)


def wish(key: str = "r", amount_msat: int = 10_000) -> RequestApproval:
    return RequestApproval(key, amount_msat, "m", "p")


async def test_a_request_goes_on_when_a_human_allows_it_in_time(autojump_clock: Any, receipt: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world, trio.open_nursery() as nursery:
        rows: list[Any] = []

        async def ask() -> None:
            rows.append(await request_approval(world.own, world.approvals, wish(), wait_s=60))

        nursery.start_soon(ask)
        await trio.sleep(5)
        (approval,) = rig.pending()
        for message in (Reserve("r", 10_000, "m", "p"), Release("r", "", None), Settle("r", 5, receipt("r"))):
            with pytest.raises(BillingRefused) as refusal:  # nobody gets at the money before
                await world.own.request(message)
            assert refusal.value.reason == "approval_pending"
        await world.approvals.request(resolve(approval.approval_id))
        await wait_all_tasks_blocked()
        assert rows[0].status is ApprovalStatus.APPROVED
        held = await world.own.request(claim(approval.approval_id, "r"))
        assert (held.amount_msat, held.available_msat) == (10_000, 90_000)
        await world.own.request(Settle("r", 7_000, receipt("r", 7_000)))
    assert rig.account().available_msat == 93_000
    rig.check()


async def test_a_request_is_told_to_come_back_when_nobody_decides_in_time(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        for wait_s in (0, 20):
            row = await request_approval(world.own, world.approvals, wish(), wait_s=wait_s)
            assert row.status is ApprovalStatus.PENDING
        assert len(rig.pending()) == 1  # the second one found the first
        await trio.sleep(300)
        assert (await world.approvals.request(WaitFor(row.approval_id))).status is ApprovalStatus.TIMED_OUT
    assert rig.account().held_msat == 0
    rig.check()


async def test_a_request_hears_of_its_end_when_it_waits_for_ever(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await request_approval(world.own, world.approvals, wish(), wait_s=1_000)
    assert row.status is ApprovalStatus.TIMED_OUT


async def test_an_approved_request_that_never_comes_back_loses_its_hold(autojump_clock: Any) -> None:
    from arbstr.accounts import Sweep

    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await request_approval(world.own, world.approvals, wish(), wait_s=0)
        await world.approvals.request(resolve(row.approval_id))
        await trio.sleep(16 * 60)
        world.own.tell(Sweep())
        await wait_all_tasks_blocked()
        await trio.sleep(1)
    assert rig.account().held_msat == 0
    rig.check()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_transaction_msat": 5_000, "daily_limit_msat": 100_000}, "exceeds_max_transaction"),
        ({**ASKED, "daily_limit_msat": 9_000}, "exceeds_daily_limit"),
        ({**ASKED, "models": ("other",)}, "model_not_allowed"),
    ],
)
async def test_nobody_is_asked_about_a_request_when_it_would_be_refused_anyway(
    autojump_clock: Any, limits: Any, reason: str
) -> None:
    rig = Rig.new(**limits)
    async with rig.run() as world:
        with pytest.raises(BillingRefused) as refusal:
            await world.own.request(wish())
    assert (refusal.value.reason, rig.pending()) == (reason, ())


async def test_a_requests_grant_is_a_denial_when_the_policy_has_changed(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await request_approval(world.own, world.approvals, wish(), wait_s=0)
        await world.policy(**{**ASKED, "models": ("other",)})
        decided = await world.approvals.request(resolve(row.approval_id))
    assert (decided.approval.status, decided.approval.reason) == (ApprovalStatus.DENIED, "model_not_allowed")
    assert rig.account().held_msat == 0
    rig.check()


async def granted(world: Any, approval_id: str = "r", amount_msat: int = 10_000) -> Any:
    """An approval that a human has granted and nobody has come for."""
    await world.own.request(wish(approval_id, amount_msat))
    return (await world.approvals.request(Resolve(approval_id, "approve", "ada", "it may"))).approval


async def refusal_of(world: Any, message: Any) -> tuple[int, str]:
    with pytest.raises(BillingRefused) as refusal:
        await world.own.request(message)
    return refusal.value.status, refusal.value.reason


async def test_what_was_granted_is_taken_once_by_whoever_comes_first(autojump_clock: Any, receipt: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        await granted(world)
        outcomes: list[str] = []

        async def take(key: str) -> None:
            try:
                outcomes.append((await world.own.request(claim("r", key))).key)
            except BillingRefused as refusal:
                outcomes.append(refusal.reason)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(take, f"request {number}")
        assert sorted(outcomes) == ["approval_used"] * 9 + ["r"]
        await world.own.request(Settle("r", 7_000, receipt("request 0", 7_000)))
        assert await refusal_of(world, claim("r")) == (403, "approval_used")
    assert rig.approval("r").status is ApprovalStatus.USED
    assert (rig.approval("r").decided_by, rig.approval("r").reason) == ("ada", "it may")
    assert (rig.account().available_msat, rig.account().held_msat) == (93_000, 0)
    assert rig.audit()[-4:] == ["APPROVAL_REQUESTED", "APPROVAL_GRANTED", "APPROVAL_USED", "HOLD_SETTLED"]
    rig.check()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (claim("r", model="other"), (403, "approval_mismatch")),
        (claim("r", amount_msat=10_001), (403, "approval_mismatch")),
        (claim("r", budget_id="bu_1"), (403, "approval_mismatch")),
        (claim("apr_zz"), (404, "approval_not_found")),
    ],
)
async def test_a_grant_is_for_what_was_asked_and_nothing_else(autojump_clock: Any, message: Any, expected: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        await granted(world)
        assert await refusal_of(world, message) == expected
        assert (await world.own.request(claim("r", amount_msat=9_000))).amount_msat == 10_000
    rig.check()


async def test_a_payments_approval_is_nothing_that_a_request_can_come_for(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        assert await refusal_of(world, claim(row.approval_id or "")) == (404, "approval_not_found")
    rig.check()


async def test_nothing_is_taken_before_a_human_has_decided_or_after_a_denial(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        await world.own.request(wish())
        assert await refusal_of(world, claim("r")) == (409, "approval_pending")
        await world.approvals.request(resolve("r", "deny"))
        assert await refusal_of(world, claim("r")) == (403, "approval_denied")
    assert rig.account().held_msat == 0
    rig.check()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({**ASKED, "daily_limit_msat": 9_999}, "exceeds_daily_limit"),
        ({**ASKED, "models": ("other",)}, "model_not_allowed"),
        ({**ASKED, "max_holds": 0}, "too_many_holds"),
    ],
)
async def test_everything_but_the_amount_is_asked_again_when_the_request_comes(
    autojump_clock: Any, limits: Any, reason: str
) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        await granted(world)
        await world.policy(**limits)
        assert (await refusal_of(world, claim("r")))[1] == reason
        await world.policy(**ASKED)
        assert (await world.own.request(claim("r"))).key == "r"
    rig.check()


async def test_nothing_is_taken_when_the_agent_was_frozen_since(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        await granted(world)
        await world.own.request(Freeze())
        assert await refusal_of(world, claim("r")) == (403, "frozen")
        await trio.sleep(16 * 60)
    assert (rig.approval("r").status, rig.account().held_msat) == (ApprovalStatus.TIMED_OUT, 0)
    rig.check()


async def test_a_grant_that_nobody_comes_for_ends_to_the_second(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        approval = await granted(world)
        assert approval.expires_ns - (approval.resolved_ns or 0) == 15 * 60 * SECOND_NS
        await trio.sleep(15 * 60 - 1)
        assert rig.account().held_msat == 10_000
        await trio.sleep(2)
        assert await refusal_of(world, claim("r")) == (403, "approval_timed_out")
    assert (rig.approval("r").status, rig.account().held_msat) == (ApprovalStatus.TIMED_OUT, 0)
    assert (rig.audit()[-1], rig.events()[-1]) == ("APPROVAL_TIMEOUT", "approval_timeout")
    rig.check()


async def test_a_request_is_too_late_when_the_grant_has_expired_and_nobody_has_noticed(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        await granted(world)
        await world.approvals.terminate()  # nobody watches the clock
        await trio.sleep(15 * 60)
        assert await refusal_of(world, claim("r")) == (403, "approval_timed_out")
    rig.check()


@pytest.mark.parametrize("verdict", ["approve", "deny"])
async def test_a_granted_request_is_decided_once_too(autojump_clock: Any, verdict: str) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        await granted(world)
        with pytest.raises(BillingRefused) as refusal:
            await world.approvals.request(resolve("r", verdict))
    assert refusal.value.reason == "approval_resolved"
    assert rig.account().held_msat == 10_000
    rig.check()


@pytest.mark.parametrize("decided", [False, True])
async def test_an_approval_is_withdrawn_when_its_request_leaves(
    autojump_clock: Any, receipt: Any, decided: bool
) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        await (granted(world) if decided else world.own.request(wish()))
        ended = await world.own.request(Release("r", "left", receipt("q"), withdraw=True))
        assert (ended.charged_msat, ended.available_msat) == (0, 100_000)
        assert (await refusal_of(world, claim("r")))[0] == 403
        await world.own.request(Release("r", "left", receipt("q"), withdraw=True))  # once more changes nothing
    row = rig.approval("r")
    assert row.status is (ApprovalStatus.TIMED_OUT if decided else ApprovalStatus.DENIED)
    assert (row.decided_by, row.reason, rig.account().held_msat) == ("requester", "withdrawn", 0)
    assert [one[0] for one in rig.ledger.tables()["receipts"]] == ["q"]
    rig.check()


async def test_the_receipt_is_filed_and_the_grant_stays_when_a_request_leaves_before_it_is_taken(
    autojump_clock: Any, receipt: Any
) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        await granted(world)
        await world.own.request(Release("r", "left", receipt("q")))
        assert [one[0] for one in rig.ledger.tables()["receipts"]] == ["q"]
        assert (await world.own.request(claim("r", "q2"))).key == "r"
        await world.own.request(Release("r", "left", receipt("q2")))
    assert rig.account().held_msat == 0
    rig.check()


@pytest.mark.parametrize("withdraw", [False, True])
async def test_what_one_request_has_taken_stays_held_when_another_that_came_for_it_leaves(
    autojump_clock: Any, receipt: Any, withdraw: bool
) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        await granted(world)
        await world.own.request(claim("r", "first"))
        await world.own.request(Release("r", "left", receipt("second"), withdraw=withdraw))
        assert rig.account().held_msat == 10_000
        assert (await world.own.request(Settle("r", 7_000, receipt("first", 7_000)))).charged_msat == 7_000
        await world.own.request(Release("r", "left", receipt("third"), withdraw=withdraw))
    assert (rig.account().available_msat, rig.account().held_msat) == (93_000, 0)
    assert {one[0] for one in rig.ledger.tables()["receipts"]} == {"first", "second", "third"}
    rig.check()


async def test_a_request_is_refused_when_too_many_are_open(autojump_clock: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("arbstr.accounts._payments_desk.MAX_APPROVALS", 2)
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        for key in ("r", "s"):
            await world.own.request(wish(key))
        assert await refusal_of(world, wish("t")) == (429, "too_many_approvals")
    rig.check()


@pytest.mark.parametrize("kind", ["payment", "withdrawal"])
async def test_a_payment_is_refused_when_too_many_wait_for_a_human(
    autojump_clock: Any, monkeypatch: Any, kind: str
) -> None:
    monkeypatch.setattr("arbstr.accounts._payments_desk.MAX_APPROVALS", 2)
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        first = await world.pay(6_000, "k1", kind=kind)
        await world.pay(6_000, "k2", kind=kind)
        with pytest.raises(BillingRefused) as refusal:
            await world.pay(6_000, "k3", kind=kind)
        assert (refusal.value.status, refusal.value.reason) == (429, "too_many_approvals")
        assert (await world.pay(6_000, "k1", kind=kind)).transaction_id == first.transaction_id
        if kind == "payment":
            assert (await world.pay(4_000)).state is S.SUCCEEDED  # nobody need be asked about it
        await world.approvals.request(resolve(first.approval_id, "deny"))
        assert (await world.pay(6_000, "k3", kind=kind)).state is S.PENDING_APPROVAL
    rig.check()


async def test_a_budget_pays_for_what_was_granted_to_its_token(autojump_clock: Any, receipt: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        minted = await world.own.request(MintBudget("part", 15_000))
        budget_id = minted.budget.budget_id
        await world.own.request(evolve(wish(), budget_id=budget_id))
        assert await refusal_of(world, evolve(wish("s"), budget_id=budget_id)) == (402, "budget_exhausted")
        await world.approvals.request(resolve("r"))
        assert await refusal_of(world, claim("r")) == (403, "approval_mismatch")  # the agent's own token
        await world.own.request(claim("r", budget_id=budget_id))
        await world.own.request(Settle("r", 4_000, receipt("q", 4_000)))
        view = await world.own.request(Describe())
    assert view.budgets[0].spent_msat == 4_000
    rig.check()


async def test_a_budgets_grant_is_a_denial_when_the_budget_was_revoked(autojump_clock: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        minted = await world.own.request(MintBudget("part", 15_000))
        await world.own.request(evolve(wish(), budget_id=minted.budget.budget_id))
        await world.own.request(RevokeBudget(minted.budget.budget_id))
        decided = await world.approvals.request(resolve("r"))
    assert (decided.approval.status, decided.approval.reason) == (ApprovalStatus.DENIED, "budget_ended")
    rig.check()


async def test_a_grant_outlives_the_process_and_what_was_taken_does_not(autojump_clock: Any, receipt: Any) -> None:
    rig = Rig.new(**ASKED)
    async with rig.run() as world:
        for key in ("r", "s"):
            await granted(world, key)
        await world.own.request(claim("s", "q"))
    rig.ledger = rig.ledger.crash()
    rig.ledger.at_once = True
    assert resolve_orphans(rig.ledger) == 1  # whose request was under way
    assert rig.account().held_msat == 10_000
    async with rig.run() as world:
        assert (await refusal_of(world, claim("s")))[1] == "approval_used"
        await world.own.request(claim("r"))
        await world.own.request(Settle("r", 7_000, receipt("q", 7_000)))
    assert rig.account().available_msat == 93_000
    rig.check()


async def test_the_money_is_held_spent_or_back_when_the_process_dies_anywhere_on_a_requests_way(
    autojump_clock: Any, receipt: Any
) -> None:
    at, places = 0, 1
    while at < places:
        rig = Rig.new(**ASKED)
        async with rig.run():
            pass
        killer = Killer(at)
        async with rig.run(killer) as world:
            await granted(world)
            await world.own.request(claim("r", "q"))
            await world.own.request(Settle("r", 7_000, receipt("q", 7_000)))
        places = max(places, at + 2 if killer.count > at else killer.count)
        rig.ledger.at_once = True
        resolve_orphans(rig.ledger)
        rig.check()
        async with rig.run():
            await trio.sleep(1_300)
        assert rig.account().held_msat == 0
        assert rig.account().spent_msat in (0, 7_000)
        rig.check()
        at += 1
    assert places >= 8  # before and after each of the four commits


@pytest.mark.parametrize("waited_s", [1, 12, 25])
async def test_an_approval_expires_within_a_look_when_the_clock_jumps_over_its_end(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, waited_s: int
) -> None:
    ahead_s = 0
    monkeypatch.setattr("time.time_ns", lambda: virtual_ns() + ahead_s * 10**9)
    rig = Rig.new(**{**ASKED, "approval_timeout_ms": 30_000})
    async with rig.run() as world:
        row = await world.payments.request(SendPayment(rig.agent_id, 20_000, "somewhere", wait_s=0))
        assert row.approval_id is not None
        await trio.sleep(waited_s)
        ahead_s = 3_600
        await trio.sleep(LOOK_S + 1)
        assert rig.approval(row.approval_id).status is ApprovalStatus.TIMED_OUT
    assert rig.account().held_msat == 0
    rig.check()
