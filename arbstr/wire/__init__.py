"""What is said on the wire, without a socket: chat requests, server-sent events, usage, error bodies, model lists.

Bytes go in, values come out, and the other way round. Nothing here waits, reads a clock or knows a price list.
"""

from arbstr.wire._chat import MAX_TOKEN_COUNT, Endpoint, ModelCall, parse_chat
from arbstr.wire._errors import error_body, error_event
from arbstr.wire._json import with_member
from arbstr.wire._models import ModelEntry, models_body
from arbstr.wire._sse import DONE, EventTooLarge, SSEEvent, SSEReader, sse_event
from arbstr.wire._usage import ChunkFacts, Usage, observe_chunk, usage_of, with_usage_extra

__all__ = [
    "DONE",
    "MAX_TOKEN_COUNT",
    "ChunkFacts",
    "Endpoint",
    "EventTooLarge",
    "ModelCall",
    "ModelEntry",
    "SSEEvent",
    "SSEReader",
    "Usage",
    "error_body",
    "error_event",
    "models_body",
    "observe_chunk",
    "parse_chat",
    "sse_event",
    "usage_of",
    "with_member",
    "with_usage_extra",
]
