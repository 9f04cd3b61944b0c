"""One provider's owner: who may send to it, how it has been doing, what readers see of it.

Decides by the breaker and by a bound on requests under way; knows nothing of HTTP. Handlers are plain functions: a
request costs two messages here, and neither waits for anything.
"""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import Final

import trio
from attrs import frozen

from actors import ActorDeadError, Reply, Timer, TrioActor
from arbstr.config import ProviderConfig
from arbstr.providers._breaker import Breaker, BreakerState, Outcome
from arbstr.providers._directory import Directory
from arbstr.providers._latency import LatencyStats
from arbstr.providers._messages import (
    Acquire,
    Check,
    Configure,
    Describe,
    Permit,
    ProviderView,
    Report,
    Retire,
    Shut,
)
from arbstr.providers._recent import Recent

PERMIT_LIFETIME_S: Final = 3_600.0
"""Longer than any answer takes; only a permit whose owner is lost lives to see it."""

PERMIT_GRACE_S: Final = 10.0
"""A request that ends by its total timeout still has to report."""

TTFB_CHANGE: Final = 0.05
"""A mean that moves by less is not published again: nobody's choice depends on it."""

CHECK_BOUND_S: Final = 60.0
"""A check bounds itself; this is for the case that it does not."""

_ERRORS: Final = frozenset((Outcome.PROVIDER_FAULT, Outcome.DENIED, Outcome.RATE_LIMITED))

_lives = count()
_TICKETS_PER_LIFE: Final = 1 << 40


@frozen
class _TimeToCheck:
    """To itself: the provider has been left alone for the interval."""

    opening: int


@frozen
class _Checked:
    """To itself: the check that was begun during that opening has come to an end."""

    opening: int
    answers: bool


