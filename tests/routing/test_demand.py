"""From a request to the tokens it asks for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.routing import Demand, demand_of
from arbstr.wire import ModelCall


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


def demand(default_reserve_tokens: int = 4_096, policy: str | None = None, **members: Any) -> Demand:
    return demand_of(call_of(**members), default_reserve_tokens=default_reserve_tokens, policy=policy)


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
        ({"max_tokens": 0}, 0, 0),
    ],
)
def test_completion_tokens_are_estimated_and_bounded_when_a_call_has(
    members: dict[str, int], expected: int, bound: int
) -> None:
    asked = demand(**members)
    assert (asked.completion_tokens, asked.completion_tokens_bound) == (expected, bound)


def test_the_words_of_the_caller_are_kept_when_a_policy_may_need_them() -> None:
    asked = demand(policy="p", last_user_text="hi")
    assert (asked.model, asked.policy_header, asked.last_user_text) == ("m", "p", "hi")


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
    assert 0 <= asked.prompt_tokens <= asked.prompt_tokens_bound
    assert 0 <= asked.completion_tokens <= asked.completion_tokens_bound
