"""Policies, freezing and budgets as an account applies them, over both ledgers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from arbstr.accounts import (
    Balance,
    Deposit,
    Extend,
    Freeze,
    Held,
    MintBudget,
    MintedBudget,
    Release,
    Renew,
    Reserve,
    RevokeBudget,
    SetPolicy,
    Sweep,
    Unfreeze,
    resolve_orphans,
)
from arbstr.accounts import _operator_desk as operator_desk
from arbstr.errors import BillingRefused, InvalidRequest, LedgerUnavailable, NotFound
from arbstr.store import DAY_NS, FindBudget, FindHold
from tests.accounts.bank import Bank, make_receipt, open_bank


@pytest.fixture(params=["memory", "disk"])
async def bank(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(request.param, tmp_path) as bank:
        yield bank


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the clock says; a test moves it."""
    now = [10 * DAY_NS]
    monkeypatch.setattr("arbstr.accounts._actor.time.time_ns", lambda: now[0])
    return now


def ask(key: str = "a", amount: int = 100, model: str = "m", **more: Any) -> Reserve:
    return Reserve(key, amount, model, "p", **more)


# Policy


async def test_an_agent_without_a_policy_of_an_operator_may_spend_its_balance_on_requests(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    assert await bank.reserve(agent_id, "a", 1_000) == Held("a", 1_000, 0)
    assert await bank.refusal(agent_id, ask("b", 1)) == (402, "insufficient_balance")
    policy = (await bank.view(agent_id)).policy
    assert policy is not None
    assert (policy.version, policy.set_by_operator) == (1, False)


async def test_a_policy_rules_from_the_moment_it_is_on_disk(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    row = await bank.accounts.ask(agent_id, SetPolicy(300, 500, models=("m",), max_holds=2))
    assert (row.version, row.set_by_operator) == (2, True)
    assert await bank.refusal(agent_id, ask("a", 301)) == (403, "exceeds_max_transaction")
    assert await bank.refusal(agent_id, ask("a", 1, "n")) == (403, "model_not_allowed")
    await bank.reserve(agent_id, "a", 300)
    assert await bank.refusal(agent_id, ask("b", 201)) == (403, "exceeds_daily_limit")
    await bank.reserve(agent_id, "b", 100)
    assert await bank.refusal(agent_id, ask("c", 1)) == (429, "too_many_holds")
    await bank.settle(agent_id, "a", 10)
    await bank.reserve(agent_id, "c", 300)
    await bank.accounts.ask(agent_id, SetPolicy(0, 0))
    assert await bank.refusal(agent_id, ask("d", 1)) == (403, "deny_all_policy")
    assert (await bank.view(agent_id)).day_spend_msat == 410


async def test_a_stream_that_outgrows_a_limit_is_refused_the_extension_and_can_end(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000, max_transaction_msat=300, daily_limit_msat=450)).agent_id
    await bank.reserve(agent_id, "a", 200)
    await bank.reserve(agent_id, "b", 200)
    assert await bank.refusal(agent_id, Extend("a", 301, "p")) == (403, "exceeds_max_transaction")
    assert await bank.refusal(agent_id, Extend("a", 251, "p")) == (403, "exceeds_daily_limit")
    assert await bank.accounts.ask(agent_id, Extend("a", 250, "p")) == Held("a", 250, 550)
    await bank.accounts.ask(agent_id, SetPolicy(0, 0))
    assert await bank.refusal(agent_id, Extend("a", 251, "p")) == (403, "deny_all_policy")
    assert await bank.accounts.ask(agent_id, Extend("a", 240, "p")) == Held("a", 250, 550)
    assert (await bank.settle(agent_id, "a", 250)).available_msat == 550


async def test_what_was_spent_counts_for_a_day_to_the_nanosecond(bank: Bank, now: list[int]) -> None:
    agent_id = (await bank.agent(1_000, daily_limit_msat=100)).agent_id
    await bank.reserve(agent_id, "a", 100)
    now[0] += 5
    await bank.settle(agent_id, "a", 60)
    now[0] += DAY_NS - 1
    assert await bank.refusal(agent_id, ask("b", 41)) == (403, "exceeds_daily_limit")
    now[0] += 1
    await bank.reserve(agent_id, "b", 100)
    now[0] += 3 * DAY_NS
    assert await bank.refusal(agent_id, ask("c", 1)) == (403, "exceeds_daily_limit")  # held, however long


async def test_what_was_spent_still_counts_when_the_account_was_started_again(bank: Bank, now: list[int]) -> None:
    agent_id = (await bank.agent(1_000, daily_limit_msat=100)).agent_id
    await bank.reserve(agent_id, "a", 100)
    await bank.settle(agent_id, "a", 60)
    await bank.accounts.ref(agent_id).terminate()
    assert await bank.refusal(agent_id, ask("b", 41)) == (403, "exceeds_daily_limit")
    now[0] += DAY_NS
    await bank.accounts.ref(agent_id).terminate()
    await bank.reserve(agent_id, "b", 100)


async def test_a_policy_waits_for_its_time(bank: Bank, now: list[int]) -> None:
    agent_id = (await bank.agent(1_000, max_transaction_msat=100)).agent_id
    await bank.accounts.ask(agent_id, SetPolicy(500, effective_ns=now[0] + 50))
    view = await bank.view(agent_id)
    assert ([row.version for row in view.coming_policies], view.policy and view.policy.version) == ([3], 2)
    assert await bank.refusal(agent_id, ask("a", 500)) == (403, "exceeds_max_transaction")
    await bank.accounts.ref(agent_id).terminate()
    assert await bank.refusal(agent_id, ask("a", 500)) == (403, "exceeds_max_transaction")
    now[0] += 50
    await bank.reserve(agent_id, "a", 500)


async def test_fields_that_are_to_be_kept_are_those_of_the_latest_version(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000, approval_timeout_ms=60_000, alert_floor_msat=5, models=("m",))).agent_id
    keep = frozenset({"approval_timeout_ms", "models"})
    row = await bank.accounts.ask(agent_id, SetPolicy(7, 8, keep=keep))
    assert (row.version, row.max_transaction_msat, row.daily_limit_msat) == (3, 7, 8)
    assert (row.approval_timeout_ms, row.models, row.alert_floor_msat) == (60_000, ("m",), None)


