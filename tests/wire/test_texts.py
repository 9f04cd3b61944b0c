"""Legacy completions and embeddings: what they count, what is refused, and that the client's bytes are kept."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.errors import InvalidRequest
from arbstr.wire import (
    BYTES_PER_TOKEN_ID,
    MAX_TOKEN_COUNT,
    Endpoint,
    ModelCall,
    observe_chunk,
    parse_chat,
    parse_completion,
    parse_embeddings,
)

Parse = Callable[[bytes], ModelCall]
BOTH = pytest.mark.parametrize(("parse", "name"), [(parse_completion, "prompt"), (parse_embeddings, "input")])


def body_of(**members: Any) -> bytes:
    return json.dumps({"model": "m", **members}).encode()


def refusal(parse: Parse, body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    return caught.value


# What is read


@BOTH
@pytest.mark.parametrize(
    ("value", "count", "text_bytes"),
    [
        ("héllo", 1, 6),
        ("", 1, 0),
        (["ab", "é"], 2, 4),
        ([1, 2, 3], 1, 3 * BYTES_PER_TOKEN_ID),
        ([[1, 2], [3], []], 3, 3 * BYTES_PER_TOKEN_ID),
        ([0, MAX_TOKEN_COUNT], 1, 2 * BYTES_PER_TOKEN_ID),
    ],
)
def test_prompt_text_is_counted_when_it_comes_as(
    parse: Parse, name: str, value: object, count: int, text_bytes: int
) -> None:
    call = parse(body_of(**{name: value}))
    assert (call.messages, call.messages_text_bytes, call.images) == (count, text_bytes, 0)


def test_the_last_prompt_is_what_the_user_says_when_it_is_text() -> None:
    call = parse_completion(body_of(prompt=["one", "two"]))
    assert (call.texts, call.last_user_text, call.endpoint) == (("one", "two"), "two", Endpoint.COMPLETIONS)
    assert parse_completion(body_of(prompt=[1, 2])).last_user_text == ""


def test_what_is_to_be_embedded_is_no_wish_of_the_user() -> None:
    call = parse_embeddings(body_of(input=["write code", "now"]))
    assert (call.texts, call.last_user_text, call.endpoint) == ((), "", Endpoint.EMBEDDINGS)
    assert (call.stream, call.max_tokens, call.n) == (False, None, 1)


@pytest.mark.parametrize("members", [{}, {"prompt": None}])
def test_the_model_begins_by_itself_when_there_is_no_prompt(members: dict[str, Any]) -> None:
    call = parse_completion(body_of(**members))
    assert (call.messages, call.messages_text_bytes, call.n, call.last_user_text) == (1, 0, 1, "")


def test_the_suffix_is_prompt_text_too() -> None:
    assert parse_completion(body_of(prompt="ab", suffix="cé")).messages_text_bytes == 5


@pytest.mark.parametrize(
    ("members", "n"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"n": 2, "best_of": 5}, 5),
        ({"n": 3, "best_of": None}, 3),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [[1], [2], [3]], "best_of": 2}, 6),
    ],
)
def test_every_answer_that_is_generated_counts(members: dict[str, Any], n: int) -> None:
    assert parse_completion(body_of(**{"prompt": "x", **members})).n == n


@pytest.mark.parametrize("limit", [None, 0, 7, MAX_TOKEN_COUNT])
def test_the_limit_is_read_when_a_completion_has_one(limit: int | None) -> None:
    assert parse_completion(body_of(prompt="x", max_tokens=limit)).max_tokens == limit


@BOTH
@given(texts=st.lists(st.text(), min_size=1, max_size=5))
def test_the_count_is_the_length_of_all_texts(parse: Parse, name: str, texts: list[str]) -> None:
    call = parse(body_of(**{name: texts}))
    assert call.messages_text_bytes == sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


# What is refused


@BOTH
@pytest.mark.parametrize(
    ("value", "param"),
    [
        ([], ""),
        ({}, ""),
        (5, ""),
        (True, ""),
        ([True], "[0]"),
        ([1.0], "[0]"),
        ([None], "[0]"),
        (["a", 1], "[1]"),
        ([1, "a"], "[1]"),
        (["a", ["b"]], "[1]"),
        ([["a"]], "[0]"),
        ([[1], [True]], "[1]"),
        ([-1], ""),
        ([[1], [MAX_TOKEN_COUNT + 1]], "[1]"),
    ],
)
def test_the_status_is_422_and_the_place_is_named_when_the_text_is(
    parse: Parse, name: str, value: object, param: str
) -> None:
    error = refusal(parse, body_of(**{name: value}))
    assert (error.status, error.param, error.reason) == (422, name + param, "invalid_value")
    assert len(error.message) < 250


@pytest.mark.parametrize("members", [{}, {"input": None}])
def test_embeddings_of_nothing_are_refused(members: dict[str, Any]) -> None:
    assert refusal(parse_embeddings, body_of(**members)).param == "input"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": ""}, "model"),
        ({"stream": 1}, "stream"),
        ({"echo": "yes"}, "echo"),
        ({"suffix": 5}, "suffix"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"best_of": 0}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"stream_options": []}, "stream_options"),
    ],
)
def test_the_member_is_named_when_a_completion_has_a_wrong_type(members: dict[str, Any], param: str) -> None:
    error = refusal(parse_completion, body_of(**{"prompt": "x", **members}))
    assert (error.status, error.param) == (422, param)


@BOTH
def test_a_member_that_is_read_is_refused_when_it_is_given_twice(parse: Parse, name: str) -> None:
    error = refusal(parse, f'{{"model":"m","{name}":"a","{name}":"b"}}'.encode())
    assert (error.status, error.param, error.reason) == (422, name, "duplicate_field")


@BOTH
def test_a_member_that_is_read_is_refused_when_it_is_written_with_capitals(parse: Parse, name: str) -> None:
    error = refusal(parse, f'{{"model":"m","{name}":"a","{name.title()}":"b"}}'.encode())
    assert (error.status, error.param) == (422, name)


# What the provider gets


def test_usage_and_name_are_spliced_in_and_all_other_bytes_stay_when_a_completion_streams() -> None:
    text = ' {"prompt":"ü€","x":1.0, "model" : "mé", "stream":true,"stream_options":{"a":1e400}}\n'
    call = parse_completion(text.encode())
    wanted = text.replace('{"a"', '{"include_usage":true,"a"').replace('"mé"', '"other/ö"')
    assert call.upstream_body("other/ö") == wanted.encode()


def test_only_the_name_changes_when_embeddings_are_asked_of_a_provider_with_its_own() -> None:
    text = '{"input":["é"],"model":"m","dimensions":256,"stream":true}'
    call = parse_embeddings(text.encode())
    assert call.upstream_body("n") == text.replace('"m"', '"n"').encode()
    assert call.upstream_body("m") is call.body
    assert call.upstream_body() is call.body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KNOWN = ["model", "messages", "prompt", "input", "stream", "max_tokens", "n", "best_of", "echo", "suffix"]
EVERY = pytest.mark.parametrize("parse", [parse_chat, parse_completion, parse_embeddings])
DEFAULTS: dict[str, Any] = {"model": "m", "messages": [], "prompt": "p", "input": "i"}


@EVERY
@given(members=st.dictionaries(st.sampled_from([*KNOWN, "stream_options"]) | st.text(), JSON, max_size=8))
def test_nothing_but_a_refusal_is_raised_when_members_have_any_type(parse: Parse, members: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        call = parse(json.dumps({**DEFAULTS, **members}).encode())
        assert json.loads(call.upstream_body("another"))["model"] == "another"


@EVERY
@given(body=st.binary())
def test_nothing_but_a_refusal_is_raised_when_the_body_is_garbage(parse: Parse, body: bytes) -> None:
    assert refusal(parse, body).status in (400, 422)


@EVERY
@given(data=st.data())
def test_nothing_but_a_refusal_is_raised_when_a_body_is_cut_or_spoilt_anywhere(
    parse: Parse, data: st.DataObject
) -> None:
    whole = json.dumps({**DEFAULTS, "stream": True, "stream_options": {"x": 1}, "y": "é\ud800"}).encode()
    at = data.draw(st.integers(0, len(whole)))
    for body in (whole[:at], whole[:at] + data.draw(st.binary(max_size=3)) + whole[at:]):
        with contextlib.suppress(InvalidRequest):
            parse(body).upstream_body("n")


@EVERY
@pytest.mark.parametrize("hostile", [b"[" * 100_000, b'{"model":"m","x":' + b"[" * 100_000, b'{"x":' + b"9" * 5_000])
def test_hostile_nesting_and_numbers_are_a_400(parse: Parse, hostile: bytes) -> None:
    assert refusal(parse, hostile).status == 400


NAMES = st.text(min_size=1)


@EVERY
@given(
    others=st.dictionaries(st.text().filter(lambda key: key.casefold() not in KNOWN), JSON, max_size=5),
    name=NAMES,
    place=st.integers(0, 5),
    stream=st.booleans(),
    ascii_only=st.booleans(),
)
def test_only_name_and_usage_differ_when_a_body_goes_to_a_provider(
    parse: Parse, others: dict[str, Any], name: str, place: int, stream: bool, ascii_only: bool
) -> None:
    others.pop("stream_options", None)
    items = list(others.items())
    items[place:place] = [*DEFAULTS.items(), ("stream", stream)]
    text = json.dumps(dict(items), ensure_ascii=ascii_only)
    call = parse(text.encode("utf-8", "backslashreplace"))
    sent = json.loads(call.upstream_body(name))
    wanted = {**json.loads(call.body), "model": name}
    if call.stream:
        wanted["stream_options"] = {"include_usage": True}
    assert sent == wanted


# What comes back


def test_usage_of_embeddings_is_read_although_it_counts_no_completion() -> None:
    answer = {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 5, "total_tokens": 5}}
    usage = observe_chunk(json.dumps(answer).encode()).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 0)


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [], "data": []}, {"data": {}}, {"data": None}])
def test_usage_without_a_completion_is_none_when_the_answer_is_no_embedding(answer: dict[str, Any]) -> None:
    body = json.dumps({**answer, "usage": {"prompt_tokens": 5, "total_tokens": 5}}).encode()
    assert observe_chunk(body).usage is None
