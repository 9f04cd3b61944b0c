"""The four routes that take a request to a model, three of which ask it."""

import json

import pytest

from arbstr.config import PoliciesConfig
from arbstr.errors import NoProviderAvailable
from arbstr.requests import PlainAnswer, Quote
from arbstr.routing import Offer, Router
from arbstr.units import Price
from arbstr.wire import Endpoint

JSON_LINE = "content-type: application/json"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
COMPLETION = {"model": "m", "prompt": "hello", "max_tokens": 0}
EMBEDDING = {"model": "m", "input": ["hello", "world"]}


async def post(rig, path, body, *lines):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await rig.request("POST", path, JSON_LINE, *lines, body=data)


@pytest.mark.parametrize(
    ("path", "body", "endpoint"),
    [
        ("/v1/chat/completions", CHAT, Endpoint.CHAT),
        ("/v1/completions", COMPLETION, Endpoint.COMPLETIONS),
        ("/v1/embeddings", EMBEDDING, Endpoint.EMBEDDINGS),
    ],
)
async def test_a_request_is_answered_with_its_endpoint_and_its_bytes(start, path, body, endpoint):
    requests = []

    async def answer(request, responder):
        requests.append(request)
        return PlainAnswer(200, (), b"{}")

    rig = await start(answer)
    data = json.dumps(body, indent=1).encode()
    assert (await post(rig, path, data, "x-arbstr-complexity: Low")).status == 200
    (request,) = requests
    assert (request.call.endpoint, request.call.body, request.complexity) == (endpoint, data, "low")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"model": "m", "prompt": {}}, "prompt"),
        ("/v1/embeddings", {"model": "m"}, "input"),
        ("/v1/embeddings", CHAT, "input"),
        ("/v1/chat/completions", EMBEDDING, "messages"),
        ("/v1/cost", {"model": "m"}, "messages"),
        ("/v1/cost", {"prompt": "x"}, "model"),
    ],
)
async def test_a_request_is_422_when_it_is_another_ones(start, path, body, param):
    rig = await start()
    answer = await post(rig, path, body)
    assert (answer.status, answer.error["param"]) == (422, param)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v1/cost"])
async def test_bodies_are_bounded_and_must_be_json_everywhere(start, path):
    rig = await start(max_body_bytes=1_024)
    assert (await rig.request("POST", path, "content-type: text/plain", body=b"{}")).status == 415
    assert (await post(rig, path, b"x" * 2_000)).status == 413
    assert (await post(rig, path, b"{")).status == 400


# What it would cost


def quoting(*offers, default_reserve_tokens=4_096):
    router = Router(policies=PoliciesConfig(), default_reserve_tokens=default_reserve_tokens)

    def quote(request):
        demand = router.demand(request.call, policy=request.policy, complexity=None)
        return Quote(demand, router.quote(demand, offers))

    return quote


CHEAP = Offer("cheap", ["m"], Price.of(5_000, 15_000, unit="sats_per_1m_tokens"), "standard", open_until=1e9)
DEAR = Offer("dear", ["m"], Price.of(10_000, 30_000, 1, unit="sats_per_1m_tokens"), "standard")


async def test_a_quote_is_as_the_contract_has_it_and_exact_beside_it(start):
    rig = await start(quote=quoting(CHEAP, DEAR, Offer("other", ["x"], None, "local")))
    answer = await post(rig, "/v1/cost", CHAT)
    body = json.loads(answer.body)
    assert (answer.status, body["model"], body["provider"]) == (200, "m", "cheap")
    assert (body["estimated_input_tokens"], body["estimated_output_tokens"]) == (1, 256)
    assert (body["estimated_cost_sats"], body["estimated_cost_msat"]) == (3.845, 3_845)
    assert body["rates"] == {
        "input_rate_sats_per_1m": 5_000.0,
        "output_rate_sats_per_1m": 15_000.0,
        "base_fee_sats": 0.0,
    }
    assert body["rate_unit"] == "sats_per_1m_tokens"
    assert [one["provider"] for one in body["candidates"]] == ["cheap", "dear"]
    assert body["candidates"][0]["expected_cost_msat"] == body["expected_cost_msat"]
    assert body["bound_msat"] > body["expected_cost_msat"] > 0
    assert [(one["provider"], one["reason"]) for one in body["left_out"]] == [("other", "does_not_serve_model")]
    assert [name for name in answer.headers if name.startswith("x-arbstr")] == ["x-arbstr-request-id"]


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"model": "m", "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 100}, (100, 100)),
        ({"model": "m", "messages": [], "max_tokens": 0}, (1, 0)),
        ({"model": "m", "messages": [], "n": 2, "max_completion_tokens": 7}, (1, 14)),
        (COMPLETION, (1, 0)),
        ({"model": "m", "input": "x" * 40}, (10, 0)),
        ({"model": "m", "input": [1, 2, 3]}, (3, 0)),
    ],
)
async def test_tokens_of_a_quote_are_counted_from_the_text_and_the_limit(start, body, tokens):
    rig = await start(quote=quoting(CHEAP))
    found = json.loads((await post(rig, "/v1/cost", body)).body)
    assert (found["estimated_input_tokens"], found["estimated_output_tokens"]) == tokens


async def test_a_quote_fails_as_the_choice_does(start):
    def nobody(request):
        raise NoProviderAvailable("later", retry_after_s=2)

    rig = await start(quote=nobody)
    answer = await post(rig, "/v1/cost", CHAT)
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
