"""Cases 79 to 82: what the operator's webhook is told, and that it is told however often it is away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.program import eventually
from tests.contract.receiver import TAKEN, Receiver, outline
from tests.contract.upstream import HANG, Answer, Upstream, error
from tests.contract.vault.treasury import Agent, Vault, again, assert_includes, ok, treasury

SECRET = "secret-of-the-webhook"
WAITS_S = (1, 5, 15)
"""Between the first four attempts."""
SLACK_S = 20


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Upstream() as upstream:
        yield Receiver(upstream)


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Vault]:
    with treasury(tmp_path_factory.mktemp("vault"), webhook_url=receiver.url, webhook_secret=SECRET) as vault:
        yield vault


@pytest.fixture(scope="module", autouse=True)
def refused(vault: Vault, receiver: Receiver) -> Agent:
    """An agent whose news the receiver refuses; asked for at the beginning, since repeats take their time."""
    agent = vault.agent(100_000, 5_000, 100_000, 300_000)
    receiver.answers(lambda seen: error(500) if seen.json["agent_id"] == agent.id else TAKEN)
    agent.asked_for(10_000)
    return agent


@pytest.fixture
def agent(vault: Vault) -> Agent:
    return vault.agent(100_000, 5_000, 100_000, 300_000)


def test_body_is_signed_with_the_secret(receiver: Receiver, agent: Agent) -> None:
    before_ms = time.time() * 1000
    approval = agent.asked_for(10_000)
    told = receiver.heard(agent.id, "approval_required")
    assert told.is_signed_with(SECRET)
    assert told.seen.headers["content-type"] == "application/json"
    assert told.seen.method == "POST"
    assert outline(told.seen.body) == ["event", "agent_id", "transaction_id", "amount_msat", "timestamp"]
    assert_includes(told.body, {"transaction_id": approval["transaction_id"], "amount_msat": 10_000})
    assert before_ms - 1 <= told.body["timestamp"] <= time.time() * 1000
    assert told.event_id.startswith("evt_")


def test_body_is_not_signed_when_there_is_no_secret(tmp_path: Path, receiver: Receiver) -> None:
    with treasury(tmp_path, webhook_url=receiver.url) as vault:
        agent = vault.agent(100_000, 5_000, 100_000, 300_000)
        agent.asked_for(10_000)
        assert receiver.heard(agent.id, "approval_required").signature == "unsigned"


def test_operator_is_told_what_was_decided(vault: Vault, receiver: Receiver, agent: Agent) -> None:
    granted, denied = agent.asked_for(10_000), agent.asked_for(20_000)
    withdrawal = ok(agent.withdraw(1_000))
    ok(vault.decide(granted["id"], "approve"))
    ok(vault.decide(denied["id"], "deny"))
    members = ["event", "agent_id", "transaction_id", "amount_msat"]
    told = receiver.heard(agent.id, "approval_granted")
    assert outline(told.seen.body) == [*members, "payment_status", "timestamp"]
    assert_includes(told.body, {"transaction_id": granted["transaction_id"], "payment_status": "SETTLED"})
    told = receiver.heard(agent.id, "approval_denied")
    assert outline(told.seen.body) == [*members, "timestamp"]
    assert_includes(told.body, {"transaction_id": denied["transaction_id"], "amount_msat": 20_000})
    told = receiver.heard(agent.id, "withdrawal_requested")
    assert outline(told.seen.body) == [*members, "timestamp"]
    assert_includes(told.body, {"transaction_id": withdrawal["transaction_id"], "amount_msat": 1_000})
    ids = {one.event_id for one in receiver.deliveries(agent.id)}
    assert len(ids) == len({one.seen.body for one in receiver.deliveries(agent.id)})


def test_nobody_waits_for_the_receiver(tmp_path: Path) -> None:
    with Upstream() as upstream:
        receiver = Receiver(upstream)
        receiver.answers(Answer((HANG,)))
        with treasury(tmp_path, webhook_url=receiver.url) as vault:
            agent = vault.agent(100_000, 5_000, 100_000, 300_000)
            approval = agent.asked_for(10_000)
            (told,) = receiver.heard_times(1, agent.id, "approval_required")
            assert ok(vault.decide(approval["id"], "approve"))["payment_status"] == "SETTLED"
            agent.settled(1_000)
            assert not told.seen.left.is_set()


def test_event_is_told_when_the_program_was_killed_before_the_receiver_took_it(tmp_path: Path) -> None:
    with Upstream() as upstream:
        receiver = Receiver(upstream)
        receiver.answers(error(500))
        with treasury(tmp_path, webhook_url=receiver.url, webhook_secret=SECRET) as vault:
            agent = vault.agent(100_000, 5_000, 100_000, 300_000)
            agent.asked_for(10_000)
            before = receiver.heard(agent.id, "approval_required")
            vault.program.kill()
        heard = len(receiver.deliveries(agent.id))
        receiver.answers(TAKEN)
        with treasury(tmp_path, webhook_url=receiver.url, webhook_secret=SECRET):
            after = receiver.heard_times(heard + 1, agent.id, "approval_required")[-1]
    assert (after.event_id, after.seen.body, after.signature) == (before.event_id, before.seen.body, before.signature)


def test_event_is_told_when_nobody_listened_at_first(tmp_path: Path) -> None:
    with Upstream() as upstream:
        receiver = Receiver(upstream)
        with treasury(tmp_path, webhook_url=upstream.refused_url()) as vault:
            agent = vault.agent(100_000, 5_000, 100_000, 300_000)
            agent.asked_for(10_000)
        with treasury(tmp_path, webhook_url=receiver.url):
            assert receiver.heard(agent.id, "approval_required")


# Balance alerts


def alerted(vault: Vault) -> Agent:
    """50,000 and a floor of 30,000."""
    return vault.agent(50_000, 45_000, 100_000, 300_000, alert_floor_msat=30_000, alert_cooldown_ms=60_000)


def assert_alerted_once(agent: Agent, receiver: Receiver, balance: int) -> None:
    told = receiver.heard(agent.id, "balance_alert")
    assert outline(told.seen.body) == ["event", "agent_id", "balance_msat", "alert_floor_msat", "timestamp"]
    assert_includes(told.body, {"balance_msat": balance, "alert_floor_msat": 30_000})
    entry = agent.entry("BALANCE_ALERT")
    assert_includes(entry["metadata"], {"balance_msat": balance, "alert_floor_msat": 30_000})
    ok(agent.withdraw(1))  # what comes after is told after: there is no second alert on its way
    receiver.heard(agent.id, "withdrawal_requested")
    assert len({one.event_id for one in receiver.deliveries(agent.id, "balance_alert")}) == 1


def test_operator_is_told_once_when_the_balance_falls_below_the_floor(vault: Vault, receiver: Receiver) -> None:
    agent = alerted(vault)
    agent.settled(20_000)
    assert "BALANCE_ALERT" not in agent.actions()
    agent.settled(5_000)
    eventually(lambda: "BALANCE_ALERT" in agent.actions(), "alert")
    agent.settled(1_000)
    assert_alerted_once(agent, receiver, 25_000)


def test_operator_is_told_when_a_settlement_lets_the_balance_fall_below_the_floor(
    vault: Vault, receiver: Receiver
) -> None:
    agent = alerted(vault)
    ok(vault.settle(agent.reserved(40_000), 25_000))
    ok(vault.settle(agent.reserved(1_000), 1_000))
    assert_alerted_once(agent, receiver, 25_000)


def test_operator_is_told_when_an_approved_payment_lets_the_balance_fall_below_the_floor(
    vault: Vault, receiver: Receiver
) -> None:
    agent = alerted(vault)
    ok(vault.decide(agent.asked_for(46_000)["id"], "approve"))
    assert_alerted_once(agent, receiver, 4_000)


def test_alert_is_not_repeated_within_its_time_when_the_program_was_started_anew(
    tmp_path: Path, receiver: Receiver
) -> None:
    with treasury(tmp_path, webhook_url=receiver.url) as vault:
        agent = alerted(vault)
        agent.settled(25_000)
        receiver.heard(agent.id, "balance_alert")
    with treasury(tmp_path, webhook_url=receiver.url) as vault:
        agent = again(agent, vault)
        agent.settled(1_000)
        assert_alerted_once(agent, receiver, 25_000)


# Last: half a minute after it was first told


def test_event_is_told_again_until_it_is_taken(receiver: Receiver, refused: Agent, vault: Vault) -> None:
    def four_times() -> bool:
        return len(receiver.deliveries(refused.id, "approval_required")) >= 4

    end = time.monotonic() + sum(WAITS_S) + SLACK_S
    while not four_times() and time.monotonic() < end:
        time.sleep(0.1)  # its waits are the program's own
    first, *repeats = receiver.deliveries(refused.id, "approval_required")[:4]
    assert len(repeats) == 3
    for before, after, wait_s in zip([first, *repeats], repeats, WAITS_S, strict=False):
        assert after.seen.at - before.seen.at >= wait_s * 0.9
        assert (after.seen.body, after.signature) == (first.seen.body, first.signature)
        assert after.event_id == first.event_id
    assert first.is_signed_with(SECRET)
    assert json.dumps(refused.balance()) == "90000"
    assert vault.call("GET", "/health").status == 200
