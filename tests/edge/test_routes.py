import json
import logging
from uuid import UUID

import pytest
import trio

from arbstr.errors import (
    AuthenticationFailed,
    BillingRefused,
    InvalidRequest,
    NoProviderAvailable,
    UpstreamRejected,
)
from arbstr.requests import Caller, PlainAnswer

ANYONE = Caller(agent_id=None, role="anonymous", name="anonymous")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def need_bearer(authorization, peer, local):
    if authorization != "Bearer good":
        raise AuthenticationFailed("a bearer token is required")
    return Caller(agent_id="ag_1", role="agent", name="demo")


def raising(error):
    async def chat(request, responder):
        raise error

    return chat


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/ready", "/openapi.json", "/providers", "/metrics"])
async def test_head_answers_like_get_without_a_body(start, path):
    rig = await start()
    head, get = await rig.request("HEAD", path), await rig.request("GET", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(get.body)) != "0"


async def test_query_of_a_route_that_reads_none_is_ignored(start):
    rig = await start()
    assert (await rig.request("GET", "/health?verbose=1&verbose=%ff")).status == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/models/", "/health/", "/v1/embedding", "/V1/models", "/v1/stats/", "/v1/requests/", "/v1/cost/x"],
)
async def test_unknown_path_is_404_in_openai_shape(start, path):
    rig = await start()
    answer = await rig.request("GET", path)
    assert answer.status == 404
    assert (answer.error["code"], answer.error["reason"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/models/a/b", "GET, HEAD"),
        ("GET", "/v1/embeddings", "POST"),
        ("GET", "/v1/cost", "POST"),
        ("POST", "/v1/stats", "GET, HEAD"),
        ("POST", "/v1/requests", "GET, HEAD"),
        ("POST", "/v1/requests/x", "GET, HEAD"),
        ("POST", "/providers", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
        ("PUT", "/health", "GET, HEAD"),
        ("PUT", "/ready", "GET, HEAD"),
    ],
)
async def test_wrong_method_is_405_and_says_which_are_allowed(start, method, path, allow):
    rig = await start()
    answer = await rig.request(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert answer.error["reason"] == "method_not_allowed"


async def test_every_answer_carries_a_fresh_request_id(start):
    rig = await start(raising(InvalidRequest("no")))
    answers = [await rig.request("GET", path) for path in ("/v1/models", "/health", "/nope", "/v1/chat/completions")]
    answers.append(await rig.chat("x-arbstr-request-id: mine"))
    ids = [answer.headers["x-arbstr-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert all(str(UUID(each)) == each and UUID(each).version == 4 for each in ids)
    assert answers[-1].error["request_id"] == ids[-1]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("GET", "/nope"), ("GET", "/v1/chat/completions"), ("POST", "/v1/models")],
)
async def test_bearer_is_asked_for_before_path_and_method(start, method, path):
    rig = await start(authenticate=need_bearer)
    answer = await rig.request(method, path)
    assert answer.status == 401
    assert (answer.error["type"], answer.error["code"]) == ("authentication_error", "invalid_api_key")
    assert (await rig.request(method, path, "authorization: Bearer good")).status != 401


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_probes_need_no_bearer(start, path):
    rig = await start(authenticate=need_bearer)
    assert (await rig.request("GET", path)).status == 200


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        ([], (None, "127.0.0.1", True)),
        (["Authorization: bearer  x"], ("bearer  x", "127.0.0.1", True)),
        (["x-forwarded-for: 203.0.113.9"], (None, "127.0.0.1", False)),
        (["forwarded: for=203.0.113.9"], (None, "127.0.0.1", False)),
    ],
)
async def test_authentication_sees_the_raw_bearer_and_whether_the_peer_is_local(start, lines, seen):
    calls = []

    def authenticate(*arguments):
        calls.append(arguments)
        return Caller(agent_id=None, role="anonymous", name="anonymous")

    rig = await start(authenticate=authenticate)
    await rig.request("GET", "/v1/models", *lines)
    assert calls == [seen]


async def test_chat_gets_what_the_headers_say(start):
    requests = []

    async def chat(request, responder):
        requests.append(request)
        return PlainAnswer(200, (), b"{}")

    rig = await start(chat)
    lines = ["x-request-id: job-7", f"traceparent: {TRACE}", "x-arbstr-policy: thrifty", "x-arbstr-stream-cost: 1"]
    lines.append("x-arbstr-complexity: HIGH")
    answer = await rig.chat(*lines)
    (request,) = requests
    assert answer.headers["x-arbstr-correlation-id"] == "job-7"
    assert answer.headers["x-arbstr-request-id"] == request.request_id
    assert (request.correlation_id, request.traceparent, request.policy) == ("job-7", TRACE, "thrifty")
    assert request.complexity == "high"
    assert request.stream_cost
    assert request.call.model == "m"


