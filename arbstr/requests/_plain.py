"""An answer in one piece: read whole, looked into, and found to be one."""

from __future__ import annotations

import json

from attrs import frozen

from arbstr.errors import ProviderFailed
from arbstr.providers import Outcome, UpstreamAnswer
from arbstr.requests._attempts import Missed
from arbstr.requests._record import Attempt
from arbstr.routing import Candidate
from arbstr.wire import MAX_TOKEN_COUNT, ChunkFacts, Endpoint, Usage, observe_chunk

MAX_ANSWER_BYTES = 64 << 20


@frozen
class Whole:
    """What a provider answered; ``usage`` is its word, None when it gave none."""

    candidate: Candidate
    body: bytes
    usage: Usage | None
    content_bytes: int


async def take_plain(endpoint: Endpoint, attempt: Attempt, answer: UpstreamAnswer) -> Whole:
    """Read a plain answer. Raises Missed when it is none."""
    attempt.first_byte()
    provider = attempt.candidate.provider
    body = await answer.read(MAX_ANSWER_BYTES)
    facts, is_json = _embeddings_facts(body) if endpoint is Endpoint.EMBEDDINGS else _facts(body)
    if not is_json:  # an empty body is not JSON either
        raise Missed("not JSON", ProviderFailed(f"Provider error: {provider}: bad JSON"))
    if facts.error and not facts.has_choices:
        raise Missed("error in a 200", ProviderFailed(f"Provider error: {provider} answered with an error"))
    attempt.outcome = Outcome.SUCCESS
    return Whole(attempt.candidate, body, facts.usage, facts.content_bytes)


def _facts(body: bytes) -> tuple[ChunkFacts, bool]:
    facts = observe_chunk(body)
    return facts, (facts.has_choices and not facts.malformed) or _decoded(body) is not None


def _embeddings_facts(body: bytes) -> tuple[ChunkFacts, bool]:
    """Of a list of embeddings: its ``data`` is what choices are elsewhere, and only the prompt is counted."""
    decoded = _decoded(body)
    if decoded is None:
        return ChunkFacts(malformed=True), False
    answer = decoded[0]
    if not isinstance(answer, dict):
        return ChunkFacts(), True
    usage = answer.get("usage")
    prompt = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    counted = Usage(prompt, 0) if type(prompt) is int and 0 < prompt <= MAX_TOKEN_COUNT else None
    return ChunkFacts(counted, has_choices=bool(answer.get("data")), error=answer.get("error") is not None), True


def _decoded(body: bytes) -> tuple[object] | None:
    """None when it is not JSON; a value of its own, for ``null`` is JSON."""
    try:
        return (json.loads(body),)
    except (ValueError, RecursionError):
        return None
