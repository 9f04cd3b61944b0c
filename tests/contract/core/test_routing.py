"""Cases 1 to 16: who is asked. The providers of one case have a model of their own: one program serves all cases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.program import P, Start, World
from tests.contract.upstream import error

SHUT_AT_ONCE = {"breaker_failures": 1, "breaker_open_s": 600}

PROVIDERS = [
    P("a", 5000, 15000, models=["case-1"]),
    P("b", 10000, 30000, 1, models=["case-1"]),
    P("fee", 5000, 10000, 8000, models=["case-2"]),
    P("no-fee", 8000, 15000, models=["case-2"]),
    P("small-fee", 5000, 10000, 5, models=["units"]),
    P("without-fee", 8000, 15000, models=["units"]),
    P("zed", models=["case-3"]),
    P("amy", models=["case-3"]),
    P("local", 1000, 5000, tier="local", models=["tiers"]),
    P("standard", 5000, 15000, 1, tier="standard", models=["tiers"]),
    P("frontier", 10000, 30000, 2, tier="frontier", models=["tiers"]),
    P("lonely", 10000, 30000, 2, tier="frontier", models=["case-12"]),
    P("ordinary", models=["case-13", "gpt-4o"]),
    P("shut-local", 1000, 5000, tier="local", models=["case-14"], more=SHUT_AT_ONCE),
    P("shut-standard", 5000, 15000, models=["case-14"], more=SHUT_AT_ONCE),
    P("shut-frontier", 10000, 30000, tier="frontier", models=["case-14"], more=SHUT_AT_ONCE),
    P("dear-local", 1, 900, tier="local", models=["case-15"]),
    P("cheap-standard", 1, 10, models=["case-15"]),
]
POLICIES = {"rules": [{"name": "cap-50", "max_sats_per_1m_output": 50}]}


@pytest.fixture(scope="module")
def world(start: Start) -> Iterator[World]:
    with start(PROVIDERS, tables={"policies": POLICIES}) as world:
        yield world


def complexity(word: str) -> dict[str, str]:
    return {"x-arbstr-complexity": word}


def test_cheapest_provider_answers_when_two_serve_the_model(world: World) -> None:
    answer = world.chat(model="case-1")
    assert (answer.status, answer.provider) == (200, "a")


def test_base_fee_counts_when_providers_are_compared(world: World) -> None:
    assert world.chat(model="case-2").provider == "no-fee"


def test_base_fee_is_weighed_as_a_fee_per_request_when_rates_are_lower(world: World) -> None:
    """A fee of 5 sats outweighs what 256 expected tokens save: the cost of this request decides, not a mixed score."""
    assert world.chat(model="units").provider == "without-fee"


def test_first_name_answers_when_costs_are_equal(world: World) -> None:
    assert world.chat(model="case-3").provider == "amy"


def test_unknown_model_is_refused_and_named_when_nobody_serves_it(world: World) -> None:
    answer = world.chat(model="nosuch")
    assert answer.status == 400
    assert answer.error["type"] == "arbstr_error"
    assert answer.error["code"] == 400
    assert "No providers available" in answer.error["message"]
    assert "nosuch" in answer.error["message"]
    assert answer.request_id
    assert answer.headers["x-arbstr-latency-ms"].isdigit()
    assert answer.provider is None


def test_model_is_refused_when_its_case_differs(world: World) -> None:
    answer = world.chat(model="GPT-4O")
    assert answer.status == 400
    assert "No providers available" in answer.error["message"]


def test_any_model_is_forwarded_and_none_is_listed_when_a_provider_names_no_models(start: Start) -> None:
    with start([P("any", models=[]), P("named", 9000, 90000, models=["gpt-4o"])]) as world:
        answer = world.chat(model="whatever/it-is")
        assert (answer.status, answer.provider) == (200, "any")
        assert world.backend("any").calls()[0].json["model"] == "whatever/it-is"
        assert [one["id"] for one in world.get("/v1/models").json["data"]] == ["gpt-4o"]


def test_local_tier_answers_when_complexity_is_said_to_be_low(world: World) -> None:
    answer = world.chat(model="tiers", headers=complexity("low"))
    assert (answer.provider, answer.headers["x-arbstr-tier"]) == ("local", "local")
    assert "x-arbstr-complexity-score" not in answer.headers


@pytest.mark.parametrize(("word", "tier"), [("medium", "standard"), ("HIGH", "frontier")])
def test_tier_is_a_ceiling_when_complexity_is_said_to_be_higher(world: World, word: str, tier: str) -> None:
    answer = world.chat(model="tiers", headers=complexity(word))
    assert (answer.provider, answer.headers["x-arbstr-tier"]) == ("local", tier)


def test_tier_is_a_floor_too_when_the_configuration_enforces_it(start: Start) -> None:
    tiers = [one for one in PROVIDERS if one.models == ["tiers"]]
    with start(tiers, tables={"routing": {"enforce_tier": True}}) as world:
        answers = [world.chat(model="tiers", headers=complexity(word)) for word in ("low", "medium", "high")]
    assert [answer.provider for answer in answers] == ["local", "standard", "frontier"]
    assert [answer.headers["x-arbstr-tier"] for answer in answers] == ["local", "standard", "frontier"]


def test_score_decides_when_the_complexity_header_is_not_understood(world: World) -> None:
    answer = world.chat(model="tiers", headers=complexity("banana"))
    assert answer.status == 200
    assert answer.headers["x-arbstr-complexity-score"] == "0.025"
    assert answer.headers["x-arbstr-tier"] == "local"


def test_tier_is_raised_when_only_a_higher_one_serves_the_model(world: World) -> None:
    answer = world.chat(model="case-12", headers=complexity("low"))
    assert (answer.status, answer.provider, answer.headers["x-arbstr-tier"]) == (200, "lonely", "frontier")


def test_tier_and_score_are_told_when_a_plain_message_is_answered(world: World) -> None:
    answer = world.chat(model="case-13")
    assert answer.headers["x-arbstr-tier"] == "standard"
    assert answer.headers["x-arbstr-complexity-score"] == "0.025"


def test_next_tier_answers_when_the_circuits_below_are_open(world: World) -> None:
    low = complexity("low")
    world.backend("shut-local").replies(error(500))
    world.chat(model="case-14", headers=low)
    assert world.health("shut-local")["state"] == "open"
    answer = world.chat(model="case-14", headers=low)
    assert (answer.provider, answer.headers["x-arbstr-tier"]) == ("shut-standard", "standard")

    world.backend("shut-standard").replies(error(500))
    world.chat(model="case-14", headers=low)
    assert world.health("shut-standard")["state"] == "open"
    answer = world.chat(model="case-14", headers=low)
    assert (answer.provider, answer.headers["x-arbstr-tier"]) == ("shut-frontier", "frontier")


def test_tier_is_raised_when_the_price_cap_empties_it(world: World) -> None:
    answer = world.chat(model="case-15", headers={"x-arbstr-policy": "cap-50"})
    assert (answer.status, answer.provider) == (200, "cheap-standard")
    assert answer.headers["x-arbstr-tier"] == "standard"


def test_price_cap_leaves_the_cheaper_provider_when_both_tiers_are_open_to_it(world: World) -> None:
    answer = world.chat(model="case-15", headers={"x-arbstr-policy": "cap-50", **complexity("medium")})
    assert (answer.status, answer.provider) == (200, "cheap-standard")


def test_score_is_the_highest_when_there_are_no_messages(world: World) -> None:
    answer = world.chat(model="case-13", messages=[])
    assert answer.status == 200
    assert answer.headers["x-arbstr-complexity-score"] == "1.000"
    assert answer.headers["x-arbstr-tier"] == "frontier"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("hi", "1.000"),
        ("Good morning to you, friend", "0.025"),
        ("123456789", "1.000"),
        ("1234567890", "0.025"),
        ("Compare both plans, evaluate risks, then design one", "0.225"),
        ("fix src/main.rs now please", "0.158"),
        ("open main.rs please now", "0.091"),
        ("redesign the debugger", "0.158"),
        ("```a``` ```b``` ```c```", "0.225"),
        ("x" * 4000, "0.115"),
        ("x" * 16000, "0.215"),
    ],
)
def test_score_is_that_of_the_reference_when_there_is_one_message(world: World, text: str, score: str) -> None:
    answer = world.chat(text, model="case-13")
    assert answer.headers["x-arbstr-complexity-score"] == score


@pytest.mark.parametrize(("count", "score"), [(6, "0.110"), (12, "0.201")])
def test_score_grows_when_the_conversation_is_long(world: World, count: int, score: str) -> None:
    messages = [{"role": "user", "content": "hello there"}] * count
    assert world.chat(model="case-13", messages=messages).headers["x-arbstr-complexity-score"] == score
