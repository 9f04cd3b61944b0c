"""Payments from the wish to the end, over books in memory and simulated wallets."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from actors import ActorSystem
from arbstr.accounts import _rules as rules
from arbstr.accounts._approvals import Approvals, Resolve
from arbstr.accounts._messages import Freeze, Release, SetPolicy, Settle
from arbstr.accounts._payment_messages import MovePayment
from arbstr.accounts._payments import PAY_S, Payments, SendPayment
from arbstr.errors import BillingRefused, NotFound, Overloaded
from arbstr.store import AccountRow, PaymentState
from arbstr.wallets import (
    Answer,
    Behaviour,
    PaymentOrder,
    Rails,
    Script,
    SimulatedBook,
    SimulatedWallet,
    WalletState,
)
from tests.accounts.payment_rig import Killer, Rig, virtual_ns

S = PaymentState


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall time is Trio's."""
    monkeypatch.setattr("time.time_ns", lambda: virtual_ns() if trio.lowlevel.in_trio_run() else 1)


def always(**behaviour: Any) -> Script:
    return lambda _: Behaviour(**behaviour)


LIMITS = {"max_transaction_msat": 50_000, "daily_limit_msat": 80_000}


async def test_a_payment_is_charged_when_the_wallet_settles_it(autojump_clock: Any) -> None:
    rig = Rig.new(**LIMITS)
    async with rig.run() as world:
        row = await world.pay(10_000)
    assert (row.state, row.decision, row.reason, row.fee_msat) == (S.SUCCEEDED, "ALLOW", "policy_passed", 0)
    assert row == rig.payment(row.transaction_id)
    assert rig.paid() == [row.transaction_id]
    assert (rig.account().available_msat, rig.account().spent_msat) == (90_000, 10_000)
    assert rig.audit()[-3:] == ["PAYMENT_REQUEST", "PAYMENT_SENDING", "PAYMENT_SETTLED"]
    assert rig.events() == ["payment_settled"]
    rig.check()


@pytest.mark.parametrize(
    ("limits", "amounts", "reasons"),
    [
        (
            LIMITS,
            [50_000, 30_000, 1, 50_001],
            ["policy_passed"] * 2 + ["exceeds_daily_limit", "exceeds_max_transaction"],
        ),
        ({"max_transaction_msat": 1_000, "daily_limit_msat": 0}, [10], ["exceeds_daily_limit"]),
        ({"max_transaction_msat": 0, "daily_limit_msat": 1_000}, [10], ["exceeds_max_transaction"]),
        (
            {"max_transaction_msat": 0, "daily_limit_msat": 0, "approval_timeout_ms": 30_000},
            [10],
            ["deny_all_policy"],
        ),
        ({"max_transaction_msat": 10**9, "daily_limit_msat": 10**9}, [100_001], ["insufficient_balance"]),
        ({}, [10], ["deny_all_policy"]),
    ],
)
async def test_a_policy_decides_when_a_payment_is_asked_for(
    autojump_clock: Any, limits: Any, amounts: Any, reasons: Any
) -> None:
    rig = Rig.new(**limits)
    async with rig.run() as world:
        rows = [await world.pay(amount) for amount in amounts]
    assert [row.reason for row in rows] == reasons
    for row in rows:
        assert (row.state is S.DENIED) == (row.decision == "DENY")
        assert rig.payment(row.transaction_id).state is row.state  # a denial can be looked up too
    rig.check()


async def test_a_frozen_agent_pays_nothing(autojump_clock: Any) -> None:
    rig = Rig.new(**LIMITS)
    async with rig.run() as world:
        await world.own.request(Freeze())
        row = await world.pay(1)
    assert (row.state, row.reason, rig.paid()) == (S.DENIED, "frozen", [])


async def test_one_of_twenty_is_allowed_when_there_is_money_for_one(autojump_clock: Any) -> None:
    rig = Rig.new(max_transaction_msat=10**9, daily_limit_msat=10**9)
    async with rig.run() as world:
        rows: list[Any] = []

        async def pay() -> None:
            rows.append(await world.pay(90_000))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(pay)
    assert sorted(row.reason for row in rows) == ["insufficient_balance"] * 19 + ["policy_passed"]
    assert rig.account().available_msat == 10_000
    rig.check()


