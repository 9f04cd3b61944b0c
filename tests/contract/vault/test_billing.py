"""Cases 57 to 75: what a core holds, settles and releases for an agent."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.contract.client import Answer
from tests.contract.program import member
from tests.contract.vault.treasury import (
    TRANSACTION_ID,
    Agent,
    Vault,
    again,
    assert_includes,
    assert_invalid,
    assert_refused,
    at_once,
    ok,
    treasury,
)


@pytest.fixture
def agent(vault: Vault) -> Agent:
    """No operator has set a policy: it may use its balance for requests."""
    return vault.agent(100_000)


def assert_no_reservation(answer: Answer) -> None:
    assert_refused(answer, 404, "not_found", "Reservation not found")


def assert_conflict(answer: Answer) -> None:
    assert answer.status == 409
    assert answer.json["error"]["message"]


def reason_of(answer: Answer, status: int) -> str:
    """The machine-readable reason of a refused reserve; the rest of the body is the application family's."""
    assert answer.status == status, answer.body
    assert isinstance(answer.json["error"]["message"], str)
    return str(member(answer.json, "reason"))


# Reserve


def test_money_is_held_and_audited_when_it_is_reserved(agent: Agent) -> None:
    body = ok(agent.reserve(50_000, "request-of-case-57", model="gpt-4o-mini"))
    assert TRANSACTION_ID.fullmatch(body["reservation_id"])
    assert body["remaining_balance_msats"] == 50_000
    assert agent.balance() == 50_000
    assert agent.status(body["reservation_id"])["status"] == "PENDING"
    (entry,) = [one for one in agent.history() if one["ref_id"] == body["reservation_id"]]
    assert entry["amount_msat"] == 50_000
    assert "gpt-4o-mini" in json.dumps(entry["metadata"])


def test_reserve_is_refused_when_the_balance_is_smaller(agent: Agent) -> None:
    answer = agent.reserve(200_000)
    assert reason_of(answer, 402) == "insufficient_balance"
    refused = {"code": "insufficient_balance", "message": "Insufficient balance for reservation"}
    assert_includes(answer.json["error"], refused)
    assert_includes(answer.json, {"current_balance_msats": 100_000, "requested_msats": 200_000})
    assert agent.balance() == 100_000


def test_reserve_is_refused_when_the_agents_token_is_unknown(vault: Vault) -> None:
    body = {"agent_token": "vtk_nobody", "amount_msats": 1, "correlation_id": "c", "model": "m"}
    assert_refused(vault.internal("reserve", body), 401, "unauthorized", "Invalid agent token")


def test_reserve_is_refused_with_every_issue_when_its_body_is_wrong(vault: Vault, agent: Agent) -> None:
    missing = (
        "body/agent_token Invalid input: expected string, received undefined, "
        "body/amount_msats Invalid input: expected number, received undefined, "
        "body/correlation_id Invalid input: expected string, received undefined, "
        "body/model Invalid input: expected string, received undefined"
    )
    assert_invalid(vault.internal("reserve", {}), missing)
    whole = {"agent_token": agent.token, "correlation_id": "c", "model": "m"}
    fraction = vault.internal("reserve", {**whole, "amount_msats": 1.5})
    assert_invalid(fraction, "body/amount_msats Invalid input: expected int, received number")
    negative = vault.internal("reserve", {**whole, "amount_msats": -1})
    assert negative.status == 400
    assert agent.balance() == 100_000


def test_all_of_the_balance_can_be_reserved(agent: Agent) -> None:
    assert ok(agent.reserve(100_000))["remaining_balance_msats"] == 0
    assert reason_of(agent.reserve(1), 402) == "insufficient_balance"


def test_same_reservation_is_returned_when_a_reserve_is_repeated(agent: Agent) -> None:
    first, *repeats = at_once(8, lambda _: ok(agent.reserve(50_000, "request-of-case-70")))
    assert {one["reservation_id"] for one in repeats} == {first["reservation_id"]}
    assert agent.balance() == 50_000
    assert reason_of(agent.reserve(40_000, "request-of-case-70"), 409) == "key_used"
    assert agent.balance() == 50_000


