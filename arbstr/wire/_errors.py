"""Errors as a client of OpenAI's API expects to read them, as a body and as an event of a stream."""

from __future__ import annotations

import re

from arbstr.errors import ArbstrError, UpstreamRejected
from arbstr.wire._json import STRICT, dumps, read_object
from arbstr.wire._sse import frame

_QUOTED_CHARACTERS = 2_000
"""How much of a provider's own words is quoted when they are not in OpenAI's shape."""

_control_characters = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")


def error_body(error: ArbstrError, request_id: str) -> bytes:
    """``{"error": {message, type, param, code, reason, request_id, ...details}}``.

    A provider's refusal that already has OpenAI's shape goes on as it is; any other text of a provider is quoted in
    the message, cut and without control characters.
    """
    message = error.message
    if isinstance(error, UpstreamRejected):
        if _has_openai_shape(error.body):
            return error.body
        message = ": ".join(filter(None, (message, _quotable(error.body))))
    fields: dict[str, object] = {
        "message": message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "reason": error.reason,
        "request_id": request_id,
    }
    return dumps({"error": {**fields, **{key: error.details[key] for key in error.details if key not in fields}}})


def error_event(error: ArbstrError, request_id: str) -> bytes:
    """The event that ends a stream which broke after its first byte; no ``[DONE]`` follows it."""
    return frame(error_body(error, request_id))


def _has_openai_shape(body: bytes) -> bool:
    read = read_object(body, STRICT)
    return read is not None and any(key == "error" and isinstance(value, dict) for key, value, _, _ in read[2])


def _quotable(body: bytes) -> str:
    text = body[: 4 * _QUOTED_CHARACTERS].decode("utf-8", "replace")
    return _control_characters.sub(" ", text).strip()[:_QUOTED_CHARACTERS]
