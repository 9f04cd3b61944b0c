"""What chunks and answers tell about themselves."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.wire import MAX_TOKEN_COUNT, ChunkFacts, SSEReader, Usage, observe_chunk, usage_of, with_usage_extra


def observe(chunk: Any) -> ChunkFacts:
    return observe_chunk(json.dumps(chunk).encode())


def observe_delta(**delta: Any) -> ChunkFacts:
    return observe({"choices": [{"index": 0, "delta": delta}]})


def test_usage_is_read_when_both_counts_are_there() -> None:
    assert usage_of({"usage": {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}}) == Usage(10, 0)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        5,
        {},
        {"prompt_tokens": 1},
        {"completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": None},
        {"prompt_tokens": 1, "completion_tokens": -1},
        {"prompt_tokens": 1.0, "completion_tokens": 1},
        {"prompt_tokens": "1", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": MAX_TOKEN_COUNT + 1, "completion_tokens": 1},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    ],
)
def test_usage_is_unknown_when_it_is(usage: object) -> None:
    assert usage_of({"usage": usage}) is None
    assert observe({"usage": usage}).usage is None


def test_usage_is_unknown_when_it_is_absent() -> None:
    assert usage_of({}) is None


@pytest.mark.parametrize(
    ("delta", "count"),
    [
        ({}, 0),
        ({"role": "assistant"}, 0),
        ({"content": None}, 0),
        ({"content": ""}, 0),
        ({"content": "héllo"}, 6),
        ({"content": "\ud83d"}, 3),
        ({"content": [{"type": "text", "text": "ab"}, {"type": "thinking", "thinking": [{"text": "c"}]}]}, 3),
        ({"refusal": "no"}, 2),
        ({"reasoning_content": "hm"}, 2),
        ({"reasoning": "hmm"}, 3),
        ({"reasoning": "hmm", "reasoning_content": "hmm"}, 3),
        ({"content": "a", "reasoning": "b"}, 2),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"arguments": "é"}}]}, 5),
        ({"tool_calls": [None, {}, {"function": None}, {"function": {"name": None}}]}, 0),
        ({"tool_calls": "x"}, 0),
        ({"function_call": {"name": "f", "arguments": "{}"}}, 3),
        ({"content": 5, "refusal": {"a": 1}}, 0),
    ],
)
def test_written_bytes_are_counted_when_a_delta_holds(delta: dict[str, Any], count: int) -> None:
    assert observe_delta(**delta) == ChunkFacts(content_bytes=count, has_choices=True)


def test_bytes_of_all_choices_are_counted_when_there_are_several() -> None:
    chunk = {
        "choices": [{"delta": {"content": "ab"}}, {"message": {"content": "cd"}}, {"text": "e"}, None, {"delta": 5}]
    }
    assert observe(chunk).content_bytes == 5


def test_there_are_no_choices_when_the_chunk_is_for_usage() -> None:
    facts = observe({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    assert facts == ChunkFacts(usage=Usage(1, 2), has_choices=False, has_usage=True)


@pytest.mark.parametrize(("usage", "seen"), [({}, True), ({"prompt_tokens": -1}, True), (5, True), (None, False)])
def test_a_usage_is_seen_even_when_it_cannot_be_counted(usage: object, seen: bool) -> None:
    assert observe({"choices": [], "usage": usage}) == ChunkFacts(has_usage=seen)


@pytest.mark.parametrize(("error", "seen"), [({"message": "x"}, True), ("x", True), ({}, True), (None, False)])
def test_an_error_is_seen_when_the_member_is_not_null(error: object, seen: bool) -> None:
    assert observe({"error": error}).error is seen


def test_what_can_be_read_counts_when_the_chunk_is_in_broken_utf8() -> None:
    data = b'{"choices":[{"delta":{"content":"ab\xff"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    facts = observe_chunk(data)
    assert facts == ChunkFacts(Usage(1, 2), content_bytes=5, has_choices=True, malformed=True, has_usage=True)


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"5", b"null", b"\xff", b"[" * 10**5, b'{"a":' + b"9" * 5_000 + b"}", b"x"]
)
def test_the_chunk_is_malformed_when_it_is_no_json_object(data: bytes) -> None:
    assert observe_chunk(data) == ChunkFacts(malformed=True)


@pytest.mark.parametrize("data", [b"[DONE]", b" [DONE] ", b"", b" "])
def test_nothing_is_told_when_the_payload_is_the_end_or_empty(data: bytes) -> None:
    assert observe_chunk(data) == ChunkFacts()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "content",
                    "tool_calls",
                    "function",
                    "arguments",
                    "usage",
                    "text",
                    "error",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON | st.fixed_dictionaries({"choices": JSON, "usage": JSON}))
def test_nothing_is_raised_when_a_chunk_has_any_shape(chunk: object) -> None:
    assert observe(chunk).content_bytes >= 0


@given(st.binary())
def test_nothing_is_raised_when_a_chunk_is_garbage(data: bytes) -> None:
    observe_chunk(data)


def test_a_whole_answer_is_counted_when_it_is_no_stream() -> None:
    answer = {"choices": [{"message": {"role": "assistant", "content": "four"}}]}
    assert observe(answer) == ChunkFacts(content_bytes=4, has_choices=True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"usage":{"prompt_tokens":1.0}}', b'{"usage":{"arbstr":{"a":1},"prompt_tokens":1.0}}'),
        (b'{"usage" : {} , "x":1e400}', b'{"usage" : {"arbstr":{"a":1}} , "x":1e400}'),
        (b'{"usage":{"arbstr":5,"x":"\xc3\xa9"}}', b'{"usage":{"arbstr":{"a":1},"x":"\xc3\xa9"}}'),
        (b'{"usage":null}', b'{"usage":null}'),
        (b'{"x":{"usage":{}}}', b'{"x":{"usage":{}}}'),
        (b"nonsense", b"nonsense"),
        (b"", b""),
    ],
)
def test_only_usage_changes_when_our_part_is_added(data: bytes, expected: bytes) -> None:
    assert with_usage_extra(data, {"a": 1}) == b"data: " + expected + b"\n\n"


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"])
def test_the_event_is_still_one_when_its_data_had_several_lines(line_end: str) -> None:
    data = '{\n"usage":\n{}\n}'.replace("\n", line_end).encode()
    [event] = SSEReader().feed(with_usage_extra(data, {"a": 1}))
    assert json.loads(event.data or b"") == {"usage": {"arbstr": {"a": 1}}}
