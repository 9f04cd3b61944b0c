"""Who may use which route: every route with every role, and without a bearer."""

import json
from typing import get_args

import pytest

from arbstr.edge import ROUTES
from arbstr.edge._routes import Role
from arbstr.errors import AuthenticationFailed, RateLimited
from arbstr.requests import Caller, PlainAnswer

OPEN = {"/health", "/ready", "/openapi.json"}
NOT_FOR_AGENTS = {"/metrics"}
BODIES = {
    "/v1/chat/completions": {"model": "m", "messages": []},
    "/v1/completions": {"model": "m", "prompt": "x"},
    "/v1/embeddings": {"model": "m", "input": "x"},
    "/v1/cost": {"model": "m", "messages": []},
}


def caller_of(role):
    return Caller("ag_1" if role == "agent" else None, role, role)


async def ask(rig, route, *lines):
    path = route.path.replace("{model}", "m").replace("{request_id}", "x")
    if route.path not in BODIES:
        return await rig.request("GET", path, *lines)
    body = json.dumps(BODIES[route.path]).encode()
    return await rig.request("POST", path, "content-type: application/json", *lines, body=body)


async def nothing_found(function):
    """Stands in for the store: whatever is asked for is not there."""


@pytest.mark.parametrize("role", get_args(Role))
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_a_route_is_open_to_whom_the_table_says(start, route, role):
    rig = await start(authenticate=lambda *said: caller_of(role), read=nothing_found)
    answer = await ask(rig, route)
    allowed = route.path not in NOT_FOR_AGENTS or role != "agent"
    assert (answer.status == 403) is not allowed
    assert answer.status != 401
    if not allowed:
        assert answer.error["reason"] == "forbidden"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_a_bearer_that_nobody_has_vouched_for_may_buy_and_see_what_is_open(start, route):
    rig = await start(authenticate=lambda *said: Caller("tok_1", "agent", "tok_1", proven=False), read=nothing_found)
    answer = await ask(rig, route)
    buys = route.path in BODIES and route.path != "/v1/cost"
    assert (answer.status == 401) is not (buys or route.path in OPEN)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_a_route_needs_a_bearer_unless_it_is_open_to_everybody(start, route):
    def nobody(*said):
        raise AuthenticationFailed("who is there?")

    rig = await start(authenticate=nobody)
    answer = await ask(rig, route)
    assert (answer.status == 401) is (route.path not in OPEN)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_a_call_for_no_model_is_counted_and_tells_the_limits(start, route):
    touched = []

    def touch(caller):
        touched.append(caller.client)
        return ((b"x-ratelimit-limit-requests", b"5"),)

    anyone = Caller(None, "anonymous", "anonymous", client="peer 192.0.2.1")
    rig = await start(authenticate=lambda *said: anyone, touch=touch, read=nothing_found)
    answer = await ask(rig, route)
    counted = route.path not in OPEN and route.path not in BODIES.keys() - {"/v1/cost"}
    assert touched == (["peer 192.0.2.1"] if counted else [])
    assert answer.headers.get("x-ratelimit-limit-requests") == ("5" if counted else None)


async def test_too_many_calls_are_429_with_the_limits_and_when_to_come_back(start):
    def touch(caller):
        raise RateLimited("slow down", retry_after_s=0.4, headers=((b"x-ratelimit-remaining-requests", b"0"),))

    rig = await start(touch=touch)
    answer = await rig.request("GET", "/v1/models")
    assert (answer.status, answer.error["reason"], answer.headers["retry-after"]) == (429, "rate_limited", "1")
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert (await rig.request("GET", "/health")).status == 200


async def test_unknown_paths_and_wrong_methods_are_counted_too(start):
    touched = []
    rig = await start(touch=lambda caller: touched.append(caller) or ())
    await rig.request("GET", "/nope")
    await rig.request("GET", "/v1/chat/completions")
    assert len(touched) == 2


async def test_the_limits_of_the_answer_stand_when_it_has_its_own(start):
    async def chat(request, responder):
        return PlainAnswer(200, ((b"x-ratelimit-limit-requests", b"9"),), b"{}")

    rig = await start(chat, touch=lambda caller: ((b"x-ratelimit-limit-requests", b"5"),))
    assert (await rig.chat()).headers["x-ratelimit-limit-requests"] == "9"
