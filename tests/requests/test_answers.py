"""What an answer says of itself, and what is kept of it: tier, cached tokens, endpoints, observers, limits, quotes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, evolve, field

from arbstr.config import AgentLimit, Limit, LimitsConfig, Model, Tier
from arbstr.errors import InvalidRequest, PermissionRefused, RateLimited
from arbstr.requests import Caller, ModelRequest
from arbstr.routing import Router
from arbstr.store import ReceiptRow
from arbstr.units import Price
from arbstr.wire import Endpoint, Usage
from tests.requests.rig import CHEAP, DEAR, DONE, Answer, World, event, piece, says, streams, usage
from tests.requests.test_plain import error, failing, headers


@define
class Seen:
    receipts: list[ReceiptRow] = field(factory=list)

    def finished(self, request: ModelRequest, receipt: ReceiptRow) -> None:
        assert receipt.request_id == request.request_id
        self.receipts.append(receipt)


@pytest.fixture
def seen(world: World) -> Seen:
    observer = Seen()
    world.context.observers = (observer,)
    return observer


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The choice is made under a ceiling, for a score."""
    select = Router.select

    def scoring(self: Router, *args: Any, **fields: Any) -> Any:
        return evolve(select(self, *args, **fields), tier=Tier.STANDARD, complexity_score=0.123456)

    monkeypatch.setattr(Router, "select", scoring)
    return


def cached_usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    return {**usage(prompt, completion), "prompt_tokens_details": {"cached_tokens": cached}}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_answer_names_the_tier_and_the_score_when_it_was_scored(
    world: World, scored: None, stream: bool
) -> None:
    world.provider("a", streams(piece("x"), DONE) if stream else says())
    found = (await world.stream()).headers if stream else headers(await world.chat())
    assert found[b"x-arbstr-tier"] == b"standard"
    assert found[b"x-arbstr-complexity-score"] == b"0.123"


async def test_the_answer_names_no_score_when_the_caller_said_how_complex_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    select = Router.select

    def unscored(self: Router, *args: Any, **fields: Any) -> Any:
        return evolve(select(self, *args, **fields), tier=Tier.LOCAL, complexity_score=None)

    monkeypatch.setattr(Router, "select", unscored)
    world.provider("a", says(), tier=Tier.LOCAL)
    found = headers(await world.chat())
    assert found[b"x-arbstr-tier"] == b"local"
    assert b"x-arbstr-complexity-score" not in found


async def test_a_refusal_names_neither_tier_nor_score(world: World, scored: None) -> None:
    world.provider("a", failing(500))
    found = headers(await world.chat())
    assert found[b"x-arbstr-provider"] == b"a"
    assert not {b"x-arbstr-tier", b"x-arbstr-complexity-score", b"x-arbstr-cost-msat"} & found.keys()


async def test_the_cost_event_of_a_stream_says_what_the_predecessors_said_and_more(world: World, scored: None) -> None:
    world.provider("a", streams(piece("x"), event({"choices": [], "usage": usage(10, 70)}), DONE))
    cost = (await world.stream(stream_cost=True)).events[-2]["arbstr"]
    assert (cost["cost_sats"], cost["cost_msat"]) == (0.15, 150)
    assert (cost["complexity_score"], cost["tier"]) == (0.123456, "standard")
    assert isinstance(cost["latency_ms"], int)


@pytest.mark.parametrize("stream", [False, True])
async def test_cached_tokens_are_charged_at_their_own_price(world: World, seen: Seen, stream: bool) -> None:
    price = Price.of(10, 20, cached_input_rate=1)
    used = cached_usage(50, 20, 40)
    plain = says("x", used)
    streamed = streams(piece("x"), event({"choices": [], "usage": used}), DONE)
    world.provider("a", streamed if stream else plain, price=price)
    world.provider("b", says(), price=Price.of(1_000, 2_000))
    await world.chat(world.request(stream=stream))
    [receipt] = seen.receipts
    assert (receipt.prompt_tokens, receipt.completion_tokens, receipt.cached_tokens) == (50, 20, 40)
    assert receipt.cost_msat == 10 * 10 + 40 * 1 + 20 * 20
    assert receipt.saved_dearest_msat == 50 * 1_000 + 20 * 2_000 - receipt.cost_msat
    await world.check_closed(spent=receipt.cost_msat)


async def test_no_more_tokens_are_cached_than_the_prompt_can_have(world: World, seen: Seen) -> None:
    world.provider("a", says("x", cached_usage(4_000, 20, 4_000)), price=Price.of(10, 20, cached_input_rate=1))
    await world.chat()
    [receipt] = seen.receipts
    assert receipt.cached_tokens == receipt.prompt_tokens == 24 + 16 + 64
    await world.check_closed(spent=104 + 20 * 20)


