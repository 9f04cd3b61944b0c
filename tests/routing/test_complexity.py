"""How hard a request looks."""

import re
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.config import ComplexityWeights, RoutingConfig, Tier
from arbstr.routing import Scorer
from arbstr.routing._complexity import KEYWORDS, MAX_READ, MAX_REPEATS, tier_said
from arbstr.wire import ModelCall


def call_of(*texts: str) -> ModelCall:
    return ModelCall("m", False, None, 1, False, 0, len(texts), 0, "", b"{}", texts=texts)


def score_of(*texts: str, **routing: object) -> float:
    return Scorer.of(RoutingConfig(**routing)).score(call_of(*texts))  # type: ignore[arg-type]  # any key of the section


def files_alone(*texts: str) -> float:
    """The signal of file names, in findings."""
    return 3 * score_of(*texts, complexity_weights=ComplexityWeights(0, 0, 1, 0, 0))


# The contract's reference scores


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
        ("x" * 4_000, "0.115"),
        ("x" * 16_000, "0.215"),
        ("four plain words go here", "0.025"),
    ],
)
def test_the_score_is_the_contracts_when_one_message_is_scored(text: str, score: str) -> None:
    assert f"{score_of(text):.3f}" == score


@pytest.mark.parametrize(("messages", "score"), [(6, "0.110"), (12, "0.201")])
def test_the_score_is_the_contracts_when_a_conversation_is_scored(messages: int, score: str) -> None:
    assert f"{score_of(*['hello there'] * messages):.3f}" == score


def test_the_score_is_1_when_there_is_nothing_to_judge_by() -> None:
    assert score_of() == 1.0
    assert score_of("", "") == 1.0
    assert score_of("hello there, friend", complexity_weights=ComplexityWeights(0, 0, 0, 0, 0)) == 1.0


def test_a_long_prompt_alone_stays_in_the_lowest_tier_when_it_has_no_other_sign() -> None:
    scorer = Scorer.of(RoutingConfig())
    assert scorer.tier(scorer.score(call_of("x" * 1_000_000))) is Tier.LOCAL


# The signals


def test_length_is_in_bytes_of_all_texts_when_they_are_joined() -> None:
    assert score_of("äöüäö") == score_of("0123456789")
    assert score_of("01234", "6789") == pytest.approx(0.2 / (1 + exp(2.994)) + 0.2 / (1 + exp(2.0)))
    assert score_of("\ud800" * 4) == score_of("012345678901")


@pytest.mark.parametrize(("text", "pairs"), [("``` ```", 1), ("``````", 1), ("```" * 5, 2), ("``" * 20, 3), ("`", 0)])
def test_pairs_of_fences_are_counted_when_there_are_some(text: str, pairs: int) -> None:
    weights = ComplexityWeights(0, 1, 0, 0, 0)
    assert score_of(f"some text {text}", complexity_weights=weights) == pytest.approx(pairs / 3)


def test_a_pair_may_span_messages_when_a_fence_is_left_open() -> None:
    assert score_of("```begin", "end``` ok", complexity_weights=ComplexityWeights(0, 1, 0, 0, 0)) == pytest.approx(
        1 / 3
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("see src/main.rs there", 2),
        ("see main.rs and lib.rs there", 1),
        ("see main.rs and lib.py there", 2),
        ("see MAIN.RS or x.rsx there", 0),
        ("see src/main.rs twice: src/main.rs", 2),
        ("see /usr/share/readme.txt there", 1),
        ("see a/x.txt and b/x.txt there", 2),
        ("see a//x.txt there and /x.txt", 0),
        ("see and/or either/neither there", 0),
        ("see a/b.longextension there", 1),
        ("see main.rs/deep.txt there", 2),
        ("see a/b.abcdefgh/i.txt there", 2),
        ("see übung/größe.txt there", 1),
        ("see a/b.c d/e.f g/h.i j/k.l there", 3),
    ],
)
def test_different_paths_and_extensions_are_counted_when_files_are_named(text: str, count: int) -> None:
    assert files_alone(text) == pytest.approx(count)


