"""Cases 17 to 25: which rule applies, and what it forbids.

Without a rule ``dear-output`` answers, being cheaper for a short answer; a cap on the output rate leaves ``fee``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.client import Answer
from tests.contract.program import P, Start, World, member

BOTH = ["gpt-4o", "gpt-4o-mini"]
PROVIDERS = [P("dear-output", 5000, 40000, models=BOTH), P("fee", 5000, 10000, 100, models=BOTH)]
RULES = [
    {"name": "minis-only", "allowed_models": ["gpt-4o-mini"]},
    {"name": "cap-20000", "max_sats_per_1m_output": 20000},
    {"name": "cap-10000", "max_sats_per_1m_output": 10000},
    {"name": "cap-100", "max_sats_per_1m_output": 100},
    {"name": "words", "allowed_models": ["gpt-4o-mini"], "keywords": ["implement"]},
]


@pytest.fixture(scope="module")
def world(start: Start) -> Iterator[World]:
    with start(PROVIDERS, tables={"policies": {"rules": RULES}}) as world:
        yield world


def policy(name: str) -> dict[str, str]:
    return {"x-arbstr-policy": name}


def assert_words_applied(answer: Answer) -> None:
    assert answer.status == 400
    assert "words" in answer.error["message"]


def test_model_and_rule_are_named_when_the_rule_does_not_allow_the_model(world: World) -> None:
    answer = world.chat(headers=policy("minis-only"))
    assert answer.status == 400
    assert answer.error["message"].startswith("Invalid request: ")
    assert answer.error["type"] == "arbstr_error"
    assert "gpt-4o" in answer.error["message"]
    assert "minis-only" in answer.error["message"]


@pytest.mark.parametrize("cap", ["cap-20000", "cap-10000"])
def test_provider_at_or_below_the_cap_answers_when_the_rule_has_one(world: World, cap: str) -> None:
    assert world.chat().provider == "dear-output"
    assert world.chat(headers=policy(cap)).provider == "fee"


def test_request_is_refused_when_nobody_is_below_the_cap(world: World) -> None:
    answer = world.chat(headers=policy("cap-100"))
    assert answer.status == 400
    assert "policy constraints" in answer.error["message"]
    assert answer.provider is None


def test_unknown_rule_is_logged_and_without_effect_when_a_header_names_it(world: World) -> None:
    answer = world.chat(headers=policy("no-such-rule"))
    assert (answer.status, answer.provider) == (200, "dear-output")
    assert member(world.entry(answer.request_id), "policy_header", "policy") == "no-such-rule"


def test_rule_applies_when_its_keyword_is_in_the_last_user_text(world: World) -> None:
    assert_words_applied(world.chat("IMPLEMENTing it"))
    allowed = world.chat("IMPLEMENTing it", model="gpt-4o-mini")
    assert allowed.status == 200
    assert member(world.entry(allowed.request_id), "policy") == "words"


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_rule_does_not_apply_when_its_keyword_is_in_an_earlier_message(world: World, role: str) -> None:
    earlier = [{"role": "user", "content": "hello you there"}, {"role": role, "content": "implement it"}]
    assert world.chat(messages=[*earlier, {"role": "user", "content": "thank you so much"}]).status == 200


def test_rule_does_not_apply_when_its_keyword_is_in_a_later_assistant_message(world: World) -> None:
    messages = [{"role": "user", "content": "hello you there"}, {"role": "assistant", "content": "implement it"}]
    assert world.chat(messages=messages).status == 200


def test_rule_of_the_header_wins_when_the_keyword_of_another_is_there(world: World) -> None:
    answer = world.chat("implement it", headers=policy("cap-20000"))
    assert (answer.status, answer.provider) == (200, "fee")


def test_only_the_first_text_part_counts_when_content_is_an_array(world: World) -> None:
    parts = [{"type": "text", "text": "a first part"}, {"type": "text", "text": "implement it"}]
    assert world.chat(messages=[{"role": "user", "content": parts}]).status == 200
    assert_words_applied(world.chat(messages=[{"role": "user", "content": parts[::-1]}]))


def test_rule_does_not_apply_when_the_role_is_written_in_another_case(world: World) -> None:
    assert world.chat(messages=[{"role": "User", "content": "implement it"}]).status == 200


def test_keywords_decide_when_the_header_names_a_rule_in_another_case(world: World) -> None:
    assert world.chat(headers=policy("MINIS-ONLY")).status == 200
    assert_words_applied(world.chat("implement it", headers=policy("MINIS-ONLY")))
