"""Tokens: issued, rotated, revoked, expired; counting from the moment that is on disk, and not before."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from arbstr.accounts import (
    Accounts,
    Describe,
    IssuedToken,
    IssueToken,
    MintBudget,
    RevokeBudget,
    RevokeToken,
    RotateToken,
)
from arbstr.accounts import _operator_desk as operator_desk
from arbstr.errors import InvalidRequest, LedgerUnavailable, NotFound
from arbstr.store import ActiveTokens, StoreUnavailable, TokenRow
from tests.accounts.bank import Bank, open_bank


@pytest.fixture(params=["memory", "disk"])
async def bank(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(request.param, tmp_path) as bank:
        yield bank


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [10**18]
    monkeypatch.setattr("arbstr.accounts._actor.time.time_ns", lambda: now[0])
    return now


def known(bank: Bank, *tokens: str) -> list[bool]:
    return [bank.accounts.holder_of(token) is not None for token in tokens]


async def after_restart(bank: Bank) -> Accounts:
    """What a new process would know."""
    found: list[TokenRow] = []
    answered = trio.Event()

    def done(rows: tuple[TokenRow, ...] | None, _: object) -> None:
        found.extend(rows or ())
        answered.set()

    bank.ledger.ask(ActiveTokens(), done)
    await answered.wait()
    return Accounts(bank.system, bank.ledger, found, hold_lease_s=100.0)


async def token_id_of(bank: Bank, agent_id: str) -> str:
    (row,) = (await bank.view(agent_id)).tokens
    return row.token_id


async def test_an_agent_may_have_several_tokens(bank: Bank) -> None:
    agent = await bank.agent()
    issued: IssuedToken = await bank.accounts.ask(agent.agent_id, IssueToken("laptop"))
    assert known(bank, agent.token, issued.token) == [True, True]
    assert issued.token not in repr(issued)
    names = {row.name for row in (await bank.view(agent.agent_id)).tokens}
    assert names == {"agent", "laptop"}
    holder = (await after_restart(bank)).holder_of(issued.token)
    assert holder == bank.accounts.holder_of(issued.token)


async def test_a_token_is_exchanged_for_another_at_once_when_it_is_rotated(bank: Bank) -> None:
    agent = await bank.agent()
    old_id = await token_id_of(bank, agent.agent_id)
    issued = await bank.accounts.ask(agent.agent_id, RotateToken(old_id))
    assert known(bank, agent.token, issued.token) == [False, True]
    assert (await after_restart(bank)).holder_of(agent.token) is None
    with pytest.raises(NotFound):
        await bank.accounts.ask(agent.agent_id, RotateToken(old_id))


async def test_the_old_token_is_good_for_a_while_when_it_is_rotated_with_grace(bank: Bank, now: list[int]) -> None:
    agent = await bank.agent()
    issued = await bank.accounts.ask(agent.agent_id, RotateToken(await token_id_of(bank, agent.agent_id), grace_s=60))
    now[0] += 60 * 10**9 - 1
    assert known(bank, agent.token, issued.token) == [True, True]
    now[0] += 1
    assert known(bank, agent.token, issued.token) == [False, True]
    bank.accounts.sweep()
    assert known(bank, agent.token, issued.token) == [False, True]
    assert [row.token_id for row in (await bank.view(agent.agent_id)).tokens] == [issued.row.token_id]


async def test_an_expiry_is_not_put_off_by_a_rotation(bank: Bank, now: list[int]) -> None:
    agent = await bank.agent()
    first = await bank.accounts.ask(agent.agent_id, IssueToken("x", expires_ns=now[0] + 10))
    second = await bank.accounts.ask(agent.agent_id, RotateToken(first.row.token_id, grace_s=60))
    assert (second.row.name, second.row.expires_ns) == ("x", now[0] + 10)
    now[0] += 10
    assert known(bank, first.token, second.token) == [False, False]


async def test_a_revoked_token_is_good_for_nothing(bank: Bank) -> None:
    agent = await bank.agent()
    row = await bank.accounts.ask(agent.agent_id, RevokeToken(await token_id_of(bank, agent.agent_id)))
    assert row.revoked_ns is not None
    assert known(bank, agent.token) == [False]
    await bank.accounts.ref(agent.agent_id).terminate()
    assert known(bank, agent.token) == [False]
    again = await bank.accounts.ask(agent.agent_id, IssueToken("new"))
    holder = bank.accounts.holder_of(again.token)
    assert holder is not None
    assert holder.name == "agent"  # though no token of it was known


async def test_a_token_of_another_agent_is_not_found(bank: Bank) -> None:
    one, two = await bank.agent(), await bank.agent()
    with pytest.raises(NotFound):
        await bank.accounts.ask(two.agent_id, RevokeToken(await token_id_of(bank, one.agent_id)))
    assert known(bank, one.token) == [True]


async def test_a_token_of_a_budget_stays_one_and_ends_with_it(bank: Bank, now: list[int]) -> None:
    agent = await bank.agent(1_000)
    minted = await bank.accounts.ask(agent.agent_id, MintBudget("b", 100, expires_ns=now[0] + 100))
    budget_id = minted.budget.budget_id
    second = await bank.accounts.ask(agent.agent_id, IssueToken("c", expires_ns=now[0] + 999, budget_id=budget_id))
    assert second.row.expires_ns == now[0] + 100
    third = await bank.accounts.ask(agent.agent_id, RotateToken(second.row.token_id))
    holder = bank.accounts.holder_of(third.token)
    assert holder is not None
    assert holder.budget_id == budget_id
    await bank.accounts.ask(agent.agent_id, RevokeBudget(budget_id))
    assert known(bank, agent.token, minted.token.token, second.token, third.token) == [True, False, False, False]
    with pytest.raises(NotFound):
        await bank.accounts.ask(agent.agent_id, IssueToken("d", budget_id=budget_id))


async def test_tokens_that_have_expired_make_room_for_others(
    bank: Bank, now: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_desk, "MAX_TOKENS", 2)
    agent = await bank.agent()
    await bank.accounts.ask(agent.agent_id, IssueToken("x", expires_ns=now[0] + 10))
    assert await bank.refusal(agent.agent_id, IssueToken("y")) == (429, "too_many_tokens")
    now[0] += 10
    await bank.accounts.ask(agent.agent_id, IssueToken("y"))


@pytest.mark.parametrize("message", [RotateToken("tk", -1.0), RotateToken("tk", 1e12), IssueToken("\n")])
async def test_what_makes_no_sense_is_refused(bank: Bank, message: object) -> None:
    agent = await bank.agent()
    if isinstance(message, RotateToken):
        message = RotateToken(await token_id_of(bank, agent.agent_id), message.grace_s)
    with pytest.raises(InvalidRequest):
        await bank.accounts.ask(agent.agent_id, message)
    assert known(bank, agent.token) == [True]


async def test_an_agent_that_there_is_not_is_not_found_and_leaves_no_actor(bank: Bank) -> None:
    for _ in range(2):
        with pytest.raises(NotFound, match="Agent not found"):
            await bank.accounts.ask("ag_nobody", Describe())
    await wait_all_tasks_blocked()
    assert bank.accounts.active == 0


async def test_an_agent_can_be_added_with_metadata(bank: Bank) -> None:
    agent = await bank.accounts.add("new", {"team": "night"})
    assert (await bank.view(agent.agent_id)).name == "new"


async def test_a_token_counts_from_its_commit_and_to_its_commit(tmp_path: Path) -> None:
    """Also when whoever asked for it has gone away in between."""
    async with open_bank("memory", tmp_path) as bank:
        agent = await bank.agent()
        token_id = await token_id_of(bank, agent.agent_id)
        bank.ledger.fail_next(error=StoreUnavailable("broken"))
        with pytest.raises(LedgerUnavailable):
            await bank.accounts.ask(agent.agent_id, RevokeToken(token_id))
        assert known(bank, agent.token) == [True]
        await bank.view(agent.agent_id)
        with trio.CancelScope() as scope:
            scope.cancel()
            await bank.accounts.ask(agent.agent_id, RevokeToken(token_id))
        bank.accounts.ref(agent.agent_id).tell(RevokeToken(token_id))
        assert known(bank, agent.token) == [True]
        await bank.view(agent.agent_id)
        await wait_all_tasks_blocked()
        assert known(bank, agent.token) == [False]
