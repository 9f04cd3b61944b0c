"""Cases 49 to 63: streams. ``[DONE]`` says that a stream is complete and paid for; nothing else ends with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.client import Answer
from tests.contract.program import P, Start, World
from tests.contract.upstream import (
    DONE,
    HANG,
    RESET,
    Pause,
    chat,
    chunk_object,
    error,
    event,
    split,
    sse,
    stream,
    usage_chunk,
)
from tests.contract.upstream import Answer as Script

COST = {"x-arbstr-stream-cost": "1"}


def alone(name: str, **more: object) -> P:
    return P(name, models=[name], more={"breaker_failures": 1000, **more})


PROVIDERS = [
    P("main", more={"breaker_failures": 1000}),
    alone("breaking"),
    P("failing-1", 1000, 1000, models=["failing"]),
    P("failing-2", 2000, 2000, models=["failing"]),
    alone("drained", on_disconnect="drain"),
    alone("silent", first_byte_timeout_s=0.3),
    alone("pausing", first_byte_timeout_s=1.2, idle_timeout_s=1.2),
    alone("stalling", idle_timeout_s=0.3),
    alone("complaining"),
]


@pytest.fixture(scope="module")
def streams(start: Start) -> Iterator[World]:
    with start(PROVIDERS) as world:
        yield world


@pytest.fixture
def world(streams: World) -> World:
    for one in PROVIDERS:
        streams.backend(one.name).forget()
    return streams


def assert_incomplete(world: World, answer: Answer) -> dict[str, Any]:
    """It ended with an error event, and the log knows. Gives the entry of the log."""
    assert answer.complete
    assert "[DONE]" not in answer.payloads
    assert answer.events[-1]["error"]["message"]
    entry = world.entry(answer.request_id)
    assert entry["success"] is False
    assert "stream_incomplete" in json.dumps(entry)
    return entry


def tokens_of(entry: dict[str, Any]) -> tuple[int, int]:
    return entry["tokens"]["input"], entry["tokens"]["output"]


@pytest.mark.parametrize("options", [{}, {"stream_options": {}}], ids=["absent", "empty"])
def test_usage_is_asked_for_when_the_client_says_nothing_about_it(world: World, options: dict[str, Any]) -> None:
    answer = world.stream(**options)
    assert world.backend("main").calls()[0].json["stream_options"] == {"include_usage": True}
    assert not any("usage" in one and one["usage"] for one in answer.events)


def test_usage_is_asked_for_and_not_shown_when_the_client_does_not_want_it(world: World) -> None:
    answer = world.stream(stream_options={"include_usage": False, "foo": 1})
    assert world.backend("main").calls()[0].json["stream_options"] == {"include_usage": True, "foo": 1}
    assert not any(one.get("usage") for one in answer.events)
    assert answer.payloads[-1] == "[DONE]"


def test_usage_carries_its_cost_when_the_client_wants_it(world: World) -> None:
    answer = world.stream(stream_options={"include_usage": True})
    usage = answer.events[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, 20)
    assert usage["arbstr"]["cost_msat"] == 350
    assert usage["arbstr"]["provider"] == "main"
    assert usage["arbstr"]["request_id"] == answer.request_id


def test_stream_options_are_left_alone_when_the_answer_is_plain(world: World) -> None:
    world.chat(stream_options={"include_usage": False})
    world.chat()
    with_options, without = world.backend("main").calls()
    assert with_options.json["stream_options"] == {"include_usage": False}
    assert "stream_options" not in without.json


def test_headers_are_those_of_an_event_stream_when_a_stream_is_answered(world: World) -> None:
    headers = world.stream().headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-arbstr-streaming"] == "true"
    assert headers["x-arbstr-provider"] == "main"
    assert headers["x-arbstr-tier"] == "standard"
    assert headers["x-arbstr-complexity-score"] == "0.025"
    assert not {"x-arbstr-cost-sats", "x-arbstr-cost-msat", "x-arbstr-latency-ms"} & set(headers)


def test_one_done_comes_last_when_the_cost_is_asked_for(world: World) -> None:
    answer = world.stream(headers=COST)
    assert answer.complete
    assert answer.text == "pong"
    assert answer.payloads.count("[DONE]") == 1
    assert answer.payloads[-1] == "[DONE]"
    assert "arbstr" in json.loads(answer.payloads[-2])
    assert answer.body.endswith(DONE)


def test_no_event_of_ours_comes_when_the_cost_is_not_asked_for(world: World) -> None:
    answer = world.stream()
    assert not any("arbstr" in one for one in answer.events)
    assert answer.payloads.count("[DONE]") == 1


def test_cost_event_tells_cost_latency_score_and_tier_when_it_is_asked_for(world: World) -> None:
    told = world.stream(headers=COST).events[-1]["arbstr"]
    assert told["cost_sats"] == pytest.approx(0.35)
    assert told["cost_msat"] == 350
    assert isinstance(told["latency_ms"], int)
    assert round(told["complexity_score"], 3) == 0.025
    assert told["tier"] == "standard"


def test_stream_is_logged_with_tokens_and_cost_when_it_is_complete(world: World) -> None:
    entry = world.entry(world.stream().request_id)
    assert (entry["success"], entry["streaming"]) == (True, True)
    assert tokens_of(entry) == (10, 20)
    assert entry["cost"]["sats"] == pytest.approx(0.35)
    assert isinstance(entry["timing"]["stream_duration_ms"], int)


def test_score_is_null_and_has_no_header_when_the_complexity_is_given(world: World) -> None:
    answer = world.stream(headers={**COST, "x-arbstr-complexity": "high"})
    told = answer.events[-1]["arbstr"]
    assert (told["complexity_score"], told["tier"]) == (None, "frontier")
    assert answer.headers["x-arbstr-tier"] == "frontier"
    assert "x-arbstr-complexity-score" not in answer.headers


def test_no_done_is_made_up_when_the_provider_sends_none(world: World) -> None:
    world.backend("breaking").replies(stream("po", "ng", usage=None, done=False))
    answer = world.stream(model="breaking", headers=COST)
    assert answer.text == "pong"
    assert not any("arbstr" in one for one in answer.events)
    assert_incomplete(world, answer)


def test_stream_ends_with_an_error_event_when_the_provider_resets_it(world: World) -> None:
    gate = threading.Event()
    world.backend("breaking").replies(stream("po", gate, ending=RESET))
    with world.open_chat(model="breaking", stream=True, headers=COST) as exchange:
        exchange.read_until(b"po")
        gate.set()  # only now: a reset may take back what is still on its way
        answer = exchange.rest()
    entry = assert_incomplete(world, answer)
    assert entry["error"]["status"] is None


def test_json_error_of_the_provider_passes_when_a_stream_is_refused(world: World) -> None:
    world.backend("failing-1").replies(error(404, "no such model here"))
    answer = world.stream(model="failing")
    assert answer.status == 404
    assert answer.error["message"] == "no such model here"
    assert answer.headers["x-arbstr-streaming"] == "true"
    assert answer.provider == "failing-1"
    assert len(world.backend("failing-1").calls()) == 1
    assert world.backend("failing-2").calls() == []


def test_next_provider_streams_when_the_first_fails_before_its_first_byte(world: World) -> None:
    world.backend("failing-1").replies(error(503))
    answer = world.stream(model="failing")
    assert (answer.status, answer.provider) == (200, "failing-2")
    assert answer.text == "pong"
    assert answer.payloads[-1] == "[DONE]"


def test_usage_is_seen_when_the_events_use_all_that_their_format_allows(world: World) -> None:
    world.backend("main").replies(
        sse(
            b": a comment\r\n\r\n",
            b"event: message\r\nid: 7\r\nretry: 10\r\ndata:" + json.dumps(chunk_object("pong")).encode() + b"\r\n\r\n",
            b"data:" + json.dumps(usage_chunk()).encode() + b"\r\n\r\n",
            b"data:[DONE]\r\n\r\n",
        )
    )
    answer = world.stream()
    assert answer.text == "pong"
    entry = world.entry(answer.request_id)
    assert (entry["success"], tokens_of(entry)) == (True, (10, 20))


def test_usage_is_seen_when_it_arrives_in_pieces(world: World) -> None:
    pieces = [part for cut in split(event(usage_chunk()), 3, 40, 90) for part in (cut, Pause(0.02))]
    world.backend("main").replies(sse(chunk_object("pong"), *pieces, DONE))
    entry = world.entry(world.stream().request_id)
    assert tokens_of(entry) == (10, 20)


def test_stream_is_unaffected_when_one_of_its_events_is_no_json(world: World) -> None:
    world.backend("main").replies(sse(chunk_object("po"), b"data: {oops\n\n", chunk_object("ng"), usage_chunk(), DONE))
    answer = world.stream()
    assert answer.text == "pong"
    assert b"data: {oops\n\n" in answer.body
    assert answer.payloads[-1] == "[DONE]"
    assert tokens_of(world.entry(answer.request_id)) == (10, 20)


def leave_in_the_middle(world: World, model: str, gate: threading.Event) -> str:
    """Read the first piece and go; the request's id."""
    world.backend(model).forget()
    world.backend(model).replies(stream("some words to begin with", gate, "and more"))
    asked = "gpt-4o" if model == "main" else model
    with world.open_chat(model=asked, stream=True) as exchange:
        exchange.read_until(b"some words")
        request_id = exchange.head.headers["x-arbstr-request-id"]
        exchange.leave()
    return str(request_id)


