"""One provider's stream on its way to the client: read, covered, passed on, and ended only when it is complete."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import trio

from arbstr.errors import ArbstrError, ProviderFailed
from arbstr.providers import Outcome, UpstreamAnswer, UpstreamFailure
from arbstr.requests._answer import cost_report
from arbstr.requests._attempts import Missed
from arbstr.requests._books import Books
from arbstr.requests._context import RequestContext
from arbstr.requests._interface import ClientGone
from arbstr.requests._outlet import Outlet
from arbstr.requests._record import Attempt, Record
from arbstr.requests._relay import StreamRelay
from arbstr.routing import Candidate
from arbstr.wire import EventTooLarge, Usage

LINGER_S = 0.25
"""After the end of a stream, for the connection to become reusable; the client does not wait for it."""


class Course(Protocol):
    """What the life of the request is told on the way."""

    def begun(self) -> None:
        """The answer has begun: there is no deadline for the rest of it."""
        ...

    def leave(self) -> bool:
        """The client has left. True when the provider's answer is to be read to its end all the same."""
        ...

    async def complete(self, candidate: Candidate, claimed: Usage, *, estimated: bool) -> None:
        """The whole answer is there: close the books."""
        ...


class Streaming:
    """Takes the streams that are tried for one request, one after the other, until one is passed on."""

    def __init__(
        self, context: RequestContext, record: Record, prompt_tokens: int, books: Books, outlet: Outlet, course: Course
    ) -> None:
        self._context = context
        self._record = record
        self._request = record.request
        self._prompt_tokens = prompt_tokens
        self._books = books
        self._outlet = outlet
        self._course = course

    async def take(self, attempt: Attempt, answer: UpstreamAnswer) -> None:
        """Pass a stream on, to its end. Raises Missed, ClientGone, and what ``stay_covered`` raises."""
        provider = attempt.candidate.provider
        if not answer.content_type.lower().startswith("text/event-stream"):
            error = ProviderFailed(f"Provider error: {provider} did not answer with an event stream")
            raise Missed(f"content type {answer.content_type[:60]!r}", error)
        relay = StreamRelay(
            prompt_tokens=self._prompt_tokens,
            limit=self._books.limit,
            include_usage=self._request.call.include_usage,
        )
        self._outlet.cuttable = self._context.drains(provider)
        async for chunk in answer.chunks():
            await self._pass_on(attempt, relay, chunk)
            if relay.done or relay.failed:
                break
        else:
            relay.close()
        if not relay.done:
            what = _what_ended(relay)
            raise Missed(what, ProviderFailed(f"Provider error: {provider} {what}"))
        attempt.first_byte()
        attempt.outcome = Outcome.SUCCESS
        attempt.end()
        await self._complete(attempt.candidate, relay)
        with trio.move_on_after(LINGER_S), suppress(UpstreamFailure):  # the answer is complete as it is
            async for _ in answer.chunks():
                pass

    async def _pass_on(self, attempt: Attempt, relay: StreamRelay, chunk: bytes) -> None:
        """Hand on what the client may have of a chunk. What does not pass, for want of cover, is not charged either."""
        candidate = attempt.candidate
        try:
            passing = relay.feed(chunk)
        except EventTooLarge:
            error = ProviderFailed(f"Provider error: {candidate.provider}: event too large")
            raise Missed("event too large", error) from None
        if not passing and not self._outlet.committed:
            return
        used = relay.usage
        if passing:
            attempt.first_byte()
            try:
                await self._books.stay_covered(candidate, used)
            except ArbstrError:
                attempt.outcome = Outcome.SUCCESS  # it is not the provider's doing
                raise
        self._books.consumed(candidate, used, estimated=relay.estimated)
        if passing:
            await self._write(candidate.provider, passing)

    async def _write(self, provider: str, data: bytes) -> None:
        self._course.begun()
        if self._outlet.gone:  # from here on it is read for the books alone
            return
        try:
            await self._outlet.write(data, provider)
        except ClientGone:
            if not self._course.leave():
                raise

    async def _complete(self, candidate: Candidate, relay: StreamRelay) -> None:
        """Settle, then let the client have the end: whoever reads the cost or ``[DONE]`` reads what is on disk."""
        self._course.begun()
        await self._course.complete(candidate, relay.usage, estimated=relay.estimated)
        if not self._outlet.gone:
            cost = cost_report(self._record, self._books)
            tail = relay.tail(cost, cost_event=self._request.stream_cost or self._context.stream_cost_event)
            await self._outlet.end(tail, candidate.provider)


def _what_ended(relay: StreamRelay) -> str:
    """What the provider did in place of ``[DONE]``."""
    if relay.malformed:
        return "sent what is not JSON"
    return "reported an error" if relay.failed else "ended its stream early"
