"""Cases 48 to 56: what a human decides, and what becomes of it when nobody does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from tests.contract.program import eventually
from tests.contract.receiver import Receiver
from tests.contract.upstream import Upstream
from tests.contract.vault.treasury import (
    APPROVAL_ID,
    TRANSACTION_ID,
    Agent,
    Vault,
    again,
    assert_includes,
    assert_invalid,
    assert_refused,
    at_once,
    instant_ms,
    ok,
    treasury,
)

SHORTEST_MS = 30_000
"""The shortest time that an approval may be given."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Upstream() as upstream:
        yield Receiver(upstream)


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Vault]:
    with treasury(tmp_path_factory.mktemp("vault"), webhook_url=receiver.url) as vault:
        yield vault


@frozen
class Waiting:
    """Two questions that nobody answers in time."""

    payer: Agent
    withdrawer: Agent
    payment: dict[str, Any]
    withdrawal: dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def waiting(vault: Vault) -> Waiting:
    """Asked before anything else, so that the time is nearly over when it is their turn."""
    payer, withdrawer = (vault.agent(100_000, 5_000, 100_000, SHORTEST_MS) for _ in range(2))
    payment = payer.asked_for(10_000)
    withdrawal = withdrawer.approval_of(ok(withdrawer.withdraw(20_000))["transaction_id"])
    return Waiting(payer, withdrawer, payment, withdrawal)


@pytest.fixture
def agent(vault: Vault) -> Agent:
    return vault.agent(100_000, 5_000, 100_000, 300_000)


def assert_resolved(answer: Any) -> None:
    assert_refused(answer, 409, "conflict", "Approval already resolved")


def test_payment_waits_for_a_human_when_it_is_above_the_limit(vault: Vault, agent: Agent) -> None:
    body = ok(agent.pay(10_000))
    transaction = body.pop("transaction_id")
    asked = {"policy_decision": "REQUIRE_HUMAN_APPROVAL", "mode": "simulated", "status": "PENDING_APPROVAL"}
    assert body == asked
    assert agent.balance() == 90_000
    assert agent.status(transaction)["status"] == "PENDING_APPROVAL"
    (approval,) = vault.approvals(agent)
    assert APPROVAL_ID.fullmatch(approval["id"])
    expected = {
        "agent_id": agent.id,
        "type": "payment",
        "transaction_id": transaction,
        "amount_msat": 10_000,
        "destination": "somebody",
        "status": "pending",
        "resolved_at": None,
    }
    assert_includes(approval, expected)
    assert instant_ms(approval["expires_at"]) - instant_ms(approval["created_at"]) == 300_000
    assert "APPROVAL_REQUESTED" in agent.actions(transaction)
    assert vault.on_dashboard(agent)["pending_approvals_count"] == 1


def test_payment_is_made_when_it_is_approved(vault: Vault, agent: Agent) -> None:
    approval = agent.asked_for(10_000)
    body = ok(vault.decide(approval["id"], "approve"))
    assert body == {
        "approval_id": approval["id"],
        "status": "approved",
        "transaction_id": approval["transaction_id"],
        "agent_id": agent.id,
        "amount_msat": 10_000,
        "payment_status": "SETTLED",
    }
    assert agent.balance() == 90_000
    status = agent.status(approval["transaction_id"])
    assert_includes(status, {"status": "SETTLED", "amount_msat": 10_000})
    assert status.get("fee_msat", 0) == 0
    for verb in ("approve", "deny"):
        assert_resolved(vault.decide(approval["id"], verb))
    assert agent.balance() == 90_000
    assert vault.approvals(agent) == []
    (resolved,) = vault.approvals(agent, "all")
    assert resolved["status"] == "approved"
    assert instant_ms(resolved["resolved_at"])
    told = agent.actions(approval["transaction_id"])
    assert [one for one in told if one in ("APPROVAL_GRANTED", "PAYMENT_SETTLED")] == [
        "APPROVAL_GRANTED",
        "PAYMENT_SETTLED",
    ]


def test_money_comes_back_when_a_payment_is_denied(vault: Vault, agent: Agent) -> None:
    approval = agent.asked_for(10_000)
    body = ok(vault.decide(approval["id"], "deny"))
    assert body == {
        "approval_id": approval["id"],
        "status": "denied",
        "transaction_id": approval["transaction_id"],
        "agent_id": agent.id,
        "amount_msat": 10_000,
    }
    assert agent.balance() == 100_000
    assert agent.status(approval["transaction_id"])["status"] == "FAILED"
    assert "APPROVAL_DENIED" in agent.actions(approval["transaction_id"])
    assert_resolved(vault.decide(approval["id"], "approve"))
    assert agent.balance() == 100_000


