"""Cases 78 to 94 as they are told: the accounts are in another process, which is the predecessor's vault.

It is strict: of a settlement it takes the figures beside the id, as its own core never sent them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.contract.client import Answer
from tests.contract.peers import FakeVault
from tests.contract.program import P, World, eventually, started
from tests.contract.upstream import HANG, Upstream, chat, error, json_answer, stream
from tests.contract.upstream import Answer as Script

INTERNAL = "an-internal-token-of-32-characters-or-more"
TOKEN = "vtk_an_agent_of_the_vault"
PROVIDERS = [P("local", 1000, 5000, tier="local"), P("failing", 1000, 5000, models=["failing"])]


def tables(vault: FakeVault, **more: object) -> dict[str, object]:
    return {"vault": {"url": vault.backend.url + "/", "internal_token": INTERNAL, **more}}


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, FakeVault]]:
    with Upstream() as upstream:
        vault = FakeVault(upstream.backend("vault", suffix=""))
        directory = tmp_path_factory.mktemp("remote")
        with started(directory, PROVIDERS, upstream=upstream, tables=tables(vault), bearer=TOKEN) as world:
            yield world, vault


@pytest.fixture
def vault(peers: tuple[World, FakeVault]) -> FakeVault:
    """Nothing is held or owed there, and nothing recorded."""
    _, vault = peers
    vault.script()
    eventually(lambda: not vault.held, "end of what was held")
    vault.backend.forget()
    vault.script()
    vault.settled.clear()
    vault.released.clear()
    return vault


@pytest.fixture
def world(peers: tuple[World, FakeVault], vault: FakeVault) -> World:
    world, _ = peers
    for one in PROVIDERS:
        world.backend(one.name).forget()
    return world


def pauses(vault: FakeVault, path: str) -> tuple[float, float]:
    """Between the first three calls, in seconds."""
    first, second, third = [seen.at for seen in vault.backend.wait_for_calls(3, path)][:3]
    return second - first, third - second


def test_reserve_says_whose_how_much_and_what_for_and_nothing_else(world: World, vault: FakeVault) -> None:
    answer = world.chat()
    (seen,) = vault.reserves()
    body = seen.json
    assert set(body) == {"agent_token", "amount_msats", "correlation_id", "model"}
    assert (body["agent_token"], body["correlation_id"], body["model"]) == (TOKEN, answer.request_id, "gpt-4o")
    assert body["amount_msats"] >= 4096 * 5
    assert seen.headers["x-internal-token"] == INTERNAL


def test_provider_is_called_when_the_vault_has_granted_the_hold_and_not_before(world: World, vault: FakeVault) -> None:
    gate = threading.Event()
    vault.backend.on("/internal/reserve", lambda seen: vault._reserve(seen).after(gate))
    with world.open_chat() as exchange:
        vault.backend.wait_for_calls(1, "/internal/reserve")
        assert world.backend("local").requests == []
        gate.set()
        assert exchange.rest().status == 200
    eventually(lambda: list(vault.settled.values()) == [110], "settlement")


@pytest.mark.parametrize("bearer", ["", "Basic x"])
def test_vault_is_not_asked_when_there_is_no_bearer(world: World, vault: FakeVault, bearer: str) -> None:
    headers = {"authorization": bearer, "content-type": "application/json"} if bearer else {}
    body = json.dumps({"model": "gpt-4o", "messages": []}).encode()
    answer = world.send("POST", "/v1/chat/completions", headers=headers, body=body, bearer="")
    assert (answer.status, vault.reserves()) == (401, [])
    assert "Authorization: Bearer <token> required" in answer.error["message"]


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (402, {"error": {"code": "insufficient_balance", "message": "x"}}, "vault_402", "Insufficient balance"),
        (403, {"error": {"code": "policy_denied", "reason": "frozen"}}, "vault_403", "Policy denied"),
        (429, {"error": {"code": "rate_limited"}}, "vault_429", "rate limited"),
    ],
)
def test_refusal_of_the_vault_passes_and_the_provider_is_not_called(
    world: World, vault: FakeVault, status: int, body: object, code: str, words: str
) -> None:
    vault.backend.on("/internal/reserve", json_answer(body, status=status, headers={"retry-after": "7"}))
    answer = world.chat()
    assert (answer.status, answer.error["code"], answer.error["type"]) == (status, code, "billing_error")
    assert words in answer.error["message"]
    assert answer.request_id
    assert (answer.headers.get("retry-after") == "7") == (status == 429)
    assert world.backend("local").requests == []


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (error(500), 503),
        (error(503), 503),
        (Script((HANG,)), 503),
        (json_answer({"error": {"code": "unauthorized", "message": "Invalid agent token"}}, status=401), 401),
        (json_answer({"error": {"code": "unauthorized", "message": "Invalid internal token"}}, status=401), 502),
        (json_answer({"message": "no route"}, status=404), 502),
        (json_answer({"granted": True}), 502),
    ],
)
def test_nothing_is_bought_when_the_vault_does_not_grant_it(
    world: World, vault: FakeVault, script: Script, status: int
) -> None:
    vault.backend.on("/internal/reserve", script)
    answer = world.chat()
    assert answer.status == status
    assert vault.backend.url.partition("//")[2] not in answer.body.decode()
    assert INTERNAL not in answer.body.decode()
    assert world.backend("local").requests == []


def test_nothing_is_bought_when_nobody_listens_where_the_vault_should_be(tmp_path: Path) -> None:
    with Upstream() as upstream:
        where = {"vault": {"url": upstream.refused_url(), "internal_token": INTERNAL}}
        with started(tmp_path, PROVIDERS, upstream=upstream, tables=where, bearer=TOKEN) as world:
            answer = world.chat()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert upstream.address.partition("//")[2] not in answer.body.decode()
            assert world.backend("local").requests == []


def test_settle_has_the_figures_in_both_shapes(world: World, vault: FakeVault) -> None:
    assert world.chat().headers["x-arbstr-cost-msat"] == "110"
    (seen,) = vault.backend.wait_for_calls(1, "/internal/settle")
    body = seen.json
    figures = {name: body["metadata"][name] for name in ("tokens_in", "tokens_out", "provider", "latency_ms")}
    assert (figures["tokens_in"], figures["tokens_out"], figures["provider"]) == (10, 20, "local")
    assert body.items() >= {**figures, "actual_msats": 110}.items()
    eventually(lambda: list(vault.settled.values()) == [110], "settlement")


def test_answer_does_not_wait_for_the_vault_to_take_the_settlement(world: World, vault: FakeVault) -> None:
    gate = threading.Event()
    vault.backend.on("/internal/settle", lambda seen: vault._settle(seen).after(gate))
    assert world.chat().status == 200
    assert world.stream().payloads[-1] == "[DONE]"
    assert len(vault.backend.wait_for_calls(2, "/internal/settle")) == 2
    gate.set()


def test_complete_stream_is_settled(world: World, vault: FakeVault) -> None:
    assert world.stream().payloads[-1] == "[DONE]"
    eventually(lambda: list(vault.settled.values()) == [110], "settlement")


def test_estimate_is_settled_when_the_provider_tells_no_usage(world: World, vault: FakeVault) -> None:
    world.backend("local").replies(chat("several words of an answer", usage=None))
    cost = int(world.chat().headers["x-arbstr-cost-msat"])
    assert cost > 0
    eventually(lambda: list(vault.settled.values()) == [cost], "settlement")


def test_hold_is_released_once_when_the_provider_gives_no_answer(world: World, vault: FakeVault) -> None:
    world.backend("failing").replies(error(500))
    assert world.chat(model="failing").status == 502
    eventually(lambda: len(vault.released) == 1, "release")
    assert (vault.held, vault.settled, len(vault.releases())) == ({}, {}, 1)


def test_hold_is_released_when_the_client_leaves_before_the_answer(world: World, vault: FakeVault) -> None:
    world.backend("local").replies(Script((HANG,)))
    with world.open_chat() as exchange:
        world.backend("local").wait_for_calls(1)
        exchange.leave()
    eventually(lambda: len(vault.released) == 1 and not vault.held, "release")


def test_hold_makes_place_for_a_larger_one_when_a_stream_outgrows_it(world: World, vault: FakeVault) -> None:
    """The vault cannot extend a hold: another one is made, then the first is given back."""
    world.backend("local").replies(stream("word " * 40_000, usage=(10, 50_000)))
    answer = world.stream(max_tokens=60_000)
    assert answer.payloads[-1] == "[DONE]"
    eventually(lambda: not vault.held and vault.settled, "settlement")
    assert sum(vault.settled.values()) == 10 + 50_000 * 5


def test_settle_that_fails_is_told_again_until_it_is_taken(world: World, vault: FakeVault) -> None:
    vault.backend.on("/internal/settle", *[error(500)] * 4, vault._settle)
    assert world.chat().status == 200
    short, longer = pauses(vault, "/internal/settle")
    assert short > 0.19  # at least: a busy machine is later
    assert longer > 0.39
    eventually(lambda: list(vault.settled.values()) == [110], "settlement")
    assert len(vault.settles()) == 5


def test_release_that_fails_is_told_again_until_it_is_taken(world: World, vault: FakeVault) -> None:
    vault.backend.on("/internal/release", *[error(500)] * 3, vault._release)
    world.backend("failing").replies(error(500))
    assert world.chat(model="failing").status == 502
    short, longer = pauses(vault, "/internal/release")
    assert short > 0.19
    assert longer > 0.39
    eventually(lambda: len(vault.released) == 1, "release")
    bodies = [seen.json for seen in vault.releases()]
    assert all(set(body) == {"reservation_id", "reason"} and body["reason"] for body in bodies)
    assert all(body == bodies[0] for body in bodies)


@pytest.mark.parametrize("killed", [False, True])
def test_settlement_that_was_not_taken_is_told_by_the_next_start(tmp_path: Path, killed: bool) -> None:
    with Upstream() as upstream:
        vault = FakeVault(upstream.backend("vault", suffix=""))
        vault.backend.on("/internal/settle", error(500))
        start = partial(started, tmp_path, PROVIDERS, upstream=upstream, tables=tables(vault), bearer=TOKEN)
        with start() as world:
            assert world.chat().status == 200
            vault.backend.wait_for_calls(2, "/internal/settle")
            if killed:
                world.program.kill()
        assert (vault.settled, len(vault.held)) == ({}, 1)
        vault.script()
        with start():
            eventually(lambda: list(vault.settled.values()) == [110] and not vault.held, "settlement")


def test_hold_is_ended_by_the_next_start_when_the_program_was_killed_in_a_request(tmp_path: Path) -> None:
    with Upstream() as upstream:
        vault = FakeVault(upstream.backend("vault", suffix=""))
        start = partial(started, tmp_path, PROVIDERS, upstream=upstream, tables=tables(vault), bearer=TOKEN)
        upstream.backend("local").replies(Script((HANG,)))
        with start() as world, world.open_chat():
            upstream.backend("local").wait_for_calls(1)
            world.program.kill()
        assert len(vault.held) == 1
        with start():
            eventually(lambda: not vault.held, "release")
        assert vault.settled == {}


def test_nothing_more_is_bought_while_too_many_settlements_wait(tmp_path: Path) -> None:
    with Upstream() as upstream:
        vault = FakeVault(upstream.backend("vault", suffix=""))
        limited: dict[str, Any] = tables(vault, pending_threshold=2)
        with started(tmp_path, PROVIDERS, upstream=upstream, tables=limited, bearer=TOKEN) as world:
            vault.backend.on("/internal/settle", error(500))
            for _ in range(2):
                assert world.chat().status == 200

            def refused() -> Answer | None:
                answer = world.chat()
                return answer if answer.status == 503 else None

            answer = eventually(refused, "refusal")
            assert (answer.error["type"], answer.error["code"]) == ("server_error", "vault_backpressure")
            assert answer.headers["retry-after"]
            assert world.chat(model="nosuch").status == 400
            bought = len(world.backend("local").requests)
            assert world.chat().status == 503
            assert len(world.backend("local").requests) == bought
            vault.script()
            eventually(lambda: world.chat().status == 200, "answer once the vault takes settlements again")


def test_variable_is_expanded_when_it_stands_in_the_internal_token(tmp_path: Path) -> None:
    with Upstream() as upstream:
        vault = FakeVault(upstream.backend("vault", suffix=""))
        named = {"vault": {"url": vault.backend.url, "internal_token": "${VAULT_TOKEN_OF_THE_TEST}"}}
        start = partial(started, tmp_path, PROVIDERS, upstream=upstream, tables=named, bearer=TOKEN)
        with start(VAULT_TOKEN_OF_THE_TEST=INTERNAL) as world:
            assert world.chat().status == 200
        assert vault.reserves()[0].headers["x-internal-token"] == INTERNAL


def test_agent_sees_its_requests_when_the_vault_has_vouched_for_its_token(world: World, vault: FakeVault) -> None:
    own = world.chat(bearer="vtk_other_agent").request_id
    assert world.get(f"/v1/requests/{own}", bearer="vtk_other_agent").status == 200
    assert world.get(f"/v1/requests/{own}").status == 404
    assert world.get(f"/v1/requests/{own}", bearer="vtk_nobody_has_heard_of").status == 401
    assert world.get("/v1/models", bearer="vtk_nobody_has_heard_of").status == 401