def test_same_reservation_is_returned_when_a_reserve_is_repeated_after_a_crash(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        agent = vault.agent(100_000)
        first = agent.reserved(50_000, correlation_id="request")
        vault.program.kill()
    with treasury(tmp_path) as vault:
        agent = again(agent, vault)
        assert agent.reserved(50_000, correlation_id="request") == first
        assert agent.balance() == 50_000


def test_correlation_id_is_the_agents_own(vault: Vault, agent: Agent) -> None:
    other = vault.agent(100_000)
    assert agent.reserved(10_000, correlation_id="shared") != other.reserved(20_000, correlation_id="shared")
    assert (agent.balance(), other.balance()) == (90_000, 80_000)


def test_empty_correlation_id_is_no_key(agent: Agent) -> None:
    assert agent.reserved(10_000, correlation_id="") != agent.reserved(10_000, correlation_id="")
    assert agent.balance() == 80_000


@pytest.mark.parametrize(
    ("policy", "amount", "reason"),
    [
        ((50_000, 80_000), 50_001, "exceeds_max_transaction"),
        ((80_000, 50_000), 50_001, "exceeds_daily_limit"),
        ((0, 0), 1, "deny_all_policy"),
    ],
)
def test_reserve_asks_the_policy_when_an_operator_has_set_one(
    vault: Vault, policy: tuple[int, int], amount: int, reason: str
) -> None:
    agent = vault.agent(100_000, *policy)
    assert reason_of(agent.reserve(amount), 403) == reason
    assert agent.balance() == 100_000
    if policy != (0, 0):
        agent.reserved(50_000)


def test_never_more_is_held_than_there_is_when_many_reserve_at_once(agent: Agent) -> None:
    answers = at_once(20, lambda _: agent.reserve(30_000))
    assert sorted(answer.status for answer in answers) == [200] * 3 + [402] * 17
    assert agent.balance() == 10_000


# Settle


def test_rest_comes_back_when_less_is_settled(vault: Vault, agent: Agent) -> None:
    reservation = agent.reserved(50_000)
    expected = {
        "settled": True,
        "refunded_msats": 18_000,
        "actual_msats": 32_000,
        "remaining_balance_msats": 68_000,
    }
    assert_includes(ok(vault.settle(reservation, 32_000)), expected)
    assert agent.balance() == 68_000
    status = agent.status(reservation)
    assert status["status"] == "SETTLED"
    assert status.get("fee_msat", 0) == 0


def test_first_answer_is_repeated_when_a_settle_is(vault: Vault, agent: Agent) -> None:
    """What was booked is told. The balance is that of then or that of now: rules M3 and section 10 differ there."""
    reservation = agent.reserved(50_000)
    first, *repeats = at_once(8, lambda _: ok(vault.settle(reservation, 32_000)))
    assert repeats == [first] * 7
    agent.reserved(8_000)
    told = agent.history()
    late = ok(vault.settle(reservation, 32_000))
    assert {**late, "remaining_balance_msats": 68_000} == first
    assert late["remaining_balance_msats"] in (60_000, 68_000)
    assert agent.history() == told
    assert agent.balance() == 60_000


def test_settle_is_refused_when_it_is_repeated_with_another_amount(vault: Vault, agent: Agent) -> None:
    reservation = agent.reserved(50_000)
    ok(vault.settle(reservation, 32_000))
    assert_conflict(vault.settle(reservation, 40_000))
    assert agent.balance() == 68_000


def test_rest_is_taken_from_the_balance_when_more_is_settled_than_was_held(vault: Vault, agent: Agent) -> None:
    reservation = agent.reserved(10_000)
    expected = {"settled": True, "refunded_msats": 0, "actual_msats": 15_000, "remaining_balance_msats": 85_000}
    assert_includes(ok(vault.settle(reservation, 15_000)), expected)
    assert agent.balance() == 85_000


def test_debt_is_told_and_blocks_the_next_hold_when_the_balance_does_not_cover_a_settle(vault: Vault) -> None:
    agent = vault.agent(8_001)
    reservation = agent.reserved(5_000)
    expected = {
        "settled": True,
        "refunded_msats": 0,
        "actual_msats": 100_000,
        "remaining_balance_msats": 0,
        "debt_msats": 91_999,
    }
    assert_includes(ok(vault.settle(reservation, 100_000)), expected)
    assert reason_of(agent.reserve(1), 402) == "outstanding_debt"
    ok(agent.deposit(91_998))
    assert reason_of(agent.reserve(1), 402) == "outstanding_debt"
    ok(agent.deposit(1_001))
    assert agent.balance() == 1_000
    agent.reserved(1_000)


def test_nothing_is_charged_when_nothing_is_settled(vault: Vault, agent: Agent) -> None:
    reservation = agent.reserved(50_000)
    expected = {"settled": True, "refunded_msats": 50_000, "actual_msats": 0, "remaining_balance_msats": 100_000}
    assert_includes(ok(vault.settle(reservation, 0)), expected)
    assert agent.balance() == 100_000


def test_hold_stays_when_a_settle_is_invalid(vault: Vault, agent: Agent) -> None:
    reservation = agent.reserved(50_000)
    assert_invalid(vault.settle(reservation, -1), "body/actual_msats Too small: expected number to be >=0")
    assert vault.settle(reservation, 1, latency_ms=-1).status == 400
    assert vault.internal("settle", {"reservation_id": reservation}).status == 400
    assert agent.balance() == 50_000
    assert ok(vault.release(reservation)) == {"released": True}
    assert agent.balance() == 100_000


def test_settlement_is_in_the_history_with_its_figures(vault: Vault, agent: Agent) -> None:
    reservation = agent.reserved(50_000)
    ok(vault.settle(reservation, 32_000, tokens_in=11, tokens_out=22, provider="gamma", latency_ms=33))
    entry = agent.entry("PAYMENT_SETTLED", reservation)
    assert entry["amount_msat"] == 32_000
    figures = {"tokens_in": 11, "tokens_out": 22, "provider": "gamma", "latency_ms": 33}
    assert_includes(entry["metadata"], figures)
    released = agent.reserved(10_000)
    ok(vault.release(released))
    assert len([one for one in agent.history() if one["ref_id"] == released]) == 2


@pytest.mark.parametrize("tokens", [10, None])
def test_figures_may_stand_in_an_object_of_their_own(vault: Vault, agent: Agent, tokens: int | None) -> None:
    figures = {"tokens_in": tokens, "tokens_out": tokens, "provider": "somebody", "latency_ms": 7}
    reservation = agent.reserved(50_000)
    nested = {"reservation_id": reservation, "actual_msats": 32_000, "metadata": figures}
    assert ok(vault.internal("settle", nested))["remaining_balance_msats"] == 68_000
    assert_includes(agent.entry("PAYMENT_SETTLED", reservation)["metadata"], {"provider": "somebody", "latency_ms": 7})


def test_figures_may_stand_in_both_places(vault: Vault, agent: Agent) -> None:
    figures = {"tokens_in": None, "tokens_out": 2, "provider": "somebody", "latency_ms": 7}
    body = {"reservation_id": agent.reserved(50_000), "actual_msats": 1, **figures, "metadata": figures}
    assert ok(vault.internal("settle", body))["refunded_msats"] == 49_999


# Release


def test_all_comes_back_when_a_hold_is_released(vault: Vault, agent: Agent) -> None:
    reservation = agent.reserved(60_000)
    assert ok(vault.release(reservation, reason="the provider failed")) == {"released": True}
    assert agent.balance() == 100_000
    assert agent.status(reservation)["status"] == "FAILED"
    assert ok(vault.release(reservation)) == {"released": True}
    assert agent.balance() == 100_000


def test_hold_cannot_be_settled_when_it_was_released(vault: Vault, agent: Agent) -> None:
    reservation = agent.reserved(60_000)
    ok(vault.release(reservation))
    assert_conflict(vault.settle(reservation, 1_000))
    assert_conflict(vault.settle(reservation, 0))
    assert agent.balance() == 100_000


def test_hold_cannot_be_released_when_it_was_settled(vault: Vault, agent: Agent) -> None:
    reservation = agent.reserved(60_000)
    ok(vault.settle(reservation, 60_000))
    assert_conflict(vault.release(reservation))
    assert agent.balance() == 40_000


def test_hold_ends_once_when_it_is_settled_and_released_at_the_same_time(vault: Vault, agent: Agent) -> None:
    reservation = agent.reserved(60_000)

    def end(number: int) -> tuple[str, Answer]:
        return ("settle", vault.settle(reservation, 1_000)) if number % 2 else ("release", vault.release(reservation))

    ended = {verb for verb, answer in at_once(8, end) if answer.status == 200}
    assert len(ended) == 1
    assert agent.balance() == {"settle": 99_000, "release": 100_000}[ended.pop()]


def test_reservation_is_not_found_when_nobody_reserved_it(vault: Vault) -> None:
    agent = vault.agent(0, 50_000, 90_000, 300_000)
    others = [
        "tx_nope",
        "",
        ok(agent.deposit(100_000))["transaction_id"],
        agent.settled(1_000),
        agent.asked_for(51_000)["transaction_id"],
        ok(agent.withdraw(1_000))["transaction_id"],
    ]
    for one in others:
        assert_no_reservation(vault.release(one))
        assert_no_reservation(vault.settle(one, 1))
    assert agent.balance() == 47_000
    for approval in vault.approvals(agent):
        assert ok(vault.decide(approval["id"], "approve"))["payment_status"] == "SETTLED"
    assert agent.balance() == 47_000


# What reservations mean for other limits


def test_settlements_count_in_the_day_of_payments(vault: Vault) -> None:
    agent = vault.agent(500_000, 80_000, 100_000)
    ok(vault.settle(agent.reserved(80_000), 60_000))
    assert vault.on_dashboard(agent)["daily_spend_msat"] == 60_000
    assert agent.denied(40_001) == "exceeds_daily_limit"
    agent.settled(40_000)


def test_next_hold_is_granted_from_what_came_back(vault: Vault, agent: Agent) -> None:
    assert ok(vault.settle(agent.reserved(80_000), 30_000))["remaining_balance_msats"] == 70_000
    assert ok(agent.reserve(60_000))["remaining_balance_msats"] == 10_000


# When the core or the vault is gone


def test_hold_comes_back_when_its_core_is_never_heard_of_again(tmp_path: Path) -> None:
    with treasury(tmp_path, past=True) as vault:
        agent = vault.agent(100_000)
        reservation = agent.reserved(60_000)
        vault.program.kill()
    with treasury(tmp_path) as vault:
        agent = again(agent, vault)
        agent.rest_is(100_000)
        assert "HOLD_RESOLVED" in agent.actions(reservation)
        assert agent.status(reservation)["status"] == "FAILED"
        ok(vault.settle(reservation, 1_000))  # the core was heard of after all, and its agent has had what it pays for
        assert_conflict(vault.settle(reservation, 2_000))
        assert agent.balance() == 99_000


def test_hold_can_be_settled_when_the_vault_was_killed_meanwhile(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        agent = vault.agent(100_000)
        reservation = agent.reserved(60_000)
        vault.program.kill()
    with treasury(tmp_path) as vault:
        first = ok(vault.settle(reservation, 10_000))
        assert_includes(first, {"settled": True, "refunded_msats": 50_000, "remaining_balance_msats": 90_000})
        vault.program.kill()
    with treasury(tmp_path) as vault:
        assert ok(vault.settle(reservation, 10_000)) == first
        assert again(agent, vault).balance() == 90_000


def test_books_are_right_when_the_vault_is_killed_between_many_settlements(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        agent = vault.agent(100_000)
        reservations = [agent.reserved(1_000) for _ in range(40)]

        def settle(number: int) -> bool:
            """Whether it was told to be settled."""
            try:
                ok(vault.settle(reservations[number], 600))
            except (OSError, ValueError):  # not answered, or not to the end
                return False
            if number % 5 == 2:
                vault.program.kill()
            return True

        told = at_once(8, lambda part: [settle(number) for number in range(part * 5, part * 5 + 5)])
    settled = {one for one, was in zip(reservations, itertools.chain(*told), strict=True) if was}
    assert settled
    with treasury(tmp_path) as vault:
        agent = again(agent, vault)
        statuses = {one: agent.status(one)["status"] for one in reservations}
        assert {statuses[one] for one in settled} == {"SETTLED"}
        assert {ok(vault.settle(one, 600))["refunded_msats"] for one in reservations} == {400}
        assert agent.balance() == 100_000 - 40 * 600
        assert len(agent.history("action_type=PAYMENT_SETTLED&limit=100")) == 40
