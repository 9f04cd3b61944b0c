"""Cases 64 to 73: the circuit of each provider. One failed request counts once, however often it was tried."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.contract.client import Answer
from tests.contract.program import P, Start, World, eventually
from tests.contract.upstream import Answer as Script
from tests.contract.upstream import chat, error

FOR_GOOD = {"breaker_open_s": 600}
SHORT_S = 0.4
SHORT = {"breaker_failures": 1, "breaker_open_s": SHORT_S}


def alone(name: str, **more: object) -> P:
    return P(name, models=[name], more={**FOR_GOOD, **more})


PROVIDERS = [
    alone("streaming-500"),
    P("dead", dead=True, models=["dead"], more=FOR_GOOD),
    alone("says-400"),
    alone("says-520"),
    alone("ups-and-downs"),
    P("cheap", 1000, 1000, models=["cheap-or-dear"], more=FOR_GOOD),
    P("dear", 9000, 9000, models=["cheap-or-dear"], more=FOR_GOOD),
    alone("refusing"),
    *(alone(name, **SHORT) for name in ("recovers", "fails-again", "probed", "rejects-probe")),
    P("half-1", 1000, 1000, models=["halves"], more=SHORT),
    P("half-2", 2000, 2000, models=["halves"], more=SHORT),
    P("healthy", 9000, 9000, models=["halves"]),
]


@pytest.fixture(scope="module")
def world(start: Start) -> Iterator[World]:
    with start(PROVIDERS) as world:
        yield world


def ask(world: World, name: str, *script: Script, stream: bool = False) -> Answer:
    if script:
        world.backend(name).replies(*script)
    return world.chat(model=name, stream=stream)


def open_circuit(world: World, name: str, model: str | None = None) -> None:
    """Make it fail once, where that is enough, and wait until its open period is over."""
    world.backend(name).replies(error(500))
    world.chat(model=model or name)
    assert world.health(name)["state"] in ("open", "half_open")
    time.sleep(SHORT_S * 1.2)  # the period is the program's own; nothing tells that it is over but the next request


def test_requests_are_refused_without_a_call_when_three_streams_have_failed(world: World) -> None:
    failed = [ask(world, "streaming-500", error(500), stream=True) for _ in range(3)]
    assert [answer.status for answer in failed] == [502] * 3
    calls = len(world.backend("streaming-500").calls())
    refused = ask(world, "streaming-500", stream=True)
    assert refused.status == 503
    assert "open circuits" in refused.error["message"]
    assert refused.request_id
    assert len(world.backend("streaming-500").calls()) == calls
    assert world.health("streaming-500") == {"state": "open", "failure_count": 3, "tier": "standard"}


def test_one_failure_is_counted_when_one_request_was_tried_three_times(world: World) -> None:
    answer = world.chat(model="dead")
    assert answer.headers["x-arbstr-retries"] == "3/dead"
    assert world.health("dead") == {"state": "closed", "failure_count": 1, "tier": "standard"}


def test_nothing_is_counted_when_the_request_was_at_fault(world: World) -> None:
    assert ask(world, "says-400", error(400)).status == 400
    assert world.health("says-400")["failure_count"] == 0


def test_one_failure_is_counted_per_request_when_the_status_is_an_odd_5xx(world: World) -> None:
    for count in (1, 2):
        assert ask(world, "says-520", error(520)).status == 502
        assert world.health("says-520")["failure_count"] == count


def test_count_starts_anew_when_a_success_comes_between(world: World) -> None:
    name = "ups-and-downs"
    for script in (error(500), error(500), chat(), error(500), error(500)):
        ask(world, name, script)
    assert world.health(name) == {"state": "closed", "failure_count": 2, "tier": "standard"}


def test_dear_provider_answers_and_the_cheap_is_not_called_when_its_circuit_is_open(world: World) -> None:
    world.backend("cheap").replies(error(500))
    for _ in range(3):
        assert world.chat(model="cheap-or-dear").provider == "dear"
    assert world.health("cheap")["state"] == "open"
    calls = len(world.backend("cheap").calls())
    assert world.chat(model="cheap-or-dear").provider == "dear"
    assert world.chat(model="cheap-or-dear", stream=True).provider == "dear"
    assert len(world.backend("cheap").calls()) == calls


def test_request_is_refused_when_the_open_period_has_just_begun(world: World) -> None:
    for _ in range(3):
        ask(world, "refusing", error(500))
    calls = len(world.backend("refusing").calls())
    refused = ask(world, "refusing", chat())
    assert refused.status == 503
    assert int(refused.headers["retry-after"]) > 0
    assert len(world.backend("refusing").calls()) == calls


def test_circuit_closes_when_the_probe_succeeds(world: World) -> None:
    open_circuit(world, "recovers")
    assert ask(world, "recovers", chat()).status == 200
    assert world.health("recovers") == {"state": "closed", "failure_count": 0, "tier": "standard"}


def test_circuit_opens_again_when_the_probe_fails(world: World) -> None:
    open_circuit(world, "fails-again")
    assert ask(world, "fails-again", error(500)).status in (502, 503)
    assert world.health("fails-again")["state"] in ("open", "half_open")
    eventually(lambda: ask(world, "fails-again", chat()).status == 200, "end of the second open period")


def test_second_request_is_refused_and_does_not_wait_when_the_only_provider_is_being_probed(world: World) -> None:
    open_circuit(world, "probed")
    calls = len(world.backend("probed").calls())
    gate = threading.Event()
    world.backend("probed").replies(chat().after(gate))
    with world.open_chat(model="probed") as probe:
        world.backend("probed").wait_for_calls(calls + 1)
        assert world.health("probed")["state"] == "half_open"
        refused = world.chat(model="probed")
        gate.set()
        assert probe.rest().status == 200
    assert refused.status == 503
    assert len(world.backend("probed").calls()) == calls + 1
    assert world.health("probed")["state"] == "closed"
    assert world.chat(model="probed").status == 200


def test_circuit_closes_when_the_probe_is_rejected_as_the_clients_fault(world: World) -> None:
    open_circuit(world, "rejects-probe")
    assert ask(world, "rejects-probe", error(400)).status == 400
    assert world.health("rejects-probe")["state"] == "closed"


def test_healthy_provider_answers_when_two_others_are_being_probed(world: World) -> None:
    for name in ("half-1", "half-2"):
        world.backend(name).replies(error(500))
    assert world.chat(model="halves").provider == "healthy"
    assert [world.health(name)["state"] for name in ("half-1", "half-2")] == ["open", "open"]
    time.sleep(SHORT_S * 1.2)  # as in open_circuit
    gates = [threading.Event(), threading.Event()]
    calls = [len(world.backend(name).calls()) for name in ("half-1", "half-2")]
    for name, gate in zip(("half-1", "half-2"), gates, strict=True):
        world.backend(name).replies(chat().after(gate))
    with world.open_chat(model="halves") as first:
        world.backend("half-1").wait_for_calls(calls[0] + 1)
        with world.open_chat(model="halves") as second:
            world.backend("half-2").wait_for_calls(calls[1] + 1)
            assert world.chat(model="halves").provider == "healthy"
            for gate in gates:
                gate.set()
            assert [first.rest().status, second.rest().status] == [200, 200]
    assert [world.health(name)["state"] for name in ("half-1", "half-2")] == ["closed", "closed"]
    assert world.chat(model="halves").provider == "half-1"


def test_health_is_worse_the_more_circuits_are_open(start: Start) -> None:
    shut = {"breaker_failures": 1, **FOR_GOOD}
    with start([P("one", models=["one"], more=shut), P("two", models=["two"], more=shut)]) as world:
        told = []
        for name in ("one", "two"):
            told.append(world.get("/health"))
            ask(world, name, error(500))
        told.append(world.get("/health"))
    assert [(answer.status, answer.json["status"]) for answer in told] == [
        (200, "ok"),
        (200, "degraded"),
        (503, "unhealthy"),
    ]


def test_health_is_degraded_when_the_only_provider_is_being_probed(start: Start) -> None:
    with start([alone("only", **SHORT)]) as world:
        open_circuit(world, "only")
        gate = threading.Event()
        calls = len(world.backend("only").calls())
        world.backend("only").replies(chat().after(gate))
        with world.open_chat(model="only") as probe:
            world.backend("only").wait_for_calls(calls + 1)
            health = world.get("/health")
            gate.set()
            probe.rest()
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert health.json["providers"]["only"]["state"] == "half_open"


def test_health_is_ok_when_there_are_no_providers(start: Start) -> None:
    with start() as world:
        health = world.get("/health")
    assert (health.status, health.json) == (200, {"status": "ok", "providers": {}})