@pytest.mark.parametrize(
    "message",
    [
        SetPolicy(-1, 5),
        SetPolicy(5, 10**30),
        SetPolicy(models=("",)),
        SetPolicy(keep=frozenset({"version"})),
        MintBudget("", 5),
        MintBudget("x", 0),
        MintBudget("x", 10**30),
        MintBudget("x", 5, max_holds=-1),
        MintBudget("x", 5, expires_ns=1),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(bank: Bank, message: Any) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    before = await bank.view(agent_id)
    with pytest.raises(InvalidRequest) as refusal:
        await bank.accounts.ask(agent_id, message)
    assert refusal.value.status == 422
    assert await bank.view(agent_id) == before


async def test_policies_set_by_two_at_once_get_versions_without_a_gap(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    rows: list[Any] = []

    async def set_policy(limit: int) -> None:
        rows.append(await bank.accounts.ask(agent_id, SetPolicy(limit)))

    async with trio.open_nursery() as nursery:
        for limit in range(20):
            nursery.start_soon(set_policy, limit)
    assert sorted(row.version for row in rows) == list(range(2, 22))


async def test_versions_that_are_over_are_forgotten_and_too_many_to_come_are_refused(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, now: list[int]
) -> None:
    monkeypatch.setattr(operator_desk, "MAX_POLICIES", 3)
    agent_id = (await bank.agent(1_000)).agent_id
    for limit in range(9):
        await bank.accounts.ask(agent_id, SetPolicy(limit))
    for _ in range(3):
        await bank.accounts.ask(agent_id, SetPolicy(1, effective_ns=now[0] + 9))
    assert await bank.refusal(agent_id, SetPolicy(1)) == (429, "too_many_versions")
    now[0] += 9
    assert (await bank.accounts.ask(agent_id, SetPolicy(1))).version == 14


# Freeze


async def test_a_frozen_agent_spends_nothing_more_and_ends_what_is_open(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    await bank.reserve(agent_id, "a", 300)
    assert (await bank.accounts.ask(agent_id, Freeze("leaked"))).frozen_ns is not None
    await bank.accounts.ask(agent_id, Freeze("again"))
    for message in (ask("b", 1), Extend("a", 301, "p"), MintBudget("x", 5)):
        assert await bank.refusal(agent_id, message) == (403, "frozen")
    await bank.accounts.ask(agent_id, Deposit("more", 5))
    assert (await bank.settle(agent_id, "a", 200)).available_msat == 805
    await bank.accounts.ref(agent_id).terminate()
    assert await bank.refusal(agent_id, ask("b", 1)) == (403, "frozen")
    assert (await bank.accounts.ask(agent_id, Unfreeze())).frozen_ns is None
    await bank.accounts.ask(agent_id, Unfreeze())
    await bank.reserve(agent_id, "b", 805)


async def test_nobody_hears_that_something_is_stopped_before_it_is_on_disk(tmp_path: Path) -> None:
    """Nor the second who asks for it, while the first still waits."""
    delay_s = [0.0]
    async with open_bank("memory", tmp_path, lambda: delay_s[0]) as bank:
        agent_id = (await bank.agent(1_000)).agent_id
        budget_id = (await mint(bank, agent_id, 300)).budget.budget_id
        delay_s[0] = 0.001
        for message in (Freeze("x"), Unfreeze(), RevokeBudget(budget_id)):
            bank.ledger.fail_next(2)
            ref = bank.accounts.ref(agent_id)
            for answer in [ref.ask(message, block=False) for _ in range(2)]:
                with pytest.raises(LedgerUnavailable):
                    await answer
            await bank.view(agent_id)
            bank.ledger._failures.clear()


# Budgets


async def mint(bank: Bank, agent_id: str, amount: int, **more: Any) -> MintedBudget:
    minted: MintedBudget = await bank.accounts.ask(agent_id, MintBudget("night shift", amount, **more))
    return minted


async def test_a_token_of_a_budget_spends_that_and_no_more(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    minted = await mint(bank, agent_id, 300, models=("m",), max_holds=2)
    holder = bank.accounts.holder_of(minted.token.token)
    assert holder is not None
    budget_id = minted.budget.budget_id
    assert (holder.agent_id, holder.name, holder.budget_id) == (agent_id, "agent", budget_id)
    assert minted.token.token not in repr(minted)
    assert await bank.refusal(agent_id, ask("a", 301, budget_id=budget_id)) == (402, "budget_exhausted")
    assert await bank.refusal(agent_id, ask("a", 1, "n", budget_id=budget_id)) == (403, "model_not_allowed")
    await bank.reserve(agent_id, "a", 200, budget_id=budget_id)
    assert await bank.refusal(agent_id, Extend("a", 301, "p")) == (402, "budget_exhausted")
    await bank.accounts.ask(agent_id, Extend("a", 250, "p"))
    await bank.reserve(agent_id, "b", 50, budget_id=budget_id)
    assert await bank.refusal(agent_id, ask("c", 0, budget_id=budget_id)) == (429, "too_many_holds")
    await bank.settle(agent_id, "a", 120)
    assert await bank.refusal(agent_id, ask("c", 131, budget_id=budget_id)) == (402, "budget_exhausted")
    await bank.accounts.ask(agent_id, Release("b", "x", None))
    await bank.reserve(agent_id, "c", 180, budget_id=budget_id)
    await bank.settle(agent_id, "c", 180)
    assert await bank.refusal(agent_id, ask("d", 1, budget_id=budget_id)) == (402, "budget_exhausted")
    assert [row.spent_msat for row in (await bank.view(agent_id)).budgets] == [300]
    await bank.reserve(agent_id, "e", 700)  # the agent's own token


async def test_a_budget_is_as_spent_when_the_account_was_started_again(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    budget_id = (await mint(bank, agent_id, 300)).budget.budget_id
    await bank.reserve(agent_id, "a", 200, budget_id=budget_id)
    await bank.settle(agent_id, "a", 120)
    await bank.reserve(agent_id, "b", 100, budget_id=budget_id)
    await bank.accounts.ref(agent_id).terminate()
    assert await bank.refusal(agent_id, ask("c", 81, budget_id=budget_id)) == (402, "budget_exhausted")
    await bank.settle(agent_id, "b", 100)
    await bank.reserve(agent_id, "c", 80, budget_id=budget_id)


async def test_a_charge_above_the_hold_is_the_budgets_too(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    budget_id = (await mint(bank, agent_id, 300)).budget.budget_id
    await bank.reserve(agent_id, "a", 200, budget_id=budget_id)
    await bank.settle(agent_id, "a", 350)
    assert await bank.refusal(agent_id, ask("b", 1, budget_id=budget_id)) == (402, "budget_exhausted")
    assert [row.spent_msat for row in (await bank.view(agent_id)).budgets] == [350]


async def test_a_budget_is_not_more_than_the_agent_has(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    await bank.reserve(agent_id, "a", 300)
    assert await bank.refusal(agent_id, MintBudget("x", 701)) == (402, "insufficient_balance")
    await mint(bank, agent_id, 700)


async def test_a_budget_is_bound_by_the_agents_policy_and_balance(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000, max_transaction_msat=500, daily_limit_msat=600)).agent_id
    one, two = (await mint(bank, agent_id, 900)).budget.budget_id, (await mint(bank, agent_id, 900)).budget.budget_id
    assert await bank.refusal(agent_id, ask("a", 501, budget_id=one)) == (403, "exceeds_max_transaction")
    await bank.reserve(agent_id, "a", 400, budget_id=one)
    assert await bank.refusal(agent_id, ask("b", 201, budget_id=two)) == (403, "exceeds_daily_limit")
    await bank.accounts.ask(agent_id, SetPolicy())
    assert await bank.refusal(agent_id, ask("b", 601, budget_id=two)) == (402, "insufficient_balance")


async def test_a_budget_ends_with_its_tokens_when_it_is_revoked(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    minted = await mint(bank, agent_id, 300)
    budget_id = minted.budget.budget_id
    await bank.reserve(agent_id, "a", 200, budget_id=budget_id)
    revoked = await bank.accounts.ask(agent_id, RevokeBudget(budget_id))
    assert revoked.revoked_ns is not None
    assert await bank.accounts.ask(agent_id, RevokeBudget(budget_id)) == revoked
    assert bank.accounts.holder_of(minted.token.token) is None
    for message in (ask("b", 1, budget_id=budget_id), Extend("a", 201, "p")):
        assert await bank.refusal(agent_id, message) == (403, "budget_ended")
    await bank.settle(agent_id, "a", 150)
    await bank.accounts.ref(agent_id).terminate()
    assert await bank.refusal(agent_id, ask("b", 1, budget_id=budget_id)) == (403, "budget_ended")
    with pytest.raises(NotFound):
        await bank.accounts.ask(agent_id, RevokeBudget(budget_id))


async def test_a_budget_ends_when_it_expires(bank: Bank, now: list[int]) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    minted = await mint(bank, agent_id, 300, expires_ns=now[0] + 50)
    budget_id = minted.budget.budget_id
    now[0] += 49
    await bank.reserve(agent_id, "a", 100, budget_id=budget_id)
    assert bank.accounts.holder_of(minted.token.token) is not None
    now[0] += 1
    assert bank.accounts.holder_of(minted.token.token) is None
    for message in (ask("b", 1, budget_id=budget_id), Extend("a", 101, "p")):
        assert await bank.refusal(agent_id, message) == (403, "budget_ended")
    await bank.settle(agent_id, "a", 100)
    assert (await bank.view(agent_id)).budgets == ()


async def test_a_budget_is_its_agents_only(bank: Bank) -> None:
    one, two = await bank.agent(1_000), await bank.agent(1_000)
    budget_id = (await mint(bank, one.agent_id, 300)).budget.budget_id
    assert await bank.refusal(two.agent_id, ask("a", 1, budget_id=budget_id)) == (403, "budget_ended")


async def test_a_key_that_holds_for_one_budget_holds_for_no_other(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    budget_id = (await mint(bank, agent_id, 300)).budget.budget_id
    await bank.reserve(agent_id, "a", 100, budget_id=budget_id)
    assert await bank.reserve(agent_id, "a", 100, budget_id=budget_id) == Held("a", 100, 900)
    assert await bank.refusal(agent_id, ask("a", 100)) == (409, "key_used")


async def test_budgets_that_have_ended_make_room_for_others(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator_desk, "MAX_BUDGETS", 2)
    agent_id = (await bank.agent(1_000)).agent_id
    first, _ = [(await mint(bank, agent_id, 10)).budget.budget_id for _ in range(2)]
    assert await bank.refusal(agent_id, MintBudget("x", 1)) == (429, "too_many_budgets")
    await bank.reserve(agent_id, "a", 5, budget_id=first)
    await bank.accounts.ask(agent_id, RevokeBudget(first))
    assert await bank.refusal(agent_id, MintBudget("x", 1)) == (429, "too_many_budgets")
    await bank.settle(agent_id, "a", 5)
    await mint(bank, agent_id, 10)


async def test_a_lost_hold_is_charged_to_its_budget_when_it_is_swept(now: list[int]) -> None:
    async with open_bank("memory", Path(), hold_lease_s=0.0) as bank:  # owners need no time to come forward
        agent_id = (await bank.agent(1_000)).agent_id
        budget_id = (await mint(bank, agent_id, 300)).budget.budget_id
        await bank.reserve(agent_id, "a", 100, budget_id=budget_id)
        bank.accounts.ref(agent_id).tell(Renew("a", 40))
        await bank.accounts.ask(agent_id, Balance())
        now[0] += DAY_NS
        await bank.accounts.ask(agent_id, Sweep())
        assert [row.spent_msat for row in (await bank.view(agent_id)).budgets] == [40]


async def test_lost_holds_are_charged_to_their_budgets_at_the_next_start() -> None:
    """Two of one budget, one of none, with evidence of what had been consumed."""
    async with open_bank("memory", Path(), hold_lease_s=100.0) as bank:
        agent_id = (await bank.agent(1_000)).agent_id
        budget_id = (await mint(bank, agent_id, 300)).budget.budget_id
        for key, budget in (("a", budget_id), ("b", budget_id), ("c", None)):
            await bank.reserve(agent_id, key, 100, budget_id=budget)
            bank.accounts.ref(agent_id).tell(Renew(key, 40))
        await bank.accounts.ask(agent_id, Release("none", "x", make_receipt("none")))
        ledger = bank.ledger.crash()
        bank.ledger.at_once = True
    assert resolve_orphans(ledger) == 3
    budget = ledger.ask_now(FindBudget(budget_id))
    assert budget is not None
    assert budget.spent_msat == 80
    assert ledger.check().problems == ()
    hold = ledger.ask_now(FindHold(key="c"))
    assert hold is not None
    assert hold.charged_msat == 40


async def test_a_refusal_says_what_would_fix_it(bank: Bank) -> None:
    agent_id = (await bank.agent(5_000_000)).agent_id
    budget_id = (await mint(bank, agent_id, 3_000)).budget.budget_id
    with pytest.raises(BillingRefused, match=r"up to 4 sats and 3 of the 3 sats of budget 'night shift' are left"):
        await bank.reserve(agent_id, "a", 4_000, budget_id=budget_id)
