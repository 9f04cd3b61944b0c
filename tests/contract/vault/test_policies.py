"""Cases 28 to 38: versions of a policy, and what they allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.vault.treasury import (
    Agent,
    Vault,
    again,
    assert_includes,
    assert_invalid,
    assert_refused,
    instant_ms,
    ok,
)
from tests.contract.vault.treasury import treasury as treasury_at

OPTIONAL = ("max_fee_msat", "approval_timeout_ms", "alert_floor_msat", "alert_cooldown_ms")
ALL_SET = {
    "max_fee_msat": 500,
    "approval_timeout_ms": 300_000,
    "alert_floor_msat": 30_000,
    "alert_cooldown_ms": 60_000,
}


def test_versions_are_counted_from_two_when_the_operator_sets_a_policy(vault: Vault) -> None:
    agent = vault.register()
    body = ok(agent.set_policy(50_000, 80_000))
    assert body["agent_id"] == agent.id
    first = body["policy"]
    assert_includes(first, {"version": 2, "max_transaction_msat": 50_000, "daily_limit_msat": 80_000})
    assert_includes(first, dict.fromkeys(OPTIONAL, None))
    assert instant_ms(first["effective_from"])
    assert ok(agent.set_policy(1, 2))["policy"]["version"] == 3
    known = ok(vault.operate("GET", f"/agents/{agent.id}"))["policy"]
    assert known == {"max_transaction_msat": 1, "daily_limit_msat": 2}
    assert [entry["metadata"]["version"] for entry in agent.history() if entry["action"] == "POLICY_UPDATED"] == [2, 3]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"max_transaction_msat": 1},
            "body/daily_limit_msat Invalid input: expected number, received undefined",
        ),
        (
            {"max_transaction_msat": -1, "daily_limit_msat": -1},
            "body/max_transaction_msat Too small: expected number to be >=0, "
            "body/daily_limit_msat Too small: expected number to be >=0",
        ),
        (
            {"max_transaction_msat": 1, "daily_limit_msat": 1, "approval_timeout_ms": 29_999},
            "body/approval_timeout_ms Too small: expected number to be >=30000",
        ),
        (
            {"max_transaction_msat": 1, "daily_limit_msat": 1, "approval_timeout_ms": 3_600_001},
            "body/approval_timeout_ms Too big: expected number to be <=3600000",
        ),
        (
            {"max_transaction_msat": 1, "daily_limit_msat": 1, "alert_cooldown_ms": 59_999},
            "body/alert_cooldown_ms Too small: expected number to be >=60000",
        ),
        (
            {"max_transaction_msat": 1, "daily_limit_msat": 1, "max_fee_msat": -1, "alert_floor_msat": -1},
            "body/max_fee_msat Too small: expected number to be >=0, "
            "body/alert_floor_msat Too small: expected number to be >=0",
        ),
    ],
)
def test_policy_is_refused_when_a_limit_is_missing_or_out_of_bounds(vault: Vault, body: object, message: str) -> None:
    agent = vault.register()
    assert_invalid(vault.operate("PATCH", f"/operator/agents/{agent.id}/policy", body), message)
    assert ok(agent.set_policy(0, 0))["policy"]["version"] == 2


def test_policy_is_refused_when_there_is_no_such_agent(vault: Vault) -> None:
    limits = {"max_transaction_msat": 1, "daily_limit_msat": 1}
    for method, path in (("PATCH", "/operator/agents/ag_zz/policy"), ("PUT", "/agents/ag_zz/policy")):
        assert_refused(vault.operate(method, path, limits), 404, "not_found", "Agent not found")


def test_policy_is_replaced_whole_when_it_is_sent_as_json(vault: Vault) -> None:
    """As the predecessor's clients have it; the answer shows what is not set any more."""
    agent = vault.agent(100_000)
    assert_includes(ok(agent.set_policy(5_000, 90_000, **ALL_SET))["policy"], ALL_SET)
    denied = agent.asked_for(10_000)
    ok(vault.decide(denied["id"], "deny"))
    assert_includes(ok(agent.set_policy(5_000, 90_000))["policy"], dict.fromkeys(OPTIONAL, None))
    assert agent.denied(10_000) == "exceeds_max_transaction"


def patch(agent: Agent, **changes: object) -> dict[str, Any]:
    """A merge patch: what is not named stays, null clears."""
    headers = {"content-type": "application/merge-patch+json"}
    path = f"/operator/agents/{agent.id}/policy"
    policy: dict[str, Any] = ok(agent.vault.operate("PATCH", path, changes, headers=headers))["policy"]
    return policy


def test_what_a_change_does_not_name_stays_when_it_is_sent_as_a_merge_patch(vault: Vault) -> None:
    agent = vault.agent(100_000)
    ok(agent.set_policy(5_000, 90_000, **ALL_SET))
    assert_includes(patch(agent, max_transaction_msat=6_000), {**ALL_SET, "max_transaction_msat": 6_000, "version": 3})
    assert agent.asked_for(7_000)
    assert_includes(patch(agent, approval_timeout_ms=None), {**ALL_SET, "approval_timeout_ms": None, "version": 4})
    assert agent.denied(7_000) == "exceeds_max_transaction"
    assert vault.on_dashboard(agent)["policy"]["daily_limit_msat"] == 90_000


