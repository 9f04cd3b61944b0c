"""Receipts and requests as they arrive when a request has ended."""

from __future__ import annotations

from typing import Any

from arbstr.requests import Caller, ModelRequest
from arbstr.store import AttemptRow, ReceiptRow
from arbstr.wire import parse_chat

STARTED_NS = 1_700_000_000_000_000_000


def attempt(provider: str = "alpha", outcome: str = "success", **fields: Any) -> AttemptRow:
    values: dict[str, Any] = {"started_ns": STARTED_NS + 1_000_000, "duration_us": 40_000, "ttfb_us": 20_000}
    return AttemptRow(provider=provider, outcome=outcome, **{**values, "http_status": 200, **fields})


def receipt(**fields: Any) -> ReceiptRow:
    values: dict[str, Any] = {
        "request_id": "r-1",
        "agent_id": "ag_1",
        "correlation_id": "job-7",
        "hold_id": None,
        "started_ns": STARTED_NS,
        "duration_us": 50_000,
        "model": "gpt-4o",
        "provider": "alpha",
        "policy": None,
        "stream": False,
        "outcome": "ok",
        "http_status": 200,
        "error": None,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "estimated": False,
        "expected_msat": 40,
        "cost_msat": 35,
        "saved_median_msat": 5,
        "saved_dearest_msat": 9,
        "attempts": (attempt(),),
    }
    return ReceiptRow(**{**values, **fields})


def request(traceparent: str | None = None, text: str = "my secret plan") -> ModelRequest:
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"%s"}]}' % text.encode()
    caller = Caller("ag_1", "agent", "alice")
    return ModelRequest("r-1", "job-7", traceparent, None, False, caller, parse_chat(body))
