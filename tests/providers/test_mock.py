"""The mock provider: what a decent OpenAI-compatible server would answer, and faults on request."""

from __future__ import annotations

import json
import math
import struct
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from arbstr.config import mock_config
from arbstr.providers import MockProfile, MockTransport, Upstream, UpstreamFailure, build_transport
from arbstr.wire import Endpoint

URL = "http://mock.invalid/v1/chat/completions"


def chat_request(**fields: Any) -> httpx.Request:
    body = {"model": "m", "messages": [{"role": "user", "content": "Tell me about sats"}], **fields}
    return httpx.Request("POST", URL, content=json.dumps(body).encode())


async def plain(transport: MockTransport, **fields: Any) -> dict[str, Any]:
    response = await transport.handle_async_request(chat_request(**fields))
    body = await response.aread()
    assert response.status_code == 200, body
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(body)
    ChatCompletion.model_validate_json(body, strict=True)
    return json.loads(body)


async def streamed(transport: MockTransport, **fields: Any) -> list[dict[str, Any]]:
    response = await transport.handle_async_request(chat_request(stream=True, **fields))
    assert response.headers["content-type"] == "text/event-stream"
    return events_of(await response.aread())


def events_of(body: bytes) -> list[dict[str, Any]]:
    *events, done, rest = body.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    payloads = [event.removeprefix(b"data: ") for event in events]
    for payload in payloads:
        ChatCompletionChunk.model_validate_json(payload, strict=True)
    return [json.loads(payload) for payload in payloads]


async def refused(transport: MockTransport, **fields: Any) -> tuple[int, dict[str, Any]]:
    response = await transport.handle_async_request(chat_request(**fields))
    error = json.loads(await response.aread())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error


async def collect(stream: Any, into: list[bytes]) -> None:
    """Keeps what came before the stream broke."""
    async for piece in stream:
        into.append(piece)  # noqa: PERF401  # a comprehension would lose what came before the break


def content_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(delta.get("content") or "" for delta in deltas)


# -- answers


