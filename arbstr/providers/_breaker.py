"""The circuit breaker of one provider: a pure state machine.

Takes times and outcomes, returns admissions; knows no clock, no actor, no HTTP. Times are seconds of one monotonic
clock, always passed in, never decreasing.

A *ticket* is the number of one admission. Every opening makes all tickets handed out so far **stale**: what they
report later says how the provider was before the breaker opened, so it can neither close nor reopen anything.
``_ON_REPORT`` below is the whole behaviour for reports; ``admit`` is the only way from open to half-open.

    closed     --failures reach the threshold, a denial, or a rate limit-->  open
    open       --first admission after ``open_until``-->                     half_open, that admission is the probe
    half_open  --probe succeeds, or fails by the client's fault-->           closed
    half_open  --probe fails, is denied, or meets a rate limit-->            open
    half_open  --probe abandoned or its time is over-->                      half_open, the next admission is the probe

Rules that the table states in short, and two that it does not:

* Faults count when they are in a row in the order of admission. One that is still under way ends the row: it may be
  the success that comes late.
* One request counts once, however often it is tried here: a fault that it has reported before is not counted again.
  The probe's is: it was sent to find out.
* A fault or a denial reported while open or half-open by a stale ticket only adds to the count: the opening time is
  not moved, or requests that were under way when the provider died would shut it for as long as their slowest timeout.
* A success reported by a stale ticket changes nothing, not even the count.
* A rate limit is the provider's own word about when to come back: it opens at once, for that time, and is no failure;
  while open it can make the time longer, never shorter.
* A denial is about us and not about the request: the next one would be denied as well. It opens at once, for a time of
  its own.
* A client's fault proves that the provider answers: it resolves a probe as healthy. While closed it is neutral, since
  a rejected request says nothing about whether the next one would be generated.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from typing import Final

from attrs import frozen

MIN_RATE_LIMIT_S: Final = 1.0
"""A shorter ``Retry-After`` (0 is common) would only make the next refusal certain."""

MAX_RATE_LIMIT_S: Final = 600.0
"""A longer ``Retry-After`` is not believed: one odd answer must not remove a provider for a day."""

_REMEMBERED: Final = 1_000
"""Tickets that did not succeed; a row of faults is much shorter."""

NO_TICKET: Final = 0
"""No admission ever has this number."""


class BreakerState(StrEnum):
    """The words of ``/health``."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Outcome(StrEnum):
    """What one admitted request says about the provider."""

    SUCCESS = "success"
    CLIENT_FAULT = "client_fault"
    """The provider answered that the request itself is wrong (400, 404, 413, 422)."""
    PROVIDER_FAULT = "provider_fault"
    RATE_LIMITED = "rate_limited"
    DENIED = "denied"
    """It refuses us and not the request: our key, our balance there, our address (401, 402, 403)."""
    ABANDONED = "abandoned"
    """The client went away or we gave up: says nothing about the provider."""


class _Move(Enum):
    KEEP = auto()
    RESET = auto()  # count to 0
    COUNT = auto()  # count; open when the threshold is reached
    TALLY = auto()  # count, nothing else
    LOCK_OUT = auto()  # count and open for the time of a denial
    CLOSE = auto()
    REOPEN = auto()  # count and open for the usual time
    SHUT_OUT = auto()  # open for as long as the provider asks
    EXTEND = auto()  # stay open for at least as long as the provider asks


_CURRENT, _STALE = False, True

_ON_REPORT: Final[dict[tuple[BreakerState, bool], dict[Outcome, _Move]]] = {
    # Outcomes that are not listed are KEEP.
    (BreakerState.CLOSED, _CURRENT): {
        Outcome.SUCCESS: _Move.RESET,
        Outcome.PROVIDER_FAULT: _Move.COUNT,
        Outcome.DENIED: _Move.LOCK_OUT,
        Outcome.RATE_LIMITED: _Move.SHUT_OUT,
    },
    (BreakerState.CLOSED, _STALE): {},
    (BreakerState.OPEN, _STALE): {
        Outcome.PROVIDER_FAULT: _Move.TALLY,
        Outcome.DENIED: _Move.TALLY,
        Outcome.RATE_LIMITED: _Move.EXTEND,
    },
    (BreakerState.HALF_OPEN, _CURRENT): {
        Outcome.SUCCESS: _Move.CLOSE,
        Outcome.CLIENT_FAULT: _Move.CLOSE,
        Outcome.PROVIDER_FAULT: _Move.REOPEN,
        Outcome.DENIED: _Move.LOCK_OUT,
        Outcome.RATE_LIMITED: _Move.SHUT_OUT,
    },
    (BreakerState.HALF_OPEN, _STALE): {
        Outcome.PROVIDER_FAULT: _Move.TALLY,
        Outcome.DENIED: _Move.TALLY,
    },
}
# (OPEN, current) cannot be: an opening makes every ticket stale, and open admits nobody.