async def test_chat_gets_nothing_when_the_headers_say_nothing_or_nonsense(start):
    requests = []

    async def chat(request, responder):
        requests.append(request)
        return PlainAnswer(200, (), b"{}")

    rig = await start(chat)
    for lines in ([], ["x-request-id: \xff", "traceparent: 1", "x-arbstr-stream-cost: yes", "x-arbstr-complexity: hi"]):
        answer = await rig.chat(*lines)
        assert "x-arbstr-correlation-id" not in answer.headers
    for request in requests:
        assert (request.correlation_id, request.traceparent, request.policy) == (None, None, None)
        assert request.complexity is None
        assert not request.stream_cost


async def test_stream_cost_is_on_when_the_configuration_says_so(start):
    requests = []

    async def chat(request, responder):
        requests.append(request)
        return PlainAnswer(200, (), b"{}")

    rig = await start(chat, stream_cost_event=True)
    await rig.chat()
    assert requests[0].stream_cost


async def test_correlation_id_is_returned_when_the_answer_is_an_error(start):
    rig = await start(raising(InvalidRequest("no")))
    assert (await rig.chat("x-request-id: job-7")).headers["x-arbstr-correlation-id"] == "job-7"


async def test_plain_answer_keeps_its_status_and_headers(start):
    async def chat(request, responder):
        return PlainAnswer(200, ((b"x-arbstr-provider", b"cheap"), (b"content-type", b"application/json")), b'{"a":1}')

    rig = await start(chat)
    answer = await rig.chat()
    assert (answer.status, answer.body) == (200, b'{"a":1}')
    assert (answer.headers["x-arbstr-provider"], answer.headers["content-length"]) == ("cheap", "7")
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (InvalidRequest("no", param="model"), 400, None),
        (BillingRefused("empty"), 402, None),
        (NoProviderAvailable("later", retry_after_s=2.1), 503, "3"),
        (NoProviderAvailable("later", retry_after_s=0), 503, "1"),
        (NoProviderAvailable("never", retry_after_s=float("inf")), 503, "86400"),
    ],
)
async def test_error_becomes_its_own_status_when_nothing_was_sent(start, error, status, retry_after):
    rig = await start(raising(error))
    answer = await rig.chat()
    assert (answer.status, answer.headers.get("retry-after")) == (status, retry_after)
    assert answer.error["message"] == error.message


async def test_error_is_found_when_a_nursery_wrapped_it(start):
    rig = await start(raising(ExceptionGroup("nursery", [ExceptionGroup("inner", [BillingRefused("empty")])])))
    assert (await rig.chat()).status == 402


async def test_providers_own_words_are_passed_on_when_it_rejected_the_request(start):
    body = b'{"error":{"message":"too long","code":"context_length_exceeded"}}'
    rig = await start(raising(UpstreamRejected("no", status=400, provider="p", body=body)))
    answer = await rig.chat()
    assert (answer.status, answer.body) == (400, body)


async def test_unexpected_exception_is_500_without_details_and_logged_with_the_request_id(start, caplog):
    rig = await start(raising(ValueError("http://internal:1/ key-123")))
    with caplog.at_level(logging.ERROR, "arbstr.edge"):
        answer = await rig.chat()
    assert answer.status == 500
    assert answer.error["reason"] == "internal_error"
    assert b"internal:1" not in answer.body
    (record,) = caplog.records
    assert answer.headers["x-arbstr-request-id"] in record.getMessage()
    assert record.exc_info[0] is ValueError


@pytest.mark.parametrize("service", ["providers", "authenticate", "touch"])
async def test_unexpected_exception_is_500_when_any_service_raises_it(start, service, caplog):
    def broken(*arguments):
        raise KeyError("x")

    rig = await start(**{service: broken})
    assert (await rig.request("GET", "/v1/models")).status == 500


async def test_one_request_too_many_is_503_and_health_is_not_limited(start):
    entered, leave = trio.Event(), trio.Event()

    async def chat(request, responder):
        entered.set()
        await leave.wait()
        return PlainAnswer(200, (), b"{}")

    asked = []
    rig = await start(chat, authenticate=lambda *said: asked.append(said) or ANYONE, max_requests=1)
    first = await rig.client()
    await first.post(json.dumps({"model": "m", "messages": []}).encode())
    await entered.wait()
    refused = await rig.request("GET", "/v1/models")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.error["reason"] == "overloaded"
    assert len(asked) == 1  # the bound comes before the bearer
    assert (await rig.request("GET", "/health")).status == 200
    leave.set()
    assert (await first.answer()).status == 200
    assert (await rig.request("GET", "/v1/models")).status == 200
