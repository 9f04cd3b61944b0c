"""What has been asked, and what it cost: ``/v1/stats``, ``/v1/requests`` and the receipt of one request.

Contract sections 4.8 and 4.9; what the predecessor hid (Q21) and exact amounts stand beside what it showed. An agent
sees its own rows and does not learn what others asked for. The store does the counting, off the event loop.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from attrs import evolve, frozen

from arbstr import wire
from arbstr.config import Tier
from arbstr.edge._catalogue import Snapshot
from arbstr.edge._query import Query, Window, time_text
from arbstr.edge._services import Services
from arbstr.edge._vault_bodies import iso, iso_or_none
from arbstr.errors import DeadlineExceeded, InternalError, InvalidRequest, NotFound, PermissionRefused
from arbstr.requests import Caller
from arbstr.store import (
    ApprovalRow,
    ApprovalStatus,
    AttemptRow,
    Connection,
    GroupBy,
    ReadTimedOut,
    RequestFilter,
    Sort,
    Statistics,
    StoredReceipt,
    StoreError,
    Totals,
    find_agent_id,
    find_approval,
    find_receipt,
    find_requests,
    is_known_model,
    is_known_provider,
    statistics_of,
)
from arbstr.units import MSAT_PER_SAT

logger = logging.getLogger("arbstr.edge")

T = TypeVar("T")

MAX_PER_PAGE = 100
MAX_REQUEST_ID = 100

WINDOW_PARAMETERS = ("range", "since", "until")
STATS_PARAMETERS = (*WINDOW_PARAMETERS, "model", "provider", "agent", "group_by")
REQUESTS_PARAMETERS = (
    *WINDOW_PARAMETERS,
    "model",
    "provider",
    "agent",
    "success",
    "streaming",
    "page",
    "per_page",
    "sort",
    "order",
)

SORTS: Mapping[str, Sort] = {"timestamp": "timestamp", "cost_sats": "cost", "latency_ms": "latency"}
GROUPS: Mapping[GroupBy, str] = {
    "model": "models",
    "tier": "tiers",
    "provider": "providers",
    "agent": "agents",
    "policy": "policies",
}
"""What a group is by, and the member of the body that holds them."""


@frozen
class Analytics:
    """The three pages. Each raises ArbstrError."""

    services: Services

    async def stats(self, caller: Caller, raw_query: bytes) -> bytes:
        query = Query(raw_query, STATS_PARAMETERS)
        window = query.window(time.time_ns())
        wanted = _filter_of(query, window)
        snapshot = self.services.providers()

        def count(db: Connection) -> tuple[GroupBy | None, Statistics]:
            narrowed = _narrowed(db, wanted, query, caller, snapshot)
            group_by = _group_by(query)
            return group_by, statistics_of(db, narrowed, group_by)

        group_by, statistics = await self._read(count)
        return wire.dumps(_stats_body(window, statistics, group_by, snapshot))

    async def requests(self, caller: Caller, raw_query: bytes) -> bytes:
        query = Query(raw_query, REQUESTS_PARAMETERS)
        success, streaming = query.flag("success"), query.flag("streaming")
        page = max(1, query.number("page", 1))
        per_page = max(1, min(query.number("per_page", 20), MAX_PER_PAGE))
        window = query.window(time.time_ns())
        wanted = evolve(_filter_of(query, window), success=success, streaming=streaming)
        snapshot = self.services.providers()

        def find(db: Connection) -> dict[str, object]:
            narrowed = _narrowed(db, wanted, query, caller, snapshot)
            sort = SORTS[query.choice("sort", tuple(SORTS), "timestamp", any_case=False)]
            descending = query.choice("order", ("asc", "desc"), "desc") == "desc"
            found = find_requests(
                db, narrowed, sort=sort, descending=descending, limit=per_page, offset=(page - 1) * per_page
            )
            return {
                "data": [_entry(row) for row in found.rows],
                "page": page,
                "per_page": per_page,
                "total": found.total,
                "total_pages": -(-found.total // per_page),
                **_window_body(window),
            }

        return wire.dumps(await self._read(find))

    async def receipt(self, caller: Caller, request_id: str) -> bytes:
        found = None
        if len(request_id) <= MAX_REQUEST_ID:
            found = await self._read(lambda db: find_receipt(db, request_id, caller.agent_id))
        if found is None:
            raise NotFound(f"Not found: no request {request_id[:MAX_REQUEST_ID]!r} is on record")
        return wire.dumps(_receipt(found))

    async def approval(self, caller: Caller, approval_id: str) -> tuple[bytes, bool]:
        """What has become of a request's approval, and whether it is pending. An agent finds its own."""
        found = None
        if len(approval_id) <= MAX_REQUEST_ID:
            found = await self._read(lambda db: find_approval(db, approval_id, caller.agent_id))
        if found is None:
            raise NotFound(f"Not found: there is no approval {approval_id[:MAX_REQUEST_ID]!r}")
        return wire.dumps(_approval(found)), found.status is ApprovalStatus.PENDING

    async def _read(self, function: Callable[[Connection], T]) -> T:
        try:
            return await self.services.read(function)
        except ReadTimedOut as error:
            raise DeadlineExceeded("Database error: the query took too long; ask for a shorter time") from error
        except StoreError as error:
            logger.error("the request log cannot be read: %s", error)
            raise InternalError("Database error: the request log cannot be read at present") from error