async def test_answers_48_tokens_when_no_length_is_asked_for() -> None:
    answer = await plain(MockTransport("mock://tester", wall=lambda: 1_700_000_000.5))
    [choice] = answer["choices"]
    text = choice["message"]["content"]
    assert text.startswith("Mock answer of tester. You said: Tell me about sats …")
    assert len(text.split()) == 48
    assert choice["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 48, "total_tokens": 53}
    assert (answer["model"], answer["created"], answer["object"]) == ("m", 1_700_000_000, "chat.completion")


@pytest.mark.parametrize(
    ("limits", "tokens", "reason"),
    [
        ({"max_tokens": 1}, 1, "length"),
        ({"max_tokens": 100}, 100, "length"),
        ({"max_tokens": 4_096}, 4_096, "length"),
        ({"max_tokens": 9_999}, 4_096, "stop"),
        ({"max_completion_tokens": 7, "max_tokens": 100}, 7, "length"),
        ({"max_tokens": None}, 48, "stop"),
    ],
)
async def test_is_as_long_as_asked_when_a_length_is_given(limits: dict[str, Any], tokens: int, reason: str) -> None:
    transport = MockTransport("mock://tester")
    answer = await plain(transport, **limits)
    chunks = await streamed(transport, **limits)
    assert answer["usage"]["completion_tokens"] == len(answer["choices"][0]["message"]["content"].split()) == tokens
    assert answer["choices"][0]["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == reason
    assert len(chunks) == tokens + 2, "a chunk for the role, one for each token, one for the end"
    assert content_of(chunks) == answer["choices"][0]["message"]["content"]


async def test_streams_usage_in_a_last_chunk_when_asked() -> None:
    chunks = await streamed(MockTransport("mock://tester"), max_tokens=3, stream_options={"include_usage": True})
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_streams_no_usage_when_not_asked() -> None:
    assert all("usage" not in chunk for chunk in await streamed(MockTransport("mock://tester"), max_tokens=3))


async def test_answers_every_choice_when_there_are_several() -> None:
    transport = MockTransport("mock://tester")
    answer = await plain(transport, n=3, max_tokens=5)
    chunks = await streamed(transport, n=3, max_tokens=5, stream_options={"include_usage": True})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == chunks[-1]["usage"]["completion_tokens"] == 15
    assert content_of(chunks, 2) == answer["choices"][2]["message"]["content"]


@pytest.mark.parametrize(
    ("messages", "tokens"),
    [
        ([{"role": "user", "content": ""}], 1),
        ([{"role": "user", "content": "12345"}], 2),
        ([{"role": "user", "content": "ééé"}], 2),
        ([{"role": "user", "content": [{"type": "text", "text": "12345678"}, {"type": "image_url"}]}], 2),
        ([{"role": "system", "content": "1234"}, {"role": "user", "content": "12345"}, {"role": "assistant"}], 3),
        ([{"role": "user", "content": "\ud800"}], 1),
    ],
)
async def test_counts_a_prompt_token_for_four_bytes_of_text_when_it_is_text(messages: Any, tokens: int) -> None:
    assert (await plain(MockTransport("mock://tester"), messages=messages))["usage"]["prompt_tokens"] == tokens


async def test_says_the_same_when_asked_the_same() -> None:
    first, second = await plain(MockTransport("mock://tester")), await plain(MockTransport("mock://tester"))
    assert first["choices"] == second["choices"]
    assert first["id"] == second["id"]


async def test_has_a_new_id_when_asked_again() -> None:
    transport = MockTransport("mock://tester")
    assert (await plain(transport))["id"] != (await plain(transport))["id"]
    assert transport.requests == 2


TOOLS = [
    {"type": "function", "function": {"name": "noop"}},
    {
        "type": "function",
        "function": {
            "name": "pay",
            "parameters": {
                "type": "object",
                "properties": {
                    "to": {"type": "string"},
                    "sats": {"type": "integer"},
                    "rail": {"enum": ["lightning", "cashu"]},
                    "memo": {"type": "string"},
                    "deep": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
                },
                "required": ["to", "sats", "rail", "deep"],
            },
        },
    },
]


@pytest.mark.parametrize(
    ("choice", "name", "arguments"),
    [
        ("required", "noop", {}),
        (
            {"type": "function", "function": {"name": "pay"}},
            "pay",
            {"to": "mock", "sats": 1, "rail": "lightning", "deep": {"ok": True}},
        ),
    ],
)
async def test_calls_the_tool_when_one_is_required(choice: Any, name: str, arguments: dict[str, Any]) -> None:
    transport = MockTransport("mock://tester")
    answer = await plain(transport, tools=TOOLS, tool_choice=choice)
    [called] = answer["choices"][0]["message"]["tool_calls"]
    assert called["function"]["name"] == name
    assert json.loads(called["function"]["arguments"]) == arguments
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    deltas = [chunk["choices"][0]["delta"] for chunk in await streamed(transport, tools=TOOLS, tool_choice=choice)]
    pieces = [delta["tool_calls"][0]["function"]["arguments"] for delta in deltas if "tool_calls" in delta]
    assert json.loads("".join(pieces)) == arguments


@pytest.mark.parametrize("choice", [None, "auto", "none"])
async def test_answers_in_words_when_a_tool_is_only_offered(choice: Any) -> None:
    answer = await plain(MockTransport("mock://tester"), tools=TOOLS, tool_choice=choice)
    assert answer["choices"][0]["message"]["content"]


async def test_lists_its_models_when_asked() -> None:
    transport = MockTransport("mock://tester", models=("a", "b"))
    response = await transport.handle_async_request(httpx.Request("GET", "http://mock.invalid/v1/models"))
    listed = json.loads(await response.aread())
    assert [(model["id"], model["object"]) for model in listed["data"]] == [("a", "model"), ("b", "model")]


# -- text completions


async def completion(transport: MockTransport, path: str = "/completions", **fields: Any) -> httpx.Response:
    body = {"model": "m", "prompt": "Once upon a time", **fields}
    return await transport.handle_async_request(
        httpx.Request("POST", f"http://mock.invalid/v1{path}", content=json.dumps(body).encode())
    )


async def completed(transport: MockTransport, **fields: Any) -> dict[str, Any]:
    body = await (await completion(transport, **fields)).aread()
    Completion.model_validate_json(body, strict=True)
    return json.loads(body)


async def test_completes_a_text_when_asked_for_that() -> None:
    answer = await completed(MockTransport("mock://tester", wall=lambda: 1_700_000_000.5), max_tokens=12)
    [choice] = answer["choices"]
    assert choice["text"] == "Mock answer of tester. You said: Once upon a time … Nothing"
    assert (choice["finish_reason"], choice["index"]) == ("length", 0)
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 12, "total_tokens": 16}
    assert (answer["object"], answer["created"], answer["id"]) == (
        "text_completion",
        1_700_000_000,
        "cmpl-tester-0-1",
    )


@pytest.mark.parametrize(
    ("prompt", "n", "choices", "prompt_tokens"),
    [
        ("12345", 3, 3, 2),
        (["1234", "12345678"], 1, 2, 3),
        (["1234", "1234"], 2, 4, 2),
        ([1, 2, 3], 1, 1, 3),
        ([[1, 2, 3], [4]], 1, 2, 4),
        (["1234", [7]], 1, 2, 2),
        ("", 1, 1, 1),
    ],
)
async def test_completes_every_prompt_as_often_as_asked(prompt: Any, n: int, choices: int, prompt_tokens: int) -> None:
    answer = await completed(MockTransport("mock://tester"), prompt=prompt, n=n, max_tokens=5)
    assert [choice["index"] for choice in answer["choices"]] == list(range(choices))
    assert answer["usage"]["prompt_tokens"] == prompt_tokens
    assert answer["usage"]["completion_tokens"] == 5 * choices


async def test_streams_a_text_when_asked_to() -> None:
    transport = MockTransport("mock://tester")
    options = {"stream_options": {"include_usage": True}}
    response = await completion(transport, stream=True, n=2, max_tokens=7, **options)
    assert response.headers["content-type"] == "text/event-stream"
    *events, done, rest = (await response.aread()).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert chunks[-1]["usage"] == {"prompt_tokens": 4, "completion_tokens": 14, "total_tokens": 18}
    whole = await completed(transport, n=2, max_tokens=7)
    for index in range(2):
        said = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert "".join(choice["text"] for choice in said) == whole["choices"][index]["text"]
        assert [choice["finish_reason"] for choice in said] == [None] * 7 + ["length"]


async def test_paces_and_breaks_a_text_like_a_chat_when_told_to(autojump_clock: trio.testing.MockClock) -> None:
    await completed(MockTransport("mock://t?ttft_ms=500&tokens_per_s=10"), max_tokens=20)
    assert trio.current_time() == pytest.approx(2.5)
    response = await completion(MockTransport("mock://t?cut=1"), stream=True, max_tokens=10)
    pieces: list[bytes] = []
    with pytest.raises(httpx.TransportError):
        await collect(response.stream, pieces)
    assert b"".join(pieces).count(b"data: ") == 5
    assert (await completion(MockTransport("mock://t?fail=1&status=500"))).status_code == 500


# -- embeddings


async def embedding(transport: MockTransport, **fields: Any) -> httpx.Response:
    return await completion(transport, "/embeddings", **{"input": "12345", **fields})


async def embedded(**fields: Any) -> dict[str, Any]:
    body = await (await embedding(MockTransport("mock://tester"), **fields)).aread()
    if fields.get("encoding_format") != "base64":
        CreateEmbeddingResponse.model_validate_json(body, strict=True)
    return json.loads(body)


@pytest.mark.parametrize(
    ("value", "vectors", "tokens"),
    [
        ("12345", 1, 2),
        (["1234", "é"], 2, 2),
        ([1, 2, 3], 1, 3),
        ([[1, 2, 3], [4]], 2, 4),
        (["1234"] * 2_048, 2_048, 2_048),
    ],
)
async def test_embeds_every_input_as_a_vector_of_length_one(value: Any, vectors: int, tokens: int) -> None:
    answer = await embedded(input=value)
    assert [each["index"] for each in answer["data"]] == list(range(vectors))
    for each in answer["data"]:
        assert len(each["embedding"]) == 8
        assert math.hypot(*each["embedding"]) == pytest.approx(1)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer["model"] == "m"


async def test_embeds_the_same_alike_and_the_different_differently() -> None:
    first, again, other = (await embedded(input=["cat", "cat", "dog"]))["data"]
    assert first["embedding"] == again["embedding"] == (await embedded(input="cat"))["data"][0]["embedding"]
    assert first["embedding"] != other["embedding"]
    assert first["embedding"] != (await embedded(input="cat", model="n"))["data"][0]["embedding"]


async def test_embeds_with_as_many_numbers_as_asked_and_as_base64_when_asked() -> None:
    numbers = (await embedded(dimensions=20))["data"][0]["embedding"]
    packed = (await embedded(dimensions=20, encoding_format="base64"))["data"][0]["embedding"]
    assert len(numbers) == 20
    assert struct.unpack("<20f", b64decode(packed)) == pytest.approx(numbers, rel=1e-6)


async def test_waits_and_fails_with_embeddings_like_with_all_else(autojump_clock: trio.testing.MockClock) -> None:
    assert (await embedding(MockTransport("mock://t?ttft_ms=500"))).status_code == 200
    assert trio.current_time() == pytest.approx(0.5)
    assert (await embedding(MockTransport("mock://t?fail=1"))).status_code == 503
    with pytest.raises(httpx.TransportError):
        await (await embedding(MockTransport("mock://t?cut=1"))).aread()


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("/completions", {"model": "other"}, 404, "model"),
        ("/completions", {"prompt": None}, 400, "prompt"),
        ("/completions", {"prompt": []}, 400, "prompt"),
        ("/completions", {"prompt": [[]]}, 400, "prompt"),
        ("/completions", {"prompt": [1, "a"]}, 400, "prompt"),
        ("/completions", {"prompt": [True]}, 400, "prompt"),
        ("/completions", {"prompt": ["a"] * 9, "n": 16}, 400, "prompt"),
        ("/completions", {"max_tokens": -1}, 400, "max_tokens"),
        ("/embeddings", {"model": None}, 400, "model"),
        ("/embeddings", {"input": ""}, 400, "input"),
        ("/embeddings", {"input": ["a", ""]}, 400, "input"),
        ("/embeddings", {"input": {"text": "a"}}, 400, "input"),
        ("/embeddings", {"input": [-1]}, 400, "input"),
        ("/embeddings", {"input": ["a"] * 2_049}, 400, "input"),
        ("/embeddings", {"input": "a", "dimensions": 0}, 400, "dimensions"),
        ("/embeddings", {"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
    ],
)
async def test_rejects_what_is_no_chat_when_it_is_wrong(
    path: str, fields: dict[str, Any], status: int, param: str
) -> None:
    response = await completion(MockTransport("mock://tester", models=("m",)), path, **fields)
    error = json.loads(await response.aread())["error"]
    assert (response.status_code, error["param"]) == (status, param)


# -- refusals


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": 7}, 400, "model"),
        ({"model": "other"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hi"}, 400, "messages"),
        ({"messages": ["hi"]}, 400, "messages"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"max_completion_tokens": "many"}, 400, "max_completion_tokens"),
        ({"n": 17}, 400, "n"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"function": {"name": "fly"}}}, 400, "tool_choice"),
    ],
)
async def test_rejects_a_request_when_it_is_wrong(fields: dict[str, Any], status: int, param: str) -> None:
    given, error = await refused(MockTransport("mock://tester", models=("m",)), **fields)
    assert (given, error["param"], error["type"]) == (status, param, "invalid_request_error")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