def test_provider_is_left_at_once_and_paid_for_what_passed_when_the_client_leaves(world: World) -> None:
    request_id = leave_in_the_middle(world, "main", threading.Event())
    assert world.backend("main").calls()[0].left.wait(10)
    entry = world.entry(request_id)
    assert "client_disconnected" in json.dumps(entry)
    assert entry["tokens"]["output"] > 0
    assert entry["cost"]["sats"] > 0


def test_stream_is_read_to_its_end_and_paid_by_its_usage_when_the_provider_is_to_be_drained(world: World) -> None:
    gate = threading.Event()
    request_id = leave_in_the_middle(world, "drained", gate)
    (seen,) = world.backend("drained").calls()
    assert not seen.left.wait(0.2)  # it is not left; a wrong program needs this long to show itself
    gate.set()
    entry = world.entry(request_id)
    assert seen.answered.wait(10)
    assert not seen.left.is_set()
    assert "client_disconnected" in json.dumps(entry)
    assert tokens_of(entry) == (10, 20)
    assert entry["cost"]["sats"] == pytest.approx(0.35)


def test_gateway_timeout_when_the_provider_is_silent_before_its_stream(world: World) -> None:
    world.backend("silent").replies(Script((HANG,)))
    answer = world.stream(model="silent")
    assert answer.status == 504
    assert answer.error["code"] == 504
    assert answer.headers["x-arbstr-streaming"] == "true"


def test_stream_survives_when_it_lasts_longer_than_any_of_its_timeouts(world: World) -> None:
    slow = [part for number in range(6) for part in (Pause(0.3), f"{number}")]
    world.backend("pausing").replies(stream(*slow))
    answer = world.stream(model="pausing")
    assert answer.text == "012345"
    assert answer.payloads[-1] == "[DONE]"


def test_stream_ends_with_an_error_event_when_the_provider_falls_silent(world: World) -> None:
    world.backend("stalling").replies(stream("po", ending=HANG))
    answer = world.stream(model="stalling")
    assert answer.text == "po"
    assert_incomplete(world, answer)
    assert world.backend("stalling").calls()[0].left.wait(10)


def test_stream_ends_with_one_error_and_counts_as_failed_when_the_provider_reports_an_error(world: World) -> None:
    trouble: dict[str, object] = {"error": {"message": "overloaded", "type": "server_error", "code": 500}}
    world.backend("complaining").replies(sse(chunk_object("po"), trouble, DONE), chat())
    answer = world.stream(model="complaining")
    assert answer.status == 200
    assert sum("error" in one for one in answer.events) == 1
    assert_incomplete(world, answer)
    assert world.health("complaining")["failure_count"] == 1