def _approval(row: ApprovalRow) -> dict[str, object]:
    """In the words of the 202 that sent the client here. Who decided is the operator's business."""
    pending = row.status is ApprovalStatus.PENDING
    return {
        "id": row.approval_id,
        "object": "approval",
        "status": "pending_approval" if pending else row.status.value,
        "approval_id": row.approval_id,
        "model": row.destination,
        "amount_msat": row.amount_msat,
        "created_at": iso(row.created_ns),
        "expires_at": iso(row.expires_ns),
        "resolved_at": iso_or_none(row.resolved_ns),
        "reason": row.reason,
        "poll_url": f"/v1/approvals/{row.approval_id}",
    }


def _filter_of(query: Query, window: Window) -> RequestFilter:
    return RequestFilter(window.since_ns, window.until_ns, query.text("model"), query.text("provider"))


def _narrowed(db: Connection, wanted: RequestFilter, query: Query, caller: Caller, snapshot: Snapshot) -> RequestFilter:
    """The filter with the agent in it. Raises NotFound for names that neither the providers nor the log know."""
    if caller.role == "agent":
        wanted = evolve(wanted, agent_id=caller.agent_id)
    model, provider = wanted.model, wanted.provider
    if model is not None and not _among(model, (one.id for view in snapshot for one in view.models)):
        own = RequestFilter(model=model, agent_id=wanted.agent_id)
        if not (is_known_model(db, model) if wanted.agent_id is None else find_requests(db, own, limit=1).rows):
            raise NotFound(f"Not found: the model {model[:100]!r} was not found")
    if provider is not None and not _among(provider, (view.name for view in snapshot)):
        own = RequestFilter(provider=provider, agent_id=wanted.agent_id)
        known = is_known_provider(db, provider) if wanted.agent_id is None else find_requests(db, own, limit=1).rows
        if not known:
            raise NotFound(f"Not found: the provider {provider[:100]!r} was not found")
    agent = query.text("agent")
    return wanted if agent is None else evolve(wanted, agent_id=_agent_id(db, agent, caller))


def _among(name: str, names: Iterable[str]) -> bool:
    """Without regard to the case of ASCII letters, as the store compares."""
    return _folded(name) in map(_folded, names)


def _folded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass").lower()  # of bytes: ASCII letters only


def _agent_id(db: Connection, agent: str, caller: Caller) -> str:
    """Raises PermissionRefused when an agent names another one, NotFound when nobody is called so."""
    if caller.role == "agent":
        if agent in (caller.agent_id, caller.name):
            return caller.agent_id or ""
        raise PermissionRefused("an agent sees its own requests only; leave the parameter agent out")
    found = find_agent_id(db, agent)
    if found is not None:
        return found
    raise NotFound(f"Not found: the agent {agent[:100]!r} was not found")


def _group_by(query: Query) -> GroupBy | None:
    given = query.text("group_by")
    for group_by in GROUPS:
        if given == group_by:
            return group_by
    if given is None:
        return None
    raise InvalidRequest(
        f"Invalid request: group_by must not be {given[:40]!r}. Valid options: {', '.join(GROUPS)}",
        reason="invalid_parameter",
        param="group_by",
    )


def _window_body(window: Window) -> dict[str, object]:
    return {"since": time_text(window.since_ns), "until": time_text(window.until_ns)}


# Statistics


