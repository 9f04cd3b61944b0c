"""Cases 76 to 78: the dashboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.vault.treasury import Vault, assert_includes, assert_invalid, instant_ms, ok, treasury


@pytest.mark.parametrize(
    ("spent", "daily_limit", "percent"),
    [(10_000, 80_000, 13), (9_999, 80_000, 12), (193_001, 500, 38_600), (10_000, 0, 0), (0, 80_000, 0)],
)
def test_utilization_is_spend_by_limit_rounded_half_up(
    vault: Vault, spent: int, daily_limit: int, percent: int
) -> None:
    agent = vault.agent(1_000_000, 500_000, 500_000)
    if spent:
        agent.settled(spent)
    ok(agent.set_policy(500_000, daily_limit))
    shown = vault.on_dashboard(agent)
    assert_includes(shown, {"daily_spend_msat": spent, "daily_utilization_pct": percent})
    assert shown["policy"]["version"] == 3


def test_agents_are_sorted_as_asked(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        rich, middling, poor = vault.register("beta"), vault.register("Alpha"), vault.register("gamma")
        for agent, deposit in ((rich, 30_000), (middling, 20_000), (poor, 10_000)):
            ok(agent.deposit(deposit))
            ok(agent.set_policy(50_000, 50_000))
        middling.settled(2_000)
        rich.settled(1_000)
        names = {
            query: [one["name"] for one in vault.dashboard(query)]
            for query in (
                "",
                "?sort_by=name&sort_order=desc",
                "?sort_by=balance",
                "?sort_by=balance&sort_order=desc",
                "?sort_by=daily_spend&sort_order=desc&status=all",
            )
        }
        waiting = ok(vault.operate("GET", "/operator/dashboard"))
    by_name, by_balance = ["Alpha", "beta", "gamma"], ["gamma", "Alpha", "beta"]
    assert list(names.values()) == [
        by_name,
        by_name[::-1],
        by_balance,
        by_balance[::-1],
        ["Alpha", "beta", "gamma"],
    ]
    assert (waiting["total_agents"], waiting["total_pending_approvals"]) == (3, 0)


def test_dashboard_is_refused_when_its_order_is_unknown(vault: Vault) -> None:
    answer = vault.operate("GET", "/operator/dashboard?sort_by=created")
    assert_invalid(answer, 'querystring/sort_by Invalid option: expected one of "balance"|"daily_spend"|"name"')


def test_last_payment_is_told_when_there_was_one(vault: Vault) -> None:
    agent = vault.agent(100_000, 50_000, 100_000)
    assert vault.on_dashboard(agent)["last_payment_at"] is None
    agent.settled(1_000)
    paid = vault.on_dashboard(agent)["last_payment_at"]
    ok(vault.settle(agent.reserved(1_000), 500))
    assert instant_ms(paid) <= instant_ms(vault.on_dashboard(agent)["last_payment_at"])


@pytest.mark.parametrize(("floor", "below"), [(50_000, True), (20_000, False), (0, False), (None, False)])
def test_balance_is_below_the_floor_when_there_is_one(vault: Vault, floor: int | None, below: bool) -> None:
    policy = {} if floor is None else {"alert_floor_msat": floor}
    agent = vault.agent(20_000, 1_000, 1_000, **policy)
    shown = vault.on_dashboard(agent)
    assert_includes(shown, {"agent_id": agent.id, "balance_msat": 20_000, "balance_below_floor": below})
    assert shown["policy"]["alert_floor_msat"] == floor