_IF_REPEATED: Final = {_Move.COUNT: _Move.KEEP, _Move.TALLY: _Move.KEEP}
"""What becomes of a move when the same request has reported a fault here before. What only a probe can cause stays."""


@frozen
class Admission:
    """The answer to ``admit``. Refused when ``reason`` is set: ``breaker_open`` or ``probing``."""

    ticket: int
    """Unique and rising within one breaker; 0 when refused."""
    probe: bool = False
    reason: str | None = None
    retry_after_s: float | None = None
    """Refused only: seconds until it is worth asking again, when that is known."""

    @property
    def admitted(self) -> bool:
        return self.reason is None


class Breaker:
    """Closed, open or half-open. See the module for the rules.

    ``failures`` consecutive faults open it for ``open_s`` seconds, one denial for ``denied_open_s`` (when not given:
    ``open_s``). Tickets start after ``first_ticket``, so that a successor of this breaker can be told apart from it.
    """

    __slots__ = (
        "_decided",
        "_denied_open_s",
        "_failures",
        "_last_ticket",
        "_open_s",
        "_open_until",
        "_opened_by",
        "_openings",
        "_probe",
        "_stale_to",
        "_state",
        "_threshold",
    )

    def __init__(
        self, *, failures: int, open_s: float, denied_open_s: float | None = None, first_ticket: int = NO_TICKET
    ) -> None:
        self.configure(failures=failures, open_s=open_s, denied_open_s=denied_open_s)
        self._state = BreakerState.CLOSED
        self._opened_by: Outcome | None = None
        self._openings = 0
        self._failures = 0
        self._open_until: float | None = None
        self._probe: int | None = None
        self._last_ticket = first_ticket
        self._stale_to = first_ticket
        self._decided: dict[int, bool] = {}  # tickets that did not succeed: whether by the provider's fault

    def configure(self, *, failures: int, open_s: float, denied_open_s: float | None = None) -> None:
        """Take other numbers from now on: for the next fault, and the next opening. What has happened stays.

        Raises ValueError, and then nothing has changed.
        """
        denied_open_s = open_s if denied_open_s is None else denied_open_s
        if failures < 1:
            raise ValueError(f"a breaker needs at least one failure to open, got {failures}")
        for time_s in (open_s, denied_open_s):
            if not time_s > 0:
                raise ValueError(f"a breaker must stay open for a positive time, got {time_s}")
        self._threshold, self._open_s, self._denied_open_s = failures, open_s, denied_open_s

    @property
    def state(self) -> BreakerState:
        """The state of record: open stays open until somebody asks for admission after ``open_until``."""
        return self._state

    @property
    def failure_count(self) -> int:
        """Consecutive faults; goes on above the threshold while open, 0 after a success."""
        return self._failures

    @property
    def open_until(self) -> float | None:
        """The time from which a probe is admitted; None unless open."""
        return self._open_until

    @property
    def opened_by(self) -> Outcome | None:
        """What opened it: PROVIDER_FAULT, DENIED or RATE_LIMITED; None when closed."""
        return self._opened_by

    @property
    def openings(self) -> int:
        """How often it has opened so far."""
        return self._openings

    @property
    def probing(self) -> bool:
        """A probe is out, so nobody else is admitted."""
        return self._probe is not None

    def refusal(self, now: float) -> Admission | None:
        """What ``admit`` would refuse with at this moment, or None when it would admit. Changes nothing."""
        if self._open_until is not None and now < self._open_until:
            return Admission(NO_TICKET, reason="breaker_open", retry_after_s=self._open_until - now)
        if self._probe is not None:
            return Admission(NO_TICKET, reason="probing")
        return None

    def admit(self, now: float) -> Admission:
        """Admit a request or refuse it at once; never makes anybody wait."""
        refused = self.refusal(now)
        if refused is not None:
            return refused
        self._last_ticket += 1
        if self._state is BreakerState.CLOSED:
            return Admission(self._last_ticket)
        self._state = BreakerState.HALF_OPEN
        self._open_until = None
        self._probe = self._last_ticket
        return Admission(self._last_ticket, probe=True)

    def record(
        self, ticket: int, outcome: Outcome, now: float, retry_after_s: float | None = None, *, repeated: bool = False
    ) -> None:
        """Take the report for ``ticket``. The caller sees to it that each ticket reports at most once.

        ``retry_after_s`` matters for RATE_LIMITED only: seconds, bounded to 1 s .. 10 min, ``open_s`` when absent.
        ``repeated``: the same request has failed here before, with another ticket.
        """
        if ticket == self._probe:
            self._probe = None
        move = _ON_REPORT[self._state, ticket <= self._stale_to].get(outcome, _Move.KEEP)
        if repeated:
            move = _IF_REPEATED.get(move, move)
        match move:
            case _Move.KEEP:
                if outcome is not Outcome.SUCCESS:
                    self._note(ticket, fault=False)
            case _Move.RESET:
                self._failures = 0
            case _Move.COUNT:
                self._note(ticket, fault=True)
                self._failures = self._in_a_row(ticket)
                if self._failures >= self._threshold:
                    self._open(now + self._open_s, outcome)
            case _Move.TALLY:
                self._failures += 1
            case _Move.CLOSE:
                self._close()
            case _Move.REOPEN:
                self._failures += 1
                self._open(now + self._open_s, outcome)
            case _Move.LOCK_OUT:
                self._failures += 1
                self._open(now + self._denied_open_s, outcome)
            case _Move.SHUT_OUT:
                self._open(now + self._rate_limit_s(retry_after_s), outcome)
            case _Move.EXTEND:
                self._extend(now + self._rate_limit_s(retry_after_s), outcome)

    def end_open_time(self, now: float) -> None:
        """Let the next admission be the probe: there is a sign that the provider is back."""
        if self._open_until is not None:
            self._open_until = min(self._open_until, now)

    def release_probe(self) -> None:
        """Let the next admission probe, without a judgement: the present probe's time is over.

        Its ticket may still report, and while the breaker is half-open that report is believed: the request did start
        after the opening.
        """
        self._probe = None

    def _note(self, ticket: int, *, fault: bool) -> None:
        self._decided[ticket] = fault
        if len(self._decided) > _REMEMBERED:
            del self._decided[next(iter(self._decided))]

    def _in_a_row(self, ticket: int) -> int:
        """Faults next to each other in the order of admission, this one among them; neutral ones between do not count.

        Not in the order of the reports: under load faults come back at once and successes late, so that the few faults
        of a provider that is nearly always right would look like an unbroken row.
        """
        faults = 1
        for step in (-1, 1):
            neighbour = ticket + step
            while neighbour in self._decided:
                faults += self._decided[neighbour]
                neighbour += step
        return faults

    def _open(self, until: float, by: Outcome) -> None:
        self._decided.clear()
        self._state = BreakerState.OPEN
        self._opened_by = by
        self._openings += 1
        self._open_until = until
        self._probe = None
        self._stale_to = self._last_ticket

    def _extend(self, until: float, by: Outcome) -> None:
        assert self._open_until is not None
        if until > self._open_until:
            self._open_until, self._opened_by = until, by

    def _close(self) -> None:
        self._state = BreakerState.CLOSED
        self._opened_by = None
        self._open_until = None
        self._probe = None
        self._failures = 0

    def _rate_limit_s(self, retry_after_s: float | None) -> float:
        if retry_after_s is None or retry_after_s != retry_after_s:  # absent or not a number
            return self._open_s
        return min(max(retry_after_s, MIN_RATE_LIMIT_S), MAX_RATE_LIMIT_S)