async def test_the_receipt_keeps_what_was_asked_and_chosen(world: World, seen: Seen, scored: None) -> None:
    a = world.provider("a", says(), models=(Model("m", upstream_id="vendor/m"),))
    await world.chat(evolve(world.request(), policy="frugal"))
    assert json.loads(a.sent[0])["model"] == "vendor/m"
    [receipt] = seen.receipts
    assert (receipt.tier, receipt.complexity_score) == ("standard", 0.123456)
    assert (receipt.policy_header, receipt.policy) == ("frugal", None)
    assert (receipt.endpoint, receipt.model, receipt.upstream_model) == ("chat/completions", "m", "vendor/m")


# Other endpoints


def asking(world: World, endpoint: Endpoint, **fields: Any) -> ModelRequest:
    request = world.request(**fields)
    return evolve(request, call=evolve(request.call, endpoint=endpoint))


EMBEDDED = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}], "model": "m"}


async def test_embeddings_are_charged_by_their_prompt_alone(world: World, seen: Seen) -> None:
    body = json.dumps({**EMBEDDED, "usage": {"prompt_tokens": 8, "total_tokens": 8}}).encode()
    a = world.provider("a", Answer([body]))
    answer = await world.chat(asking(world, Endpoint.EMBEDDINGS))
    assert answer is not None
    assert json.loads(answer.body) == {**json.loads(body), "arbstr_provider": "a"}
    assert a.requests[0].url.path == "/v1/embeddings"
    [receipt] = seen.receipts
    assert (receipt.prompt_tokens, receipt.completion_tokens, receipt.estimated) == (8, 0, False)
    assert receipt.endpoint == "embeddings"
    await world.check_closed(spent=8)


