"""Tokens and their holders, and the way to each account."""

import logging
from typing import Any

import pytest
import trio

from actors import ActorSystem
from arbstr.accounts import Balance, Deposit
from arbstr.accounts import _accounts as accounts_module
from arbstr.errors import InvalidRequest, LedgerUnavailable


async def test_an_agent_can_be_added_found_and_funded_at_once(autojump_clock: Any, world: Any) -> None:
    async with ActorSystem.run() as system:
        accounts = world.accounts(system)
        agent = await accounts.add("new")
        holder = accounts.holder_of(agent.token)
        assert holder is not None
        assert (holder.agent_id, holder.name) == (agent.agent_id, "new")
        assert accounts.holder_of(agent.token + "x") is None
        assert accounts.holder_of("") is None
        assert (await accounts.ref(agent.agent_id).request(Deposit("d", 7))).available_msat == 7
    assert {row.name for row in world.check().agents} == {"agent", "new"}


async def test_a_name_that_cannot_be_shown_is_the_callers_fault(autojump_clock: Any, world: Any) -> None:
    async with ActorSystem.run() as system:
        with pytest.raises(InvalidRequest, match="printable"):
            await world.accounts(system).add("\n")


@pytest.mark.parametrize("fault", ["broken", "busy"])
async def test_nobody_is_added_when_the_ledger_is_down(autojump_clock: Any, world: Any, fault: str) -> None:
    async with ActorSystem.run() as system:
        accounts = world.accounts(system)
        setattr(world.disk, fault, True)
        with pytest.raises(LedgerUnavailable):
            await accounts.add("new")
    assert len(world.check().agents) == 1


async def test_adding_gives_up_when_the_disk_does_not_answer(autojump_clock: Any, world: Any) -> None:
    async with ActorSystem.run() as system:
        accounts = world.accounts(system)
        world.disk.mode = "held"
        with trio.fail_after(accounts_module.DISK_DEADLINE_S + 1), pytest.raises(LedgerUnavailable, match="in time"):
            await accounts.add("new")


async def test_an_account_has_one_actor_and_another_when_that_has_died(autojump_clock: Any, world: Any) -> None:
    async with ActorSystem.run() as system:
        accounts = world.accounts(system)
        ref = accounts.ref(world.agent_id)
        assert accounts.ref(world.agent_id) is ref
        await ref.terminate()
        again = accounts.ref(world.agent_id)
        assert again is not ref
        assert (await again.request(Balance())).available_msat == 1000


async def test_a_sweep_passes_over_an_account_that_is_too_busy(
    autojump_clock: Any, world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accounts_module.AgentAccountActor, "inbox_capacity", 1)
    async with ActorSystem.run() as system:
        accounts = world.accounts(system)
        accounts.ref(world.agent_id).tell(Balance())
        with caplog.at_level(logging.WARNING):
            accounts.sweep()
        assert "was not swept" in caplog.text
