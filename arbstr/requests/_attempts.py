"""Walking the plan: each candidate is covered by the hold, asked for a permit, tried, and told how it went.

Every permit goes back, in every path. Whose fault a failure is, and whether the same provider may be asked again, is
decided here; what to do with an answer that is one (2xx) is not.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import trio
from attrs import frozen

from actors import ActorDeadError, AskTimeout, InboxFull, TrioActorRef
from arbstr.errors import (
    ArbstrError,
    BillingRefused,
    DeadlineExceeded,
    NoProviderAvailable,
    ProviderFailed,
    UpstreamRejected,
)
from arbstr.providers import Acquire, Outcome, Permit, Report, Shut, Upstream, UpstreamAnswer, UpstreamFailure
from arbstr.requests._context import RequestContext
from arbstr.requests._plan import Plan, Wait
from arbstr.requests._purse import Purse
from arbstr.requests._record import Attempt, Record
from arbstr.routing import Candidate, Selection
from arbstr.wire import observe_chunk

logger = logging.getLogger(__name__)

T = TypeVar("T")

PERMIT_DEADLINE_S = 5.0
MAX_ERROR_BYTES = 64 << 10
ERROR_BODY_S = 5.0
"""For the body of a refusal; the status says enough, and the next candidate may be waiting."""

_CLIENT_FAULTS = frozenset({400, 413, 422})
"""And 404 with an error body: the model. Statuses about HTTP itself (405, 415, ...) speak of how we were configured."""
_DENIALS = frozenset({401, 402, 403})
_PASSING_FAULTS = frozenset({408, 409, 429})
"""And 5xx: the same request may go well at the same provider a little later."""
_UNREACHED = frozenset({"connect", "connect_timeout"})
_HARMLESS_FAILURES = frozenset({"connect", "connect_timeout", "reset"})
"""Ways to get no answer, after which the same provider may be asked again. After the others it may have done the work:
its time was over, or its answer had begun."""


@frozen
class Missed(Exception):
    """An attempt came to nothing. ``error`` is what the client hears if nobody else does better.

    ``again``: the same provider may be asked once more. Never after a 2xx: it may have billed.
    """

    text: str
    error: ArbstrError
    outcome: Outcome = Outcome.PROVIDER_FAULT
    again: bool = False


@frozen
class _Admission:
    """A permit, to whom it goes back, and the way out it is for."""

    ref: TrioActorRef[Any]
    permit: Permit
    upstream: Upstream


class Attempts(Generic[T]):
    """The attempts of one request. ``take`` makes something of a 2xx, or raises Missed.

    ``over`` says after a failure that nobody else may try: the client has had something, or has left. ``late`` says of
    an attempt that was cancelled that it has used up the time of the request: that is the provider's fault.
    """

    def __init__(
        self,
        context: RequestContext,
        record: Record,
        purse: Purse,
        take: Callable[[Attempt, UpstreamAnswer], Awaitable[T]],
        over: Callable[[], bool],
        late: Callable[[Attempt], bool],
    ) -> None:
        self._context = context
        self._record = record
        self._request = record.request
        self._purse = purse
        self._take = take
        self._over = over
        self._late = late
        self.under_way: Candidate | None = None
        """Who is at work on the request, as far as we know."""

    async def run(self, selection: Selection, plan: Plan) -> T:
        """Try them as planned, until one answers. Raises the error of the last that failed, BillingRefused when nobody
        could be paid, NoProviderAvailable when nobody had room; and at once what is the request's own fault.
        """
        failure: ArbstrError | None = None
        refusal: BillingRefused | None = None
        shut: list[Shut] = []
        while (step := plan.next(trio.current_time())) is not None:
            if isinstance(step, Wait):
                await trio.sleep(step.seconds)
                continue
            candidate = selection.candidates[step]
            try:
                await self._purse.cover(candidate, candidate.bound_msat)
            except BillingRefused as refused:
                refusal = refusal or refused
                continue
            admission = await self._admission(candidate)
            if isinstance(admission, Shut):
                shut.append(admission)
                plan.shut(step)
                continue
            try:
                return await self._try(candidate, admission)
            except Missed as missed:
                failure = missed.error
                if self._over():
                    break
                if missed.again:
                    retry_after_s = self._record.attempts[-1].retry_after_s
                    plan.failed(step, trio.current_time(), retry_after_s)
        # Who could be paid and only had no room is worth asking again; 402 says that nobody could be paid.
        raise failure or (_nobody(self._request.call.model, shut) if shut or refusal is None else refusal)

    async def _admission(self, candidate: Candidate) -> _Admission | Shut:
        """Ask the provider's actor to admit the attempt.

        No permit is lost to a cancellation: the actor answers in one step, and either skips what somebody asked who has
        been cancelled, or its answer has come before the cancellation, which then waits for the next checkpoint.
        """
        message = Acquire(self._request.request_id)
        try:
            ref = self._context.directory.ref(candidate.provider)
            permit: Permit | Shut = await ref.request(message, timeout_s=PERMIT_DEADLINE_S)
        except KeyError:  # taken out of the configuration since it was chosen
            return Shut("gone", None)
        except (ActorDeadError, AskTimeout, InboxFull) as error:
            logger.error("provider %s gives no permit: %r", candidate.provider, error)
            return Shut("no_answer", None)
        if isinstance(permit, Shut):
            return permit
        try:
            return _Admission(ref, permit, self._context.upstream(candidate.provider))
        except KeyError:  # taken out of the configuration since it was chosen
            self._give_back(ref, Report(permit.id, Outcome.ABANDONED))
            return Shut("gone", None)

    async def _try(self, candidate: Candidate, admission: _Admission) -> T:
        attempt = Attempt(candidate)
        self.under_way = candidate
        try:
            self._record.attempts.append(attempt)
            answer = await self._send(candidate, admission.upstream)
            try:
                attempt.http_status = answer.status
                attempt.retry_after_s = answer.retry_after_s
                if not 200 <= answer.status < 300:
                    raise await self._judge(attempt, answer)
                return await self._take(attempt, answer)
            finally:
                await answer.aclose()
        except (Missed, UpstreamFailure) as failure:
            missed = failure if isinstance(failure, Missed) else _without_answer(attempt, failure)
            attempt.outcome = missed.outcome
            attempt.error = missed.text
            raise missed from None
        finally:
            self.under_way = None
            attempt.end()
            if attempt.outcome is Outcome.ABANDONED and self._late(attempt):
                attempt.outcome, attempt.error = Outcome.PROVIDER_FAULT, "cut at the deadline of the request"
            repeated = attempt.failed and self._record.has_failed_before(attempt)
            self._give_back(admission.ref, attempt.report(admission.permit.id, repeated=repeated))

    async def _send(self, candidate: Candidate, upstream: Upstream) -> UpstreamAnswer:
        request = self._request
        return await upstream.send(
            request.call.endpoint,
            request.call.upstream_body(candidate.upstream_model or None),
            stream=request.call.stream,
            request_id=request.request_id,
            correlation_id=request.correlation_id,
            traceparent=request.traceparent,
        )

    def _give_back(self, ref: TrioActorRef[Any], report: Report) -> None:
        try:
            ref.tell(report)
        except (ActorDeadError, InboxFull) as error:
            logger.error("a provider does not take its permit back: %r", error)

    async def _judge(self, attempt: Attempt, answer: UpstreamAnswer) -> Missed | UpstreamRejected:
        """What an answer that is not 2xx means: the request's fault ends it, anything else is the provider's."""
        attempt.first_byte()
        status, provider = answer.status, attempt.candidate.provider
        body = b""
        with trio.move_on_after(ERROR_BODY_S), suppress(UpstreamFailure):  # the status stands without it
            body = await answer.read(MAX_ERROR_BYTES)
        text, message = f"status {status}", f"Provider error: {provider} answered with status {status}"
        if status in _CLIENT_FAULTS or (status == 404 and observe_chunk(body).error):
            attempt.outcome, attempt.error = Outcome.CLIENT_FAULT, text
            return UpstreamRejected(
                f"Provider {provider} rejected the request with status {status}",
                status=status,
                provider=provider,
                body=body,
            )
        if status in _DENIALS:
            return Missed(text, ProviderFailed(message), Outcome.DENIED)
        if status == 429:
            error = ProviderFailed(message, status=429, reason="rate_limited", retry_after_s=answer.retry_after_s)
            return Missed(text, error, Outcome.RATE_LIMITED, again=True)
        return Missed(text, ProviderFailed(message), again=status >= 500 or status in _PASSING_FAULTS)


def _without_answer(attempt: Attempt, failure: UpstreamFailure) -> Missed:
    provider = attempt.candidate.provider
    message = f"Provider error: {provider}: {failure.detail}"
    if failure.kind in _UNREACHED:
        message = f"Provider error: Failed to reach provider {provider}: {failure.detail}"
    error: ArbstrError = ProviderFailed(message)
    if failure.kind in ("connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout"):
        error = DeadlineExceeded(message, reason="provider_timeout")
    return Missed(failure.kind, error, again=attempt.http_status is None and failure.kind in _HARMLESS_FAILURES)


def _nobody(model: str, shut: Sequence[Shut]) -> NoProviderAvailable:
    waits_s = [1.0 if one.retry_after_s is None else one.retry_after_s for one in shut]
    return NoProviderAvailable(
        f"All providers of model {model[:200]!r} have open circuits or are busy",
        retry_after_s=min(waits_s, default=1.0),
    )
