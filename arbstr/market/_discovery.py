"""What a provider says it serves: ``GET <url>/models`` read leniently (contract section 15, quirk Q28).

A failure is never an empty list: what is not known is not "nothing", and least of all "any model".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import httpx
from attrs import frozen

from arbstr.market._fetch import FetchFailed, get_json
from arbstr.secrets import Secret

MAX_BODY_BYTES: Final = 8 << 20
"""The longest list seen, an aggregator's with descriptions, has about one million."""
MAX_MODELS: Final = 5_000
MAX_ID_LENGTH: Final = 128
MAX_TOKENS: Final = 1_000_000_000

_CONTEXT_KEYS: Final = ("context_length", "max_model_len", "context_window")
_OUTPUT_KEYS: Final = ("max_output_tokens", "max_completion_tokens", "max_output_length")


@frozen
class FoundModel:
    """One entry of a provider's list. The limits are None where it gives none that makes sense."""

    id: str
    context_tokens: int | None = None
    max_output_tokens: int | None = None


async def discover(
    transport: httpx.AsyncBaseTransport, url: str, api_key: Secret | None, *, timeout_s: float
) -> tuple[FoundModel, ...]:
    """The models at the base URL ``url``, in the provider's order; at least one. Raises FetchFailed."""
    document = await get_json(
        transport, f"{url.rstrip('/')}/models", timeout_s=timeout_s, max_bytes=MAX_BODY_BYTES, bearer=api_key
    )
    return parse_models(document)


def parse_models(document: Any) -> tuple[FoundModel, ...]:
    """The models of ``{"data": [{"id": …}]}``; entries without a usable id and repetitions are left out.

    Raises FetchFailed when that leaves none: a provider that lists nothing is taken for one that is out of order.
    """
    entries = document.get("data") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise FetchFailed('the answer has no list "data"')
    found: dict[str, FoundModel] = {}
    for entry in entries:
        if isinstance(entry, dict) and is_model_id(entry.get("id")) and entry["id"] not in found:
            found[entry["id"]] = _model(entry)
            if len(found) == MAX_MODELS:
                break
    if not found:
        raise FetchFailed("the answer lists no models")
    return tuple(found.values())


def is_model_id(value: object) -> bool:
    """Text that may stand as a model's name: visible, of bounded length, no white space at its ends."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH and value.isprintable() and value == value.strip()


def _model(entry: dict[str, Any]) -> FoundModel:
    best = entry.get("top_provider")
    places = (entry, best) if isinstance(best, dict) else (entry,)
    return FoundModel(
        entry["id"],
        context_tokens=_first_tokens(places, _CONTEXT_KEYS),
        max_output_tokens=_first_tokens(places, _OUTPUT_KEYS),
    )


def _first_tokens(places: Iterable[dict[str, Any]], keys: Iterable[str]) -> int | None:
    values = (place.get(key) for place in places for key in keys)
    return next((value for value in values if type(value) is int and 0 < value <= MAX_TOKENS), None)
