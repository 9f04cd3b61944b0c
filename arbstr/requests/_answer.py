"""What the client is told about its answer: headers, and the cost of a stream (contract section 5.2)."""

from __future__ import annotations

from collections.abc import Sequence

from arbstr.errors import ArbstrError
from arbstr.requests._asking import POLL_S, PutOff
from arbstr.requests._books import Books
from arbstr.requests._interface import PlainAnswer
from arbstr.requests._record import Record
from arbstr.wire import dumps, error_body

Headers = list[tuple[bytes, bytes]]
JSON_TYPE = (b"content-type", b"application/json")
SHOWN_RETRY_AFTER_S = 86_400.0
"""The most that a client is told to wait."""


def stream_headers(record: Record, provider: str | None, limits: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Of a stream. ``provider`` None: a heartbeat begins it, and nobody knows yet who will answer."""
    return [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache"),
        (b"x-arbstr-streaming", b"true"),
        *_attempt_headers(record, provider),
        *_choice_headers(record, provider),
        *limits,
    ]


def plain_headers(record: Record, books: Books, provider: str, limits: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Of a whole answer, after its books have been closed."""
    return [
        JSON_TYPE,
        *_attempt_headers(record, provider),
        (b"x-arbstr-latency-ms", b"%d" % record.latency_ms()),
        *_choice_headers(record, provider),
        *_cost_headers(books),
        *limits,
    ]


def refusal(record: Record, error: ArbstrError, limits: Sequence[tuple[bytes, bytes]]) -> PlainAnswer:
    """An error as an answer, with what is known of the attempts."""
    blamed = None
    if record.attempts and error.reason != "deadline_exceeded":  # that one is nobody's
        blamed = record.attempts[-1].candidate.provider
    headers = [
        JSON_TYPE,
        *_attempt_headers(record, blamed),
        (b"x-arbstr-latency-ms", b"%d" % record.latency_ms()),
        *limits,
    ]
    if record.request.call.stream:
        headers.append((b"x-arbstr-streaming", b"true"))
    return error_answer(error, record.request.request_id, headers)


def put_off_answer(record: Record, put_off: PutOff, limits: Sequence[tuple[bytes, bytes]]) -> PlainAnswer:
    """202: a human has to decide first; where to look, and what to come back with.

    OpenAI's SDKs take any 2xx for the answer, so the body is an object that is no completion.
    """
    body = {
        "id": put_off.approval_id,
        "object": "approval",
        "status": "pending_approval",
        "approval_id": put_off.approval_id,
        "model": record.request.call.model,
        "amount_msat": put_off.amount_msat,
        "expires_at": put_off.expires_at,
        "poll_url": put_off.poll_url,
        "request_id": record.request.request_id,
    }
    headers = [
        JSON_TYPE,
        (b"location", put_off.poll_url.encode()),
        (b"retry-after", b"%d" % POLL_S),
        (b"x-should-retry", b"false"),
        (b"x-arbstr-approval", put_off.approval_id.encode()),
        *limits,
    ]
    return PlainAnswer(202, tuple(headers), dumps(body))


def error_answer(error: ArbstrError, request_id: str, headers: Sequence[tuple[bytes, bytes]]) -> PlainAnswer:
    """``headers`` and ``Retry-After``, where there is one."""
    if error.retry_after_s is not None:
        seconds = max(1, -(-min(error.retry_after_s, SHOWN_RETRY_AFTER_S) // 1))
        headers = [*headers, (b"retry-after", b"%d" % seconds)]
    return PlainAnswer(error.status, tuple(headers), error_body(error, request_id))


def cost_report(record: Record, books: Books) -> dict[str, object]:
    """What a stream has cost, as a member of its last events. Only for one whose books have been closed."""
    delivered, selection = books.delivered, record.selection
    assert delivered is not None
    assert selection is not None
    cost: dict[str, object] = {
        "cost_sats": delivered.cost_msat / 1000,
        "cost_msat": delivered.cost_msat,
        "provider": delivered.candidate.provider,
        "request_id": record.request.request_id,
        "latency_ms": record.latency_ms(),
        "complexity_score": selection.complexity_score,
        "tier": selection.tier_of(delivered.candidate.provider),
        "estimated": delivered.estimated,
    }
    if books.saved is not None:
        cost |= {"saved_msat": books.saved.median_msat, "saved_dearest_msat": books.saved.dearest_msat}
    if not books.settled:
        cost |= {"settlement": "pending"}
    return cost


def _attempt_headers(record: Record, provider: str | None) -> Headers:
    headers = [] if provider is None else [(b"x-arbstr-provider", provider.encode())]
    retries = record.retries()
    if retries:
        headers.append((b"x-arbstr-retries", retries.encode()))
    return headers


def _choice_headers(record: Record, provider: str | None) -> Headers:
    """The tier, and how complex the request was found to be, if that was asked."""
    selection = record.selection
    if selection is None:
        return []
    headers = [(b"x-arbstr-tier", selection.tier_of(provider).encode())]
    if selection.complexity_score is not None:
        headers.append((b"x-arbstr-complexity-score", b"%.3f" % selection.complexity_score))
    return headers


def _cost_headers(books: Books) -> Headers:
    """What the request cost, only once that is on disk (M6)."""
    if books.delivered is None or not books.settled:
        return [(b"x-arbstr-settlement", b"pending")]
    cost = books.delivered.cost_msat
    headers = [
        (b"x-arbstr-cost-msat", b"%d" % cost),
        (b"x-arbstr-cost-sats", f"{cost / 1000:.2f}".encode()),
    ]
    if books.saved is not None:
        headers.append((b"x-arbstr-saved-msat", b"%d" % books.saved.median_msat))
        headers.append((b"x-arbstr-saved-dearest-msat", b"%d" % books.saved.dearest_msat))
    return headers
