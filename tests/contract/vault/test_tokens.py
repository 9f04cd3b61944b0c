"""What the predecessor has not: tokens that can be replaced, ended and limited, and agents that can be stopped."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tests.contract.program import P, member, started
from tests.contract.vault.treasury import ADMIN, TOKEN, Agent, Vault, again, assert_refused, ok, tables, treasury


def token_id_of(agent: Agent) -> str:
    """Of an agent with one token."""
    listed = ok(agent.vault.operate("GET", f"/agents/{agent.id}/tokens"))
    assert agent.token not in json.dumps(listed)
    return str(member(listed, "token_id"))


def replaced(agent: Agent, **more: object) -> Agent:
    """The agent with a new token in the place of its only one."""
    body = {"replaces": token_id_of(agent), **more}
    token = ok(agent.vault.operate("POST", f"/agents/{agent.id}/tokens", body))["token"]
    assert TOKEN.fullmatch(token)
    return Agent(agent.vault, agent.id, token)


def assert_nobodys(agent: Agent) -> None:
    assert_refused(agent.call("GET", "balance"), 401, "unauthorized", "Invalid agent token")
    assert_refused(agent.reserve(1), 401, "unauthorized", "Invalid agent token")


def test_old_token_ends_when_it_is_replaced(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        old = vault.agent(100_000)
        new = replaced(old)
        assert_nobodys(old)
        assert new.balance() == 100_000
        ok(vault.settle(new.reserved(2_000), 1_000))
    with treasury(tmp_path) as vault:
        assert_nobodys(again(old, vault))
        assert again(new, vault).balance() == 99_000


def test_old_token_counts_for_a_while_when_it_is_replaced_with_a_grace(vault: Vault) -> None:
    old = vault.agent(100_000)
    new = replaced(old, grace_s=3_600)
    assert (old.balance(), new.balance()) == (100_000, 100_000)


def test_token_ends_when_it_is_revoked(vault: Vault) -> None:
    agent = vault.agent(100_000)
    answer = vault.operate("DELETE", f"/agents/{agent.id}/tokens/{token_id_of(agent)}")
    assert answer.status in (200, 204)
    assert_nobodys(agent)


def test_token_is_replaced_by_the_operator_alone(vault: Vault) -> None:
    agent = vault.agent(100_000)
    answer = vault.call("POST", f"/agents/{agent.id}/tokens", {}, bearer=agent.token)
    assert_refused(answer, 401, "unauthorized", "Invalid admin token")


def test_frozen_agent_spends_nothing_until_it_is_unfrozen(vault: Vault) -> None:
    agent = vault.agent(100_000, 50_000, 100_000, 300_000)
    held = agent.reserved(10_000)
    ok(vault.operate("POST", f"/operator/agents/{agent.id}/freeze", {"reason": "its token has leaked"}))
    refused = agent.reserve(1)
    assert (refused.status, member(refused.json, "reason")) == (403, "frozen")
    assert agent.denied(1) == "frozen"
    assert agent.withdraw(1).status == 400
    assert ok(vault.settle(held, 5_000))["remaining_balance_msats"] == 95_000
    assert vault.operate("POST", f"/operator/agents/{agent.id}/unfreeze").status in (200, 204)
    agent.settled(1)


def test_token_is_not_in_the_books(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        agent = vault.agent(100_000, 50_000, 100_000, 300_000)
        new = replaced(agent)
        new.reserved(1_000)
        new.asked_for(60_000)
        new.settled(1_000)
    books = "\n".join(sqlite3.connect(tmp_path / "contract.db").iterdump())
    assert new.id in books
    assert [one for one in (agent.token, new.token) if one in books] == []


def test_agents_of_the_vault_are_those_of_the_requests(tmp_path: Path) -> None:
    provider = P("only", 1000, 5000)
    with started(tmp_path, [provider], tables=tables(), agents={"rich": "1000"}) as world:
        vault = Vault(world.program, world.config)
        (listed,) = ok(vault.operate("GET", "/agents"))["agents"]
        agent = Agent(vault, listed["id"], world.tokens["rich"])
        assert (listed["name"], agent.balance()) == ("rich", 1_000_000)
        assert world.chat(bearer=agent.token).status == 200
        assert agent.balance() == 1_000_000 - 110
        assert vault.on_dashboard(agent)["daily_spend_msat"] == 110
        ok(agent.set_policy(0, 0))
        assert world.chat(bearer=agent.token).status == 403
        assert agent.balance() == 1_000_000 - 110
        assert ADMIN not in "".join(vault.program.output)