async def test_the_first_answer_counts_when_a_key_is_used_again(autojump_clock: Any) -> None:
    rig = Rig.new(**LIMITS)
    async with rig.run() as world:
        first = await world.pay(10_000, "k")
        assert await world.pay(10_000, "k") == first
        with pytest.raises(BillingRefused) as refusal:
            await world.pay(10_001, "k")
        denied = await world.pay(60_000, "d")
        await world.policy(max_transaction_msat=70_000, daily_limit_msat=10**9)
        assert await world.pay(60_000, "d") == denied
    assert (refusal.value.status, refusal.value.reason) == (409, "idempotency_key_reused")
    assert rig.paid() == [first.transaction_id]
    rig.check()


@pytest.mark.parametrize("word_takes_s", [0, 1, 10])
async def test_a_repeat_hears_the_end_of_the_first_one_whenever_it_comes(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, word_takes_s: float
) -> None:
    """Word of which payment it repeats may come before the first one hears of its own, or after its end."""
    rig = Rig.new(**LIMITS)
    rig.script["simulated"] = always(after_s=5)
    asked = Payments._open
    rows: list[Any] = []

    async def late(self: Any, transaction_id: str, message: Any) -> Any:
        row = await asked(self, transaction_id, message)
        await trio.sleep(word_takes_s if row.transaction_id != transaction_id else 0 if word_takes_s else 1)
        return row

    monkeypatch.setattr(Payments, "_open", late)
    async with rig.run() as world, trio.open_nursery() as nursery:

        async def pay() -> None:
            rows.append(await world.pay(10_000, key="k"))

        for _ in range(3):
            nursery.start_soon(pay)
    assert [row.state for row in rows] == [S.SUCCEEDED] * 3
    assert len(rig.paid()) == 1
    rig.check()


@pytest.mark.parametrize("amount", [10_000, 60_000])
async def test_a_key_pays_once_when_it_is_used_many_times_at_once(autojump_clock: Any, amount: int) -> None:
    rig = Rig.new(**LIMITS)
    async with rig.run() as world:
        rows: list[Any] = []

        async def pay() -> None:
            rows.append(await world.pay(amount, "k"))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(pay)
    assert len({row.transaction_id for row in rows}) == 1
    assert len(rig.paid()) == (amount == 10_000)
    assert len(rig.payments()) == 1
    rig.check()


async def test_a_failure_gives_everything_back(autojump_clock: Any) -> None:
    rig = Rig.new(**LIMITS)
    rig.script["simulated"] = always(outcome=WalletState.FAILED)
    async with rig.run() as world:
        row = await world.pay(10_000)
    assert (row.state, row.error) == (S.FAILED, "no_route")
    assert (rig.account().available_msat, rig.account().held_msat) == (100_000, 0)
    assert rig.events() == ["payment_failed"]
    rig.check()


@pytest.mark.parametrize("outcome", [WalletState.SUCCEEDED, WalletState.FAILED])
@pytest.mark.parametrize("answer", [Answer.SAYS_UNKNOWN, Answer.SAYS_PENDING, Answer.LOST, Answer.NEVER])
async def test_money_stays_held_until_the_wallet_says_when_a_payment_is_in_doubt(
    autojump_clock: Any, answer: Any, outcome: Any
) -> None:
    rig = Rig.new(**LIMITS)
    rig.script["simulated"] = always(outcome=outcome, answer=answer, after_s=1_000, doubtful_lookups=3)
    async with rig.run() as world:
        row = await world.pay(10_000, wait_s=PAY_S * 2)
        assert row.state is S.UNKNOWN
        assert rig.account().held_msat == 10_000
        await trio.sleep(2_000)
    settled = outcome is WalletState.SUCCEEDED
    assert rig.payment(row.transaction_id).state is (S.SUCCEEDED if settled else S.FAILED)
    assert rig.account().available_msat == (90_000 if settled else 100_000)
    assert rig.account().held_msat == 0
    rig.check()


