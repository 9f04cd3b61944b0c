"""Many requests at once for too little money: nothing is overspent, everybody hears why, and nothing stays held."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from arbstr.accounts import Extend, MintBudget, Release, Reserve, SetPolicy
from arbstr.errors import BillingRefused
from tests.accounts.bank import Bank, open_bank

REASONS = {
    "insufficient_balance": 402,
    "outstanding_debt": 402,
    "budget_exhausted": 402,
    "exceeds_max_transaction": 403,
    "exceeds_daily_limit": 403,
    "model_not_allowed": 403,
    "too_many_holds": 429,
}


@pytest.fixture(params=["memory", "disk"])
async def bank(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(request.param, tmp_path, hold_lease_s=1e6) as bank:
        yield bank


class Crowd:
    """Requests that reserve, perhaps extend, and end; ``outcomes`` counts what they were told."""

    def __init__(self, bank: Bank, seed: int = 0) -> None:
        self.bank = bank
        self.rng = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.charged: Counter[str] = Counter()
        """By budget, or else by agent."""

    def _refused(self, refusal: BillingRefused, of: str = "") -> None:
        assert REASONS[refusal.reason] == refusal.status
        self.outcomes[of or refusal.reason] += 1

    async def live(self, agent_id: str, key: str, amount: int, budget_id: str | None, gate: trio.Event) -> None:
        charge, extends, model = self.rng.randint(0, amount), self.rng.random() < 0.3, self.rng.choice("mmmmn")
        await gate.wait()
        try:
            await self.bank.accounts.ask(agent_id, Reserve(key, amount, model, "p", budget_id=budget_id), timeout_s=60)
        except BillingRefused as refusal:
            self._refused(refusal)
            return
        self.outcomes["held"] += 1
        if extends:
            try:
                await self.bank.accounts.ask(agent_id, Extend(key, amount + 20, "p"), timeout_s=60)
            except BillingRefused as refusal:
                self._refused(refusal, of="extension")
        if charge % 4:
            await self.bank.settle(agent_id, key, charge)
            self.charged[budget_id or agent_id] += charge
        else:
            await self.bank.accounts.ask(agent_id, Release(key, "x", None), timeout_s=60)


async def test_money_for_ten_pays_for_ten_when_a_thousand_ask_at_once(bank: Bank) -> None:
    agent_id = (await bank.agent(1_000)).agent_id
    outcomes: Counter[tuple[int, str]] = Counter()
    held: list[str] = []

    async def reserve(key: str) -> None:
        try:
            await bank.reserve(agent_id, key, 100)
            held.append(key)
        except BillingRefused as refusal:
            outcomes[refusal.status, refusal.reason] += 1

    async with trio.open_nursery() as nursery:
        for number in range(1_000):
            nursery.start_soon(reserve, f"r{number}")
    assert outcomes == {(402, "insufficient_balance"): 990}
    assert (await bank.view(agent_id)).account.held_msat == 1_000
    for key in held:
        await bank.settle(agent_id, key, 100)
    account = (await bank.view(agent_id)).account
    assert (account.available_msat, account.held_msat, account.spent_msat) == (0, 0, 1_000)


async def test_a_hundred_agents_with_a_hundred_requests_each_spend_what_they_may(bank: Bank) -> None:
    crowd, gate = Crowd(bank), trio.Event()
    policies = [
        SetPolicy(),
        SetPolicy(40, 600),
        SetPolicy(daily_limit_msat=300, max_holds=5),
        SetPolicy(models=("m",), max_holds=3),
    ]
    agents = [(await bank.agent(700)).agent_id for _ in range(100)]
    for number, agent_id in enumerate(agents):
        await bank.accounts.ask(agent_id, policies[number % 4])
    async with trio.open_nursery() as nursery:
        for agent_id in agents:
            for number in range(100):
                amount = crowd.rng.randint(1, 60)
                nursery.start_soon(crowd.live, agent_id, f"{agent_id}/{number}", amount, None, gate)
        gate.set()
    assert set(crowd.outcomes) == {*REASONS, "held", "extension"} - {"outstanding_debt", "budget_exhausted"}
    for number, agent_id in enumerate(agents):
        view = await bank.view(agent_id)
        account, limit = view.account, policies[number % 4].daily_limit_msat
        assert account.held_msat == 0
        assert account.spent_msat == crowd.charged[agent_id] <= 700
        assert limit is None or account.spent_msat <= limit
        assert view.day_spend_msat == account.spent_msat


async def test_budgets_of_one_agent_together_spend_no_more_than_each_may_and_the_agent_has(bank: Bank) -> None:
    crowd, gate = Crowd(bank), trio.Event()
    agent_id = (await bank.agent(1_000)).agent_id
    minted = [
        await bank.accounts.ask(agent_id, MintBudget(f"b{number}", 150, max_holds=30 if number else 2))
        for number in range(5)
    ]
    ids = [each.budget.budget_id for each in minted]
    async with trio.open_nursery() as nursery:
        for number in range(1_000):
            budget_id = crowd.rng.choice([None, *ids])
            nursery.start_soon(crowd.live, agent_id, f"r{number}", crowd.rng.randint(1, 30), budget_id, gate)
        gate.set()
    assert set(crowd.outcomes) == {"insufficient_balance", "budget_exhausted", "too_many_holds", "held", "extension"}
    view = await bank.view(agent_id)
    assert view.account.held_msat == 0
    assert view.account.spent_msat == sum(crowd.charged.values()) <= 1_000
    assert {row.budget_id: row.spent_msat for row in view.budgets} == {each: crowd.charged[each] for each in ids}
    assert all(row.spent_msat <= row.amount_msat for row in view.budgets)
