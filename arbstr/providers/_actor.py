"""One provider's owner: who may send to it, how it has been doing, what readers see of it.

Decides by the breaker and by a bound on requests under way; knows nothing of HTTP. Handlers are plain functions: a
request costs two messages here, and neither waits for anything.
"""

from __future__ import annotations

from itertools import count
from types import TracebackType
from typing import Final

import trio

from actors import TrioActor
from arbstr.config import ProviderConfig
from arbstr.providers._breaker import Breaker, Outcome
from arbstr.providers._directory import Directory
from arbstr.providers._latency import LatencyStats
from arbstr.providers._messages import Acquire, Describe, Permit, ProviderView, Report, Shut

PERMIT_LIFETIME_S: Final = 3_600.0
"""Longer than any answer takes; only a permit whose owner is lost lives to see it."""

PERMIT_GRACE_S: Final = 10.0
"""A request that ends by its total timeout still has to report."""

TTFB_CHANGE: Final = 0.05
"""A mean that moves by less is not published again: nobody's choice depends on it."""

_lives = count()
_TICKETS_PER_LIFE: Final = 1 << 40


class ProviderActor(TrioActor):
    """Hands out permits for one provider and judges it by the reports.

    Publishes a new ProviderView to the directory on each change that a reader can see: the breaker, reaching or
    leaving ``max_concurrent``, a mean time to first byte that moved by more than 5 %. A restart starts with a closed
    breaker and fresh statistics; permits of the former life are unknown to it and their reports ignored.
    """

    # A tell of a Report must never be refused. At most max_concurrent permits are out (100,000 is the most that can be
    # configured) and at most as many Acquires wait as requests are in flight in this process: this is above both.
    inbox_capacity = 1 << 18

    def __init__(self, config: ProviderConfig, directory: Directory) -> None:
        super().__init__()
        self._config = config
        self._directory = directory
        self._breaker = Breaker(
            failures=config.breaker_failures,
            open_s=config.breaker_open_s,
            first_ticket=next(_lives) * _TICKETS_PER_LIFE,
        )
        self._ttfb = LatencyStats()
        self._summary = self._ttfb.summary()  # as published: percentiles cost more than a report
        self._permits: dict[int, float] = {}  # id -> when it expires; all live equally long, so in this order too
        self._probe_ends_at: float | None = None
        self._expired_permits = 0
        self._unknown_reports = 0
        total_s = config.total_timeout_s
        self._permit_s = PERMIT_LIFETIME_S if total_s is None else total_s + PERMIT_GRACE_S
        self._probe_s = config.connect_timeout_s + config.first_byte_timeout_s
        self._published = self._view()
        directory.enlist(self._published, self.actor_ref)

    def on_start(self) -> None:
        # Again, for the case that this is a restart and the ref of the constructor was not the one that lasts.
        self._directory.enlist(self._published, self.actor_ref)

    def on_stop(self) -> None:
        self._directory.withdraw(self._config.name, self.actor_ref)

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._directory.withdraw(self._config.name, self.actor_ref)

    def on_receive(self, message: object) -> Permit | Shut | ProviderView | None:
        now = trio.current_time()
        match message:
            case Acquire():
                return self._acquire(now)
            case Report():
                self._report(message, now)
                return None
            case Describe():
                self._expire(now)
                self._publish_if_changed()
                self._summary = self._ttfb.summary()
                return self._view()
        raise TypeError(f"a provider takes Acquire, Report and Describe, got {type(message).__name__}")

    def _acquire(self, now: float) -> Permit | Shut:
        self._expire(now)
        answer = self._admit(now)
        self._publish_if_changed()
        return answer

    def _admit(self, now: float) -> Permit | Shut:
        refused = self._breaker.refusal(now)
        if refused is not None:
            return Shut(refused.reason or "", refused.retry_after_s)
        # The bound comes before the admission: one that is then not used would have to be taken back.
        if len(self._permits) >= self._config.max_concurrent:
            return Shut("busy", None)
        admission = self._breaker.admit(now)
        self._permits[admission.ticket] = now + self._permit_s
        if admission.probe:
            self._probe_ends_at = now + self._probe_s
        return Permit(admission.ticket, admission.probe)

    def _report(self, report: Report, now: float) -> None:
        if self._permits.pop(report.permit_id, None) is None:
            self._unknown_reports += 1
            return
        self._breaker.record(report.permit_id, report.outcome, now, report.retry_after_s)
        if report.outcome is Outcome.SUCCESS and report.ttfb_s is not None:
            self._ttfb.record(max(report.ttfb_s, 0.0))
        self._publish_if_changed()

    def _expire(self, now: float) -> None:
        """Take back what a lost owner will not give back."""
        if self._breaker.probing and self._probe_ends_at is not None and now >= self._probe_ends_at:
            # Only the right to probe: the request itself may be a long stream and still counts as under way.
            self._breaker.release_probe()
        while self._permits:
            oldest, expires_at = next(iter(self._permits.items()))
            if now < expires_at:
                break
            del self._permits[oldest]
            self._expired_permits += 1
            self._breaker.record(oldest, Outcome.ABANDONED, now)

    def _publish_if_changed(self) -> None:
        moved = self._ttfb_moved()
        if moved:
            self._summary = self._ttfb.summary()
        if moved or self._differs():
            self._published = self._view()
            self._directory.publish(self._published)

    def _differs(self) -> bool:
        shown, breaker = self._published, self._breaker
        return (
            shown.breaker_state is not breaker.state
            or shown.failure_count != breaker.failure_count
            or shown.open_until != breaker.open_until
            or shown.probing != breaker.probing
            or shown.busy != (len(self._permits) >= self._config.max_concurrent)
        )

    def _ttfb_moved(self) -> bool:
        shown_ms, mean_ms = self._published.ttfb_ms, self._ttfb.mean_ms
        if shown_ms is None or mean_ms is None:
            return shown_ms is not mean_ms
        return abs(mean_ms - shown_ms) > TTFB_CHANGE * shown_ms

    def _view(self) -> ProviderView:
        config, breaker = self._config, self._breaker
        return ProviderView(
            name=config.name,
            url=config.url,
            models=config.models,
            any_model=config.any_model,
            price=config.price,
            tier=config.tier,
            breaker_state=breaker.state,
            failure_count=breaker.failure_count,
            open_until=breaker.open_until,
            probing=breaker.probing,
            in_flight=len(self._permits),
            max_concurrent=config.max_concurrent,
            ttfb_ms=self._summary.mean_ms,
            has_key=config.api_key is not None,
            masked_key=config.api_key.masked() if config.api_key is not None else None,
            ttfb_ms_p50=self._summary.p50_ms,
            ttfb_ms_p99=self._summary.p99_ms,
            expired_permits=self._expired_permits,
            unknown_reports=self._unknown_reports,
            config=config,
        )
