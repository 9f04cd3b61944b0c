"""The stream reader says the same whatever the split of its input."""

import json

import pytest

from bench.sse import MAX_EVENT_BYTES, StreamReader

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "arbstr": {"cost_msat": 7, "provider": "a"}}
STREAM = (
    b": hello\n\n"
    b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
    b'event: x\r\ndata:{"choices":[]}\r\n\r\n'
    b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
    b"data: [DONE]\n\n"
)


def test_reads_the_same_stream_when_split_at_every_byte() -> None:
    for at in range(len(STREAM) + 1):
        reader = StreamReader()
        reader.feed(STREAM[:at])
        reader.feed(STREAM[at:])
        assert (reader.events, reader.done, reader.usage, reader.error, reader.malformed) == (3, True, USAGE, None, 0)


def test_reads_the_same_stream_when_it_comes_byte_by_byte() -> None:
    reader = StreamReader()
    for at in range(len(STREAM)):
        reader.feed(STREAM[at : at + 1])

    assert (reader.events, reader.done, reader.usage) == (3, True, USAGE)


def test_keeps_the_error_and_does_not_count_it_when_a_stream_breaks() -> None:
    reader = StreamReader()
    reader.feed(b'data: {"choices":[]}\n\ndata: {"error":{"reason":"provider_failed"}}\n\n')

    assert (reader.events, reader.done) == (1, False)
    assert reader.error == {"reason": "provider_failed"}


def test_counts_what_is_not_json_when_it_claims_usage() -> None:
    reader = StreamReader()
    reader.feed(b'data: {"usage": broken\n\n')

    assert reader.malformed == 1


def test_refuses_an_event_when_it_never_ends() -> None:
    with pytest.raises(ValueError, match="no end of an event"):
        StreamReader().feed(b"data: " + b"x" * MAX_EVENT_BYTES)