def _stats_body(
    window: Window, statistics: Statistics, group_by: GroupBy | None, snapshot: Snapshot
) -> dict[str, object]:
    body: dict[str, object] = {**_window_body(window), **_totals(statistics.totals)}
    if statistics.totals.total == 0:
        body |= {"empty": True, "message": "no requests were recorded in this time"}
    if group_by is not None:
        body[GROUPS[group_by]] = _groups(statistics, group_by, snapshot)
        body["groups_left_out"] = statistics.groups_left_out
    return body


def _groups(statistics: Statistics, group_by: GroupBy, snapshot: Snapshot) -> dict[str, object]:
    """By name. What is configured is there although it was idle; ``unknown`` is for rows without a value."""
    expected: tuple[str, ...] = ()
    if group_by == "tier":
        expected = tuple(Tier)
    elif group_by == "model":
        expected = tuple(model.id for view in snapshot for model in view.models)
    elif group_by == "provider":
        expected = tuple(view.name for view in snapshot)
    groups = {name: Totals() for name in expected}
    groups |= {"unknown" if name is None else name: totals for name, totals in statistics.groups.items()}
    return {name: _totals(totals) for name, totals in groups.items()}


def _totals(totals: Totals) -> dict[str, object]:
    return {
        "counts": {
            "total": totals.total,
            "success": totals.success,
            "error": totals.error,
            "streaming": totals.streaming,
        },
        "costs": {
            "total_cost_sats": totals.cost_msat / MSAT_PER_SAT,
            "total_cost_msat": totals.cost_msat,
            "total_input_tokens": totals.prompt_tokens,
            "total_output_tokens": totals.completion_tokens,
            "total_cached_tokens": totals.cached_tokens,
            "saved_msat": totals.saved_median_msat,
            "saved_dearest_msat": totals.saved_dearest_msat,
        },
        "performance": {"avg_latency_ms": totals.average_latency_ms},
    }


# Requests


def _entry(stored: StoredReceipt) -> dict[str, object]:
    """One request in the list. ``provider``, ``error`` and ``stream_duration_ms`` are absent where there is none."""
    row = stored.receipt
    latency_us = row.duration_us if row.latency_us is None else row.latency_us
    timing: dict[str, object] = {}
    if row.stream:
        timing["stream_duration_ms"] = row.duration_us // 1_000
    entry: dict[str, object] = {
        "id": stored.id,
        "request_id": row.request_id,
        "correlation_id": row.correlation_id,
        "timestamp": time_text(row.started_ns),
        "agent": row.agent_id,
        "endpoint": row.endpoint,
        "model": row.model,
        "policy": row.policy,
        "policy_header": row.policy_header,
        "tier": row.tier,
        "complexity_score": row.complexity_score,
        "streaming": row.stream,
        "success": row.outcome == "ok",
        "outcome": row.outcome,
        "http_status": row.http_status,
        "tokens": {
            "input": row.prompt_tokens,
            "output": row.completion_tokens,
            "cached": row.cached_tokens,
            "estimated": row.estimated,
        },
        "cost": {
            "sats": None if row.prompt_tokens is None else row.cost_msat / MSAT_PER_SAT,
            "msat": row.cost_msat,
            "expected_msat": row.expected_msat,
            "provider_cost_msat": row.provider_cost_msat,
        },
        "saved": {"msat": row.saved_median_msat, "dearest_msat": row.saved_dearest_msat},
        "timing": {"latency_ms": latency_us // 1_000, **timing},
    }
    if row.provider is not None:
        entry["provider"] = row.provider
        entry["upstream_model"] = row.upstream_model
    if row.outcome != "ok":
        entry["error"] = {"status": row.error_status, "message": row.error}
    return entry


def _receipt(stored: StoredReceipt) -> dict[str, object]:
    """One request with its attempts, and who else was asked or left out, and why."""
    selection = json.loads(stored.receipt.selection)
    return {
        **_entry(stored),
        "object": "arbstr.receipt",
        "strategy": selection.get("strategy"),
        "candidates": [{"provider": one[0], "expected_cost_msat": one[1]} for one in selection.get("candidates", ())],
        "left_out": [{"provider": one[0], "reason": one[1]} for one in selection.get("left_out", ())],
        "attempts": [_attempt(attempt) for attempt in stored.receipt.attempts],
    }


def _attempt(attempt: AttemptRow) -> dict[str, object]:
    return {
        "provider": attempt.provider,
        "started": time_text(attempt.started_ns),
        "duration_ms": attempt.duration_us / 1_000,
        "ttfb_ms": None if attempt.ttfb_us is None else attempt.ttfb_us / 1_000,
        "http_status": attempt.http_status,
        "outcome": attempt.outcome,
        "error": attempt.error,
    }
