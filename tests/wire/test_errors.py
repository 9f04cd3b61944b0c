"""Error bodies, as the official SDK reads them."""

import json
from typing import Any

import httpx2  # what the official SDK talks through
import openai
import pytest

from arbstr.errors import (
    ArbstrError,
    AuthenticationFailed,
    BillingRefused,
    InvalidRequest,
    NoProviderAvailable,
    Overloaded,
    UpstreamRejected,
)
from arbstr.wire import SSEReader, error_body, error_event


def error_of(error: ArbstrError) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(error_body(error, "req-1"))["error"]
    return fields


def rejected(body: bytes, message: str = "Provider error: p answered 400") -> UpstreamRejected:
    return UpstreamRejected(message, status=400, provider="p", body=body)


@pytest.mark.parametrize(
    ("error", "kind", "code", "reason"),
    [
        (InvalidRequest("no", param="model", reason="model_not_found"), "arbstr_error", 400, "model_not_found"),
        (InvalidRequest("no", status=422), "arbstr_error", 422, "invalid_request"),
        (AuthenticationFailed("no"), "authentication_error", "invalid_api_key", "invalid_api_key"),
        (BillingRefused("no", status=429, reason="limit"), "billing_error", "vault_429", "limit"),
        (NoProviderAvailable("no"), "arbstr_error", 503, "no_provider_available"),
        (Overloaded("no"), "server_error", 503, "overloaded"),
    ],
)
def test_the_fields_are_openais_and_ours_when_the_error_is(
    error: ArbstrError, kind: str, code: int | str, reason: str
) -> None:
    assert error_of(error) == {
        "message": "no",
        "type": kind,
        "param": error.param,
        "code": code,
        "reason": reason,
        "request_id": "req-1",
    }


def test_details_are_added_and_replace_nothing_when_there_are_some() -> None:
    fields = error_of(BillingRefused("no", details={"available_msat": 5, "message": "other"}))
    assert fields["available_msat"] == 5
    assert fields["message"] == "no"


def test_the_body_is_valid_utf8_when_the_message_holds_half_a_surrogate_pair() -> None:
    assert error_of(InvalidRequest("a\ud800é"))["message"] == "a\ud800é"


@pytest.mark.parametrize("body", [b'{"error":{"message":"m","code":"c"}}', b' {"x":1.0,"error":{}}\n'])
def test_a_providers_body_passes_untouched_when_it_has_openais_shape(body: bytes) -> None:
    assert error_body(rejected(body), "req-1") == body


@pytest.mark.parametrize(
    ("body", "quoted"),
    [
        (b"<html>\x00\x1b[31m bad\r\n request</html>", "<html> [31m bad request</html>"),
        (b'{"error":"bad"}', '{"error":"bad"}'),
        (b'{"error":null}', '{"error":null}'),
        (b'{"error":{"message":NaN}}', '{"error":{"message":NaN}}'),
        (b'{"error":{}} x', '{"error":{}} x'),
        (b'[{"error":{}}]', '[{"error":{}}]'),
        (b"\xffbad", "\ufffdbad"),
    ],
)
def test_a_providers_words_are_quoted_when_they_have_another_shape(body: bytes, quoted: str) -> None:
    fields = error_of(rejected(body))
    assert fields["message"] == f"Provider error: p answered 400: {quoted}"
    assert (fields["code"], fields["reason"]) == (400, "rejected_by_provider")


def test_a_quotation_is_cut_when_it_is_long() -> None:
    message = error_of(rejected("é".encode() * 9_000, "said"))["message"]
    assert message == "said: " + "é" * 2_000


def test_the_message_stands_alone_when_the_provider_said_nothing() -> None:
    assert error_of(rejected(b" \n"))["message"] == "Provider error: p answered 400"


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_an_error_is_one_event_when_its_body_has_several_lines(line_end: bytes) -> None:
    [event] = SSEReader().feed(error_event(rejected(b'{\n"error":\n{"code":1}}'.replace(b"\n", line_end)), "req-1"))
    assert json.loads(event.data or b"") == {"error": {"code": 1}}


def answering(status: int, content: bytes, content_type: str = "application/json") -> openai.OpenAI:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=content, headers={"content-type": content_type})

    transport = httpx2.MockTransport(answer)
    return openai.OpenAI(
        api_key="k", base_url="http://arbstr/v1", max_retries=0, http_client=httpx2.Client(transport=transport)
    )


def test_the_official_sdk_shows_status_code_type_and_param_when_a_request_is_refused() -> None:
    error = InvalidRequest("No providers available for 'x'", param="model", reason="model_not_found")
    with (
        answering(error.status, error_body(error, "req-1")) as client,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        client.chat.completions.create(model="x", messages=[])
    seen = caught.value
    assert (seen.status_code, seen.code, seen.type, seen.param) == (400, "400", "arbstr_error", "model")
    assert "No providers available" in seen.message
    assert isinstance(seen.body, dict)
    assert seen.body["reason"] == "model_not_found"


def test_the_official_sdk_shows_the_providers_fields_when_the_provider_refused() -> None:
    body = b'{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"context_length"}}'
    with (
        answering(400, error_body(rejected(body), "req-1")) as client,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        client.chat.completions.create(model="x", messages=[])
    seen = caught.value
    assert (seen.code, seen.type, seen.param) == ("context_length", "invalid_request_error", "messages")


def test_the_official_sdk_raises_when_an_error_event_ends_a_stream() -> None:
    stream = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    stream += error_event(BillingRefused("the hold is used up", reason="hold_exhausted"), "req-1")
    with (
        answering(200, stream, "text/event-stream") as client,
        pytest.raises(openai.APIError) as caught,
        client.chat.completions.create(model="x", messages=[], stream=True) as chunks,
    ):
        assert [chunk.choices[0].delta.content for chunk in chunks] == ["a"]
    assert "the hold is used up" in caught.value.message
    assert (caught.value.code, caught.value.type) == ("vault_402", "billing_error")
