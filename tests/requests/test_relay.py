"""The relay without I/O: bytes, counts, and what is held back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.requests._relay import StreamRelay, estimated_tokens
from arbstr.wire import Usage
from tests.requests.rig import DONE, event, piece, usage, usage_event

STREAM = b"".join(
    [
        b": keep-alive\n\n",
        event({"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant"}}]}),
        piece("h\u00e9llo"),
        b"event: message\r\nid: 7\r\ndata:"
        + json.dumps({"choices": [{"delta": {"content": " you"}}]}).encode()
        + b"\r\n\r\n",
        b"data: not json\n\n",
        b'data: {"choices":\ndata: []}\n\n',
        piece("!"),
    ]
)
END = usage_event(10, 20) + DONE


def relay(*, limit: int | None = None, include_usage: bool = False) -> StreamRelay:
    return StreamRelay(prompt_tokens=9, limit=limit, include_usage=include_usage)


@pytest.mark.parametrize("include_usage", [False, True])
def test_every_byte_but_usage_and_done_passes_when_the_stream_is_torn_anywhere(include_usage: bool) -> None:
    whole = STREAM + END
    for position in range(len(whole) + 1):
        one = relay(include_usage=include_usage)
        got = one.feed(whole[:position]) + one.feed(whole[position:])
        assert got == STREAM
        assert one.done
        assert one.usage == Usage(10, 20)
        assert not one.estimated


@given(st.lists(st.integers(0, len(STREAM + END)), max_size=12))
def test_every_byte_but_usage_and_done_passes_when_the_stream_is_in_shreds(cuts: list[int]) -> None:
    whole, one, at, got = STREAM + END, relay(), 0, b""
    for cut in [*sorted(cuts), len(STREAM + END)]:
        got += one.feed(whole[at:cut])
        at = cut
    assert got == STREAM
    assert one.done


def test_nothing_passes_when_it_comes_after_the_end() -> None:
    one = relay()
    assert one.feed(piece("a") + DONE + piece("b") + DONE) == piece("a")
    assert one.feed(piece("c")) == b""
    assert one.tail({}, cost_event=False) == DONE


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n", b"data: [DONE]\r"])
def test_the_stream_is_complete_when_it_ends_right_behind_done(end: bytes) -> None:
    one = relay()
    assert one.feed(piece("a") + end) == piece("a")
    one.close()
    assert one.done


@pytest.mark.parametrize("end", [b"", b"data: [DON", b"data: [DONE", b": [DONE]\n", b"[DONE]\n", b"data: {}\n"])
def test_the_stream_is_not_complete_when_it_ends_short_of_done(end: bytes) -> None:
    one = relay()
    one.feed(piece("a") + end)
    one.close()
    assert not one.done


@pytest.mark.parametrize("failure", [event({"error": {"message": "x"}}), b'event: error\ndata: {"message":"x"}\n\n'])
def test_an_error_event_does_not_pass_and_nothing_after_it(failure: bytes) -> None:
    one = relay()
    assert one.feed(piece("a") + failure + piece("b") + DONE) == piece("a")
    assert one.failed
    assert not one.done
    one.close()
    assert not one.done


@pytest.mark.parametrize("data", [b"not json", b'{"choices":[{"delta":{"content":"\xff"}}]}', b"[]"])
def test_what_is_not_json_waits_for_what_is_and_is_no_answer_without_it(data: bytes) -> None:
    bad = b"data: " + data + b"\n\n"
    one, alone, torn = relay(), relay(), relay()
    assert (one.feed(bad + bad), one.malformed) == (b"", True)
    assert (one.feed(piece("a")), one.malformed) == (bad + bad + piece("a"), False)
    assert one.feed(bad + DONE) == bad
    assert (one.done, one.failed) == (True, False)
    for end in (alone, torn):
        assert end.feed(bad) == b""
    alone.feed(DONE + piece("a"))
    torn.feed(DONE.rstrip())
    torn.close()
    assert {(end.done, end.failed, end.malformed) for end in (alone, torn)} == {(False, True, True)}


@pytest.mark.parametrize(
    ("data", "tokens"),
    [(b"not json", 2), (b'{"choices":[{"delta":{"content":"\xff' + b"x" * 37 + b'"}}]}', 11)],
)
def test_what_is_not_json_is_counted_when_it_passes(data: bytes, tokens: int) -> None:
    one = relay()
    one.feed(piece("a"))
    one.feed(b"data: " + data + b"\n\n")
    assert (one.usage, one.estimated) == (Usage(9, tokens), True)


def test_usage_is_counted_when_none_is_reported() -> None:
    one = relay()
    one.feed(piece("x" * 9) + piece("y"))
    assert one.usage == Usage(9, 3)
    assert one.estimated


def test_what_passed_since_is_added_when_usage_is_reported_on_the_way() -> None:
    one = relay()
    one.feed(event({"choices": [{"delta": {"content": ""}}], "usage": usage(12, 0)}))
    assert (one.usage, one.estimated) == (Usage(12, 0), False)
    one.feed(piece("x" * 40))
    assert (one.usage, one.estimated) == (Usage(12, 10), True)
    one.feed(event({"choices": [{"delta": {"content": "z"}}], "usage": usage(12, 8)}))
    assert (one.usage, one.estimated) == (Usage(12, 8), False)
    one.feed(usage_event(12, 9))
    assert one.usage == Usage(12, 9)


def test_usage_goes_out_with_the_cost_only_when_it_was_asked_for() -> None:
    asked, unasked = relay(include_usage=True), relay()
    for one in (asked, unasked):
        one.feed(STREAM + END)
    body = {"id": "c", "choices": [], "usage": {**usage(10, 20), "arbstr": {"cost_msat": 5}}}
    tail = asked.tail({"cost_msat": 5}, cost_event=False)
    assert json.loads(tail.removeprefix(b"data: ").removesuffix(b"\n\n" + DONE)) == body
    assert unasked.tail({"cost_msat": 5}, cost_event=True) == b'data: {"arbstr":{"cost_msat":5}}\n\n' + DONE


def test_what_passed_is_counted_when_no_tokens_at_all_are_reported_with_each_piece() -> None:
    none = event({"choices": [{"delta": {"content": "hello"}}], "usage": usage(0, 0)})
    one = relay()
    one.feed(none + none)
    assert (one.usage, one.estimated) == (Usage(9, 3), True)
    one.feed(usage_event(12, 9))
    assert (one.usage, one.estimated) == (Usage(12, 9), False)


def test_a_chunk_of_nothing_but_usage_is_held_back_when_it_cannot_be_counted() -> None:
    bad = event({"choices": [], "usage": {"prompt_tokens": -1}})
    one = relay()
    assert one.feed(piece("a") + bad + DONE) == piece("a")
    assert one.tail({}, cost_event=False) == DONE
    assert (one.usage, one.estimated) == (Usage(9, 1), True)
    asked = relay(include_usage=True)
    asked.feed(bad + usage_event(10, 20) + bad + DONE)
    tail = asked.tail({}, cost_event=False)
    assert json.loads(tail.removeprefix(b"data: ").removesuffix(b"\n\n" + DONE))["usage"]["prompt_tokens"] == 10


@pytest.mark.parametrize(
    ("content_bytes", "pieces", "limit", "tokens"),
    [(0, 0, None, 0), (1, 0, None, 1), (8, 1, None, 2), (8, 5, None, 5), (80, 1, 7, 7), (80, 9, 7, 9), (80, 1, 0, 1)],
)
def test_tokens_are_estimated_from_bytes_pieces_and_limit(
    content_bytes: int, pieces: int, limit: int | None, tokens: int
) -> None:
    assert estimated_tokens(content_bytes, pieces, limit) == tokens