async def test_rejects_a_body_when_it_is_not_a_json_object(body: bytes) -> None:
    response = await MockTransport("mock://t").handle_async_request(httpx.Request("POST", URL, content=body))
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/chat/completions", 405),
        ("GET", "/embeddings", 405),
        ("POST", "/models", 405),
        ("POST", "/audio", 404),
    ],
)
async def test_rejects_a_path_when_it_does_not_serve_it(method: str, path: str, status: int) -> None:
    response = await MockTransport("mock://t").handle_async_request(httpx.Request(method, f"http://x{path}"))
    assert response.status_code == status


# -- pace and faults


async def test_answers_when_it_is_due_when_it_has_a_pace(autojump_clock: trio.testing.MockClock) -> None:
    await plain(MockTransport("mock://t?ttft_ms=500&tokens_per_s=10"), max_tokens=20)
    assert trio.current_time() == pytest.approx(2.5)


async def test_sends_each_token_when_it_is_due_when_it_has_a_pace(autojump_clock: trio.testing.MockClock) -> None:
    transport = MockTransport("mock://t?ttft_ms=500&tokens_per_s=10")
    response = await transport.handle_async_request(chat_request(stream=True, max_tokens=4))
    assert trio.current_time() == pytest.approx(0.5)
    times, body = [], b""
    async for piece in response.stream:
        times.append(trio.current_time())
        body += piece
    assert times == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert len(events_of(body)) == 6