def test_legacy_route_changes_the_limits_and_nothing_else(vault: Vault) -> None:
    agent = vault.agent(100_000)
    ok(agent.set_policy(5_000, 90_000, **ALL_SET))
    limits = {"max_transaction_msat": 6_000, "daily_limit_msat": 90_000}
    body = ok(vault.operate("PUT", f"/agents/{agent.id}/policy", {**limits, "approval_timeout_ms": 40_000}))
    assert body["agent_id"] == agent.id
    assert instant_ms(body["policy"].pop("updated_at"))
    assert body["policy"] == limits
    shown = vault.on_dashboard(agent)["policy"]
    assert_includes(shown, {**limits, **ALL_SET, "version": 3})


# What is allowed


def test_nothing_may_be_paid_when_no_policy_was_set(vault: Vault) -> None:
    agent = vault.agent(100_000)
    assert agent.denied(1_000) == "deny_all_policy"
    assert agent.balance() == 100_000


def test_limits_are_inclusive_per_payment_and_per_day(vault: Vault) -> None:
    agent = vault.agent(100_000, 50_000, 80_000)
    agent.settled(50_000)
    agent.settled(30_000)
    assert agent.denied(1) == "exceeds_daily_limit"
    assert agent.denied(50_001) == "exceeds_max_transaction"
    assert agent.balance() == 20_000


def test_payment_is_denied_when_the_balance_is_smaller(vault: Vault) -> None:
    assert vault.agent(1_000, 100_000, 1_000_000).denied(5_000) == "insufficient_balance"


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ((1_000, 0), "exceeds_daily_limit"),
        ((0, 1_000), "exceeds_max_transaction"),
        ((0, 0, 30_000), "deny_all_policy"),
    ],
)
def test_limit_of_nothing_denies_everything(vault: Vault, policy: tuple[int, ...], reason: str) -> None:
    assert vault.agent(100_000, *policy).denied(10) == reason


def test_payment_counts_for_a_day_and_no_longer(tmp_path: Path) -> None:
    with treasury_at(tmp_path, past=True) as vault:
        agent = vault.agent(100_000, 50_000, 50_000)
        agent.settled(50_000)
        assert agent.denied(1) == "exceeds_daily_limit"
    with treasury_at(tmp_path) as vault:
        assert vault.on_dashboard(agent)["daily_spend_msat"] == 0
        again(agent, vault).settled(30_000)
    with treasury_at(tmp_path) as vault:
        assert vault.on_dashboard(agent)["daily_spend_msat"] == 30_000
        assert again(agent, vault).denied(20_001) == "exceeds_daily_limit"


def test_open_holds_count_in_the_day(vault: Vault) -> None:
    agent = vault.agent(500_000, 50_000, 100_000, 300_000)
    first = agent.reserved(40_000)
    waiting = ok(agent.withdraw(30_000))
    assert agent.denied(30_001) == "exceeds_daily_limit"
    assert agent.reserve(30_001).status == 403
    agent.settled(30_000)
    ok(vault.release(first))
    ok(vault.decide(waiting["withdrawal_id"], "deny"))
    agent.settled(50_000)
    agent.settled(20_000)
    assert agent.denied(1) == "exceeds_daily_limit"


def test_approved_payments_and_withdrawals_count_in_the_day(vault: Vault) -> None:
    agent = vault.agent(500_000, 50_000, 100_000, 300_000)
    for approval in (ok(agent.withdraw(30_000))["withdrawal_id"], agent.asked_for(60_000)["id"]):
        assert ok(vault.decide(approval, "approve"))["payment_status"] == "SETTLED"
    assert agent.denied(10_001) == "exceeds_daily_limit"
    agent.settled(10_000)


def test_hold_is_settled_by_the_rule_of_its_beginning_when_the_policy_has_become_narrower(vault: Vault) -> None:
    agent = vault.agent(100_000, 50_000, 80_000)
    reservation = agent.reserved(50_000)
    ok(agent.set_policy(0, 0))
    assert_includes(ok(vault.settle(reservation, 50_000)), {"settled": True, "remaining_balance_msats": 50_000})


def test_latest_policy_counts_when_two_are_set_one_after_the_other(vault: Vault) -> None:
    agent = vault.agent(100_000)
    for _ in range(5):
        ok(agent.set_policy(50_000, 80_000))
        ok(agent.set_policy(0, 0))
        assert agent.denied(1) == "deny_all_policy"


def test_latest_policy_counts_when_the_clock_is_set_back(tmp_path: Path) -> None:
    with treasury_at(tmp_path, past=True) as vault:
        agent = vault.agent(100_000, 50_000, 80_000)
        agent.settled(1)
    with treasury_at(tmp_path) as vault:
        ok(again(agent, vault).set_policy(0, 0))
    with treasury_at(tmp_path, past=True) as vault:
        assert again(agent, vault).denied(1) == "deny_all_policy"
