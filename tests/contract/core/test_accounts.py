"""Cases 76 to 94 over accounts in the same process: what an agent is charged, and when nothing may be.

The cases are about a core and a vault in two processes. What crosses the wire between them has no meaning here; what
the agent and its balance see of it has.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.contract.client import Answer
from tests.contract.program import P, Start, World, eventually, started
from tests.contract.upstream import HANG, Upstream, chat, error, stream
from tests.contract.upstream import Answer as Script

ADMIN = "admin-secret"
SHORT_S = 0.4


def alone(name: str, **more: object) -> P:
    return P(name, 1000, 5000, tier="local", models=[name], more=more)


PROVIDERS = [
    P("local", 1000, 5000, tier="local"),
    P("frontier", 10000, 30000, 2, tier="frontier"),
    alone("failing", breaker_failures=1000),
    alone("silent", first_byte_timeout_s=0.3),
    alone("halfway", breaker_failures=1, breaker_open_s=SHORT_S),
]


@pytest.fixture(scope="module")
def bank(start: Start) -> Iterator[World]:
    tables = {"vault": {}, "server": {"admin_token": ADMIN}}
    with start(PROVIDERS, tables=tables, agents={"rich": "1000", "poor": None}, bearer="rich") as world:
        yield world


@pytest.fixture
def world(bank: World) -> World:
    for one in PROVIDERS:
        bank.backend(one.name).forget()
    return bank


def requested_msat(answer: Answer) -> int:
    """What the refused hold would have been."""
    assert answer.status == 402
    amount = answer.error["requested_msat"]
    assert isinstance(amount, int)
    return amount


def refused(world: World, **members: object) -> Answer:
    return world.chat(bearer=world.tokens["poor"], **members)  # type: ignore[arg-type]  # members of the body


@pytest.mark.parametrize("authorization", [None, "Basic x", "bearer x"])
def test_bearer_is_required_when_agents_pay(world: World, authorization: str | None) -> None:
    headers = {"content-type": "application/json", **({"authorization": authorization} if authorization else {})}
    body = json.dumps({"model": "gpt-4o", "messages": []}).encode()
    with world.open("POST", "/v1/chat/completions", headers=headers, body=body, bearer="") as exchange:
        answer = exchange.rest()
    assert answer.status == 401
    assert answer.error["type"] == "authentication_error"
    assert "Authorization: Bearer <token> required" in answer.error["message"]
    assert world.backend("local").requests == []


def test_hold_covers_the_request_and_the_body_is_unchanged_when_it_names_no_limit(world: World) -> None:
    """The predecessor held for the dearest provider of the model and wrote ``max_tokens`` into the body."""
    at_least = 4096 * 5000 // 1000  # the completion alone, at the provider that is asked
    assert requested_msat(refused(world)) >= at_least
    world.chat()
    assert "max_tokens" not in world.backend("local").calls()[0].json


def test_hold_is_smaller_and_no_limit_is_added_when_the_body_names_one(world: World) -> None:
    short, shorter = (requested_msat(refused(world, **{key: 50})) for key in ("max_tokens", "max_completion_tokens"))
    assert 50 * 5000 // 1000 <= short < requested_msat(refused(world))
    assert abs(short - shorter) <= 25  # the bodies differ by some bytes
    world.chat(max_completion_tokens=50)
    assert "max_tokens" not in world.backend("local").calls()[0].json


def test_money_is_held_before_the_provider_is_called_and_none_after_the_answer(world: World) -> None:
    gate = threading.Event()
    world.backend("local").replies(chat().after(gate))
    with world.open_chat() as exchange:
        world.backend("local").wait_for_calls(1)
        during = world.balance("rich")
        gate.set()
        assert exchange.rest().status == 200
    after = world.balance("rich")
    assert during["HELD"] >= 4096 * 5000 // 1000
    assert after["HELD"] == 0
    assert during["AVAILABLE"] + during["HELD"] - after["AVAILABLE"] == 110


def test_payment_is_required_and_the_provider_not_called_when_the_balance_is_too_small(world: World) -> None:
    answer = refused(world)
    assert answer.status == 402
    assert (answer.error["type"], answer.error["code"]) == ("billing_error", "vault_402")
    assert "Insufficient balance" in answer.error["message"]
    assert answer.request_id
    assert world.backend("local").requests == []


def test_nothing_is_spent_when_the_books_cannot_be_written(tmp_path: Path) -> None:
    with started(tmp_path, PROVIDERS[:1], tables={"vault": {}}, agents={"rich": "1000"}, bearer="rich") as world:
        lock = sqlite3.connect(tmp_path / "contract.db", isolation_level=None)
        try:
            lock.execute("BEGIN IMMEDIATE")
            answer = world.chat()
        finally:
            lock.close()
        assert answer.status == 503
        assert answer.error["message"]
        assert str(tmp_path) not in answer.body.decode()
        assert world.backend("local").requests == []
        eventually(lambda: world.chat().status == 200, "answer once the books can be written again")


def test_charge_is_the_exact_cost_when_usage_is_known(world: World) -> None:
    before = world.balance("rich")
    plain = world.chat()
    streamed = world.stream(stream_options={"include_usage": True})
    after = world.balance("rich")
    assert plain.headers["x-arbstr-cost-msat"] == "110"
    assert streamed.events[-1]["usage"]["arbstr"]["cost_msat"] == 110
    assert after["SPENT"] - before["SPENT"] == 220
    assert after["HELD"] == 0


def test_stream_is_charged_when_the_client_asks_for_no_usage(world: World) -> None:
    before = world.balance("rich")["SPENT"]
    assert world.stream().payloads[-1] == "[DONE]"
    assert world.balance("rich")["SPENT"] - before == 110


def test_estimate_is_charged_when_the_provider_tells_no_usage(world: World) -> None:
    world.backend("local").replies(chat("several words of an answer", usage=None))
    before = world.balance("rich")["SPENT"]
    cost = int(world.chat().headers["x-arbstr-cost-msat"])
    assert cost > 0
    assert world.balance("rich")["SPENT"] - before == cost


def test_everything_held_comes_back_when_the_provider_gives_no_answer(world: World) -> None:
    before = world.balance("rich")
    for script in (error(404, "no such model"), error(500)):
        world.backend("failing").replies(script)
        assert world.chat(model="failing").status in (404, 502)
        assert world.stream(model="failing").status in (404, 502)
    world.backend("silent").replies(Script((HANG,)))
    assert world.chat(model="silent").status == 504
    assert world.balance("rich") == before


def test_unknown_model_is_told_before_the_balance_is_looked_at(world: World) -> None:
    assert refused(world, model="nosuch").status == 400


def test_hold_comes_back_and_the_log_knows_when_the_client_leaves_before_the_answer(world: World) -> None:
    before = world.balance("rich")
    world.backend("local").replies(Script((HANG,)))
    with world.open_chat(headers={"x-request-id": "leaver-1"}) as exchange:
        (seen,) = world.backend("local").wait_for_calls(1)
        exchange.leave()
    assert seen.left.wait(10)
    assert "client_disconnected" in json.dumps(world.entry(seen.headers["idempotency-key"]))
    assert world.balance("rich") == before


def test_permit_comes_back_when_the_hold_is_refused_for_a_provider_that_is_half_open(world: World) -> None:
    world.backend("halfway").replies(error(500), chat())
    world.chat(model="halfway")
    world.backend("halfway").replies(chat())
    time.sleep(SHORT_S * 1.2)  # the open period is the program's own; only the next request would tell its end
    assert refused(world, model="halfway").status == 402
    assert world.chat(model="halfway").status == 200
    assert world.health("halfway")["state"] == "closed"


def test_agent_sees_its_own_requests_and_the_admin_all_of_them(world: World) -> None:
    own = world.chat().request_id
    assert world.entry(own)
    assert world.entry(own, bearer=ADMIN)
    assert own not in json.dumps(world.entries(bearer=world.tokens["poor"]))
    assert world.get(f"/v1/requests/{own}").status == 200
    assert world.get(f"/v1/requests/{own}", bearer=world.tokens["poor"]).status == 404


def test_hold_is_resolved_when_the_program_was_killed_in_the_middle_of_a_request(tmp_path: Path) -> None:
    tables = {"vault": {"hold_lease_s": 1}}
    with Upstream() as upstream:
        upstream.backend("local").replies(stream("po", threading.Event()))
        start_here = partial(started, tmp_path, PROVIDERS[:1], upstream=upstream, tables=tables)
        with (
            start_here(agents={"rich": "1000"}, bearer="rich") as world,
            world.open_chat(stream=True) as exchange,
        ):
            exchange.read_until(b"po")
            held = world.balance("rich")
            world.program.kill()
        with start_here() as world:
            after = eventually(
                lambda: next((one for one in [world.balance("rich")] if one["HELD"] == 0), None), "end of the hold"
            )
    assert held["HELD"] > 0
    assert after["AVAILABLE"] + after["SPENT"] == 1_000_000
