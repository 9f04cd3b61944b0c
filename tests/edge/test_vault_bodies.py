"""The vault's answers where a simulated wallet does not lead: rails, percentages, times and the words of history."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from arbstr.edge import _vault_bodies as bodies
from arbstr.store import AuditRow, HistoryRow, ListPage, PaymentRow, PaymentState

SENT = PaymentRow(
    "tx_1",
    "ag_1",
    "payment",
    10_000,
    PaymentState.SUCCEEDED,
    1_000_000,
    2_000_000,
    fee_msat=500,
    first_rail="cashu",
    rail="lightning",
    decision="ALLOW",
    reason="policy_passed",
    payment_hash="ab",
    settled_ns=2_000_000,
)
RAILS = {"initial_rail": "cashu", "final_rail": "lightning", "fallback_occurred": True}


def test_fallback_is_told_when_it_was_paid_on_the_other_rail() -> None:
    assert bodies.paid(SENT) == {
        "transaction_id": "tx_1",
        "policy_decision": "ALLOW",
        "mode": "lightning",
        "status": "SETTLED",
        "payment_hash": "ab",
        "fee_msat": 500,
        "rail_used": "lightning",
        **RAILS,
    }
    found = bodies.payment(SENT)
    assert RAILS.items() <= found.items()
    assert (found["fee_msat"], found["amount_msat"], found["settled_at"]) == (500, 10_000, "1970-01-01T00:00:00.002Z")


def test_no_fallback_is_told_when_there_was_none() -> None:
    assert "fallback_occurred" not in bodies.paid(evolve(SENT, first_rail="lightning"))


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (PaymentState.DENIED, "FAILED"),
        (PaymentState.PENDING_APPROVAL, "PENDING_APPROVAL"),
        (PaymentState.HELD, "PENDING"),
        (PaymentState.SENDING, "PENDING"),
        (PaymentState.UNKNOWN, "PENDING"),
        (PaymentState.SUCCEEDED, "SETTLED"),
        (PaymentState.FAILED, "FAILED"),
    ],
)
def test_every_state_has_a_status(state: PaymentState, status: str) -> None:
    row = evolve(SENT, state=state)
    assert bodies.paid(row)["status"] == bodies.payment(row)["status"] == status


@pytest.mark.parametrize("state", [PaymentState.DENIED, PaymentState.PENDING_APPROVAL])
def test_rails_are_not_told_of_what_was_never_sent(state: PaymentState) -> None:
    row = evolve(SENT, state=state, decision="DENY" if state is PaymentState.DENIED else "REQUIRE_HUMAN_APPROVAL")
    assert set(bodies.paid(row)) - {"reason"} == {"transaction_id", "policy_decision", "mode", "status"}
    assert not set(RAILS) & set(bodies.payment(row))


@pytest.mark.parametrize(
    ("spend", "limit", "percent"),
    [(10_000, 80_000, 13), (193_001, 500, 38_600), (5, 0, 0), (5, None, 0), (1, 200, 1), (1, 201, 0), (0, 7, 0)],
)
def test_utilization_is_rounded_half_up(spend: int, limit: int | None, percent: int) -> None:
    assert bodies._percent(spend, limit) == percent


@given(st.integers(0, 4_102_444_800_000_000_000))
def test_time_has_milliseconds_and_sorts_as_it_is(at_ns: int) -> None:
    text = bodies.iso(at_ns)
    assert len(text) == len("2026-01-01T00:00:00.000Z")
    assert bodies.iso(at_ns + 1_000_000) > text


def entry(action: str, details: dict[str, object], hold_id: str | None = None) -> bodies.Body:
    row = HistoryRow(AuditRow(7, 1_000_000, "ag_1", action, details, "00"), hold_id)
    (found,) = bodies.history(ListPage((row,), False))["entries"]
    return found


@pytest.mark.parametrize(
    ("action", "details", "hold_id", "reference"),
    [
        ("PAYMENT_SETTLED", {"ref_id": "tx_1", "amount_msat": 5}, None, "tx_1"),
        ("DEPOSIT", {"key": "tx_d", "amount_msat": 5}, None, "tx_d"),
        ("HOLD_RESERVED", {"key": "tx_r", "hold_id": "tx_h", "held_msat": 5, "model": "m"}, "tx_h", "tx_r"),
        ("HOLD_SETTLED", {"key": "0-uuid", "held_msat": 9, "charged_msat": 5}, "tx_h", "tx_h"),
        ("HOLD_SETTLED", {"key": "tx_r", "held_msat": 9, "charged_msat": 5}, "tx_h", "tx_r"),
        ("POLICY_UPDATED", {"version": 2}, None, None),
    ],
)
def test_history_names_what_can_be_looked_up(
    action: str, details: dict[str, object], hold_id: str | None, reference: str | None
) -> None:
    found = entry(action, details, hold_id)
    assert found["ref_id"] == reference
    assert found["amount_msat"] == (None if reference is None else 5)
    assert "key" not in (found["metadata"] or {})


def test_history_shows_settled_holds_as_settled_payments() -> None:
    found = entry("HOLD_SETTLED", {"key": "k", "charged_msat": 5})
    assert (found["action"], found["metadata"]) == ("PAYMENT_SETTLED", None)
    assert bodies.recorded_as("PAYMENT_SETTLED") == ("PAYMENT_SETTLED", "HOLD_SETTLED")
    assert bodies.recorded_as("DEPOSIT") == ("DEPOSIT",)


@given(st.integers(0, 10**16 - 1))
def test_cursor_of_a_row_leads_behind_it(sequence: int) -> None:
    assert bodies.sequence_of(bodies.sequence_text(sequence)) == sequence


@pytest.mark.parametrize(
    ("cursor", "sequence"), [("", 0), ("zz", 10**16), ("!", 0), ("\u0663", 10**16), ("9" * 17, 10**16)]
)
def test_cursor_that_is_no_row_stands_before_or_behind_all(cursor: str, sequence: int) -> None:
    assert bodies.sequence_of(cursor) == sequence
