"""One request from the choice of a provider to the answer: attempts in order, the relay of a stream, one settlement.

Each attempt is covered by the hold before it begins and gives its permit back in every path. The books are closed
exactly once, shielded from cancellation, with what is known at that moment.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Literal, NoReturn

import trio
from attrs import define, frozen

from actors import ActorDeadError, AskTimeout, InboxFull, TrioActorRef
from arbstr.errors import (
    ArbstrError,
    BillingRefused,
    DeadlineExceeded,
    LedgerUnavailable,
    NoProviderAvailable,
    ProviderFailed,
    UpstreamRejected,
)
from arbstr.providers import Acquire, Outcome, Permit, Report, Shut, UpstreamAnswer, UpstreamFailure
from arbstr.requests._context import RequestContext
from arbstr.requests._interface import ChatRequest, ClientGone, PlainAnswer, Responder
from arbstr.requests._purse import Purse
from arbstr.requests._record import Attempt, Consumption, Record
from arbstr.requests._relay import StreamRelay, estimated_tokens
from arbstr.routing import Candidate, Demand, Saved, demand_of, savings, select
from arbstr.wire import EventTooLarge, Usage, error_body, error_event, observe_chunk, with_member

logger = logging.getLogger(__name__)

PERMIT_DEADLINE_S = 5.0
MAX_ANSWER_BYTES = 64 << 20
MAX_ERROR_BYTES = 64 << 10
CLOSE_BOUND_S = 15.0
"""For closing the books while everything else is being cancelled."""
DRAIN_BOUND_S = 0.25
"""After the end of a stream, for the connection to become reusable; nobody waits for it."""
HEADROOM_TOKENS = 64
"""How far before the cap a growing stream asks for more."""

_CLIENT_FAULTS = frozenset({400, 405, 406, 411, 413, 414, 415, 416, 422, 431})

_Verdict = Literal["success", "client_fault", "provider_fault", "rate_limited"]


@frozen
class _NextCandidate(Exception):
    """This attempt came to nothing and the client has seen nothing of it."""

    error: ArbstrError


@frozen
class _StreamBroke(Exception):
    """The stream failed after the client had seen its beginning."""

    outcome: str
    error: ArbstrError


@define(eq=False)
class _Ending:
    """How the request ends, as far as it is known."""

    outcome: str = "failed"
    http_status: int = 500
    error: str | None = None


class RequestLife:
    """Run it once. What happened is in the receipt."""

    def __init__(self, context: RequestContext, request: ChatRequest, responder: Responder, purse: Purse) -> None:
        self._context = context
        self._request = request
        self._responder = responder
        self._purse = purse
        self._record = Record(request)
        self._demand: Demand = demand_of(
            request.call, default_reserve_tokens=context.default_reserve_tokens, policy=request.policy
        )
        self._delivered: Consumption | None = None
        self._relay: StreamRelay | None = None
        self._attempt: Attempt | None = None
        self._stream_started = False
        self._hold_is_final = False
        self._closed = False
        self._settled: bool = False
        self._saved: Saved | None = None

    async def run(self) -> PlainAnswer | None:
        """Answer the request: the whole answer, or None when it went out through the responder.

        Errors become answers here, since only here is known what was tried. Raises nothing but what is a defect, and
        Cancelled, then with the books still open: call ``abandon``.
        """
        try:
            return await self._answer()
        except _StreamBroke as broke:
            await self._end_stream_with(broke)
            return None
        except ClientGone:
            await self._close("client_disconnected", 499, "the client closed its connection")
            return None
        except ArbstrError as error:
            await self._close("failed", error.status, error.message)
            return self._refusal(error)

    async def abandon(self, outcome: str, error: str) -> None:
        """Close the books of a request that was cancelled or crashed. Harmless when they are closed."""
        await self._close(outcome, 499, error)

    def renew(self) -> None:
        """Tell the account that this request lives, and what it has consumed."""
        if not self._closed:
            consumed = self._consumed()
            self._purse.renew(consumed.cost_msat if consumed else 0)

    # The attempts

    async def _answer(self) -> PlainAnswer | None:
        context = self._context
        selection = select(
            self._demand,
            context.offers(),
            context.policies,
            now=trio.current_time(),
            rotation=context.next_rotation(),
        )
        self._record.selection = selection
        failure: ArbstrError | None = None
        refusal: BillingRefused | None = None
        for candidate in selection.candidates:
            try:
                await self._purse.cover(candidate, candidate.bound_msat)
            except BillingRefused as refused:
                refusal = refusal or refused
                continue
            permit = await self._permit(candidate)
            if permit is None:
                continue
            try:
                return await self._try(candidate, *permit)
            except _NextCandidate as missed:
                failure = missed.error
        raise (
            failure
            or refusal
            or NoProviderAvailable(
                f"All providers of model {self._request.call.model!r} have open circuits or are busy", retry_after_s=1
            )
        )

    async def _permit(self, candidate: Candidate) -> tuple[TrioActorRef, Permit] | None:  # type: ignore[type-arg]  # any provider actor
        """Ask the provider's actor to admit the attempt. None: not now."""
        try:
            ref = self._context.directory.ref(candidate.provider)
            answer = await ref.request(Acquire(self._request.request_id), timeout_s=PERMIT_DEADLINE_S)
        except (KeyError, ActorDeadError, AskTimeout, InboxFull) as error:
            logger.error("provider %s gives no permit: %r", candidate.provider, error)
            return None
        if isinstance(answer, Shut):
            return None
        assert isinstance(answer, Permit)
        return ref, answer

    async def _try(
        self,
        candidate: Candidate,
        ref: TrioActorRef,  # type: ignore[type-arg]  # any provider actor
        permit: Permit,
    ) -> PlainAnswer | None:
        attempt = Attempt(candidate)
        self._record.attempts.append(attempt)
        self._attempt = attempt
        verdict = Outcome.ABANDONED
        retry_after_s = None
        try:
            answer = await self._call(candidate)
            try:
                attempt.http_status = answer.status
                retry_after_s = answer.retry_after_s
                result = await self._take(candidate, attempt, answer)
                verdict = Outcome.SUCCESS
                return result
            finally:
                await answer.aclose()
        except UpstreamFailure as failure:
            verdict = Outcome.PROVIDER_FAULT
            self._fail(attempt, failure.kind, self._failed_upstream(candidate, failure))
        except UpstreamRejected:
            verdict = Outcome.CLIENT_FAULT
            attempt.outcome = "client_fault"
            raise
        except _NextCandidate:
            verdict = Outcome.RATE_LIMITED if attempt.http_status == 429 else Outcome.PROVIDER_FAULT
            raise
        except _StreamBroke as broke:
            verdict = Outcome.PROVIDER_FAULT if broke.outcome == "stream_incomplete" else Outcome.SUCCESS
            raise
        finally:
            attempt.ended = attempt.begun + attempt.duration_ns()
            ttfb_s = None if attempt.ttfb_ns is None else attempt.ttfb_ns / 1e9
            report = Report(permit.id, verdict, ttfb_s, attempt.duration_ns() / 1e9, retry_after_s)
            try:
                ref.tell(report)
            except (ActorDeadError, InboxFull) as error:
                logger.error("provider %s does not take its permit back: %r", candidate.provider, error)

    async def _call(self, candidate: Candidate) -> UpstreamAnswer:
        request = self._request
        upstream = self._context.upstreams[candidate.provider]
        return await upstream.chat(
            request.call.upstream_body(),
            stream=request.call.stream,
            request_id=request.request_id,
            correlation_id=request.correlation_id,
            traceparent=request.traceparent,
        )

    async def _take(self, candidate: Candidate, attempt: Attempt, answer: UpstreamAnswer) -> PlainAnswer | None:
        if not 200 <= answer.status < 300:
            await self._reject(candidate, attempt, answer)
        if self._request.call.stream:
            await self._relay_stream(candidate, attempt, answer)
            return None
        return await self._take_plain(candidate, attempt, answer)

    async def _reject(self, candidate: Candidate, attempt: Attempt, answer: UpstreamAnswer) -> NoReturn:
        """An answer that is not 2xx: the request's fault ends it, anything else is the provider's."""
        status = answer.status
        try:
            body = await answer.read(MAX_ERROR_BYTES)
        except UpstreamFailure:
            body = b""
        attempt.first_byte()
        if status in _CLIENT_FAULTS or (status == 404 and observe_chunk(body).error):
            raise UpstreamRejected(
                f"Provider {candidate.provider} rejected the request with status {status}",
                status=status,
                provider=candidate.provider,
                body=body,
            )
        limited = status == 429
        self._fail(
            attempt,
            f"status {status}",
            ProviderFailed(
                f"Provider error: {candidate.provider} answered with status {status}",
                status=429 if limited else 502,
                reason="rate_limited" if limited else "provider_failed",
                retry_after_s=answer.retry_after_s if limited else None,
            ),
            "rate_limited" if limited else "provider_fault",
        )

    def _fail(self, attempt: Attempt, text: str, error: ArbstrError, verdict: _Verdict = "provider_fault") -> NoReturn:
        """End an attempt that gave nothing usable: on to the next, or the end of a stream that had begun."""
        attempt.outcome = verdict
        attempt.error = text
        if self._stream_started:
            raise _StreamBroke("stream_incomplete", error)
        self._relay = None  # nothing of it reached the client, so nothing of it is charged
        raise _NextCandidate(error)

    @staticmethod
    def _failed_upstream(candidate: Candidate, failure: UpstreamFailure) -> ArbstrError:
        message = f"Provider error: {candidate.provider}: {failure.detail}"
        if failure.kind in ("connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout"):
            return DeadlineExceeded(message, reason="provider_timeout")
        return ProviderFailed(message)

    # Plain answers

    async def _take_plain(self, candidate: Candidate, attempt: Attempt, answer: UpstreamAnswer) -> PlainAnswer:
        body = await answer.read(MAX_ANSWER_BYTES)
        attempt.first_byte()
        facts = observe_chunk(body)
        if facts.malformed and not _is_json(body):
            self._fail(attempt, "not JSON", ProviderFailed(f"Provider error: {candidate.provider}: bad JSON"))
        if facts.error and not facts.has_choices:
            self._fail(
                attempt,
                "error in a 200",
                ProviderFailed(f"Provider error: {candidate.provider} answered with an error"),
            )
        attempt.outcome = "success"
        estimated = Usage(self._demand.prompt_tokens, estimated_tokens(facts.content_bytes, 0))
        self._delivered = Consumption(candidate, facts.usage or estimated, facts.usage is None)
        await self._close("ok", 200, None)
        return PlainAnswer(
            200,
            (
                (b"content-type", b"application/json"),
                *self._headers(candidate.provider),
                *self._cost_headers(),
            ),
            with_member(body, "arbstr_provider", candidate.provider),
        )

    # Streams

    async def _relay_stream(self, candidate: Candidate, attempt: Attempt, answer: UpstreamAnswer) -> None:
        if not answer.content_type.startswith("text/event-stream"):
            self._fail(
                attempt,
                f"content type {answer.content_type[:60]!r}",
                ProviderFailed(f"Provider error: {candidate.provider} did not answer with an event stream"),
            )
        relay = StreamRelay(self._demand, include_usage=self._request.call.include_usage)
        self._relay = relay
        chunks = answer.chunks()
        async for chunk in chunks:
            attempt.first_byte()
            try:
                passing = relay.feed(chunk)
            except EventTooLarge:
                self._fail(
                    attempt, "event too large", ProviderFailed(f"Provider error: {candidate.provider}: event too large")
                )
            if passing:
                await self._write(candidate, passing)
            if relay.done or relay.error_data is not None:
                break
            await self._stay_covered(candidate, relay)
        if not relay.done:
            what = "reported an error" if relay.error_data is not None else "ended its stream early"
            self._fail(attempt, what, ProviderFailed(f"Provider error: {candidate.provider} {what}"))
        attempt.outcome = "success"
        attempt.ended = attempt.begun + attempt.duration_ns()
        await self._complete_stream(candidate, relay)
        with trio.move_on_after(DRAIN_BOUND_S):
            try:
                async for _ in chunks:
                    pass
            except UpstreamFailure:
                pass  # the answer is complete; the connection is not worth a word

    async def _write(self, candidate: Candidate, data: bytes) -> None:
        if not self._stream_started:
            headers = (
                (b"content-type", b"text/event-stream"),
                (b"cache-control", b"no-cache"),
                (b"x-arbstr-streaming", b"true"),
                *self._headers(candidate.provider, latency=False),
            )
            self._stream_started = True
            await self._responder.start(200, headers)
        await self._responder.write(data)

    async def _stay_covered(self, candidate: Candidate, relay: StreamRelay) -> None:
        """The hold is a cap: a stream that comes near it extends it, or ends there."""
        price, demand, counted = candidate.price, self._demand, relay.counted_tokens
        if price.cost_msat(demand.prompt_tokens, counted + HEADROOM_TOKENS) <= self._purse.held_msat:
            return
        if not self._hold_is_final:
            wanted = price.cost_msat(demand.prompt_tokens_bound, 2 * counted + 4 * HEADROOM_TOKENS)
            try:
                await self._purse.cover(candidate, wanted)
                return
            except (BillingRefused, LedgerUnavailable) as refused:
                logger.info("request %s: hold not extended: %s", self._request.request_id, refused)
                self._hold_is_final = True
        if price.cost_msat(demand.prompt_tokens, counted) >= self._purse.held_msat:
            raise _StreamBroke(
                "budget_exhausted",
                BillingRefused(
                    "Insufficient balance: the stream has used up what could be set aside for it; deposit more",
                    reason="budget_exhausted",
                    details={"held_msat": self._purse.held_msat},
                ),
            )

    async def _complete_stream(self, candidate: Candidate, relay: StreamRelay) -> None:
        """Settle, then let the client have the end: whoever reads the cost or ``[DONE]`` reads what is on disk."""
        self._delivered = Consumption(candidate, relay.usage, relay.estimated)
        await self._close("ok", 200, None)
        cost: dict[str, object] = {
            "cost_msat": self._delivered.cost_msat,
            "provider": candidate.provider,
            "request_id": self._request.request_id,
            "latency_ms": self._record.latency_ms(),
            "estimated": self._delivered.estimated,
        }
        if self._saved is not None:
            cost |= {"saved_msat": self._saved.median_msat, "saved_dearest_msat": self._saved.dearest_msat}
        if not self._settled:
            cost |= {"settlement": "pending"}
        await self._write(
            candidate,
            relay.tail(cost, cost_event=self._request.stream_cost or self._context.stream_cost_event),
        )
        await self._responder.finish()

    async def _end_stream_with(self, broke: _StreamBroke) -> None:
        """The client has seen a beginning: tell it that this is not the end, without ``[DONE]``."""
        await self._close(broke.outcome, 200, broke.error.message)
        try:
            await self._responder.write(error_event(broke.error, self._request.request_id))
            await self._responder.finish()
        except ClientGone:
            pass  # the books are closed, and nobody is left to be told

    # Books

    def _consumed(self) -> Consumption | None:
        """What must be paid for as things stand."""
        if self._delivered is not None:
            return self._delivered
        if self._relay is None or self._attempt is None or not self._stream_started:
            return None
        return Consumption(self._attempt.candidate, self._relay.usage, self._relay.estimated)

    async def _close(self, outcome: str, http_status: int, error: str | None) -> None:
        if self._closed:
            return
        self._closed = True
        consumed = self._consumed()
        if consumed is not None and self._record.selection is not None:
            self._saved = savings(self._record.selection, consumed.candidate, consumed.usage)
        receipt = self._record.receipt(
            outcome=outcome, http_status=http_status, error=error, consumed=consumed, saved=self._saved
        )
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_BOUND_S):
            self._settled = await self._purse.end(receipt.cost_msat, receipt, delivered=consumed is not None)

    # Rendering

    def _headers(self, provider: str | None, *, latency: bool = True) -> Sequence[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = []
        if provider is not None:
            headers.append((b"x-arbstr-provider", provider.encode()))
        if latency:
            headers.append((b"x-arbstr-latency-ms", b"%d" % self._record.latency_ms()))
        retries = self._record.retries()
        if retries:
            headers.append((b"x-arbstr-retries", retries.encode()))
        return headers

    def _cost_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """What the request cost, only once that is on disk (M6)."""
        if self._delivered is None or not self._settled:
            return ((b"x-arbstr-settlement", b"pending"),)
        cost = self._delivered.cost_msat
        headers = [
            (b"x-arbstr-cost-msat", b"%d" % cost),
            (b"x-arbstr-cost-sats", f"{cost / 1000:.2f}".encode()),
        ]
        if self._saved is not None:
            headers.append((b"x-arbstr-saved-msat", b"%d" % self._saved.median_msat))
            headers.append((b"x-arbstr-saved-dearest-msat", b"%d" % self._saved.dearest_msat))
        return headers

    def _refusal(self, error: ArbstrError) -> PlainAnswer:
        """An error as an answer, with what is known of the attempts."""
        tried = self._record.attempts[-1].candidate.provider if self._record.attempts else None
        headers = [(b"content-type", b"application/json"), *self._headers(tried)]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, -(-error.retry_after_s // 1))))
        return PlainAnswer(error.status, tuple(headers), error_body(error, self._request.request_id))


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True
