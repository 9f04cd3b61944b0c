"""From a request to the tokens it asks for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config import PolicyRule, Tier
from arbstr.routing import Demand, demand_of, rule_for
from arbstr.wire import Endpoint, ModelCall


def call_of(**members: Any) -> ModelCall:
    fields = {
        "model": "m",
        "stream": False,
        "max_tokens": None,
        "n": 1,
        "include_usage": False,
        "messages_text_bytes": 0,
        "messages": 0,
        "images": 0,
        "last_user_text": "",
        "body": b"{}",
    }
    return ModelCall(**{**fields, **members})


def demand(default_reserve_tokens: int = 4_096, **members: Any) -> Demand:
    return demand_of(call_of(**members), default_reserve_tokens=default_reserve_tokens)


@pytest.mark.parametrize(
    ("members", "expected", "bound"),
    [
        ({}, 0, 64),
        ({"messages_text_bytes": 1}, 1, 65),
        ({"messages_text_bytes": 4}, 1, 68),
        ({"messages_text_bytes": 5}, 2, 69),
        ({"messages_text_bytes": 24, "messages": 2}, 14, 120),
        ({"images": 2}, 2_000, 8_256),
    ],
)
def test_prompt_tokens_are_estimated_and_bounded_when_a_call_has(
    members: dict[str, int], expected: int, bound: int
) -> None:
    asked = demand(**members)
    assert (asked.prompt_tokens, asked.prompt_tokens_bound) == (expected, bound)


@pytest.mark.parametrize(
    ("members", "expected", "bound"),
    [
        ({}, 256, 4_096),
        ({"n": 3}, 768, 12_288),
        ({"max_tokens": 50}, 50, 50),
        ({"max_tokens": 50, "n": 2}, 100, 100),
        ({"max_tokens": 300}, 256, 300),
        ({"max_tokens": 0}, 0, 4_096),
    ],
)
def test_completion_tokens_are_estimated_and_bounded_when_a_call_has(
    members: dict[str, int], expected: int, bound: int
) -> None:
    asked = demand(**members)
    assert (asked.completion_tokens, asked.completion_tokens_bound) == (expected, bound)


@pytest.mark.parametrize(
    ("members", "expected", "completion"),
    [
        ({}, 40, 40),
        ({"n": 2}, 40, 80),
        ({"max_tokens": 30, "n": 2}, 40, 60),
        ({}, 9_999, 4_096),
        ({"endpoint": Endpoint.EMBEDDINGS}, 40, 0),
    ],
)
def test_the_expected_completion_is_for_all_choices_and_bounded_when_it_is_known(
    members: dict[str, Any], expected: int, completion: int
) -> None:
    call = call_of(**members)
    asked = demand_of(call, default_reserve_tokens=4_096, expected_completion_tokens=expected)
    assert asked.completion_tokens == completion


def test_an_embedding_has_no_completion_when_its_cost_is_bounded() -> None:
    assert demand(endpoint=Endpoint.EMBEDDINGS, messages_text_bytes=8).completion_tokens_bound == 0


def test_the_least_of_a_prompt_is_far_below_the_expected_when_it_is_text() -> None:
    asked = demand(messages_text_bytes=16_000, messages=1, images=3, max_tokens=7)
    assert (asked.prompt_tokens_least, asked.max_tokens) == (1_000, 7)


def test_both_names_of_the_model_are_kept_when_the_caller_used_another() -> None:
    asked = demand_of(call_of(), default_reserve_tokens=1, model="real")
    assert (asked.model, asked.requested_model) == ("real", "m")
    assert (demand().model, demand().requested_model) == ("m", "m")
    assert (Demand("m", 1, 1, 1, 1).requested_model, Demand("m", 1, 1, 1, 1).tier) == ("m", Tier.FRONTIER)


# Policies

FREE = PolicyRule("free", keywords=("cheap",))
CODE = PolicyRule("code", keywords=("code", "implement"))


@pytest.mark.parametrize(
    ("header", "text", "policy"),
    [
        (None, "hello", None),
        (None, "", None),
        ("code", "hello", CODE),
        ("code", "", CODE),
        ("code", "cheap", CODE),
        ("CODE", "cheap", FREE),
        ("nosuch", "hello", None),
        ("nosuch", "decode this", CODE),
        (None, "IMPLEMENTing it", CODE),
        (None, "cheap code", FREE),
    ],
)
def test_the_rule_is_the_callers_or_the_first_with_a_keyword_when_the_request_says(
    header: str | None, text: str, policy: PolicyRule | None
) -> None:
    assert rule_for((FREE, CODE), header, text) == policy


def test_there_is_no_rule_when_none_is_configured() -> None:
    assert rule_for((), "code", "implement") is None


COUNT = st.integers(0, 10**9)


@given(
    text=COUNT,
    messages=COUNT,
    images=COUNT,
    max_tokens=st.none() | COUNT,
    n=st.integers(1, 128),
    reserve=st.integers(1, 10**6),
)
def test_the_expectation_is_within_the_bound_when_a_call_is_of_any_size(
    text: int, messages: int, images: int, max_tokens: int | None, n: int, reserve: int
) -> None:
    asked = demand(reserve, messages_text_bytes=text, messages=messages, images=images, max_tokens=max_tokens, n=n)
    assert 0 <= asked.prompt_tokens_least <= asked.prompt_tokens <= asked.prompt_tokens_bound
    assert 0 <= asked.completion_tokens <= asked.completion_tokens_bound