def test_one_decision_counts_when_many_are_made_at_once(vault: Vault, agent: Agent) -> None:
    approval = agent.asked_for(10_000)
    answers = at_once(10, lambda number: vault.decide(approval["id"], "approve" if number % 2 else "deny"))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 9
    (decided,) = (ok(answer) for answer in answers if answer.status == 200)
    assert agent.balance() == {"approved": 90_000, "denied": 100_000}[decided["status"]]


def test_approval_is_not_found_when_it_does_not_exist(vault: Vault) -> None:
    for verb in ("approve", "deny"):
        assert_refused(vault.decide("apr_zz", verb), 404, "not_found", "Approval not found")
        assert_invalid(vault.decide("zz", verb), 'params/id Invalid string: must start with "apr_"')
    answer = vault.operate("GET", "/operator/approvals?status=foo")
    assert_invalid(answer, 'querystring/status Invalid option: expected one of "pending"|"all"')


def test_withdrawal_waits_for_a_human_whatever_its_amount(vault: Vault) -> None:
    agent = vault.agent(100_000, 50_000, 100_000, 300_000)
    body = ok(agent.withdraw(20_000))
    assert APPROVAL_ID.fullmatch(body["withdrawal_id"])
    assert TRANSACTION_ID.fullmatch(body["transaction_id"])
    assert_includes(body, {"status": "PENDING_APPROVAL", "amount_msat": 20_000})
    assert agent.balance() == 80_000
    (approval,) = vault.approvals(agent)
    expected = {"id": body["withdrawal_id"], "type": "withdrawal", "destination": "bc1-somewhere"}
    assert_includes(approval, expected)
    assert "WITHDRAWAL_REQUESTED" in agent.actions(body["transaction_id"])
    assert ok(vault.decide(body["withdrawal_id"], "approve"))["payment_status"] == "SETTLED"
    assert agent.balance() == 80_000
    assert agent.status(body["transaction_id"])["status"] == "SETTLED"


@pytest.mark.parametrize(
    ("deposit", "policy", "amount", "reason"),
    [
        (1_000_000, (500_000, 100_000, 300_000), 200_000, "exceeds_daily_limit"),
        (1_000_000, (), 200_000, "deny_all_policy"),
        (1_000_000, (100_000, 500_000), 200_000, "exceeds_max_transaction"),
        (100_000, (500_000, 500_000, 300_000), 200_000, "insufficient_balance"),
        (0, (5_000, 500_000, 300_000), 200_000, "insufficient_balance"),
        (1_000_000, (5_000, 100_000, 300_000), 200_000, "exceeds_daily_limit"),
    ],
)
def test_withdrawal_is_denied_when_the_policy_or_the_balance_forbids_it(
    vault: Vault, deposit: int, policy: tuple[int, ...], amount: int, reason: str
) -> None:
    agent = vault.agent(deposit, *policy)
    assert_refused(agent.withdraw(amount), 400, reason, f"Withdrawal denied: {reason}")
    assert agent.balance() == deposit
    assert vault.approvals(agent, "all") == []


def test_withdrawal_is_refused_as_any_other_body_when_it_is_wrong(agent: Agent) -> None:
    issues = (
        "body/destination Invalid input: expected string, received undefined, "
        "body/amount_msat Invalid input: expected number, received undefined"
    )
    assert_invalid(agent.call("POST", "withdrawals", {}), issues)
    assert_invalid(agent.withdraw(0), "body/amount_msat Too small: expected number to be >0")


@pytest.mark.parametrize(
    ("deposit", "daily_limit", "reason"),
    [(9_999, 100_000, "insufficient_balance"), (100_000, 9_999, "exceeds_daily_limit")],
)
def test_payment_is_denied_when_no_human_could_allow_it(
    vault: Vault, deposit: int, daily_limit: int, reason: str
) -> None:
    agent = vault.agent(deposit, 5_000, daily_limit, 300_000)
    assert agent.denied(10_000) == reason
    assert agent.balance() == deposit
    assert vault.approvals(agent, "all") == []


def test_payment_is_not_made_when_the_policy_has_become_narrower_before_it_is_approved(
    vault: Vault, agent: Agent
) -> None:
    approval = agent.asked_for(10_000)
    ok(agent.set_policy(0, 0))
    assert b"SETTLED" not in vault.decide(approval["id"], "approve").body
    assert agent.status(approval["transaction_id"])["status"] in ("PENDING_APPROVAL", "FAILED")
    vault.decide(approval["id"], "deny")
    assert agent.balance() == 100_000
    assert agent.status(approval["transaction_id"])["status"] == "FAILED"


