"""One request from the choice of a provider to the answer: attempts in order, the relay of a stream, one settlement.

Each attempt is covered by the hold before it begins and gives its permit back in every path. The books are closed
exactly once, shielded from cancellation, with what is known at that moment.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import trio
from attrs import frozen

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
from arbstr.providers import Acquire, Outcome, Permit, Shut, UpstreamAnswer, UpstreamFailure
from arbstr.requests._context import RequestContext
from arbstr.requests._interface import ClientGone, ModelRequest, PlainAnswer, Responder
from arbstr.requests._purse import Purse
from arbstr.requests._record import Attempt, Consumption, Record
from arbstr.requests._relay import StreamRelay, estimated_tokens
from arbstr.routing import Candidate, Saved, savings
from arbstr.wire import EventTooLarge, Usage, error_body, error_event, observe_chunk, with_member

logger = logging.getLogger(__name__)

PERMIT_DEADLINE_S = 5.0
MAX_ANSWER_BYTES = 64 << 20
MAX_ERROR_BYTES = 64 << 10
ERROR_BODY_S = 5.0
"""For the body of a refusal; the status says enough, and the next candidate may be waiting."""
CLOSE_BOUND_S = 15.0
"""For closing the books while everything else is being cancelled."""
DRAIN_BOUND_S = 0.25
"""After the end of a stream, for the connection to become reusable; the client does not wait for it."""
HEADROOM_TOKENS = 64
"""How far before the cap a growing stream asks for more."""

_CLIENT_FAULTS = frozenset({400, 413, 422})
"""And 404 with an error body: the model. Statuses about HTTP itself (405, 415, ...) speak of how we were configured."""


@frozen
class _NextCandidate(Exception):
    """This attempt came to nothing and the client has seen nothing of it."""

    error: ArbstrError


class RequestLife:
    """Run it once. What happened is in the receipt."""

    def __init__(self, context: RequestContext, request: ModelRequest, responder: Responder, purse: Purse) -> None:
        self._context = context
        self._request = request
        self._responder = responder
        self._purse = purse
        self._record = Record(request)
        self._router = context.router  # of the configuration as it is now, for as long as this request lives
        self._demand = self._router.demand(request.call, policy=request.policy, complexity=request.complexity)
        self._limit = None if request.call.max_tokens is None else self._demand.completion_tokens_bound
        self._delivered: Consumption | None = None  # what must be paid for as things stand
        self._stream_started = False
        self._closed = False
        self._settled = False
        self._saved: Saved | None = None

    async def run(self) -> PlainAnswer | None:
        """Answer the request: the whole answer, or None when it went out through the responder.

        Errors become answers here, since only here is known what was tried. Raises nothing but what is a defect, and
        Cancelled, then with the books still open: call ``close``.
        """
        try:
            return await self._answer()
        except ClientGone:
            await self.close("client_disconnected", 499, "the client closed its connection")
            return None
        except ArbstrError as error:
            if self._stream_started:
                await self._break_off(error)
                return None
            await self.close("failed", error.status, error.message)
            return self._refusal(error)

    async def close(self, outcome: str, http_status: int, error: str | None) -> None:
        """Close the books with what is known. Shielded, at most ``CLOSE_BOUND_S``; harmless when they are closed."""
        if self._closed:
            return
        delivered, selection = self._delivered, self._record.selection
        if delivered is not None and selection is not None:
            self._saved = savings(selection, delivered.candidate, delivered.usage)
        note = delivered.note if delivered is not None else None
        if delivered is not None and note is not None:
            logger.warning("request %s: %s %s", self._request.request_id, delivered.candidate.provider, note)
        receipt = self._record.receipt(
            outcome=outcome, http_status=http_status, error=error or note, consumed=delivered, saved=self._saved
        )
        self._closed = True
        # The deadline stands even when the timer of asks, which belongs to the actor system, has ended before us.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_BOUND_S):
            self._settled = await self._purse.end(receipt.cost_msat, receipt, delivered=delivered is not None)

    def renew(self) -> None:
        """Tell the account that this request lives, and what it has consumed."""
        if not self._closed:
            self._purse.renew(self._delivered.cost_msat if self._delivered else 0)

    # The attempts

    async def _answer(self) -> PlainAnswer | None:
        context = self._context
        selection = self._router.select(
            self._demand, context.offers(), now=trio.current_time(), rotation=context.next_rotation()
        )
        self._record.selection = selection
        failure: ArbstrError | None = None
        refusal: BillingRefused | None = None
        shut: list[Shut] = []
        for candidate in selection.candidates:
            try:
                await self._purse.cover(candidate, candidate.bound_msat)
            except BillingRefused as refused:
                refusal = refusal or refused
                continue
            permit = await self._permit(candidate)
            if isinstance(permit, Shut):
                shut.append(permit)
                continue
            try:
                return await self._try(candidate, *permit)
            except _NextCandidate as missed:
                failure = missed.error
        # Who could be paid and only had no room is worth asking again; 402 says that nobody could be paid.
        raise failure or (_nobody(self._request.call.model, shut) if shut or refusal is None else refusal)

    async def _permit(self, candidate: Candidate) -> tuple[TrioActorRef[Any], Permit] | Shut:
        """Ask the provider's actor to admit the attempt.

        Shielded: it answers at once, and a permit that is given to somebody who has just been cancelled would be lost.
        """
        message = Acquire(self._request.request_id)
        try:
            ref = self._context.directory.ref(candidate.provider)
            with trio.CancelScope(shield=True):
                answer: Permit | Shut = await ref.request(message, timeout_s=PERMIT_DEADLINE_S)
        except (KeyError, ActorDeadError, AskTimeout, InboxFull) as error:
            logger.error("provider %s gives no permit: %r", candidate.provider, error)
            return Shut("no_answer", None)
        return answer if isinstance(answer, Shut) else (ref, answer)

    async def _try(self, candidate: Candidate, ref: TrioActorRef[Any], permit: Permit) -> PlainAnswer | None:
        attempt = Attempt(candidate)
        try:
            self._record.attempts.append(attempt)
            answer = await self._call(candidate)
            try:
                attempt.http_status = answer.status
                attempt.retry_after_s = answer.retry_after_s
                return await self._take(attempt, answer)
            finally:
                await answer.aclose()
        except UpstreamFailure as failure:
            self._fail(attempt, failure.kind, _failed_upstream(candidate, failure))
        finally:
            attempt.end()
            try:
                ref.tell(attempt.report(permit.id))
            except (ActorDeadError, InboxFull) as error:
                logger.error("provider %s does not take its permit back: %r", candidate.provider, error)

    async def _call(self, candidate: Candidate) -> UpstreamAnswer:
        request = self._request
        return await self._context.upstreams[candidate.provider].send(
            request.call.endpoint,
            request.call.upstream_body(candidate.upstream_model),
            stream=request.call.stream,
            request_id=request.request_id,
            correlation_id=request.correlation_id,
            traceparent=request.traceparent,
        )

    async def _take(self, attempt: Attempt, answer: UpstreamAnswer) -> PlainAnswer | None:
        if not 200 <= answer.status < 300:
            await self._reject(attempt, answer)
        if not self._request.call.stream:
            return await self._take_plain(attempt, answer)
        await self._take_stream(attempt, answer)
        return None

    async def _reject(self, attempt: Attempt, answer: UpstreamAnswer) -> NoReturn:
        """An answer that is not 2xx: the request's fault ends it, anything else is the provider's."""
        attempt.first_byte()
        status, provider = answer.status, attempt.candidate.provider
        body = b""
        with trio.move_on_after(ERROR_BODY_S), suppress(UpstreamFailure):  # the status stands without it
            body = await answer.read(MAX_ERROR_BYTES)
        if status in _CLIENT_FAULTS or (status == 404 and observe_chunk(body).error):
            attempt.outcome = Outcome.CLIENT_FAULT
            attempt.error = f"status {status}"
            raise UpstreamRejected(
                f"Provider {provider} rejected the request with status {status}",
                status=status,
                provider=provider,
                body=body,
            )
        message = f"Provider error: {provider} answered with status {status}"
        if status == 429:
            error = ProviderFailed(message, status=429, reason="rate_limited", retry_after_s=answer.retry_after_s)
            self._fail(attempt, f"status {status}", error, Outcome.RATE_LIMITED)
        self._fail(attempt, f"status {status}", ProviderFailed(message))

    def _fail(
        self, attempt: Attempt, text: str, error: ArbstrError, outcome: Outcome = Outcome.PROVIDER_FAULT
    ) -> NoReturn:
        """End an attempt that gave nothing usable: on to the next, or the end of a stream that had begun."""
        attempt.outcome = outcome
        attempt.error = text
        if self._stream_started:
            raise error
        raise _NextCandidate(error)

    # Plain answers

    async def _take_plain(self, attempt: Attempt, answer: UpstreamAnswer) -> PlainAnswer:
        attempt.first_byte()
        candidate, provider = attempt.candidate, attempt.candidate.provider
        body = await answer.read(MAX_ANSWER_BYTES)
        facts = observe_chunk(body)
        if not facts.has_choices and not _is_json(body):  # an empty body is not JSON either
            self._fail(attempt, "not JSON", ProviderFailed(f"Provider error: {provider}: bad JSON"))
        if facts.error and not facts.has_choices:
            error = ProviderFailed(f"Provider error: {provider} answered with an error")
            self._fail(attempt, "error in a 200", error)
        attempt.outcome = Outcome.SUCCESS
        counted = Usage(self._demand.prompt_tokens, estimated_tokens(facts.content_bytes, 0, self._limit))
        self._delivered = self._consumption(candidate, facts.usage or counted, estimated=facts.usage is None)
        await self.close("ok", 200, None)
        return PlainAnswer(
            200,
            ((b"content-type", b"application/json"), *self._headers(provider), *self._cost_headers()),
            with_member(body, "arbstr_provider", provider),
        )

    # Streams

    async def _take_stream(self, attempt: Attempt, answer: UpstreamAnswer) -> None:
        provider = attempt.candidate.provider
        if not answer.content_type.lower().startswith("text/event-stream"):
            error = ProviderFailed(f"Provider error: {provider} did not answer with an event stream")
            self._fail(attempt, f"content type {answer.content_type[:60]!r}", error)
        relay = StreamRelay(
            prompt_tokens=self._demand.prompt_tokens,
            limit=self._limit,
            include_usage=self._request.call.include_usage,
        )
        async for chunk in answer.chunks():
            attempt.first_byte()
            await self._pass_on(attempt, relay, chunk)
            if relay.done or relay.failed:
                break
        else:
            relay.close()
        if not relay.done:
            what = "reported an error" if relay.failed else "ended its stream early"
            self._fail(attempt, what, ProviderFailed(f"Provider error: {provider} {what}"))
        attempt.outcome = Outcome.SUCCESS
        attempt.end()
        await self._complete_stream(attempt.candidate, relay)
        with trio.move_on_after(DRAIN_BOUND_S), suppress(UpstreamFailure):  # the answer is complete as it is
            async for _ in answer.chunks():
                pass

    async def _pass_on(self, attempt: Attempt, relay: StreamRelay, chunk: bytes) -> None:
        """Hand on what the client may have of a chunk. What does not pass, for want of cover, is not charged either."""
        candidate = attempt.candidate
        try:
            passing = relay.feed(chunk)
        except EventTooLarge:
            error = ProviderFailed(f"Provider error: {candidate.provider}: event too large")
            self._fail(attempt, "event too large", error)
        used = relay.usage
        if passing:
            try:
                await self._stay_covered(candidate, self._credible(used))
            except ArbstrError:
                attempt.outcome = Outcome.SUCCESS  # it is not the provider's doing
                raise
        if passing or self._stream_started:
            self._delivered = self._consumption(candidate, used, estimated=relay.estimated)
        if passing:
            await self._write(candidate, passing)

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

    async def _stay_covered(self, candidate: Candidate, used: Usage) -> None:
        """The hold is a cap: a stream that comes near it extends it, by much if it can be, and ends there if it cannot.

        Raises BillingRefused (``budget_exhausted``), or LedgerUnavailable.
        """
        cost, prompt_bound = candidate.price.cost_msat, self._demand.prompt_tokens_bound
        ahead = used.completion_tokens + HEADROOM_TOKENS
        if self._limit is not None:  # no further than there, unless the provider has gone further
            ahead = max(used.completion_tokens, min(ahead, self._limit))
        near = cost(used.prompt_tokens, ahead)
        if near <= self._purse.held_msat:
            return
        exact = cost(used.prompt_tokens, used.completion_tokens)
        for wanted in (cost(max(used.prompt_tokens, prompt_bound), 2 * ahead), near, exact):
            try:
                await self._purse.cover(candidate, wanted)
                return
            except BillingRefused as refused:
                logger.info("request %s: hold not extended: %s", self._request.request_id, refused)
            except LedgerUnavailable:
                if exact <= self._purse.held_msat:
                    return
                raise
        raise BillingRefused(
            "Insufficient balance: the stream has used up what could be set aside for it; deposit more",
            reason="budget_exhausted",
            details={"held_msat": self._purse.held_msat},
        )

    async def _complete_stream(self, candidate: Candidate, relay: StreamRelay) -> None:
        """Settle, then let the client have the end: whoever reads the cost or ``[DONE]`` reads what is on disk."""
        self._delivered = self._consumption(candidate, relay.usage, estimated=relay.estimated)
        await self.close("ok", 200, None)
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

    async def _break_off(self, error: ArbstrError) -> None:
        """The client has seen a beginning: tell it that this is not the end, without ``[DONE]``."""
        exhausted = error.reason == "budget_exhausted"
        await self.close("budget_exhausted" if exhausted else "stream_incomplete", 200, error.message)
        try:
            await self._responder.write(error_event(error, self._request.request_id))
            await self._responder.finish()
        except ClientGone:
            pass  # the books are closed, and nobody is left to be told

    def _credible(self, claimed: Usage) -> Usage:
        """Of what a provider says it used, what this request can have used: the cap holds against a liar too.

        A token is at least one byte of the prompt; what an image is worth, and how long an answer without a limit is,
        only the provider knows.
        """
        prompt, completion = claimed.prompt_tokens, claimed.completion_tokens
        if not self._request.call.images:
            prompt = min(prompt, self._demand.prompt_tokens_bound)
        if self._limit is not None:
            completion = min(completion, self._limit)
        return Usage(prompt, completion)

    def _consumption(self, candidate: Candidate, claimed: Usage, *, estimated: bool) -> Consumption:
        used = self._credible(claimed)
        note = None
        if used != claimed:
            note = (
                f"claimed {claimed.prompt_tokens} + {claimed.completion_tokens} tokens, "
                f"of which this request can have used {used.prompt_tokens} + {used.completion_tokens}"
            )
        return Consumption(candidate, used, estimated, note)

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
        if self._request.call.stream:
            headers.append((b"x-arbstr-streaming", b"true"))
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, -(-error.retry_after_s // 1))))
        return PlainAnswer(error.status, tuple(headers), error_body(error, self._request.request_id))


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _nobody(model: str, shut: Sequence[Shut]) -> NoProviderAvailable:
    waits_s = [1.0 if one.retry_after_s is None else one.retry_after_s for one in shut]
    return NoProviderAvailable(
        f"All providers of model {model[:200]!r} have open circuits or are busy",
        retry_after_s=min(waits_s, default=1.0),
    )


def _failed_upstream(candidate: Candidate, failure: UpstreamFailure) -> ArbstrError:
    message = f"Provider error: {candidate.provider}: {failure.detail}"
    if failure.kind in ("connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout"):
        return DeadlineExceeded(message, reason="provider_timeout")
    return ProviderFailed(message)