async def test_sends_together_what_is_due_together_when_the_reader_was_slow(
    autojump_clock: trio.testing.MockClock,
) -> None:
    response = await MockTransport("mock://t?tokens_per_s=10").handle_async_request(
        chat_request(stream=True, max_tokens=9)
    )
    pieces = aiter(response.stream)
    first = await anext(pieces)
    await trio.sleep(0.5)
    second = await anext(pieces)
    assert (first.count(b'"content":" '), second.count(b'"content":" ')) == (0, 5)
    assert len(events_of(first + second + b"".join([piece async for piece in pieces]))) == 11


async def test_needs_few_writes_when_it_has_no_pace() -> None:
    response = await MockTransport("mock://t").handle_async_request(chat_request(stream=True, max_tokens=4_096))
    assert len([piece async for piece in response.stream]) <= 9


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_fails_with_the_status_when_told_to(status: int, autojump_clock: trio.testing.MockClock) -> None:
    transport = MockTransport(f"mock://t?fail=1&status={status}&ttft_ms=50")
    response = await transport.handle_async_request(chat_request(stream=True))
    assert response.status_code == status
    assert json.loads(await response.aread())["error"]["code"] == "mock_failure"
    assert ("retry-after" in response.headers) == (status != 500)


async def test_breaks_the_stream_in_the_middle_when_told_to() -> None:
    broken = set()
    transport = MockTransport("mock://t?cut=1&seed=2")
    for _ in range(20):
        response = await transport.handle_async_request(chat_request(stream=True, max_tokens=10))
        pieces: list[bytes] = []
        with pytest.raises(httpx.TransportError) as caught:
            await collect(response.stream, pieces)
        broken.add(type(caught.value))
        assert b"".join(pieces).count(b"data: ") == 6, "the role and half of the tokens"
        assert b"[DONE]" not in b"".join(pieces)
    assert broken == {httpx.ReadError, httpx.RemoteProtocolError}