def test_question_outlives_the_program(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        agent = vault.agent(100_000, 5_000, 100_000, 300_000)
        granted, denied = agent.asked_for(10_000), agent.asked_for(20_000)
        vault.program.kill()
    with treasury(tmp_path) as vault:
        agent = again(agent, vault)
        assert agent.balance() == 70_000
        assert agent.status(granted["transaction_id"])["status"] == "PENDING_APPROVAL"
        assert vault.approvals(agent) == [granted, denied]
        assert ok(vault.decide(granted["id"], "approve"))["payment_status"] == "SETTLED"
        ok(vault.decide(denied["id"], "deny"))
        assert agent.balance() == 90_000
    with treasury(tmp_path) as vault:
        agent = again(agent, vault)
        assert agent.balance() == 90_000
        assert agent.actions(granted["transaction_id"]).count("PAYMENT_SETTLED") == 1


def test_question_expires_when_its_time_is_over_while_the_program_is_down(tmp_path: Path, receiver: Receiver) -> None:
    with treasury(tmp_path, past=True, webhook_url=receiver.url) as vault:
        agent = vault.agent(100_000, 5_000, 100_000, 300_000)
        approval = agent.asked_for(10_000)
    with treasury(tmp_path, webhook_url=receiver.url) as vault:
        assert_resolved(vault.decide(approval["id"], "approve"))
        agent = again(agent, vault)
        agent.rest_is(100_000)
        assert agent.approval_of(approval["transaction_id"])["status"] == "timed_out"
        assert receiver.heard(agent.id, "approval_timeout").body["transaction_id"] == approval["transaction_id"]


def test_every_approval_is_whole_when_the_program_is_killed_while_they_are_granted(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        agent = vault.agent(100_000, 1, 100_000, 300_000)
        asked = [agent.asked_for(1_000) for _ in range(20)]

        def approve(number: int) -> None:
            try:
                vault.decide(asked[number]["id"], "approve")
            except OSError:
                return
            if number >= 5:
                vault.program.kill()

        at_once(20, approve)
    with treasury(tmp_path) as vault:
        agent = again(agent, vault)
        transactions = [one["transaction_id"] for one in asked]
        eventually(
            lambda: all(agent.status(one)["status"] != "PENDING" for one in transactions),
            "end of the payments that were granted",
        )
        statuses = {one: agent.status(one)["status"] for one in transactions}
        approvals = {one["transaction_id"]: one["status"] for one in vault.approvals(agent, "all")}
        assert set(statuses.values()) <= {"SETTLED", "FAILED", "PENDING_APPROVAL"}
        for transaction, status in statuses.items():
            assert approvals[transaction] == ("pending" if status == "PENDING_APPROVAL" else "approved")
            assert agent.actions(transaction).count("PAYMENT_SETTLED") == (status == "SETTLED")
        not_back = [status for status in statuses.values() if status != "FAILED"]
        assert agent.balance() == 100_000 - 1_000 * len(not_back)


# Last: half a minute after the questions were asked


def test_nobody_can_approve_when_the_time_is_over(vault: Vault, waiting: Waiting) -> None:
    for approval in (waiting.payment, waiting.withdrawal):
        time.sleep(max(0, instant_ms(approval["expires_at"]) / 1000 - time.time()))  # its time is the program's own
        assert_resolved(vault.decide(approval["id"], "approve"))


def test_money_comes_back_and_the_operator_is_told_when_nobody_has_answered(
    vault: Vault, waiting: Waiting, receiver: Receiver
) -> None:
    asked = ((waiting.payer, waiting.payment), (waiting.withdrawer, waiting.withdrawal))
    for agent, approval in asked:
        agent.rest_is(100_000)
        known = agent.approval_of(approval["transaction_id"])
        assert known["status"] == "timed_out"
        assert instant_ms(known["resolved_at"]) >= instant_ms(known["expires_at"])
        assert agent.status(approval["transaction_id"])["status"] == "FAILED"
        assert "APPROVAL_TIMEOUT" in agent.actions(approval["transaction_id"])
        told = receiver.heard(agent.id, "approval_timeout").body
        assert_includes(told, {"transaction_id": approval["transaction_id"], "amount_msat": approval["amount_msat"]})
        assert_resolved(vault.decide(approval["id"], "deny"))