async def test_nothing_is_lost_when_the_order_never_reached_the_wallet(autojump_clock: Any) -> None:
    rig = Rig.new(**LIMITS)
    rig.script["simulated"] = always(answer=Answer.REFUSED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        await trio.sleep(10)
    assert row.state is S.UNKNOWN
    assert rig.payment(row.transaction_id).error == "not_found"
    assert rig.account().available_msat == 100_000
    rig.check()


async def test_money_stays_held_for_ever_when_nobody_ever_knows(autojump_clock: Any) -> None:
    rig = Rig.new(**LIMITS)
    rig.script["simulated"] = always(outcome=WalletState.UNKNOWN)
    async with rig.run() as world:
        row = await world.pay(10_000)
        await trio.sleep(80_000)
    async with rig.run():
        await trio.sleep(80_000)
    assert rig.payment(row.transaction_id).state is S.UNKNOWN
    assert rig.account().held_msat == 10_000
    rig.check()


async def test_a_payment_goes_on_when_its_asker_has_gone(autojump_clock: Any) -> None:
    rig = Rig.new(**LIMITS)
    rig.script["simulated"] = always(after_s=20)
    async with rig.run() as world:
        with trio.move_on_after(5):
            await world.pay(10_000)
        await trio.sleep(20)
    assert [row["state"] for row in rig.payments()] == ["succeeded"]
    rig.check()


async def test_the_answer_says_that_it_is_under_way_when_it_takes_longer_than_the_asker_waits(
    autojump_clock: Any,
) -> None:
    rig = Rig.new(**LIMITS)
    rig.script["simulated"] = always(after_s=20)
    async with rig.run() as world:
        row = await world.pay(10_000, wait_s=5)
        assert row.state is S.SENDING
        await trio.sleep(20)
    assert rig.payment(row.transaction_id).state is S.SUCCEEDED


# Fees and rails

BIG = {"max_transaction_msat": 10**9, "daily_limit_msat": 10**9}


async def test_the_fee_is_held_and_only_what_it_was_is_charged(autojump_clock: Any) -> None:
    rig = Rig.new("lightning", **BIG, max_fee_msat=600)
    rig.script["lightning"] = always(fee_msat=500, answer=Answer.SAYS_PENDING, after_s=5)
    async with rig.run() as world:
        row = await world.pay(10_000)
        assert rig.account().held_msat == 10_600
        await trio.sleep(10)
    row = rig.payment(row.transaction_id)
    assert (row.fee_msat, row.rail, row.payment_hash is not None) == (500, "lightning", True)
    assert rig.account().available_msat == 89_500
    rig.check()


async def test_a_payment_without_room_for_its_fee_is_denied(autojump_clock: Any) -> None:
    rig = Rig.new("lightning", **BIG)
    async with rig.run() as world:
        assert (await world.pay(99_001)).reason == "insufficient_balance"
        assert (await world.pay(99_000)).state is S.SUCCEEDED


async def test_a_fee_above_its_limit_becomes_debt_when_the_wallet_took_it(autojump_clock: Any) -> None:
    rig = Rig.new("lightning", **BIG)
    rig.script["lightning"] = always(fee_msat=3_000)
    async with rig.run() as world:
        assert (await world.pay(99_000)).state is S.SUCCEEDED
        assert (await world.pay(1)).reason == "outstanding_debt"
    assert (rig.account().available_msat, rig.account().debt_msat) == (0, 2_000)
    rig.check()


async def test_the_other_rail_is_tried_once_when_the_first_has_failed(autojump_clock: Any) -> None:
    rig = Rig.new("lightning", "cashu", **BIG)
    rig.script["cashu"] = always(outcome=WalletState.FAILED)
    async with rig.run() as world:
        row = await world.pay(10_000)
        assert (row.state, row.first_rail, row.rail) == (S.SUCCEEDED, "cashu", "lightning")
        assert rig.books["lightning"].paid == [row.transaction_id]
        rig.script["lightning"] = always(outcome=WalletState.FAILED)
    async with rig.run() as world:
        row = await world.pay(10_000, preferred_rail="lightning")
    assert (row.state, row.first_rail, row.rail) == (S.FAILED, "lightning", "cashu")
    assert rig.account().available_msat == 90_000
    rig.check()


@pytest.mark.parametrize("answer", [Answer.SAYS_UNKNOWN, Answer.SAYS_PENDING, Answer.LOST, Answer.NEVER])
async def test_no_other_rail_is_tried_when_the_first_may_have_paid(autojump_clock: Any, answer: Any) -> None:
    rig = Rig.new("lightning", "cashu", **BIG)
    rig.script["cashu"] = always(outcome=WalletState.FAILED, answer=answer, after_s=3)
    async with rig.run() as world:
        row = await world.pay(10_000)
        await trio.sleep(1_000)
    assert (rig.payment(row.transaction_id).state, rig.books["lightning"].entries) == (S.FAILED, {})
    rig.check()


async def test_a_new_payment_is_refused_when_too_many_are_under_way(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbstr.accounts._payments.MAX_DRIVEN", 2)
    rig = Rig.new(**BIG)
    rig.script["simulated"] = always(after_s=20)
    async with rig.run() as world:
        for _ in range(2):
            assert (await world.pay(1_000, wait_s=1)).state is S.SENDING
        with pytest.raises(Overloaded):
            await world.pay(1_000)
        await trio.sleep(20)
        assert (await world.pay(1_000, wait_s=30)).state is S.SUCCEEDED
    rig.check()


# Nobody else ends a payment


async def test_a_payments_hold_is_no_requests_when_somebody_settles_or_releases_it(
    autojump_clock: Any, receipt: Any
) -> None:
    rig = Rig.new(**LIMITS)
    rig.script["simulated"] = always(after_s=20)
    async with rig.run() as world:
        row = await world.pay(10_000, wait_s=1)
        for message in (Release(row.transaction_id, "no", None), Settle(row.transaction_id, 0, receipt())):
            with pytest.raises(BillingRefused) as refusal:
                await world.own.request(message)
            assert refusal.value.status == 404
        await trio.sleep(30)
    assert rig.payment(row.transaction_id).state is S.SUCCEEDED
    rig.check()


async def test_a_payment_is_not_moved_when_it_is_not_where_the_mover_thinks(autojump_clock: Any) -> None:
    rig = Rig.new(**LIMITS)
    rig.script["simulated"] = always(after_s=20)
    async with rig.run() as world:
        row = await world.pay(10_000, wait_s=1)
        with pytest.raises(BillingRefused) as refusal:  # never sent, says somebody who is wrong
            await world.own.request(MovePayment(row.transaction_id, S.HELD, S.FAILED))
        assert refusal.value.reason == "payment_moved"
        with pytest.raises(NotFound):
            await world.own.request(MovePayment("tx_nope", S.HELD, S.FAILED))
        again = await world.own.request(MovePayment(row.transaction_id, S.HELD, S.SENDING, rail="simulated"))
        assert again.state is S.SENDING
        await trio.sleep(30)
    rig.check()


# The ledger


async def test_a_payment_waits_when_the_ledger_is_down_and_ends_when_it_is_back(autojump_clock: Any) -> None:
    rig = Rig.new(**LIMITS)
    rig.script["simulated"] = always(after_s=5)
    async with rig.run() as world:
        row = await world.pay(10_000, wait_s=1)
        rig.ledger.busy = True
        await trio.sleep(100)
        rig.ledger.busy = False
        await trio.sleep(400)
    assert rig.payment(row.transaction_id).state is S.SUCCEEDED
    rig.check()


# Crashes: at every commit and every call to a wallet, before and after


def scripts() -> dict[str, dict[str, Script]]:
    return {
        "settles": {},
        "fails": {"simulated": always(outcome=WalletState.FAILED)},
        "doubt, then settled": {"simulated": always(answer=Answer.SAYS_UNKNOWN, after_s=5, doubtful_lookups=2)},
        "lost, then failed": {"simulated": always(outcome=WalletState.FAILED, answer=Answer.LOST)},
        "never arrives": {"simulated": always(answer=Answer.REFUSED)},
        "falls back": {"cashu": always(outcome=WalletState.FAILED), "lightning": always(fee_msat=10)},
        "falls back into doubt": {
            "cashu": always(outcome=WalletState.FAILED),
            "lightning": always(answer=Answer.LOST, after_s=5),
        },
    }


@pytest.mark.parametrize("name", list(scripts()))
async def test_a_payment_is_made_once_or_given_back_when_the_process_dies_anywhere(
    autojump_clock: Any, name: str
) -> None:
    at, places = 0, 1
    while at < places:
        script = scripts()[name]
        rig = Rig.new(*([rail for rail in script if rail != "simulated"] or ["simulated"]), **BIG)
        rig.script = script
        async with rig.run():  # the policy is there before anybody dies
            pass
        killer = Killer(at)
        async with rig.run(killer) as world:
            await world.pay(10_000, "k", wait_s=20)
            await trio.sleep(20)
        places = max(places, killer.count if killer.count <= at else at + 2)
        async with rig.run() as world:  # the next life: it ends what the last one left
            await trio.sleep(30)
            assert all(row["state"] in ("succeeded", "failed") for row in rig.payments())
            rig.check()
            again = await world.pay(10_000, "k", wait_s=20)  # whoever asks again gets the same payment
            await trio.sleep(20)
        assert len(rig.payments()) == 1
        assert len(rig.paid()) <= 1
        row = rig.payment(again.transaction_id)
        assert rig.account().available_msat == 100_000 - (
            10_000 + (row.fee_msat or 0) if row.state is S.SUCCEEDED else 0
        )
        assert rig.account().held_msat == 0
        rig.check()
        at += 1
    assert places > 7, "the killer found too few places"


async def test_a_payment_is_made_once_when_processes_die_one_after_the_other(autojump_clock: Any) -> None:
    for first in range(14):
        for second in range(8):
            rig = Rig.new(**BIG)
            rig.script["simulated"] = always(answer=Answer.LOST, after_s=3, doubtful_lookups=1)
            async with rig.run():
                pass
            async with rig.run(Killer(first)) as world:
                await world.pay(10_000, "k", wait_s=10)
                await trio.sleep(20)
            async with rig.run(Killer(second)):
                await trio.sleep(20)
            async with rig.run():
                await trio.sleep(30)
            assert all(row["state"] in ("succeeded", "failed") for row in rig.payments())
            rig.check()


async def test_the_wallet_is_asked_only_when_it_is_on_disk_that_it_will_be(autojump_clock: Any) -> None:
    rig = Rig.new(**LIMITS)
    seen: list[PaymentState] = []

    def script(order: PaymentOrder) -> Behaviour:
        (row,) = [row for row in rig.payments() if row["transaction_id"] == order.key]
        seen.append(row["state"])
        return Behaviour()

    rig.script["simulated"] = script
    async with rig.run() as world:
        await world.pay(10_000)
    assert seen == ["sending"]


@given(st.integers(0, 1_000), st.integers(1, 500), st.integers(0, 300), st.integers(0, 2_000), st.integers(0, 1_000))
def test_a_withdrawal_leaves_the_books_balanced(
    available: int, amount: int, fee_limit: int, fee: int, spent: int
) -> None:
    held = amount + fee_limit
    before = AccountRow("a", 7, available, held, spent, deposited_msat=available + held + spent)
    move = rules.withdraw(before, held, amount, fee)
    after = move.after
    assert (after.withdrawn_msat, after.held_msat) == (amount, 0)
    balances = after.available_msat + after.held_msat + after.spent_msat
    assert balances == after.deposited_msat - after.withdrawn_msat
    assert (after.spent_msat - spent) + after.debt_msat == fee
    assert (after.debt_msat > 0) == (fee > fee_limit + available)
    assert min(after.available_msat, after.debt_msat) >= 0
    assert sum(posting.amount_msat for posting in move.postings) == 0


@pytest.mark.parametrize(("amount", "fee"), [(0, 0), (-1, 0), (11, 0), (5, -1), (5, rules.MAX_MSAT + 1)])
def test_a_withdrawal_is_refused_when_its_amounts_are_absurd(amount: int, fee: int) -> None:
    with pytest.raises(ValueError, match="must be between"):
        rules.withdraw(AccountRow("a", 0, 0, 10, 0, 10), 10, amount, fee)


async def test_everything_fits_the_database_when_the_books_are_on_disk(autojump_clock: Any, world: Any) -> None:
    async with ActorSystem.run() as system:
        accounts = world.accounts(system)
        book = SimulatedBook()
        wallets = {rail: SimulatedWallet(always(fee_msat=3), book) for rail in ("lightning", "cashu")}
        payments = system.start(Payments, world.store, accounts.ref, Rails(wallets))
        approvals = system.start(Approvals, world.store, accounts.ref, payments)
        limits = SetPolicy(max_transaction_msat=200, daily_limit_msat=1_000, max_fee_msat=5, approval_timeout_ms=30_000)
        await accounts.ref(world.agent_id).request(evolve(limits, alert_floor_msat=700))
        rows = [
            await payments.request(SendPayment(world.agent_id, amount, "to", key=f"k{amount}", kind=kind))
            for amount, kind in (
                (100, "payment"),
                (100, "payment"),
                (201, "payment"),
                (150, "withdrawal"),
                (999, "payment"),
            )
        ]
        assert [row.state for row in rows] == [
            S.SUCCEEDED,
            S.SUCCEEDED,
            S.PENDING_APPROVAL,
            S.PENDING_APPROVAL,
            S.DENIED,
        ]
        assert rows[0] == rows[1]
        decided = await approvals.request(Resolve(rows[3].approval_id, "approve", "admin"))
        assert decided.payment.state is S.SUCCEEDED
        await trio.sleep(40)  # the other one expires
    assert len(book.paid) == 2
    account = world.account()
    assert (account.available_msat, account.withdrawn_msat, account.spent_msat) == (1_000 - 256, 150, 106)
    assert world.rows("SELECT first_rail, rail, error FROM payments WHERE state = 'failed'") == [
        ("cashu", "cashu", "approval_timeout")
    ]
    world.check()
