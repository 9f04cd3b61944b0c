"""Cases 113 to 117: models and prices that come from outside, ``GET /providers``, and the market of ``--mock``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.client import Answer, send
from tests.contract.peers import FakeFeed, quote
from tests.contract.program import P, Start, World, chat_body, eventually, serving_mock
from tests.contract.upstream import Upstream, error, models

FOUND = {"auto_discover": True}


def model_ids(world: World) -> list[str]:
    return [one["id"] for one in world.get("/v1/models").json["data"]]


@pytest.fixture(scope="module")
def discovered(start: Start) -> Iterator[World]:
    providers = [
        P("found", models=["written"], more=FOUND, api_key="sk-found"),
        P("keyless", models=[], more=FOUND),
        P("unreachable", models=["kept"], more=FOUND, dead=True),
        P("refusing", models=["kept-too"], more=FOUND),
        P("knows-nothing", models=[], more=FOUND),
        P("not-asked", models=["own"], more={"auto_discover": False}),
    ]
    with Upstream() as upstream:
        upstream.backend("found").on("/models", models("a", "b"))
        upstream.backend("keyless").on("/models", models("c"))
        for name in ("refusing", "knows-nothing"):
            upstream.backend(name).on("/models", error(500))
        with start(providers, upstream=upstream) as world:
            eventually(lambda: {"a", "b", "c"} <= set(model_ids(world)), "discovered models")
            for name in ("refusing", "knows-nothing"):
                upstream.backend(name).wait_for_calls(1, "/models")
            yield world


def test_list_of_the_provider_replaces_the_written_one_when_it_can_be_had(discovered: World) -> None:
    ids = model_ids(discovered)
    assert {"a", "b"} <= set(ids)
    assert "written" not in ids
    assert discovered.chat(model="b").provider == "found"
    assert discovered.chat(model="written").status == 400


def test_written_list_stays_when_the_provider_gives_none(discovered: World) -> None:
    assert {"kept", "kept-too"} <= set(model_ids(discovered))


def test_provider_is_not_asked_when_discovery_is_off(discovered: World) -> None:
    assert discovered.backend("not-asked").requests == []
    assert discovered.chat(model="own").provider == "not-asked"


def test_key_is_sent_when_there_is_one(discovered: World) -> None:
    assert discovered.backend("found").calls("/models")[0].headers["authorization"] == "Bearer sk-found"
    assert "authorization" not in discovered.backend("keyless").calls("/models")[0].headers


def test_provider_serves_nothing_when_its_list_is_unknown(discovered: World) -> None:
    assert discovered.chat(model="no-such-model").status == 400
    assert discovered.backend("knows-nothing").calls() == []


OLD = "2001-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def market(start: Start) -> Iterator[World]:
    """Static providers under a feed. By its fee ``wild`` is too dear to be chosen where anybody else serves the model.

    All rates are of one size: a price far off those of other hosts would be no price to a careful program.
    """
    providers = [
        P("static", 5000, 15000, 3, models=["static-own"]),
        P("wild", 4000, 8000, 1000, models=[]),
    ]
    with Upstream() as upstream:
        feed = FakeFeed(upstream.backend("feed", suffix=""))
        node = upstream.backend("node", suffix="/api/v1")
        base = node.url.removesuffix("/v1")
        feed.nodes = [{"provider_id": "node-1", "reliability": 0.9}, {"provider_id": "node-low", "reliability": 0.1}]
        feed.quotes = [
            quote("m-a", 1000, 2000, endpoint=base),
            quote("m-b", 3000, 4000, endpoint=f"{base}/v1/"),
            quote("m-null", None, 2000, endpoint=base),
            quote("m-u", 1000, 2000, endpoint=f"{upstream.address}/unkeyed", source="elsewhere", provider_id="node-u"),
            quote("m-l", 1000, 2000, endpoint=f"{upstream.address}/low", provider="Low", provider_id="node-low"),
            quote("m-o", 1000, 2000, endpoint=base, observed_at=OLD),
            quote("m-p", 1000, 2000, endpoint=base, observed_at=OLD),
            quote("static-market", 1000, 2000, endpoint=upstream.backend("static").url, provider_id="node-s"),
            quote("wild-market", 1000, 2000, endpoint=f"{upstream.address}/wild/", provider_id="node-w"),
        ]
        tables = {"tokenstats": {"url": feed.backend.url, "keys": {"market": "sk-market"}}}
        with start(providers, upstream=upstream, tables=tables) as world:
            eventually(lambda: world.get("/providers").json["market"]["last_success_at"], "poll of the feed")
            yield world


def shown(world: World, name: str) -> dict[str, Any]:
    listed = world.get("/providers").json["providers"]
    found: dict[str, Any] = next(one for one in listed if one["name"] == name)
    return found


def skipped(world: World, reason: str) -> list[dict[str, Any]]:
    return [one for one in world.get("/providers").json["market"]["skipped"] if one["reason"] == reason]


def test_offer_is_skipped_when_there_is_no_key_for_its_source(market: World) -> None:
    (entry,) = skipped(market, "missing_api_key")
    assert (entry["source"], entry["provider_id"], entry["models_count"]) == ("elsewhere", "node-u", 1)
    assert market.chat(model="m-u").provider == "wild"


def test_offer_becomes_a_provider_when_there_is_a_key_for_its_source(market: World) -> None:
    answer = market.chat(model="m-a")
    assert (answer.status, answer.provider) == (200, "market-Some-Node")
    node = market.backend("node").calls()[-1]
    assert node.headers["authorization"] == "Bearer sk-market"
    entry = shown(market, "market-Some-Node")
    assert (entry["source"], entry["provider_id"], entry["routable"]) == ("market", "node-1", True)


def test_offer_is_skipped_when_its_node_is_unreliable(market: World) -> None:
    (entry,) = skipped(market, "low_reliability")
    assert entry["provider_id"] == "node-low"
    assert entry["reliability"] == pytest.approx(0.1)


def test_old_quotes_are_one_entry_when_they_are_dropped(market: World) -> None:
    (entry,) = skipped(market, "stale_quotes")
    assert (entry["source"], entry["provider"], entry["provider_id"]) == ("*", "*", "*")
    assert entry["models_count"] == 2


def test_endpoints_are_one_provider_when_they_differ_in_slash_and_version_only(market: World) -> None:
    entry = shown(market, "market-Some-Node")
    assert entry["url"] == market.backend("node").url
    assert {"m-a", "m-b"} <= set(entry["models"])
    assert entry["model_rate_count"] == 2
    costs = {name: market.chat(model=name).headers["x-arbstr-cost-msat"] for name in ("m-a", "m-b")}
    assert costs == {"m-a": "50", "m-b": "110"}


def test_quote_is_left_out_when_one_of_its_prices_is_unknown(market: World) -> None:
    assert "m-null" not in shown(market, "market-Some-Node")["models"]
    assert market.chat(model="m-null").provider == "wild"


def test_written_provider_takes_the_prices_and_keeps_its_fee_when_the_feed_quotes_its_address(market: World) -> None:
    entry = shown(market, "static")
    assert set(entry["models"]) == {"static-own", "static-market"}
    assert (entry["source"], entry["provider_id"]) == ("market", "node-s")
    answer = market.chat(model="static-market")
    assert (answer.provider, answer.headers["x-arbstr-cost-msat"]) == ("static", "3050")


def test_written_provider_serves_any_model_still_when_the_feed_quotes_its_address(market: World) -> None:
    answer = market.chat(model="wild-market")
    assert (answer.provider, answer.headers["x-arbstr-cost-msat"]) == ("wild", "1000050")
    assert market.chat(model="whatever/it-is").provider == "wild"


def test_providers_are_shown_with_masked_keys_and_one_note_when_there_is_no_feed(start: Start) -> None:
    with start([P("keyed", api_key="abcdefghijkl"), P("keyless", 9000, 90000, 1, tier="local")]) as world:
        answer = world.get("/providers")
        body = answer.json
        keyed, keyless = shown(world, "keyed"), shown(world, "keyless")
    assert body["rate_unit"] == "sats_per_1m_tokens"
    assert body["market"]["enabled"] is False
    assert (body["market"]["quotes_seen"], body["market"]["nodes_seen"]) == (0, 0)
    assert body["market"]["routable_market_providers"] == 0
    assert body["market"]["skipped"] == []
    assert len(body["market"]["notes"]) == 1
    assert (keyed["routable"], keyed["has_api_key"], keyed["api_key"]) == (True, True, "abcdef...***")
    assert (keyless["has_api_key"], keyless["api_key"], keyless["tier"]) == (False, None, "local")
    assert (keyless["input_rate_sats_per_1m"], keyless["output_rate_sats_per_1m"]) == (9000, 90000)
    assert (keyless["base_fee_sats"], keyless["model_rate_count"], keyless["source"]) == (1, 0, None)
    assert "abcdefghijkl" not in answer.body.decode()


def test_mock_market_answers_when_nothing_is_configured(tmp_path: Path) -> None:
    with serving_mock(tmp_path) as program:

        def ask(method: str, path: str, body: object = None) -> Answer:
            data = None if body is None else json.dumps(body).encode()
            return send(program.address, method, path, headers={"content-type": "application/json"}, body=data)

        listed = {one["id"] for one in ask("GET", "/v1/models").json["data"]}
        answer = ask("POST", "/v1/chat/completions", chat_body(model="gpt-4o-mini"))
        stats = ask("GET", "/v1/stats")
    assert {"gpt-4o", "gpt-4o-mini", "claude-3.5-sonnet"} <= listed
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"]
    assert stats.status == 200
