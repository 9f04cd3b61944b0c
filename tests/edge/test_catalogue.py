"""Models, health and providers, as the snapshot of the directory says."""

import json

import pytest

from arbstr.config import Model, Tier
from arbstr.edge import NO_FEED
from arbstr.edge._catalogue import Catalogue, health_of, providers_body
from arbstr.providers import BreakerState
from arbstr.requests import Caller
from arbstr.units import Price
from tests.edge.views import view_of

ADMIN, AGENT = Caller(None, "admin", "admin"), Caller("ag_1", "agent", "one")


def test_models_are_those_of_all_providers_with_who_serves_them_and_the_best_price():
    snapshot = (
        view_of("a", "x", "y", price=Price.of(2, 2)),
        view_of("b", Model("y", price=Price.of(1, 1), context_tokens=8_000), price=Price.of(9, 9)),
        view_of("c"),
    )
    shown = Catalogue(lambda: snapshot, created=5)
    data = json.loads(shown.body())["data"]
    assert [(one["id"], one["providers"], one["created"]) for one in data] == [("x", ["a"], 5), ("y", ["a", "b"], 5)]
    assert data[1]["pricing"]["output_msat_per_1m_tokens"] == "1000000"
    assert [offer["context_tokens"] for offer in data[1]["offers"]] == [None, 8_000]
    assert shown.body() is shown.body()


def test_a_model_that_must_not_be_bought_somewhere_has_no_price_from_there():
    snapshot = (view_of("a", Model("x", excluded="bad answers"), price=Price.of(1, 1)), view_of("b", "x"))
    [model] = json.loads(Catalogue(lambda: snapshot, created=0).body())["data"]
    assert model["pricing"]["output_msat_per_1m_tokens"] == "15000000"
    assert model["offers"][0]["excluded"] == "bad answers"


def test_models_are_made_anew_when_a_provider_has_changed():
    snapshots = [(view_of("a", "x"),)]
    shown = Catalogue(lambda: snapshots[-1], created=0)
    assert shown.entry("x") is not None
    snapshots.append((view_of("a", "y"),))
    assert (shown.entry("x"), shown.entry("y") is not None) == (None, True)


@pytest.mark.parametrize(
    ("states", "status", "code"),
    [
        ((), "ok", 200),
        (("closed", "closed"), "ok", 200),
        (("closed", "open"), "degraded", 200),
        (("half_open",), "degraded", 200),
        (("open", "half_open"), "degraded", 200),
        (("open", "open"), "unhealthy", 503),
    ],
)
def test_health_goes_by_the_circuits(states, status, code):
    snapshot = tuple(
        view_of(f"p{number}", breaker_state=BreakerState(state), failure_count=number, tier=Tier.LOCAL)
        for number, state in enumerate(states)
    )
    body, found = health_of(snapshot)
    assert (json.loads(body)["status"], found) == (status, code)
    assert json.loads(body)["providers"] == {
        f"p{number}": {"state": state, "failure_count": number, "tier": "local"} for number, state in enumerate(states)
    }


def providers(*views, caller=ADMIN, market=NO_FEED, now=100.0):
    body = providers_body(views, market, caller, now)
    assert b"very-secret" not in body
    return json.loads(body)