async def test_breaks_the_body_in_the_middle_when_told_to() -> None:
    response = await MockTransport("mock://t?cut=1").handle_async_request(chat_request())
    with pytest.raises(httpx.TransportError):
        await response.aread()


async def test_never_answers_when_told_to_hang(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(10_000) as scope:
        await MockTransport("mock://t?hang=1").handle_async_request(chat_request())
    assert scope.cancelled_caught


async def failures(url: str, requests: int) -> list[bool]:
    transport = MockTransport(url)
    responses = [await transport.handle_async_request(chat_request()) for _ in range(requests)]
    return [response.status_code != 200 for response in responses]


async def test_fails_as_often_as_told_and_the_same_way_when_run_again() -> None:
    first = await failures("mock://t?fail=0.2&seed=5", 1_000)
    assert first == await failures("mock://t?fail=0.2&seed=5", 1_000)
    assert first != await failures("mock://t?fail=0.2&seed=6", 1_000)
    assert 150 < sum(first) < 250


# -- configuration


def test_reads_everything_from_the_url_when_it_is_there() -> None:
    url = "mock://name?ttft_ms=50&tokens_per_s=200&fail=0.1&cut=0.2&hang=0.3&status=500&seed=9"
    assert MockProfile.from_url(url) == MockProfile("name", 0.05, 200.0, 0.1, 0.2, 0.3, 500, 9)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://x", "mock:"),
        ("mock://x?speed=3", "unknown parameter 'speed'"),
        ("mock://x?fail=often", "must be a number"),
        ("mock://x?fail=1.5", "0 to 1"),
        ("mock://x?hang=nan", "0 to 1"),
        ("mock://x?ttft_ms=-1", "not negative"),
        ("mock://x?tokens_per_s=inf", "finite"),
        ("mock://x?status=200", "400 to 599"),
    ],
)
def test_cannot_be_made_when_the_url_makes_no_sense(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MockTransport(url)


def test_is_built_for_every_provider_when_the_market_is_a_mock(tmp_path: Any) -> None:
    providers = mock_config(tmp_path / "arbstr.db").providers
    assert len(providers) >= 5
    assert all(isinstance(build_transport(provider), MockTransport) for provider in providers)


# -- behind the upstream


async def test_is_a_provider_like_any_other_when_called_by_the_upstream(make_config: Callable[..., Any]) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    async with Upstream(make_config(url="mock://t", models=("m",))) as upstream:
        answer = await upstream.send(
            Endpoint.CHAT, body, stream=True, request_id="r", correlation_id=None, traceparent=None
        )
        async with answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            assert len(events_of(b"".join([chunk async for chunk in answer.chunks()]))) == 50


@pytest.mark.parametrize(
    ("query", "kind"), [("hang=1", "first_byte_timeout"), ("cut=1", "reset"), ("tokens_per_s=0.001", "idle_timeout")]
)
async def test_is_a_failure_like_any_other_when_called_by_the_upstream(
    query: str, kind: str, make_config: Callable[..., Any], autojump_clock: trio.testing.MockClock
) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    async with Upstream(make_config(url=f"mock://t?{query}")) as upstream:
        with pytest.raises(UpstreamFailure) as caught:
            async with await upstream.send(Endpoint.CHAT, body, stream=True, request_id="r") as answer:
                await answer.read(1 << 20)
    assert caught.value.kind == kind


async def test_can_be_left_at_any_chunk_when_the_client_goes_away(make_config: Callable[..., Any]) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    async with Upstream(make_config(url="mock://t?tokens_per_s=1000")) as upstream:
        with trio.CancelScope() as scope:
            async with await upstream.send(Endpoint.CHAT, body, stream=True, request_id="r") as answer:
                async for _ in answer.chunks():
                    scope.cancel()
        assert scope.cancelled_caught