def plain_files(text: str) -> int:
    """The same once more, as the contract words it."""
    paths = {match[0] for match in re.finditer(r"\w+(?:/\w+)+\.\w{1,5}", text)}
    bare = {m[0] for m in re.finditer(r"\.(?:rs|py|ts|js|go|java|cpp|c|h|toml|yaml|yml|json|md|sql|sh)\b", text)}
    return min(3, len(paths | bare))


@given(st.text("ab./é \n", max_size=40))
def test_files_are_the_contracts_when_text_is_made_of_slashes_and_dots(text: str) -> None:
    assert files_alone("----------", text) == pytest.approx(plain_files(text))


def test_keywords_count_once_each_when_they_are_in_the_text() -> None:
    alone = ComplexityWeights(0, 0, 0, 1, 0)
    assert score_of("DEBUG the debugger", complexity_weights=alone) == pytest.approx(1 / 3)
    assert score_of("step by step, why does it", complexity_weights=alone) == pytest.approx(2 / 3)
    assert score_of(" ".join(KEYWORDS), complexity_weights=alone) == 1.0
    more = score_of("debug the Legacy", complexity_weights=alone, extra_keywords=("LEGACY", "debug"))
    assert more == 1.0


def test_signals_count_by_their_weights_when_these_differ() -> None:
    weights = ComplexityWeights(
        context_length=0, code_blocks=3, multi_file=0, reasoning_keywords=1, conversation_depth=0
    )
    assert score_of("design: ```x```", complexity_weights=weights) == pytest.approx((3 / 3 + 1 / 3) / 4)


# The tier


@pytest.mark.parametrize(
    ("score", "tier"),
    [
        (0.0, Tier.LOCAL),
        (0.39, Tier.LOCAL),
        (0.4, Tier.STANDARD),
        (0.7, Tier.STANDARD),
        (0.71, Tier.FRONTIER),
        (1.0, Tier.FRONTIER),
    ],
)
def test_both_thresholds_are_in_the_middle_when_a_score_becomes_a_tier(score: float, tier: Tier) -> None:
    assert Scorer.of(RoutingConfig()).tier(score) is tier


def test_thresholds_are_the_configured_when_a_score_becomes_a_tier() -> None:
    scorer = Scorer.of(RoutingConfig(complexity_threshold_low=0.1, complexity_threshold_high=0.2))
    assert [scorer.tier(score) for score in (0.05, 0.15, 0.25)] == list(Tier)


@pytest.mark.parametrize(
    ("header", "tier"),
    [
        ("low", Tier.LOCAL),
        ("Medium", Tier.STANDARD),
        ("HIGH", Tier.FRONTIER),
        (" high ", Tier.FRONTIER),
        ("banana", None),
        ("", None),
        (None, None),
    ],
)
def test_the_header_names_a_tier_when_it_is_one_of_three_words(header: str | None, tier: Tier | None) -> None:
    assert tier_said(header) is tier


# Bounds


def test_findings_are_not_looked_for_when_they_come_late() -> None:
    late = "x" * MAX_READ
    assert files_alone(late + " a/b.txt") == 0
    assert files_alone(late[:-20] + " a/b.txt " + late) == 1


def test_no_other_path_is_looked_for_when_one_is_repeated_without_end() -> None:
    assert files_alone("a/b.txt " * (MAX_REPEATS - 1) + "c/d.txt") == pytest.approx(2)
    assert files_alone("a/b.txt " * MAX_REPEATS + "c/d.txt") == pytest.approx(1)


@given(st.lists(st.text(max_size=30), max_size=4), st.lists(st.floats(0, 10), min_size=5, max_size=5))
def test_the_score_is_from_0_to_1_when_texts_and_weights_are_any(texts: list[str], weights: list[float]) -> None:
    assert 0.0 <= score_of(*texts, complexity_weights=ComplexityWeights(*weights)) <= 1.0
