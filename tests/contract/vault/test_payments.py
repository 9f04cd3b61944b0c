"""Cases 39 to 47: payments on the simulated wallet, their status and the history."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.contract.program import eventually
from tests.contract.vault.treasury import (
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

INVOICE = (
    "lnbc2500u1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu"
    "aztrnwngzn3kdzw5hydlzf03qdgm2hdq27cqv3agm2awhz5se903vruatfhq77w3ls4evs3ch9zw97j25emudupq63nyw24cg27h2rspfj9srp"
)
"""Of BOLT 11: 2,500 uBTC for a cup of coffee, within a minute of 2017-06-01."""
INVOICE_MSAT = 250_000_000


@pytest.fixture
def payer(vault: Vault) -> Agent:
    return vault.agent(100_000, 50_000, 1_000_000)


def test_allowed_payment_is_settled_at_once(payer: Agent) -> None:
    body = ok(payer.pay(10_000))
    assert TRANSACTION_ID.fullmatch(body.pop("transaction_id"))
    assert body == {"policy_decision": "ALLOW", "mode": "simulated", "status": "SETTLED"}
    assert payer.balance() == 90_000


def test_denied_payment_has_an_id_and_a_reason(payer: Agent) -> None:
    body = ok(payer.pay(50_001))
    assert TRANSACTION_ID.fullmatch(body.pop("transaction_id"))
    denied = {"policy_decision": "DENY", "reason": "exceeds_max_transaction", "mode": "simulated", "status": "FAILED"}
    assert body == denied
    assert payer.balance() == 100_000


def test_same_payment_is_made_twice_when_it_has_no_key(payer: Agent) -> None:
    assert payer.settled(10_000) != payer.settled(10_000)
    assert payer.balance() == 80_000


def test_same_payment_is_made_once_when_it_has_a_key(payer: Agent) -> None:
    key = {"idempotency-key": "rent-of-may"}
    first, *repeats = at_once(5, lambda _: ok(payer.pay(10_000, headers=key)))
    assert repeats == [first] * 4
    assert payer.balance() == 90_000
    assert payer.pay(11_000, headers=key).status == 409
    assert payer.balance() == 90_000


def test_key_of_a_payment_is_the_agents_own(vault: Vault) -> None:
    key = {"idempotency-key": "rent-of-may"}
    one, other = (vault.agent(100_000, 50_000, 100_000) for _ in range(2))
    assert ok(one.pay(10_000, headers=key))["transaction_id"] != ok(other.pay(20_000, headers=key))["transaction_id"]
    assert (one.balance(), other.balance()) == (90_000, 80_000)


def test_payment_is_made_once_when_it_is_repeated_at_a_program_that_was_started_anew(tmp_path: Path) -> None:
    key = {"idempotency-key": "rent-of-may"}
    with treasury(tmp_path) as vault:
        agent = vault.agent(100_000, 50_000, 100_000)
        first = ok(agent.pay(10_000, headers=key))
        vault.program.kill()
    with treasury(tmp_path) as vault:
        assert ok(again(agent, vault).pay(10_000, headers=key)) == first
        assert again(agent, vault).balance() == 90_000


def test_payment_is_refused_with_every_issue_when_its_body_is_wrong(payer: Agent) -> None:
    options = {
        "asset": '"BTC_simulated"|"BTC_lightning"|"BTC_cashu"',
        "destination_type": '"lightning_invoice"|"cashu_token"|"internal"',
        "preferred_rail": '"lightning"|"cashu"',
    }
    one_of = {name: f"body/{name} Invalid option: expected one of {values}" for name, values in options.items()}
    missing = [
        "body/amount_msat Invalid input: expected number, received undefined",
        one_of["asset"],
        "body/purpose Invalid input: expected string, received undefined",
        one_of["destination_type"],
        "body/destination Invalid input: expected string, received undefined",
    ]
    assert_invalid(payer.call("POST", "pay", {}), ", ".join(missing))
    assert_invalid(payer.pay(1, preferred_rail="z"), one_of["preferred_rail"])
    too_long = "body/purpose Too big: expected string to have <=200 characters"
    assert_invalid(payer.pay(1, purpose="x" * 201), too_long)
    assert_invalid(payer.pay(0), "body/amount_msat Too small: expected number to be >0")
    assert payer.balance() == 100_000


def test_rails_are_wishes_when_the_wallet_is_simulated(payer: Agent) -> None:
    body = ok(payer.pay(10_000, asset="BTC_lightning", preferred_rail="lightning"))
    assert TRANSACTION_ID.fullmatch(body.pop("transaction_id"))
    assert body == {"policy_decision": "ALLOW", "mode": "simulated", "status": "SETTLED"}


@pytest.mark.parametrize("amount", [1, INVOICE_MSAT - 1, INVOICE_MSAT + 1, INVOICE_MSAT])
def test_invoice_is_not_paid_when_it_is_for_another_amount_or_too_old(vault: Vault, amount: int) -> None:
    agent = vault.agent(10**9, 10**9, 10**9)
    answer = agent.pay(amount, asset="BTC_lightning", destination_type="lightning_invoice", destination=INVOICE)
    body = ok(answer)
    assert (body["policy_decision"], body["status"]) == ("DENY", "FAILED")
    assert body["reason"]
    assert agent.balance() == 10**9


def test_answer_status_and_balance_agree_when_the_invoice_cannot_be_read(payer: Agent) -> None:
    body = ok(payer.pay(10_000, destination_type="lightning_invoice", destination="lnbc-nonsense"))
    assert payer.status(body["transaction_id"])["status"] == body["status"]
    assert payer.balance() == {"SETTLED": 90_000, "FAILED": 100_000}[body["status"]]


# Status and history


def test_status_of_a_settled_payment_tells_amount_and_times(payer: Agent) -> None:
    transaction = payer.settled(10_000)
    status = payer.status(transaction)
    assert_includes(
        status,
        {"transaction_id": transaction, "status": "SETTLED", "mode": "simulated", "amount_msat": 10_000},
    )
    assert instant_ms(status["created_at"]) <= instant_ms(status["settled_at"])
    assert status.get("fee_msat", 0) == 0


def test_status_is_not_found_when_the_agent_has_no_such_payment(vault: Vault, payer: Agent) -> None:
    of_another = vault.agent(100_000, 50_000, 50_000).settled(1)
    for transaction in ("tx_nope", of_another):
        answer = payer.call("GET", f"payments/{transaction}")
        assert_refused(answer, 404, "not_found", f"Payment {transaction} not found")
    assert_invalid(payer.call("GET", "payments/c4"), 'params/tx_id Invalid string: must start with "tx_"')


def test_status_of_a_denied_payment_is_failed(payer: Agent) -> None:
    body = ok(payer.pay(50_001))
    status = payer.status(body["transaction_id"])
    expected = {"transaction_id": body["transaction_id"], "status": "FAILED", "amount_msat": 50_001}
    assert_includes(status, expected)
    assert "settled_at" not in status


def test_history_tells_what_was_asked_for_and_what_came_of_it(payer: Agent) -> None:
    settled = payer.settled(10_000)
    denied = ok(payer.pay(50_001))["transaction_id"]
    told = [one for one in payer.history() if one["ref_id"] in (settled, denied)]
    members = ("action", "policy_decision", "policy_reason", "amount_msat", "ref_id")
    asked = [one for one in told if one["action"] in ("PAYMENT_REQUEST", "PAYMENT_SETTLED", "PAYMENT_FAILED")]
    assert [tuple(one[name] for name in members) for one in asked] == [
        ("PAYMENT_REQUEST", "ALLOW", "policy_passed", 10_000, settled),
        ("PAYMENT_SETTLED", None, None, 10_000, settled),
        ("PAYMENT_REQUEST", "DENY", "exceeds_max_transaction", 50_001, denied),
    ]
    assert_includes(asked[0]["metadata"], {"asset": "BTC_simulated", "purpose": "a test"})
    assert all(one["agent_id"] == payer.id and instant_ms(one["created_at"]) for one in told)
    beginning = [one for one in payer.actions() if one in ("AGENT_REGISTERED", "DEPOSIT", "POLICY_UPDATED")]
    assert beginning == ["AGENT_REGISTERED", "DEPOSIT", "POLICY_UPDATED"]


def test_history_is_told_in_pages_and_by_kind_and_time(payer: Agent) -> None:
    for _ in range(3):
        payer.settled(1_000)
    whole = payer.history()
    query, cursor = "history?limit=2", ""
    pages = []
    for _ in whole:
        page = ok(payer.call("GET", query + cursor))
        pages += page["entries"]
        cursor = f"&cursor={page['next_cursor']}"
        if not page["has_more"]:
            break
    assert page["next_cursor"] is None
    assert pages == whole
    assert [one["id"] for one in whole] == sorted({one["id"] for one in whole})
    assert {one["action"] for one in payer.history("action_type=PAYMENT_SETTLED")} == {"PAYMENT_SETTLED"}
    last = instant_ms(whole[-1]["created_at"])
    assert payer.history(f"start_date={last}")[-1] == whole[-1]
    assert payer.history(f"end_date={last}&limit=100") == whole
    assert payer.history("start_date=0&end_date=0&limit=100") == whole
    assert payer.history(f"start_date={last + 10**12}") == []


def test_history_is_refused_when_its_filter_is_unknown(payer: Agent) -> None:
    actions = '"AGENT_REGISTERED"|"POLICY_UPDATED"|"PAYMENT_REQUEST"|"PAYMENT_SETTLED"|"PAYMENT_FAILED"|"DEPOSIT"'
    answer = payer.call("GET", "history?action_type=APPROVAL_REQUESTED")
    assert_invalid(answer, f"querystring/action_type Invalid option: expected one of {actions}")


# Many at once, and no books


def test_balance_is_never_overspent_when_many_pay_at_once(vault: Vault) -> None:
    agent = vault.agent(100_000, 1_000_000, 10_000_000)
    bodies = at_once(20, lambda _: ok(agent.pay(90_000)))
    decisions = sorted((body["policy_decision"], body.get("reason", "")) for body in bodies)
    assert decisions == [("ALLOW", "")] + [("DENY", "insufficient_balance")] * 19
    assert agent.balance() == 10_000


def test_daily_limit_is_never_exceeded_when_many_pay_at_once(vault: Vault) -> None:
    agent = vault.agent(10_000_000, 1_000_000, 100_000)
    bodies = at_once(20, lambda _: ok(agent.pay(30_000)))
    decisions = sorted((body["policy_decision"], body.get("reason", "")) for body in bodies)
    assert decisions == [("ALLOW", "")] * 3 + [("DENY", "exceeds_daily_limit")] * 17
    assert agent.balance() == 9_910_000


def test_nothing_happens_when_the_books_cannot_be_written(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        agent = vault.agent(100_000, 50_000, 100_000)
        lock = sqlite3.connect(tmp_path / "contract.db", isolation_level=None)
        try:
            lock.execute("BEGIN IMMEDIATE")
            refused = [agent.pay(10_000), agent.reserve(10_000), agent.withdraw(10_000), agent.deposit(10_000)]
        finally:
            lock.close()
        assert [answer.status for answer in refused] == [503] * 4
        assert [answer for answer in refused if str(tmp_path) in answer.body.decode()] == []
        assert all(answer.json["error"]["message"] for answer in refused)
        eventually(lambda: agent.pay(10_000).json["status"] == "SETTLED", "payment once the books can be written again")
        agent.rest_is(90_000)
