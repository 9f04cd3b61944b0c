"""The chat request: read once, lenient, and the client's bytes kept."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.errors import InvalidRequest
from arbstr.wire import MAX_TOKEN_COUNT, ModelCall, parse_chat

USER = {"role": "user", "content": "hi"}


def body_of(**members: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **members}).encode()


def call_of(*messages: Any, **members: Any) -> ModelCall:
    return parse_chat(body_of(messages=list(messages), **members))


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body)
    return caught.value


# What is read


def test_defaults_are_given_when_only_model_and_messages_are_there() -> None:
    call = parse_chat(b'{"model":"m","messages":[]}')
    assert (call.model, call.stream, call.max_tokens, call.n, call.include_usage) == ("m", False, None, 1, False)
    assert (call.messages, call.messages_text_bytes, call.images, call.last_user_text) == (0, 0, 0, "")


def test_nulls_are_taken_as_absent_when_they_stand_for_optional_members() -> None:
    body = body_of(
        stream=None, stream_options=None, max_tokens=None, max_completion_tokens=None, n=None, tools=None, stop=None
    )
    call = parse_chat(body)
    assert (call.stream, call.max_tokens, call.n, call.body) == (False, None, 1, body)


def test_unknown_members_pass_unread_when_they_have_any_type() -> None:
    body = body_of(temperature="warm", user=7, stop=5, metadata=None, seed=12345678901234567890, logit_bias=[[]])
    assert parse_chat(body).upstream_body() is body


@pytest.mark.parametrize(
    ("members", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 0}, 5),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": MAX_TOKEN_COUNT}, MAX_TOKEN_COUNT),
    ],
)
def test_the_larger_limit_counts_when_both_are_given(members: dict[str, Any], limit: int) -> None:
    assert parse_chat(body_of(**members)).max_tokens == limit


@pytest.mark.parametrize("message", [{"role": "assistant", "content": None}, {"role": "assistant"}, {}, {"name": None}])
def test_a_message_passes_when_it_has_no_content(message: dict[str, Any]) -> None:
    call = call_of(message)
    assert (call.messages, call.messages_text_bytes) == (1, 0)


@pytest.mark.parametrize(
    ("message", "text_bytes", "images"),
    [
        ({"role": "user", "content": "héllo"}, 6, 0),
        ({"role": "user", "content": "\ud800"}, 3, 0),
        ({"role": "user", "content": "a", "name": "bob"}, 4, 0),
        ({"role": "user", "content": [{"type": "text", "text": "ab"}, {"type": "text", "text": "é"}]}, 4, 0),
        ({"role": "user", "content": ["ab", "c"]}, 3, 0),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 999}}]}, 0, 1),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "ab"},
                    {"type": "input_audio", "input_audio": {"data": "x" * 99, "format": "wav"}},
                    {"type": "file", "file": {"file_data": "x" * 99}},
                ],
            },
            2,
            2,
        ),
        ({"role": "tool", "tool_call_id": "call_1", "content": "42"}, 8, 0),
        ({"role": "x" * 50, "content": ""}, 50, 0),
    ],
)
def test_prompt_text_is_counted_in_bytes_when_a_message_holds(
    message: dict[str, Any], text_bytes: int, images: int
) -> None:
    call = call_of(message)
    assert (call.messages_text_bytes, call.images) == (text_bytes, images)


def test_tool_calls_are_counted_when_an_assistant_made_them() -> None:
    arguments = "x" * 100
    function = {"name": "look", "arguments": arguments}
    call = call_of({"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": function}]})
    assert call.messages_text_bytes >= 104


@pytest.mark.parametrize(
    "part", [{"type": "thinking", "thinking": "x" * 50}, {"type": "text", "text": {"v": "x" * 50}}, 5]
)
def test_a_part_counts_with_its_json_when_its_shape_is_unknown(part: object) -> None:
    text = json.dumps(part, separators=(",", ":"))
    assert call_of({"role": "user", "content": [part]}).messages_text_bytes == len(text)


@pytest.mark.parametrize("key", ["tools", "functions", "response_format"])
def test_schemas_count_with_their_json_text_when_they_go_into_the_prompt(key: str) -> None:
    text = '[ {"name": "é", "x": 1.0} ]'
    body = f'{{"model":"m","messages":[],"{key}" : {text} }}'.encode()
    assert parse_chat(body).messages_text_bytes == len(text.encode())


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), max_size=5),
)
def test_the_count_is_the_length_of_all_contents_when_they_are_strings(messages: list[tuple[str, str]]) -> None:
    call = call_of(*({"role": role, "content": content} for role, content in messages))
    assert call.messages_text_bytes == sum(len(content.encode("utf-8", "surrogatepass")) for _, content in messages)


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([USER, {"role": "assistant", "content": "yes"}], "hi"),
        ([{"role": "user", "content": "old"}, {"role": "user", "content": "new"}], "new"),
        ([{"role": "User", "content": "hi"}], ""),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                }
            ],
            "a",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": None}, {"type": "text", "text": "b"}]}], ""),
        ([{"role": "user", "content": None}], ""),
        ([{"role": "user", "content": {"odd": 1}}], ""),
        ([{"role": ["user"], "content": "a"}], ""),
        ([], ""),
    ],
)
def test_the_last_user_text_is_found_when_messages_are(messages: list[Any], text: str) -> None:
    assert call_of(*messages).last_user_text == text


# What is refused


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{bad", "line 1 column 2"),
        (b'{"model":"m",\n "messages":[}', "line 2 column 14"),
        (b'{"model":"m","messages":[]} x', "Extra data"),
        (b'{"model":"m","messages":[],}', "column 28"),
        (b'{"model" "m"}', "delimiter"),
        (b'{"model":"m" "n":1}', "delimiter"),
        (b'{"model":"m"', "delimiter"),
        (b'{"model":', "Expecting value"),
        (b'{"model":"m\n"}', "control character"),
        (b"{'model':'m'}", "double quotes"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'"text"', "object"),
        (b"nul", "Expecting value"),
        (b'{"model":"\xff","messages":[]}', "UTF-8 at byte 10"),
        ('{"model":"m","messages":[]}'.encode("utf-16"), "UTF-8"),
        (b'\xef\xbb\xbf{"model":"m","messages":[]}', "line 1 column 1"),
        (b'{"model":"m","messages":[],"x":NaN}', "NaN"),
        (b'{"model":"m","messages":[{"x":-Infinity}]}', "-Infinity"),
        (b"Infinity", "Infinity"),
        (b'{"model":"m","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
        (b"[" * 100_000, "nested"),
        (b'{"model":"m","messages":[],"x":' + b"9" * 5_000 + b"}", "digits"),
        (b"{" + b",".join(b'"k%d":0' % i for i in range(2_000)) + b"}", "members"),
    ],
)
def test_the_status_is_400_when_the_body_is_not_a_json_object(body: bytes, hint: str) -> None:
    error = refusal(body)
    assert (error.status, error.reason) == (400, "invalid_json")
    assert hint in error.message


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
        ({"model": "\ud800"}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [USER, "hi"]}, "messages[1]"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 1.0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": MAX_TOKEN_COUNT + 1}, "max_tokens"),
        ({"max_tokens": 10**4_000}, "max_tokens"),
        ({"max_completion_tokens": False}, "max_completion_tokens"),
        ({"max_completion_tokens": [1]}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
)
def test_the_status_is_422_and_the_member_is_named_when_its_type_is_wrong(members: dict[str, Any], param: str) -> None:
    error = refusal(body_of(**members))
    assert (error.status, error.param, error.reason) == (422, param, "invalid_value")
    assert param in error.message
    assert len(error.message) < 200


@pytest.mark.parametrize(
    ("body", "param"), [(b'{"model":"m"}', "messages"), (b'{"messages":[]}', "model"), (b"{}", "model")]
)
def test_the_status_is_422_when_a_required_member_is_missing(body: bytes, param: str) -> None:
    error = refusal(body)
    assert (error.status, error.param, error.reason) == (422, param, "missing_field")
    assert param in error.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"m","model":"m","messages":[]}', "model"),
        (b'{"model":"m","mod\\u0065l":"x","messages":[]}', "model"),
        (b'{"model":"m","messages":[],"messages":[{}]}', "messages"),
        (b'{"model":"m","messages":[],"max_tokens":1,"max_tokens":9}', "max_tokens"),
        (b'{"model":"m","messages":[],"stream":true,"stream":null}', "stream"),
        (b'{"model":"m","messages":[{"content":"long","content":""}]}', "messages"),
        (
            b'{"model":"m","messages":[],"stream_options":{"include_usage":true,"include_usage":false}}',
            "stream_options.include_usage",
        ),
    ],
)
def test_the_status_is_422_when_a_member_that_is_read_is_given_twice(body: bytes, param: str) -> None:
    error = refusal(body)
    assert (error.status, error.param, error.reason) == (422, param, "duplicate_field")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Model", "model"),
        ("MAX_TOKENS", "max_tokens"),
        ("N", "n"),
        ("\u017ftream", "stream"),
        ("max_to\u212aens", "max_tokens"),
        ("Tools", "tools"),
    ],
)
def test_the_status_is_422_when_some_readers_would_take_a_member_for_one_that_is_read(name: str, meant: str) -> None:
    error = refusal(body_of(**{name: None}))
    assert (error.status, error.param, error.reason) == (422, meant, "invalid_value")


def test_the_name_of_a_model_is_refused_when_it_is_longer_than_any() -> None:
    assert parse_chat(body_of(model="x" * 200)).model == "x" * 200
    error = refusal(body_of(model="x" * 201))
    assert (error.status, error.param) == (422, "model")
    assert len(error.message) < 200


@pytest.mark.parametrize("name", ["a\x1b]0;title", "a\nb", "a\x00", "a\u009b1m", "a\ud800"])
def test_the_name_of_a_model_is_refused_when_a_terminal_would_obey_it(name: str) -> None:
    error = refusal(body_of(model=name))
    assert (error.status, error.param) == (422, "model")
    assert error.message.isprintable()


def test_unknown_members_pass_when_they_have_capitals() -> None:
    body = body_of(Seed=1, X=2, userId=3)
    assert parse_chat(body).upstream_body() is body


@pytest.mark.parametrize("name", ["Text", "TEXT", "Type", "t\u00fdpe"])
def test_a_part_counts_with_its_json_when_some_readers_would_read_another_text(name: str) -> None:
    long = "x" * 1_000
    call = call_of({"role": "user", "content": [{"type": "text", "text": "a", name: long}]})
    assert (call.messages_text_bytes > 1_000) is (name.casefold() in ("text", "type"))
    assert call.last_user_text == "a"


def test_unknown_members_pass_when_they_are_given_twice() -> None:
    body = b'{"model":"m","messages":[],"x":1,"x":2}'
    assert parse_chat(body).upstream_body() is body


def test_a_number_passes_when_no_float_can_hold_it() -> None:
    body = b'{"model":"m","messages":[],"x":1e400,"y":' + b"9" * 4_000 + b"}"
    assert parse_chat(body).upstream_body() is body


@given(st.binary() | st.text().map(str.encode))
def test_nothing_but_a_refusal_is_raised_when_the_body_is_garbage(body: bytes) -> None:
    assert refusal(body).status in (400, 422)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KNOWN = ["model", "messages", "stream", "max_tokens", "max_completion_tokens", "n", "stream_options", "tools"]
MESSAGES = st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), JSON), max_size=3)


@given(st.dictionaries(st.sampled_from(KNOWN) | st.text(), JSON | MESSAGES, max_size=8), st.booleans())
def test_nothing_but_a_refusal_is_raised_when_members_have_any_type(members: dict[str, Any], ascii_only: bool) -> None:
    members = {"model": "m", "messages": [], **members}
    with contextlib.suppress(InvalidRequest):
        call = parse_chat(json.dumps(members, ensure_ascii=ascii_only).encode("utf-8", "replace"))
        json.loads(call.upstream_body())


# What the provider gets


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"", b'"stream_options":{"include_usage":true},'),
        (b'"stream_options":null,', b'"stream_options":{"include_usage":true},'),
        (b'"stream_options":{},', b'"stream_options":{"include_usage":true},'),
        (b'"stream_options": { } ,', b'"stream_options": {"include_usage":true } ,'),
        (b'"stream_options":{"include_usage":false},', b'"stream_options":{"include_usage":true},'),
        (b'"stream_options":{"include_usage" : null },', b'"stream_options":{"include_usage" : true },'),
        (b'"stream_options":{"foo":1.0},', b'"stream_options":{"include_usage":true,"foo":1.0},'),
        (
            b'"stream_options":{"a":{"include_usage":false},"include_us\\u0061ge":false,"b":1e400},',
            b'"stream_options":{"a":{"include_usage":false},"include_us\\u0061ge":true,"b":1e400},',
        ),
        (b'"stream\\u005foptions":{"include_usage":false},', b'"stream\\u005foptions":{"include_usage":true},'),
    ],
)
def test_usage_is_asked_for_and_all_other_bytes_stay_when_the_call_streams(options: bytes, expected: bytes) -> None:
    head = b"\n{"
    tail = b'"x":[{"stream_options":{}}, "\\"stream_options\\":{"], "big":12345678901234567890, "one":1.0,'
    tail += '"model":"mé", "messages":[{"role":"user","content":"ü€😀"}],'.encode() + b'"stream" : true , "y":-0.0}\r\n'
    call = parse_chat(head + options + tail)
    assert call.upstream_body() == (head + expected + tail)
    assert not call.include_usage
    assert call.body == head + options + tail


def test_usage_is_asked_for_at_the_right_place_when_text_before_it_is_not_ascii() -> None:
    text = '{"model":"mé","messages":[{"role":"user","content":"ü€😀"}],"stream":true,'
    text += '"stream_options":{"include_usage":false}}'
    assert parse_chat(text.encode()).upstream_body() == text.replace("false", "true").encode()


@pytest.mark.parametrize(
    "members", [{}, {"stream": False}, {"stream_options": {"include_usage": False}}, {"stream": None}]
)
def test_the_bytes_are_the_clients_when_the_call_does_not_stream(members: dict[str, Any]) -> None:
    body = body_of(**members)
    assert parse_chat(body).upstream_body() is body


def test_the_bytes_are_the_clients_when_usage_is_asked_for_already() -> None:
    body = body_of(stream=True, stream_options={"include_usage": True, "foo": 1})
    call = parse_chat(body)
    assert call.include_usage
    assert call.upstream_body() is body


UNREAD = st.text().filter(lambda key: key.casefold() not in {"n", "model", "stream", "tools", "messages", "functions"})
"""Names that no reader takes for one of those that decide about the price."""


@given(st.dictionaries(UNREAD, JSON, max_size=6), st.none() | st.dictionaries(st.text(), JSON), st.integers(0, 6))
def test_only_include_usage_differs_when_the_call_streams(
    others: dict[str, Any], options: dict[str, Any] | None, place: int
) -> None:
    options = None if options is None else {k: v for k, v in options.items() if k != "include_usage"}
    members = [(key, value) for key, value in others.items() if key not in KNOWN]
    members[place:place] = [("stream_options", options)]
    asked = {"model": "m", "stream": True, "messages": [USER], **dict(members)}
    call = parse_chat(json.dumps(asked, ensure_ascii=False).encode("utf-8", "backslashreplace"))
    sent = json.loads(call.upstream_body())
    assert sent == {**asked, "stream_options": {**(options or {}), "include_usage": True}}


def test_the_body_is_spliced_when_the_call_was_built_by_hand() -> None:
    body = body_of(stream=True)
    call = ModelCall("m", True, None, 1, False, 2, 1, 0, "hi", body)
    assert call.upstream_body() == parse_chat(body).upstream_body()


def test_the_body_is_not_shown_when_a_call_is_printed() -> None:
    assert "secret" not in repr(call_of({"role": "assistant", "content": "secret"}))