class ProviderActor(TrioActor):
    """Hands out permits for one provider and judges it by the reports.

    Publishes a new ProviderView to the directory on each change that a reader can see: the configuration, the breaker,
    reaching or leaving ``max_concurrent``, a mean time to first byte that moved by more than 5 %. A restart starts with
    a closed breaker and fresh statistics; permits of the former life are unknown to it and their reports ignored.

    While the breaker is open, ``check`` is called every ``probe_interval_s`` seconds, in a task of its own; if it says
    True the open time ends, so that the next request is the probe. Not after a rate limit, for which the provider has
    named the time itself. When that probe fails the check was wrong (``/models`` is public at many providers, and the
    only thing that works at some), and the interval doubles until the breaker has closed.
    """

    # A tell of a Report must never be refused. At most max_concurrent permits are out (100,000 is the most that can be
    # configured) and at most as many Acquires wait as requests are in flight in this process: this is above both.
    inbox_capacity = 1 << 18

    def __init__(self, config: ProviderConfig, directory: Directory, check: Check | None = None) -> None:
        super().__init__()
        self._directory = directory
        self._check = check
        self._adopt(config)
        self._breaker = Breaker(
            failures=config.breaker_failures,
            open_s=config.breaker_open_s,
            denied_open_s=config.breaker_denied_open_s,
            first_ticket=next(_lives) * _TICKETS_PER_LIFE,
        )
        self._ttfb = LatencyStats()
        self._summary = self._ttfb.summary()  # as published: percentiles cost more than a report
        self._recent = Recent()
        self._last_error: str | None = None
        self._last_error_at: float | None = None
        # id -> when it expires. In this order too, except for some time after the lifetime was made shorter: those that
        # are then behind an older one are only taken back later.
        self._permits: dict[int, float] = {}
        self._former_key_to = 0  # the last permit with which another key was used
        self._probe_ends_at: float | None = None
        self._expired_permits = 0
        self._unknown_reports = 0
        self._opening = 0  # the last one that was seen
        self._check_timer: Timer | None = None
        self._checking = False
        self._check_was_believed = False  # it ended this open time
        self._wrong_checks = 0  # in this outage
        self._retired = False
        self._retiring: list[Reply] = []
        self._published = self._view()
        # Here and not in ``on_start``: whoever has started it finds it at once.
        directory.enlist(self._published, self.actor_ref)

    def _adopt(self, config: ProviderConfig) -> None:
        self._config = config
        total_s = config.total_timeout_s
        self._permit_s = PERMIT_LIFETIME_S if total_s is None else total_s + PERMIT_GRACE_S
        self._probe_s = config.connect_timeout_s + config.first_byte_timeout_s

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
            case Describe():
                return self._describe(now)
            case Configure():
                self._configure(message, now)
            case Retire():
                self._retire()
            case _TimeToCheck():
                self._begin_check(message, now)
            case _Checked():
                self._end_check(message, now)
            case _:
                name = type(message).__name__
                raise TypeError(f"a provider takes Acquire, Report, Describe, Configure and Retire, got {name}")
        return None

    def _acquire(self, now: float) -> Permit | Shut:
        self._expire(now)
        answer = self._admit(now)
        self._publish_if_changed()
        return answer

    def _admit(self, now: float) -> Permit | Shut:
        if self._retired:
            return Shut("removed", None)
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
        outcome = report.outcome
        if outcome is Outcome.DENIED and report.permit_id <= self._former_key_to:
            outcome = Outcome.ABANDONED  # it was the former key that was denied
        self._breaker.record(report.permit_id, outcome, now, report.retry_after_s, repeated=report.repeated)
        if outcome is not Outcome.ABANDONED:
            self._count(report, now)
        self._publish_if_changed()
        if self._retired:
            self._answer_if_retired()

    def _count(self, report: Report, now: float) -> None:
        outcome = report.outcome
        error = outcome in _ERRORS
        self._recent.record(now, error=error)
        if error:
            self._last_error, self._last_error_at = report.error or outcome.value, now
        elif outcome is Outcome.SUCCESS and report.ttfb_s is not None:
            self._ttfb.record(max(report.ttfb_s, 0.0))

    def _describe(self, now: float) -> ProviderView:
        self._expire(now)
        self._publish_if_changed()
        self._summary = self._ttfb.summary()
        return self._view()

    def _configure(self, message: Configure, now: float) -> None:
        config, former = message.config, self._config
        if config.name != former.name:
            raise ValueError(f"provider {former.name!r} cannot become provider {config.name!r}")
        self._adopt(config)
        self._check = message.check or self._check
        self._breaker.configure(
            failures=config.breaker_failures,
            open_s=config.breaker_open_s,
            denied_open_s=config.breaker_denied_open_s,
        )
        if config.api_key != former.api_key:
            self._wrong_checks = 0
            self._former_key_to = max(self._permits, default=0)
            if self._breaker.opened_by is Outcome.DENIED:
                self._breaker.end_open_time(now)
        self._plan_check(now)
        self._publish()

    def _retire(self) -> None:
        self._retired = True
        self._directory.withdraw(self._config.name, self.actor_ref)
        self._retiring.append(self.take_reply())
        self._answer_if_retired()

    def _answer_if_retired(self) -> None:
        if not self._permits:
            for reply in self._retiring:
                reply.set(None)
            self._retiring.clear()

    # Looking whether the provider is back

    def _follow_breaker(self, now: float) -> None:
        """It has changed."""
        breaker = self._breaker
        if breaker.openings != self._opening:
            self._opening = breaker.openings
            self._wrong_checks += self._check_was_believed
            self._check_was_believed = False
            self._plan_check(now)
        elif breaker.state is BreakerState.CLOSED:
            self._check_was_believed = False
            self._wrong_checks = 0

    def _plan_check(self, now: float) -> None:
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None
        interval_s = self._config.probe_interval_s
        if interval_s is not None and not self._checking:
            delay_s = math.ldexp(interval_s, min(self._wrong_checks, 16))
            if self._may_check(now + delay_s):
                self._check_timer = self.send_after(delay_s, _TimeToCheck(self._opening))

    def _may_check(self, at: float) -> bool:
        """There is something to gain by it, at that time as things stand now."""
        breaker = self._breaker
        return (
            self._check is not None
            and not self._retired
            and breaker.open_until is not None
            and breaker.open_until > at
            and breaker.opened_by is not Outcome.RATE_LIMITED
        )

    def _begin_check(self, due: _TimeToCheck, now: float) -> None:
        if due.opening == self._opening and not self._checking and self._may_check(now):
            assert self._check is not None
            self._checking = True
            self.spawn(self._run_check, self._check, self._opening)

    async def _run_check(self, check: Check, opening: int) -> None:
        answers = False
        with trio.move_on_after(CHECK_BOUND_S):
            answers = await check()
        with suppress(ActorDeadError):  # it is about to end, and this task with it
            await self.actor_ref.send(_Checked(opening, answers))

    def _end_check(self, checked: _Checked, now: float) -> None:
        self._checking = False
        if checked.answers and checked.opening == self._opening and self._may_check(now):
            self._breaker.end_open_time(now)
            self._check_was_believed = True
            self._publish_if_changed()
        else:
            self._plan_check(now)

    # Time, and what readers see

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
        if self._differs():
            self._follow_breaker(trio.current_time())
            self._publish()
        elif self._ttfb_moved():
            self._publish()

    def _publish(self) -> None:
        if self._ttfb_moved():
            self._summary = self._ttfb.summary()
        self._published = self._view()
        self._directory.publish(self._published, self.actor_ref)

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
        breaker, summary = self._breaker, self._summary
        return ProviderView(
            config=self._config,
            breaker_state=breaker.state,
            failure_count=breaker.failure_count,
            open_until=breaker.open_until,
            opened_by=breaker.opened_by,
            openings=breaker.openings,
            probing=breaker.probing,
            in_flight=len(self._permits),
            ttfb_ms=summary.mean_ms,
            ttfb_ms_p50=summary.p50_ms,
            ttfb_ms_p99=summary.p99_ms,
            recent=self._recent.counts(),
            last_error=self._last_error,
            last_error_at=self._last_error_at,
            expired_permits=self._expired_permits,
            unknown_reports=self._unknown_reports,
        )
