"""An answer in one piece: read whole, looked into, and found to be one."""

from __future__ import annotations

import json

from attrs import evolve, frozen

from arbstr.errors import ProviderFailed
from arbstr.providers import Outcome, UpstreamAnswer
from arbstr.requests._attempts import Missed
from arbstr.requests._record import Attempt
from arbstr.routing import Candidate
from arbstr.wire import ChunkFacts, Endpoint, Usage, observe_chunk

MAX_ANSWER_BYTES = 64 << 20


@frozen
class Whole:
    """What a provider answered; ``usage`` is its word, None when it gave none.

    ``sound``: the body is a JSON object that is not empty.
    """

    candidate: Candidate
    body: bytes
    usage: Usage | None
    content_bytes: int
    sound: bool


async def take_plain(endpoint: Endpoint, attempt: Attempt, answer: UpstreamAnswer) -> Whole:
    """Read a plain answer. Raises Missed when it is none."""
    attempt.first_byte()
    provider = attempt.candidate.provider
    body = await answer.read(MAX_ANSWER_BYTES)
    facts, is_json = _facts(endpoint, body)
    if not is_json:  # an empty body is not JSON either
        raise Missed(
            "not JSON", ProviderFailed(f"Provider error: {provider}: Failed to parse response: it is not JSON")
        )
    if facts.error and not facts.has_choices:
        raise Missed("error in a 200", ProviderFailed(f"Provider error: {provider} answered with an error"))
    attempt.outcome = Outcome.SUCCESS
    sound = facts.has_choices and not facts.malformed
    return Whole(attempt.candidate, body, facts.usage, facts.content_bytes, sound)


def _facts(endpoint: Endpoint, body: bytes) -> tuple[ChunkFacts, bool]:
    """What the answer says, and whether it is JSON at all. ``data`` of embeddings is what choices are elsewhere."""
    facts = observe_chunk(body)
    if facts.has_choices and not facts.malformed:
        return facts, True
    decoded = _decoded(body)
    if endpoint is Endpoint.EMBEDDINGS and decoded is not None and isinstance(decoded[0], dict):
        facts = evolve(facts, has_choices=bool(decoded[0].get("data")))
    return facts, decoded is not None


def _decoded(body: bytes) -> tuple[object] | None:
    """None when it is not JSON; a value of its own, for ``null`` is JSON."""
    try:
        return (json.loads(body),)
    except (ValueError, RecursionError):
        return None
