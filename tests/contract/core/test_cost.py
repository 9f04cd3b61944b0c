"""Cases 95 to 98: ``POST /v1/cost``. Nobody is contacted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.client import Answer
from tests.contract.program import P, Start, World, chat_body
from tests.contract.upstream import error

PROVIDERS = [
    P("main"),
    P("dear-output", 5000, 40000, models=["capped"]),
    P("fee", 5000, 10000, 100, models=["capped"]),
    P("shut", models=["shut"], more={"breaker_failures": 1, "breaker_open_s": 600}),
]
POLICIES = {"rules": [{"name": "cap", "max_sats_per_1m_output": 10000}]}


@pytest.fixture(scope="module")
def world(start: Start) -> Iterator[World]:
    with start(PROVIDERS, tables={"policies": POLICIES}) as world:
        yield world


def ask(
    world: World, text: str = "hello", *, model: str = "gpt-4o", policy: str | None = None, **members: object
) -> Answer:
    headers = {} if policy is None else {"x-arbstr-policy": policy}
    return world.post("/v1/cost", chat_body(text, model, **members), headers=headers)


def estimate(answer: Answer) -> tuple[int, int]:
    body = answer.json
    return body["estimated_input_tokens"], body["estimated_output_tokens"]


def test_cost_is_that_of_256_tokens_when_no_limit_is_given(world: World) -> None:
    answer = ask(world)
    body = answer.json
    assert answer.status == 200
    assert (body["model"], body["provider"], body["rate_unit"]) == ("gpt-4o", "main", "sats_per_1m_tokens")
    assert (body["estimated_input_tokens"], body["estimated_output_tokens"]) == (1, 256)
    assert body["estimated_cost_sats"] == pytest.approx(3.845)
    rates = body["rates"]
    assert (rates["input_rate_sats_per_1m"], rates["output_rate_sats_per_1m"]) == (5000, 15000)
    assert rates["base_fee_sats"] == 0
    assert world.backend("main").requests == []


def test_cost_is_told_in_msat_beside_sats(world: World) -> None:
    assert 3845 in ask(world).json.values()


@pytest.mark.parametrize(
    ("text", "members", "tokens"),
    [
        ("x" * 400, {}, (100, 256)),
        ("hello", {"max_tokens": 100}, (1, 100)),
        ("hello", {"max_tokens": 0}, (1, 0)),
        ("", {"messages": []}, (1, 256)),
    ],
    ids=["400 bytes", "limit of 100", "limit of 0", "no messages"],
)
def test_tokens_follow_the_length_and_the_limit(
    world: World, text: str, members: dict[str, object], tokens: tuple[int, int]
) -> None:
    body = {**chat_body(text), **members}
    assert estimate(world.post("/v1/cost", body)) == tokens


def test_array_content_counts_with_its_json_text(world: World) -> None:
    parts = [{"type": "text", "text": "héllo"}]
    messages = [{"role": "user", "content": parts}, {"role": "system", "content": "abcd"}]
    assert estimate(ask(world, messages=messages))[0] == 9


def test_unknown_model_is_refused(world: World) -> None:
    answer = ask(world, model="nosuch")
    assert answer.status == 400
    assert "nosuch" in answer.error["message"]


def test_policy_counts_when_a_header_names_it(world: World) -> None:
    assert ask(world, model="capped").json["provider"] == "dear-output"
    assert ask(world, model="capped", policy="cap").json["provider"] == "fee"


def test_provider_is_quoted_when_its_circuit_is_open(world: World) -> None:
    world.backend("shut").replies(error(500))
    world.chat(model="shut")
    assert world.health("shut")["state"] == "open"
    assert ask(world, model="shut").json["provider"] == "shut"


def test_no_header_tells_of_routing_or_cost(world: World) -> None:
    told = {"x-arbstr-provider", "x-arbstr-cost-sats", "x-arbstr-cost-msat", "x-arbstr-tier"}
    assert not told & set(ask(world).headers)