def test_a_provider_shows_what_the_contract_names_and_how_it_is_doing():
    view = view_of(
        "a",
        "x",
        Model("y", price=Price.of(1, 1), excluded="its answers are bad"),
        price=Price.of(5, 15, 2, unit="sats_per_1m_tokens"),
        breaker_state=BreakerState.OPEN,
        failure_count=3,
        open_until=101.2345,
        in_flight=2,
        ttfb_ms=12.5,
    )
    body = providers(view)
    [one] = body["providers"]
    assert body["rate_unit"] == "sats_per_1m_tokens"
    assert (one["name"], one["url"], one["models"]) == ("a", "http://a.internal/v1", ["x", "y"])
    assert [one[f"{name}_rate_sats_per_1m"] for name in ("input", "output")] == [5.0, 15.0]
    assert (one["base_fee_sats"], one["model_rate_count"], one["tier"]) == (2.0, 1, "standard")
    assert (one["source"], one["provider_id"], one["routable"]) == (None, None, True)
    assert (one["has_api_key"], one["api_key"]) == (True, "sk-ver...***")
    assert one["breaker"] == {"state": "open", "failure_count": 3, "probing": False, "open_for_s": 1.235}
    assert (one["in_flight"], one["max_concurrent"], one["weight"]) == (2, 256, 1)
    assert one["latency"]["ttfb_ms"] == 12.5
    assert one["excluded_models"] == [{"model": "y", "reason": "its answers are bad"}]
    assert one["pricing"]["output_msat_per_1m_tokens"] == "15000"


def test_a_provider_without_a_price_has_no_rates_and_is_not_routable():
    [one] = providers(view_of("a", "x", price=None))["providers"]
    assert (one["input_rate_sats_per_1m"], one["pricing"], one["routable"]) == (None, None, False)
    [one] = providers(view_of("a", Model("x", price=Price.of(1, 1)), price=None))["providers"]
    assert one["routable"]


def test_an_open_time_that_is_over_is_zero():
    [one] = providers(view_of("a", open_until=50.0))["providers"]
    assert one["breaker"]["open_for_s"] == 0


def test_an_agent_sees_neither_addresses_nor_keys():
    market = {**NO_FEED, "enabled": True, "url": "http://feed.internal"}
    body = providers(view_of("a", "x"), caller=AGENT, market=market)
    assert (body["providers"][0]["url"], body["providers"][0]["api_key"]) == (None, None)
    assert body["market"] == {"enabled": True}
    assert "internal" not in json.dumps(body)


def test_the_market_is_said_to_be_off_when_there_is_no_feed():
    market = providers()["market"]
    assert (market["enabled"], market["url"], market["quotes_seen"], len(market["notes"])) == (False, None, 0, 1)


async def test_one_model_is_found_by_a_name_with_slashes_and_escapes(start):
    rig = await start(providers=lambda: (view_of("a", "vendor/x é"),))
    for path in ("/v1/models/vendor/x%20%C3%A9", "/v1/models/vendor%2Fx%20%c3%a9?x=1"):
        answer = await rig.request("GET", path)
        assert (answer.status, json.loads(answer.body)["id"]) == (200, "vendor/x é")


@pytest.mark.parametrize("name", ["nope", "a/b", "%ff", "x" * 1_500])
async def test_one_model_is_404_in_openais_words_when_nobody_lists_it(start, name):
    rig = await start(providers=lambda: (view_of("a", "x"),))
    answer = await rig.request("GET", f"/v1/models/{name}")
    assert answer.status == 404
    assert (answer.error["code"], answer.error["type"]) == ("model_not_found", "invalid_request_error")
    assert (answer.error["param"], answer.error["reason"]) == ("model", "model_not_found")


async def test_a_path_is_414_when_it_is_too_long(start):
    rig = await start()
    answer = await rig.request("GET", "/v1/models/" + "x" * 5_000)
    assert (answer.status, answer.error["reason"]) == (414, "invalid_request")


async def test_routes_show_what_the_services_give(start):
    rig = await start(
        providers=lambda: (view_of("a", "x", breaker_state=BreakerState.OPEN),),
        market=lambda: {**NO_FEED, "notes": ["hello"]},
        metrics=lambda: b"arbstr_up 1\n",
    )
    assert json.loads((await rig.request("GET", "/providers")).body)["market"]["notes"] == ["hello"]
    assert json.loads((await rig.request("GET", "/v1/models")).body)["data"][0]["id"] == "x"
    assert (await rig.request("GET", "/health")).status == 503
    metrics = await rig.request("GET", "/metrics")
    assert (metrics.body, metrics.headers["content-type"]) == (
        b"arbstr_up 1\n",
        "text/plain; version=0.0.4; charset=utf-8",
    )
