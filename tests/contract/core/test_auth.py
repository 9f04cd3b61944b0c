"""Cases 74 to 77: who may ask, and how often."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.client import Answer
from tests.contract.program import P, Start, World, chat_body

TOKEN = "tok"
READABLE = ("/v1/models", "/v1/stats", "/v1/requests", "/providers", "/metrics")


@pytest.fixture(scope="module")
def world(start: Start) -> Iterator[World]:
    """The token stands in the configuration as a variable, as any secret may."""
    tables = {"server": {"auth_token": "${CONTRACT_TOKEN}"}}
    with start([P("only")], tables=tables, CONTRACT_TOKEN=TOKEN) as world:
        yield world


def assert_unauthenticated(answer: Answer) -> None:
    assert answer.status == 401
    assert answer.error["type"] == "authentication_error"
    assert answer.error["code"] == "invalid_api_key"
    assert answer.request_id


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", f"bearer {TOKEN}", f"Basic {TOKEN}"])
def test_bearer_is_required_when_a_token_is_configured(world: World, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    assert_unauthenticated(world.chat(headers=headers))
    assert_unauthenticated(world.post("/v1/cost", chat_body(), headers=headers))
    for path in READABLE:
        assert_unauthenticated(world.send("GET", path, headers=headers))
    assert world.backend("only").requests == []


def test_everything_answers_when_the_bearer_is_the_configured_token(world: World) -> None:
    assert world.chat(bearer=TOKEN).status == 200
    assert world.post("/v1/cost", chat_body(), bearer=TOKEN).status == 200
    assert {path: world.get(path, bearer=TOKEN).status for path in READABLE} == dict.fromkeys(READABLE, 200)


def test_variable_is_expanded_when_it_stands_in_a_secret(world: World) -> None:
    assert world.get("/v1/models", bearer=TOKEN).status == 200
    assert_unauthenticated(world.get("/v1/models", bearer="${CONTRACT_TOKEN}"))


def test_health_and_readiness_need_no_bearer(world: World) -> None:
    assert (world.get("/health").status, world.get("/ready").status) == (200, 200)


def test_unknown_path_is_not_told_apart_when_the_bearer_is_missing(world: World) -> None:
    assert_unauthenticated(world.get("/nope"))
    assert world.get("/nope", bearer=TOKEN).status == 404


def test_agents_token_counts_and_the_configured_one_does_not_when_there_are_accounts(start: Start) -> None:
    tables = {"server": {"auth_token": TOKEN}, "vault": {}}
    with start([P("only")], tables=tables, agents={"agent": "1000"}) as world:
        assert world.chat(bearer=world.tokens["agent"]).status == 200
        assert_unauthenticated(world.chat(bearer=TOKEN))
        assert_unauthenticated(world.get("/v1/models"))
        assert world.get("/v1/models", bearer=world.tokens["agent"]).status == 200


def test_request_is_refused_with_the_time_to_wait_when_a_client_asks_too_often(start: Start) -> None:
    tables = {"server": {"rate_limit_rps": 2}, "vault": {}}
    with start([P("only")], tables=tables, agents={"first": None, "second": None}) as world:
        first, second = world.tokens["first"], world.tokens["second"]
        answers = [world.get("/v1/models", bearer=first) for _ in range(30)]
        of_another = world.get("/v1/models", bearer=second)
        health = [world.get("/health").status for _ in range(30)]
    assert answers[0].status == 200
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.error["message"]
    assert int(refused.headers["retry-after"]) >= 1
    assert any(name.startswith("x-ratelimit-") for name in refused.headers)
    assert of_another.status == 200
    assert health == [200] * 30
