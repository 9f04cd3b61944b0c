"""Accounts that nobody uses end, and nothing is lost by it."""

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from arbstr.accounts import Balance, Deposit, Held, Release, Renew, Reserve, Settle
from arbstr.errors import BillingRefused
from tests.accounts.bank import Bank, make_receipt, open_bank

IDLE_S = 60.0


async def sweep(bank: Bank) -> int:
    """How many account actors are left."""
    bank.accounts.sweep()
    await wait_all_tasks_blocked()
    return bank.accounts.active


async def test_an_account_ends_when_nobody_has_asked_it_for_a_while(tmp_path: Path, autojump_clock: Any) -> None:
    async with open_bank("memory", tmp_path, idle_s=IDLE_S) as bank:
        agent_id = (await bank.agent(1_000)).agent_id
        ref = bank.accounts.ref(agent_id)
        await trio.sleep(IDLE_S - 1)
        assert await sweep(bank) == 1
        await bank.accounts.ask(agent_id, Balance())
        await trio.sleep(IDLE_S - 1)
        assert await sweep(bank) == 1
        await trio.sleep(1)
        assert await sweep(bank) == 0
        await ref.wait_stopped()
        assert await bank.reserve(agent_id, "a", 400) == Held("a", 400, 600)
        assert bank.accounts.active == 1


async def test_an_account_lives_on_while_it_holds_something(tmp_path: Path, autojump_clock: Any) -> None:
    async with open_bank("memory", tmp_path, idle_s=IDLE_S, hold_lease_s=1e6) as bank:
        agent_id = (await bank.agent(1_000)).agent_id
        await bank.reserve(agent_id, "a", 400)
        await trio.sleep(10 * IDLE_S)
        assert await sweep(bank) == 1
        await bank.settle(agent_id, "a", 100)
        await trio.sleep(10 * IDLE_S)
        assert await sweep(bank) == 0


async def test_an_account_lives_on_while_the_disk_has_not_answered(tmp_path: Path, autojump_clock: Any) -> None:
    delay_s = [0.0]
    async with open_bank("memory", tmp_path, lambda: delay_s[0], idle_s=IDLE_S) as bank:
        agent_id = (await bank.agent(1_000)).agent_id
        for message in (
            Settle("never", 1, make_receipt("never")),
            Release("none", "x", make_receipt("none")),
            Deposit("d", 5),
        ):
            delay_s[0] = 4 * IDLE_S
            answer = bank.accounts.ref(agent_id).ask(message, block=False)
            for _ in range(3):
                await trio.sleep(IDLE_S)
                assert await sweep(bank) == 1
            with contextlib.suppress(BillingRefused):
                await answer
            delay_s[0] = 0.0
        assert (await bank.view(agent_id)).account.available_msat == 1_005
        await trio.sleep(IDLE_S)
        assert await sweep(bank) == 0


async def test_whoever_asks_while_an_account_ends_is_answered_by_the_next(tmp_path: Path, autojump_clock: Any) -> None:
    """The sweep is in the inbox, or the end is: a message before it keeps the account, one after it meets another."""
    async with open_bank("memory", tmp_path, idle_s=IDLE_S) as bank:
        agent_id = (await bank.agent(1_000)).agent_id
        await trio.sleep(IDLE_S)
        old = bank.accounts.ref(agent_id)
        bank.accounts.sweep()
        answer = old.ask(Balance(), block=False)  # behind the sweep in the inbox: it does not end
        await wait_all_tasks_blocked()
        assert bank.accounts.ref(agent_id) is old
        assert (await answer).available_msat == 1_000
        await trio.sleep(IDLE_S)
        bank.accounts.sweep()
        for _ in range(3):  # it has told the registry, and has not ended yet
            await trio.lowlevel.checkpoint()
            if not bank.accounts.active:
                break
        assert await bank.reserve(agent_id, "a", 1) == Held("a", 1, 999)
        assert bank.accounts.ref(agent_id) is not old


@pytest.mark.parametrize("seed", range(20))
async def test_no_message_is_lost_when_accounts_end_between_any_two(
    tmp_path: Path, autojump_clock: Any, seed: int
) -> None:
    """Every account ends at every sweep that finds it without work, and sweeps come at any time."""
    rng = random.Random(seed)
    async with open_bank("memory", tmp_path, idle_s=0.0, hold_lease_s=1e6) as bank:
        agents = [(await bank.agent(1_000)).agent_id for _ in range(3)]

        async def live(number: int) -> None:
            agent_id, key = rng.choice(agents), f"r{number}"
            await trio.sleep(rng.random())
            await bank.accounts.ask(agent_id, Reserve(key, 5, "m", "p"))
            bank.accounts.ref(agent_id).tell(Renew(key, 1))
            await trio.sleep(rng.random() * 0.1)
            await bank.settle(agent_id, key, 3)
            await bank.settle(agent_id, key, 3)

        async def sweep_on() -> None:
            while True:
                bank.accounts.sweep()
                for _ in range(rng.randrange(12)):
                    await trio.lowlevel.checkpoint()
                await trio.sleep(rng.choice([0, 0.01]))

        async with trio.open_nursery() as sweeping:
            sweeping.start_soon(sweep_on)
            async with trio.open_nursery() as living:
                for number in range(100):
                    living.start_soon(live, number)
            sweeping.cancel_scope.cancel()
        spent = sum([(await bank.view(agent_id)).account.spent_msat for agent_id in agents])
        assert spent == 300
