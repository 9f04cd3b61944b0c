"""Cases 41 to 48: what a failing provider comes to. Every provider has a model and a script of its own.

The predecessor tried one provider three times and a second one once. Here every candidate is tried once, at once; when
all have failed with faults worth retrying, further rounds follow after waits that double.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.contract.client import Answer
from tests.contract.program import P, Start, World
from tests.contract.upstream import HANG, chat, error
from tests.contract.upstream import Answer as Script
from tests.contract.upstream import answer as raw_answer

BACKOFF_S = 0.1
STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 501, 502, 503, 504, 520)


def alone(name: str, **more: object) -> P:
    return P(name, models=[name], more=more)


PROVIDERS = [
    *(alone(f"s{status}") for status in STATUSES),
    alone("no-such-path"),
    alone("always-500"),
    alone("once-503"),
    P("dead", dead=True, models=["dead"]),
    P("dead-1", 1000, 1000, dead=True, models=["second-good", "third-good"]),
    P("good-2", 2000, 2000, models=["second-good"]),
    P("dead-2", 2000, 2000, dead=True, models=["third-good"]),
    P("good-3", 3000, 3000, models=["third-good"]),
    alone("no-json"),
    P("no-json-1", 1000, 1000, models=["no-json-then-good"]),
    P("json-2", 2000, 2000, models=["no-json-then-good"]),
    alone("silent", first_byte_timeout_s=0.3),
    P("both-1", 1000, 1000, models=["both"]),
    P("both-2", 2000, 2000, models=["both"]),
]


@pytest.fixture(scope="module")
def world(start: Start) -> Iterator[World]:
    with start(PROVIDERS, tables={"routing": {"backoff_s": BACKOFF_S}}) as world:
        yield world


def ask(world: World, model: str, *script: Script) -> Answer:
    if script:
        world.backend(model).replies(*script)
    return world.chat(model=model)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_status_and_error_body_pass_through_when_the_request_is_at_fault(world: World, status: int) -> None:
    answer = ask(world, f"s{status}", error(status, "max_tokens is too large"))
    assert answer.status == status
    assert answer.error["message"] == "max_tokens is too large"
    assert answer.error["code"] == f"c{status}"
    assert answer.headers["x-arbstr-retries"] == f"1/s{status}"
    assert len(world.backend(f"s{status}").calls()) == 1
    assert world.entry(answer.request_id)["error"]["status"] == status
    assert world.health(f"s{status}")["failure_count"] == 0


@pytest.mark.parametrize("status", [401, 402, 403])
def test_bad_gateway_after_one_call_when_the_provider_does_not_accept_us(world: World, status: int) -> None:
    answer = ask(world, f"s{status}", error(status, "your key is sk-one-two"))
    assert answer.status == 502
    assert answer.error["code"] == 502
    assert f"s{status}" in answer.error["message"]
    assert str(status) in answer.error["message"].replace(f"s{status}", "")
    assert "sk-one-two" not in answer.body.decode()
    assert answer.headers["x-arbstr-retries"] == f"1/s{status}"
    assert len(world.backend(f"s{status}").calls()) == 1
    assert world.entry(answer.request_id)["error"]["status"] == status


def test_bad_gateway_after_one_call_when_the_provider_knows_no_such_path(world: World) -> None:
    answer = ask(world, "no-such-path", raw_answer(b"not here", status=404, content_type="text/plain"))
    assert answer.status == 502
    assert len(world.backend("no-such-path").calls()) == 1


def test_rate_limit_keeps_its_meaning_and_its_retry_after_when_nobody_else_is_left(world: World) -> None:
    answer = ask(world, "s429", error(429, retry_after="1"))
    assert answer.status == 429
    assert answer.error["code"] == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert len(world.backend("s429").calls()) == 3
    assert answer.headers["x-arbstr-retries"] == "3/s429"
    assert world.entry(answer.request_id)["error"]["status"] == 429


@pytest.mark.parametrize("status", [408, 409, 500, 501, 502, 503, 504, 520])
def test_bad_gateway_after_three_calls_when_the_fault_may_pass(world: World, status: int) -> None:
    answer = ask(world, f"s{status}", error(status))
    assert answer.status in ((502, 504) if status in (408, 504) else (502,))  # 504 is what time is told with
    assert f"s{status}" in answer.error["message"]
    assert answer.provider == f"s{status}"
    assert answer.headers["x-arbstr-retries"] == f"3/s{status}"
    assert len(world.backend(f"s{status}").calls()) == 3
    assert world.entry(answer.request_id)["error"]["status"] == status


def test_waits_double_when_one_provider_fails_again_and_again(world: World) -> None:
    answer = ask(world, "always-500", error(500))
    calls = world.backend("always-500").calls()
    waits = [later.at - earlier.at for earlier, later in pairwise(calls)]
    assert answer.status == 502
    assert answer.headers["x-arbstr-retries"] == "3/always-500"
    assert not {"x-arbstr-tier", "x-arbstr-complexity-score", "x-arbstr-cost-sats"} & set(answer.headers)
    assert len(waits) == 2
    assert waits[0] >= BACKOFF_S / 2  # jitter takes at most half
    assert waits[1] >= BACKOFF_S


def test_answer_comes_after_a_wait_when_the_second_try_succeeds(world: World) -> None:
    answer = ask(world, "once-503", error(503), chat())
    assert answer.status == 200
    assert answer.headers["x-arbstr-retries"] == "1/once-503"
    assert int(answer.headers["x-arbstr-latency-ms"]) >= BACKOFF_S * 500


def test_provider_is_named_and_its_address_is_not_when_it_cannot_be_reached(world: World) -> None:
    answer = ask(world, "dead")
    assert answer.status == 502
    assert "Failed to reach provider" in answer.error["message"]
    assert "dead" in answer.error["message"]
    assert "127.0.0.1" not in answer.body.decode()
    assert answer.headers["x-arbstr-retries"] == "3/dead"


def test_second_answers_without_a_further_try_of_the_first_when_the_first_is_dead(world: World) -> None:
    answer = ask(world, "second-good")
    assert (answer.status, answer.provider) == (200, "good-2")
    assert answer.headers["x-arbstr-retries"] == "1/dead-1"


def test_third_answers_when_the_first_and_the_second_are_dead(world: World) -> None:
    answer = ask(world, "third-good")
    assert (answer.status, answer.provider) == (200, "good-3")
    assert answer.headers["x-arbstr-retries"] == "1/dead-1, 1/dead-2"


def test_provider_is_called_once_when_its_success_is_not_json(world: World) -> None:
    answer = ask(world, "no-json", raw_answer(b"<html>", content_type="text/html"))
    assert answer.status == 502
    assert "Failed to parse response" in answer.error["message"]
    assert answer.headers["x-arbstr-retries"] == "1/no-json"
    assert len(world.backend("no-json").calls()) == 1


def test_next_provider_answers_when_the_success_of_the_first_is_not_json(world: World) -> None:
    world.backend("no-json-1").replies(raw_answer(b"{"))
    answer = ask(world, "no-json-then-good")
    assert (answer.status, answer.provider) == (200, "json-2")
    assert answer.headers["x-arbstr-retries"] == "1/no-json-1"


def test_gateway_timeout_counts_as_one_failure_when_the_provider_is_silent(world: World) -> None:
    answer = ask(world, "silent", Script((HANG,)))
    assert answer.status == 504
    assert answer.error["code"] == 504
    assert world.health("silent")["failure_count"] == 1


def test_gateway_timeout_when_the_deadline_of_the_request_passes(start: Start) -> None:
    with start([alone("hanging")], tables={"routing": {"deadline_s": 1.5}}) as world:
        answer = ask(world, "hanging", Script((HANG,)))
        failures = world.health("hanging")["failure_count"]
        seen = world.backend("hanging").calls()
        assert seen[0].left.wait(10)
    assert answer.status == 504
    assert answer.error["code"] == 504
    assert "timed out" in answer.error["message"]
    assert len(seen) == 1
    assert failures == 1


def test_idempotency_key_is_the_same_when_a_request_is_tried_again_and_elsewhere(world: World) -> None:
    for name in ("both-1", "both-2"):
        world.backend(name).replies(error(503))
    answer = ask(world, "both")
    assert answer.status == 502
    calls = [*world.backend("both-1").calls(), *world.backend("both-2").calls()]
    assert [seen.headers["idempotency-key"] for seen in calls] == [answer.request_id] * 6
    assert answer.headers["x-arbstr-retries"] == "3/both-1, 3/both-2"
