"""What a provider says under ``GET /models``: pure. Lenient, since everybody adds to OpenAI's shape what they like."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

MAX_ID_LENGTH: Final = 128
_CONTEXT_KEYS: Final = ("context_length", "context_window", "max_model_len")
_OUTPUT_KEYS: Final = ("max_output_tokens", "max_completion_tokens")
_MOST_TOKENS: Final = 1 << 32


@frozen
class DiscoveredModel:
    """One entry of the list. Numbers are tokens; None: it does not say."""

    id: str
    context_tokens: int | None = None
    max_output_tokens: int | None = None


class UndecodableModels(ValueError):
    """The body is no list of models. Says what is wrong with it, without quoting it."""


def parse_models(body: bytes) -> tuple[DiscoveredModel, ...]:
    """Read ``{"data": [{"id": …}, …]}``, or the bare array that some send. Of one id the first counts.

    Entries without a usable id are left out, and numbers that make no sense are not known. Raises UndecodableModels.
    """
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        raise UndecodableModels("the list of models is not JSON") from None
    entries = read.get("data") if isinstance(read, dict) else read
    if not isinstance(entries, list):
        raise UndecodableModels("the list of models has no array of entries")
    found: dict[str, DiscoveredModel] = {}
    for entry in entries:
        id = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(id, str) and _is_usable(id):
            found.setdefault(id, _model(id, entry))
    return tuple(found.values())


def _model(id: str, entry: Mapping[str, Any]) -> DiscoveredModel:
    top = entry.get("top_provider")  # OpenRouter's place for it
    output = _tokens(entry, _OUTPUT_KEYS) or (_tokens(top, _OUTPUT_KEYS) if isinstance(top, dict) else None)
    return DiscoveredModel(id, _tokens(entry, _CONTEXT_KEYS), output)


def _is_usable(id: str) -> bool:
    return 0 < len(id) <= MAX_ID_LENGTH and id.isprintable() and id == id.strip()


def _tokens(entry: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = entry.get(key)
        if type(value) is int and 0 < value <= _MOST_TOKENS:
            return value
    return None