@pytest.mark.parametrize("used", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": True}, {"prompt_tokens": "8"}, 7])
async def test_embeddings_are_counted_when_nobody_tells_their_tokens(world: World, seen: Seen, used: Any) -> None:
    world.provider("a", Answer([json.dumps({**EMBEDDED, "usage": used}).encode()]))
    await world.chat(asking(world, Endpoint.EMBEDDINGS))
    [receipt] = seen.receipts
    assert (receipt.prompt_tokens, receipt.completion_tokens, receipt.estimated) == (10, 0, True)
    await world.check_closed(spent=10)


@pytest.mark.parametrize("body", [b"", b"no", b'{"error":{"message":"overloaded"}}', b'{"data":[1,'])
async def test_the_next_provider_embeds_when_one_gives_no_embeddings(world: World, body: bytes) -> None:
    world.provider("a", Answer([body]))
    world.provider("b", Answer([json.dumps(EMBEDDED).encode()]), price=DEAR)
    answer = await world.chat(asking(world, Endpoint.EMBEDDINGS))
    assert headers(answer)[b"x-arbstr-provider"] == b"b"
    await world.check_closed()


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_go_the_same_way(world: World, seen: Seen, stream: bool) -> None:
    text = {"id": "c", "choices": [{"index": 0, "text": "x" * 40}]}
    plain = Answer([json.dumps(text).encode()])
    a = world.provider("a", streams(event(text), DONE) if stream else plain)
    await world.chat(asking(world, Endpoint.COMPLETIONS, stream=stream))
    assert a.requests[0].url.path == "/v1/completions"
    [receipt] = seen.receipts
    assert (receipt.endpoint, receipt.completion_tokens, receipt.outcome) == ("completions", 10, "ok")
    await world.check_closed(spent=30)


# Learning and watching


@define
class Learning:
    observed: list[tuple[str, str, Usage]] = field(factory=list)

    def completion_tokens(self, call: object, model: str, policy: str | None) -> int:
        return 256

    def cached_tokens(self, provider: str, model: str, prompt_tokens: int) -> int:
        return 0

    def observe(self, call: object, model: str, policy: str | None, provider: str, usage: Usage) -> None:
        self.observed.append((model, provider, usage))


async def test_the_router_learns_from_whole_answers_with_the_providers_own_count_only(world: World) -> None:
    estimator = Learning()
    world.context.router = evolve(world.context.router, estimator=estimator)
    counted = event({"choices": [], "usage": usage(10, 7)})
    for name, answer in (
        ("plain", says("x", usage(10, 20))),
        ("uncounted", says("x")),
        ("stream", streams(piece("x"), counted, DONE)),
        ("uncounted-stream", streams(piece("x"), DONE)),
        ("broken", streams(piece("x"), counted)),
    ):
        world.provider(name, answer, models=(name,))
        await world.chat(world.request(stream=bool(answer.headers), model=name))
    assert estimator.observed == [("plain", "plain", Usage(10, 20)), ("stream", "stream", Usage(10, 7))]


async def test_observers_hear_of_every_request_once_also_of_those_that_came_to_nothing(
    world: World, seen: Seen
) -> None:
    world.provider("a", says(), failing(500), models=("m",))
    world.provider("dear", says(), models=("dear",), price=Price.of(10**6, 10**6))
    await world.chat()
    await world.chat()
    await world.chat(world.request(model="dear"))
    await world.chat(world.request(model="nobody has it"))
    assert [receipt.http_status for receipt in seen.receipts] == [200, 502, 402, 400]
    assert len({receipt.request_id for receipt in seen.receipts}) == 4
    assert len(await world.receipts()) == 4


async def test_an_observer_that_fails_is_logged_and_harms_nobody(
    world: World, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def finished(self, request: ModelRequest, receipt: ReceiptRow) -> None:
            raise RuntimeError("no disk for my notes")

    world.context.observers = (Broken(), seen)
    world.provider("a", says())
    answer = await world.chat()
    assert answer is not None
    assert answer.status == 200
    assert len(seen.receipts) == 1
    assert "no disk for my notes" in caplog.text
    await world.check_closed()


# Limits at the door


def limit(world: World, total: Limit | None = None, *agents: AgentLimit, rps: int = 0, **agent: int) -> None:
    config = LimitsConfig(total or Limit(), Limit(**agent), agents)
    world.context.limits.configure(config, rate_limit_rps=rps)


async def test_the_client_is_told_when_it_may_come_again_and_nothing_is_held_when_it_asks_too_often(
    world: World, seen: Seen
) -> None:
    limit(world, requests_per_minute=1)
    a = world.provider("a", says())
    first, second = await world.chat(), await world.chat()
    assert headers(first)[b"x-ratelimit-remaining-requests"] == b"0"
    assert second is not None
    assert (second.status, error(second)["reason"]) == (429, "rate_limited")
    found = headers(second)
    assert found[b"retry-after"] == b"60"
    assert found[b"x-ratelimit-limit-requests"] == b"1"
    assert found[b"content-type"] == b"application/json"
    assert len(a.requests) == len(seen.receipts) == len(world.holds()) == 1
    await world.check_closed()


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_of_a_limited_client_say_what_is_left(world: World, stream: bool) -> None:
    limit(world, requests_per_minute=10, tokens_per_minute=1_000)
    world.provider("a", streams(piece("x"), DONE) if stream else says())
    found = (await world.stream()).headers if stream else headers(await world.chat())
    assert found[b"x-ratelimit-remaining-requests"] == b"9"
    assert found[b"x-ratelimit-limit-tokens"] == b"1000"
    assert found[b"x-ratelimit-remaining-tokens"] == b"890"  # 10 and 100 are expected
    assert b"x-ratelimit-reset-tokens" in found


async def test_what_was_used_counts_and_not_what_was_expected(world: World) -> None:
    limit(world, tokens_per_minute=1_000)
    world.provider("a", says("x", usage(10, 20)), failing(500), says())
    await world.chat()
    await world.chat()  # uses nothing
    found = headers(await world.chat())
    assert found[b"x-ratelimit-remaining-tokens"] == b"860"


async def test_an_agent_gets_403_when_the_model_is_not_its_to_use(world: World) -> None:
    limit(world, None, AgentLimit(world.agent.agent_id, models=("other",)))
    a = world.provider("a", says())
    with pytest.raises(PermissionRefused, match="may not use model 'm'"):
        await world.chat()
    with pytest.raises(PermissionRefused):
        world.requests.quote(world.request())
    assert a.requests == []
    assert world.context.limits.in_flight == 0


async def test_calls_for_no_model_are_counted_at_the_door_too(world: World, clock: trio.testing.MockClock) -> None:
    limit(world, rps=1)
    caller = Caller(None, "client", "client")
    assert dict(world.requests.touch(caller))[b"x-ratelimit-limit-requests"] == b"1"
    with pytest.raises(RateLimited):
        world.requests.touch(caller)
    clock.jump(1.1)
    world.requests.touch(caller)


# Quotes


async def test_a_quote_says_who_would_answer_and_holds_nothing(world: World, seen: Seen) -> None:
    a = world.provider("a", failing(429, retry_after="60"))
    world.provider("b", says(), price=DEAR)
    await world.chat()  # shuts a
    holds = len(world.holds())
    quote = world.requests.quote(world.request(max_tokens=7))
    assert [one.provider for one in quote.selection.candidates] == ["a", "b"]
    assert (quote.demand.prompt_tokens, quote.demand.completion_tokens) == (24 // 4 + 4, 7)
    assert quote.selection.candidates[0].expected_msat == CHEAP.cost_msat(10, 7)
    assert (len(a.requests), len(world.holds()), len(seen.receipts)) == (1, holds, 1)
    assert world.requests.in_flight == 0


async def test_a_quote_is_refused_when_nobody_serves_the_model(world: World) -> None:
    world.provider("a", says(), models=("other",))
    with pytest.raises(InvalidRequest):
        world.requests.quote(world.request())
