"""What is said on the wire, without a socket: requests, server-sent events, usage, error bodies, model lists.

Bytes go in, values come out, and the other way round. Nothing here waits, reads a clock or knows a price list.
"""

from arbstr.wire._call import BYTES_PER_TOKEN_ID, MAX_TOKEN_COUNT, Endpoint, ModelCall
from arbstr.wire._chat import content_bytes, parse_chat
from arbstr.wire._errors import error_body, error_event
from arbstr.wire._json import dumps, with_member
from arbstr.wire._models import ModelEntry, ModelOffer, exact_text, model_body, models_body, pricing
from arbstr.wire._sse import DONE, EventTooLarge, SSEEvent, SSEReader, sse_event
from arbstr.wire._texts import parse_any, parse_completion, parse_embeddings
from arbstr.wire._usage import ChunkFacts, Usage, observe_chunk, usage_of, with_usage_extra

__all__ = [
    "BYTES_PER_TOKEN_ID",
    "DONE",
    "MAX_TOKEN_COUNT",
    "ChunkFacts",
    "Endpoint",
    "EventTooLarge",
    "ModelCall",
    "ModelEntry",
    "ModelOffer",
    "SSEEvent",
    "SSEReader",
    "Usage",
    "content_bytes",
    "dumps",
    "error_body",
    "error_event",
    "exact_text",
    "model_body",
    "models_body",
    "observe_chunk",
    "parse_any",
    "parse_chat",
    "parse_completion",
    "parse_embeddings",
    "pricing",
    "sse_event",
    "usage_of",
    "with_member",
    "with_usage_extra",
]
