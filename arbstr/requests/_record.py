"""What a request leaves behind, collected while it lives: attempts, outcome, and the receipt made of them."""

from __future__ import annotations

import json
import time

from attrs import define, field

from arbstr.providers import Outcome, Report
from arbstr.requests._interface import ModelRequest
from arbstr.routing import Candidate, Saved, Selection
from arbstr.store import AttemptRow, ReceiptRow
from arbstr.wire import Usage

MAX_ERROR_TEXT = 300


def _ticks_ns() -> int:
    """Looked up when it is called: a simulation has a clock of its own."""
    return time.perf_counter_ns()


def _now_ns() -> int:
    return time.time_ns()


@define(eq=False)
class Attempt:
    """One call to one provider, while it runs. Times are of ``time.perf_counter_ns``."""

    candidate: Candidate
    begun: int = field(factory=_ticks_ns)
    started_ns: int = field(factory=_now_ns)
    ttfb_ns: int | None = None
    ended: int | None = None
    http_status: int | None = None
    retry_after_s: float | None = None
    outcome: Outcome = Outcome.ABANDONED
    """What the provider is told about itself; until something else is known, nothing."""
    error: str | None = None

    def first_byte(self) -> None:
        """Note the time of the first byte; later calls change nothing."""
        if self.ttfb_ns is None:
            self.ttfb_ns = time.perf_counter_ns() - self.begun

    def end(self) -> None:
        """Note the time of the end; later calls change nothing."""
        if self.ended is None:
            self.ended = time.perf_counter_ns()

    def duration_ns(self) -> int:
        return (time.perf_counter_ns() if self.ended is None else self.ended) - self.begun

    @property
    def failed(self) -> bool:
        """It gave nothing, and that was not our own doing."""
        return self.outcome is not Outcome.SUCCESS and self.outcome is not Outcome.ABANDONED

    def report(self, permit_id: int, *, repeated: bool) -> Report:
        """What the provider's actor hears of it."""
        ttfb_s = None if self.ttfb_ns is None else self.ttfb_ns / 1e9
        return Report(
            permit_id, self.outcome, ttfb_s, self.duration_ns() / 1e9, self.retry_after_s, repeated, self.error
        )

    def row(self) -> AttemptRow:
        return AttemptRow(
            provider=self.candidate.provider,
            started_ns=self.started_ns,
            duration_us=self.duration_ns() // 1_000,
            ttfb_us=None if self.ttfb_ns is None else self.ttfb_ns // 1_000,
            http_status=self.http_status,
            outcome=self.outcome,
            error=self.error,
        )


@define(eq=False)
class Consumption:
    """What was delivered by whom: the evidence for a charge."""

    candidate: Candidate
    usage: Usage
    estimated: bool
    note: str | None = None
    """What the receipt has to say about it."""

    @property
    def tokens(self) -> int:
        return self.usage.prompt_tokens + self.usage.completion_tokens

    @property
    def cost_msat(self) -> int:
        used = self.usage
        return self.candidate.price.cost_msat(used.prompt_tokens, used.completion_tokens, used.cached_tokens)


@define(eq=False)
class Record:
    """Of one request, from its arrival."""

    request: ModelRequest
    begun: int = field(factory=_ticks_ns)
    started_ns: int = field(factory=_now_ns)
    selection: Selection | None = None
    attempts: list[Attempt] = field(factory=list)

    def latency_ms(self) -> int:
        return (time.perf_counter_ns() - self.begun) // 1_000_000

    def retries(self) -> str:
        """Failed attempts as ``<count>/<provider>``, in the order of the first failure (contract section 5.2)."""
        counts: dict[str, int] = {}
        for attempt in self.attempts:
            if attempt.failed:
                counts[attempt.candidate.provider] = counts.get(attempt.candidate.provider, 0) + 1
        return ", ".join(f"{count}/{provider}" for provider, count in counts.items())

    def has_failed_before(self, attempt: Attempt) -> bool:
        """Whether an earlier attempt failed at the same provider."""
        provider = attempt.candidate.provider
        return any(one.failed and one.candidate.provider == provider for one in self.attempts if one is not attempt)

    def receipt(
        self,
        *,
        outcome: str,
        http_status: int,
        error: str | None,
        consumed: Consumption | None,
        saved: Saved | None,
    ) -> ReceiptRow:
        request, selection = self.request, self.selection
        tried = self.attempts[-1].candidate if self.attempts else None
        winner = consumed.candidate if consumed else tried
        return ReceiptRow(
            request_id=request.request_id,
            agent_id=request.caller.agent_id,
            correlation_id=request.correlation_id,
            hold_id=None,
            started_ns=self.started_ns,
            duration_us=(time.perf_counter_ns() - self.begun) // 1_000,
            model=request.call.model,
            provider=winner.provider if winner else None,
            policy=selection.policy if selection else None,
            stream=request.call.stream,
            outcome=outcome,
            http_status=http_status,
            error=error[:MAX_ERROR_TEXT] if error else None,
            prompt_tokens=consumed.usage.prompt_tokens if consumed else None,
            completion_tokens=consumed.usage.completion_tokens if consumed else None,
            estimated=consumed.estimated if consumed else False,
            expected_msat=winner.expected_msat if winner else None,
            cost_msat=consumed.cost_msat if consumed else 0,
            saved_median_msat=saved.median_msat if saved else None,
            saved_dearest_msat=saved.dearest_msat if saved else None,
            attempts=tuple([attempt.row() for attempt in self.attempts]),
            selection=_selection_json(selection) if selection else "{}",
            endpoint=request.call.endpoint,
            tier=selection.tier_of(winner.provider if winner else None) if selection else None,
            complexity_score=selection.complexity_score if selection else None,
            policy_header=request.policy,
            cached_tokens=consumed.usage.cached_tokens if consumed else None,
            upstream_model=winner.upstream_model or None if winner else None,
            latency_us=self._latency_us(),
            error_status=self._error_status(http_status) if outcome == "failed" else None,
            provider_cost_msat=consumed.usage.reported_cost_msat if consumed else None,
        )

    def _latency_us(self) -> int | None:
        """Of a stream until its provider began; None: as long as the whole took."""
        last = self.attempts[-1] if self.attempts and self.request.call.stream else None
        return None if last is None or last.ttfb_ns is None else (last.begun - self.begun + last.ttfb_ns) // 1_000

    def _error_status(self, http_status: int) -> int:
        last = self.attempts[-1] if self.attempts else None
        if last is None or not last.failed or last.http_status is None or last.http_status < 300:
            return http_status
        return last.http_status


_to_json = json.JSONEncoder(separators=(",", ":")).encode


def _selection_json(selection: Selection) -> str:
    return _to_json(
        {
            "strategy": selection.strategy,
            "candidates": [[one.provider, one.expected_msat] for one in selection.candidates],
            "left_out": [[one.provider, one.reason] for one in selection.left_out],
        }
    )
