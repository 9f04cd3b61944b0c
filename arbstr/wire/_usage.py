"""What a provider's answer says about itself: token counts, how much text there was, whether it is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeGuard

from attrs import field, frozen

from arbstr.wire._call import MAX_TOKEN_COUNT
from arbstr.wire._json import (
    LENIENT,
    TooManyMembers,
    apply_edits,
    dumps_text,
    encode,
    read_object,
    scan_object,
    set_member,
    utf8_len,
)
from arbstr.wire._sse import frame


@frozen
class Usage:
    """Tokens that the provider says it counted, all at least 0. ``cached_tokens`` of the prompt tokens were cached."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reported_cost_msat: int | None = field(default=None, eq=False)
    """What the provider says the request cost (``usage.total_cost``, in sats). For the record only."""


@frozen
class ChunkFacts:
    """What one chunk of a stream tells. ``content_bytes`` is UTF-8 bytes of everything the model wrote in it."""

    usage: Usage | None = None
    content_bytes: int = 0
    has_choices: bool = False
    error: bool = False
    malformed: bool = False
    has_usage: bool = False
    """It has a usage, whether or not that can be counted."""


_MOST_SATS = 21e14
_NOTHING = ChunkFacts()
_MALFORMED = ChunkFacts(malformed=True)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_TOKEN_COUNT


def usage_of(obj: Mapping[str, object]) -> Usage | None:
    """The ``usage`` of a decoded answer or chunk.

    None unless it holds both counts as integers from 0 to ``MAX_TOKEN_COUNT`` (a boolean is none): a count that no
    model can have is worth as much as none. So is one of no tokens at all, which some providers send with each chunk
    until they know: no answer is made of nothing. Only embeddings, which are told by their ``data`` in place of
    ``choices``, have no completion to count.
    """
    usage = obj.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if completion is None and isinstance(obj.get("data"), list) and "choices" not in obj:
        completion = 0
    if not _is_count(prompt) or not _is_count(completion) or not (prompt or completion):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(prompt, completion, min(cached, prompt) if _is_count(cached) else 0, _msat(usage.get("total_cost")))


def _msat(sats: object) -> int | None:
    """A number of sats that somebody claims, as msat; None for what is no amount."""
    if isinstance(sats, bool) or not isinstance(sats, int | float) or not 0 <= sats <= _MOST_SATS:
        return None
    return round(sats * 1_000)


def observe_chunk(data: bytes) -> ChunkFacts:
    """Read one SSE data payload (or a whole plain answer). Never raises.

    ``malformed`` means that it is not a JSON object in UTF-8. What can be read of one in broken UTF-8 counts all the
    same. ``[DONE]`` and an empty payload say nothing and are not malformed.
    """
    try:
        return _observe_text(data.decode("utf-8"), malformed=False)
    except UnicodeDecodeError:
        pass
    except (ValueError, RecursionError):  # not JSON, an integer too long, nested too deeply
        return _NOTHING if data.strip() in (b"", b"[DONE]") else _MALFORMED
    try:
        return _observe_text(data.decode("utf-8", "replace"), malformed=True)
    except (ValueError, RecursionError):
        return _MALFORMED


def _observe_text(text: str, *, malformed: bool) -> ChunkFacts:
    chunk = json.loads(text)
    if not isinstance(chunk, dict):
        return _MALFORMED
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        choices = []
    return ChunkFacts(
        usage_of(chunk) if "usage" in chunk else None,
        sum(map(_choice_bytes, choices)),
        bool(choices),
        chunk.get("error") is not None,
        malformed,
        chunk.get("usage") is not None,
    )


def _choice_bytes(choice: object) -> int:
    if not isinstance(choice, dict):
        return 0
    count = 0
    for key in ("delta", "message"):
        written = choice.get(key)
        if isinstance(written, dict):
            count += _written_bytes(written)
    text = choice.get("text")
    return count + utf8_len(text) if isinstance(text, str) else count


def _written_bytes(written: dict[str, object]) -> int:
    """Bytes of a ``delta`` or ``message``.

    Providers that send reasoning under both of its names send the same text twice: the longer one counts.
    """
    count = 0
    reasoning = 0
    for key, value in written.items():
        if not value:
            continue
        if key in ("content", "refusal"):
            count += _text_bytes(value)
        elif key in ("reasoning_content", "reasoning"):
            reasoning = max(reasoning, _text_bytes(value))
        elif key == "tool_calls" and isinstance(value, list):
            count += sum(_call_bytes(call.get("function")) for call in value if isinstance(call, dict))
        elif key == "function_call":
            count += _call_bytes(value)
    return count + reasoning


def _text_bytes(value: object) -> int:
    """A string, or parts that hold strings under ``text`` or ``thinking``, as some providers stream them."""
    if isinstance(value, str):
        return utf8_len(value)
    if isinstance(value, list):
        return sum(map(_text_bytes, value))
    if isinstance(value, dict):
        return _text_bytes(value.get("text")) + _text_bytes(value.get("thinking"))
    return 0


def _call_bytes(function: object) -> int:
    if not isinstance(function, dict):
        return 0
    return _text_bytes(function.get("name")) + _text_bytes(function.get("arguments"))


def with_usage_extra(raw_data: bytes, extra: Mapping[str, object]) -> bytes:
    """The event of a chunk with ``usage.arbstr`` set to ``extra``, its other bytes untouched.

    ``raw_data`` is the data payload. Without a ``usage`` object in it, it goes out unchanged.
    """
    read = read_object(raw_data)
    if read is None:
        return frame(raw_data)
    text, _, found = read
    begin = max((member.begin for member in found if member.key == "usage"), default=0)
    if not begin or text[begin] != "{":
        return frame(raw_data)
    try:
        members, _ = scan_object(text, begin, LENIENT)
    except TooManyMembers:
        return frame(raw_data)
    return frame(encode(apply_edits(text, set_member(members, begin, "arbstr", dumps_text(dict(extra))))))
