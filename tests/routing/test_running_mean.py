"""What is expected of an answer after others have been seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.routing import EXPECTED_COMPLETION_TOKENS, FixedEstimate, RunningMean
from arbstr.routing._running_mean import MAX_KINDS, MAX_NAME, MAX_TOKENS
from arbstr.wire import ModelCall, Usage


def call_of(prompt_bytes: int = 400, max_tokens: int | None = None, n: int = 1) -> ModelCall:
    return ModelCall("m", False, max_tokens, n, False, prompt_bytes, 1, 0, "", b"{}")


def teach(
    learner: RunningMean, completion: int, *, times: int = 1, call: ModelCall | None = None, model: str = "m",
    policy: str | None = None, provider: str = "p", prompt: int = 100, cached: int = 0,
) -> None:  # fmt: skip
    for _ in range(times):
        learner.observe(call or call_of(), model, policy, provider, Usage(prompt, completion, cached))


def expected(learner: RunningMean, call: ModelCall | None = None, model: str = "m", policy: str | None = None) -> int:
    return learner.completion_tokens(call or call_of(), model, policy)


def test_the_constant_is_expected_when_nothing_was_seen() -> None:
    assert expected(RunningMean()) == EXPECTED_COMPLETION_TOKENS
    assert FixedEstimate().completion_tokens(call_of(), "m", None) == EXPECTED_COMPLETION_TOKENS
    assert FixedEstimate().cached_tokens("p", "m", 100) == 0


def test_the_mean_is_expected_when_much_was_seen() -> None:
    learner = RunningMean()
    for length in (10, 20, 30) * 100:
        teach(learner, length)
    assert expected(learner) == 20


def test_one_answer_moves_the_expectation_little_when_it_is_the_first() -> None:
    learner = RunningMean()
    teach(learner, 10_000)
    assert EXPECTED_COMPLETION_TOKENS < expected(learner) < 5_000


def test_the_kinds_differ_when_policies_and_prompts_differ() -> None:
    learner = RunningMean()
    teach(learner, 10, times=500, policy="short")
    teach(learner, 1_000, times=500, policy="long")
    teach(learner, 3_000, times=500, policy="long", call=call_of(prompt_bytes=40_000))
    assert expected(learner, policy="short") == pytest.approx(10, abs=1)
    assert expected(learner, policy="long") == pytest.approx(1_000, rel=0.1)
    assert expected(learner, call_of(prompt_bytes=40_000), policy="long") == pytest.approx(3_000, rel=0.1)


def test_the_more_general_is_expected_when_the_particular_was_never_seen() -> None:
    learner = RunningMean()
    teach(learner, 50, times=5_000, model="short")
    teach(learner, 5_000, times=500, model="long", policy="p")
    assert expected(learner, model="short", policy="new") == pytest.approx(50, rel=0.2)
    assert expected(learner, call_of(prompt_bytes=9), model="long") == pytest.approx(5_000, rel=0.05)
    assert expected(learner, model="new") == pytest.approx(5_000, rel=0.1)


def test_old_answers_fade_when_the_length_changes() -> None:
    learner = RunningMean()
    teach(learner, 100, times=5_000)
    teach(learner, 1_000, times=1_500)
    assert expected(learner) == pytest.approx(1_000, rel=0.01)


def test_the_length_is_of_one_choice_when_there_are_several() -> None:
    learner = RunningMean()
    teach(learner, 300, times=500, call=call_of(n=3))
    assert expected(learner) == 100


def test_nothing_is_learned_when_an_answer_was_cut_early() -> None:
    learner = RunningMean()
    teach(learner, 5, times=500, call=call_of(max_tokens=5))
    assert expected(learner) == EXPECTED_COMPLETION_TOKENS
    teach(learner, 5, times=500, call=call_of(max_tokens=6))
    assert expected(learner) == 5


def test_the_answer_is_longer_than_expected_when_it_was_cut_late() -> None:
    learner = RunningMean()
    teach(learner, 2_000, times=500, call=call_of(max_tokens=2_000))
    assert expected(learner) == 2_000


def test_no_answer_is_believed_when_it_claims_more_than_any_model_writes() -> None:
    learner = RunningMean()
    teach(learner, 2**32 - 1, times=500)
    assert expected(learner) <= MAX_TOKENS


def test_memory_is_bounded_when_callers_invent_models() -> None:
    learner = RunningMean()
    for number in range(MAX_KINDS):
        teach(learner, 9, model=f"m{number}", cached=1)
    teach(learner, 9, model="x" * (MAX_NAME + 1), cached=1)
    assert len(learner._kinds) == MAX_KINDS
    assert len(learner._shares) == MAX_KINDS
    assert all(len(str(kind[0])) <= MAX_NAME for kind in learner._kinds)


def test_the_kinds_seen_last_are_kept_when_others_must_be_forgotten() -> None:
    learner = RunningMean()
    teach(learner, 9_000, times=100, model="old")
    teach(learner, 9_000, times=100, model="used")
    for number in range(MAX_KINDS):
        teach(learner, 10, model=f"m{number}")
        if number % 100 == 0:
            teach(learner, 9_000, model="used")
    assert expected(learner, model="used") > 8_000
    assert expected(learner, model="old") < 1_000


def test_the_share_of_the_provider_is_expected_cached_when_it_told_of_some() -> None:
    learner = RunningMean()
    teach(learner, 1, times=500, provider="a", prompt=1_000, cached=900)
    teach(learner, 1, times=500, provider="b", prompt=1_000)
    assert learner.cached_tokens("a", "m", 10_000) == pytest.approx(9_000, rel=0.05)
    assert learner.cached_tokens("a", "other", 10_000) == 0
    assert learner.cached_tokens("b", "m", 10_000) == 0


def test_the_share_fades_when_nothing_is_cached_any_more() -> None:
    learner = RunningMean()
    teach(learner, 1, times=100, prompt=1_000, cached=900)
    before = learner.cached_tokens("p", "m", 10_000)
    teach(learner, 1, times=2_000, prompt=1_000)
    assert learner.cached_tokens("p", "m", 10_000) < before / 1_000


@given(
    st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 2**32), st.floats(0, 1)), max_size=30),
    st.integers(0, 2**32),
)
def test_expectations_stay_within_what_can_be_when_any_usage_is_told(
    told: list[tuple[int, int, float]], prompt_tokens: int
) -> None:
    learner = RunningMean()
    for prompt, completion, share in told:
        teach(learner, completion, prompt=prompt, cached=int(prompt * share))
    assert 0 <= expected(learner) <= MAX_TOKENS
    assert 0 <= learner.cached_tokens("p", "m", prompt_tokens) <= prompt_tokens
