"""What the operator's webhook is told, as rows for the transaction of the change itself (contract: vault, section 13).

Pure: the body is rendered once, here, and is sent byte for byte in all attempts.
"""

from __future__ import annotations

import json

from arbstr.store import EventRow, PaymentRow, new_event_id

NS_PER_MS = 1_000_000


def new_event(event: str, agent_id: str, now_ns: int, **fields: object) -> EventRow:
    """Compact JSON: ``event``, ``agent_id``, the fields in their order, then ``timestamp`` in ms. Due at once."""
    content = {"event": event, "agent_id": agent_id, **fields, "timestamp": now_ns // NS_PER_MS}
    body = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return EventRow(new_event_id(), event, agent_id, body, now_ns, now_ns)


def payment_event(event: str, payment: PaymentRow, now_ns: int, **more: object) -> EventRow:
    """One about a payment or withdrawal."""
    about = {"transaction_id": payment.transaction_id, "amount_msat": payment.amount_msat}
    return new_event(event, payment.agent_id, now_ns, **about, **more)
