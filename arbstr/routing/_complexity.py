"""How hard a request looks: five signals in its text, weighed into one number from 0 to 1 (contract section 8).

It runs for every request that does not say itself how hard it is, on the loop that serves all of them: every step is
one pass over the text in C, none can go back and forth over it, and counting stops where the score cannot rise more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from math import exp

from attrs import field, frozen

from arbstr.config import ComplexityWeights, RoutingConfig, Tier
from arbstr.wire import ModelCall

KEYWORDS = (
    "architect",
    "design",
    "tradeoff",
    "refactor",
    "why does",
    "compare",
    "across the codebase",
    "step by step",
    "analyze",
    "evaluate",
    "debug",
)
"""Signs of reasoning, looked for in lower case; ``[routing] extra_keywords`` are added."""

LEAST_BYTES = 10
"""Of text; with less there is nothing to judge by, and the best tier may answer."""

ENOUGH = 3
"""Findings of one kind that give the whole signal."""

MAX_READ = 1 << 18
"""Characters, from the beginning, in which findings are looked for; length counts in full. Prose takes 10 ns for each
of them (1 ms for 100 kB), text made of dots and slashes 50 ns."""

MAX_REPEATS = 512
"""How often one kind of file name is met before no further different one is looked for."""

MAX_PATH = 256
"""Characters of a path by which it is told from others; the end of it."""

_PATH_END = re.compile(r"/(?<=\w/)\w++\.\w{1,5}")
"""The last step of a path. It begins with a literal, which the engine finds fast, and is possessive: one pass."""
_PATH_BEGIN = re.compile(r"\w++(?:/\w++)*+")
_EXTENSION = re.compile(r"\.(?:rs|py|ts|js|go|java|cpp|c|h|toml|yaml|yml|json|md|sql|sh)\b")

_BY_HEADER = {"low": Tier.LOCAL, "medium": Tier.STANDARD, "high": Tier.FRONTIER}


def tier_said(header: str | None) -> Tier | None:
    """The tier that ``x-arbstr-complexity`` asks for, in any letter case; None for anything else."""
    return None if header is None else _BY_HEADER.get(header.strip().lower())


@frozen
class Scorer:
    """What a ``[routing]`` section makes of a text."""

    weights: ComplexityWeights = field(factory=ComplexityWeights)
    keywords: tuple[str, ...] = KEYWORDS
    """In lower case; one that is there twice counts twice."""
    low: float = 0.4
    high: float = 0.7
    _total: float = field(init=False)

    @_total.default
    def _sum_of_weights(self) -> float:
        of = self.weights
        return of.context_length + of.code_blocks + of.multi_file + of.reasoning_keywords + of.conversation_depth

    @classmethod
    def of(cls, routing: RoutingConfig) -> Scorer:
        extra = tuple(keyword.lower() for keyword in routing.extra_keywords)
        low, high = routing.complexity_threshold_low, routing.complexity_threshold_high
        return cls(routing.complexity_weights, KEYWORDS + extra, low, high)

    def score(self, call: ModelCall) -> float:
        """From 0 to 1. Of the texts of its messages and their number; tools, images and limits are without effect."""
        text = "\n".join(call.texts)
        length = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if not call.messages or length < LEAST_BYTES or not self._total:
            return 1.0
        return min(1.0, max(0.0, self._weighted(text[:MAX_READ], length, call.messages) / self._total))

    def _weighted(self, text: str, length: int, messages: int) -> float:
        of = self.weights
        weighted = of.context_length * _rising(0.003 * (length // 4 - 1_000))
        weighted += of.conversation_depth * _rising(0.5 * (messages - 6))
        if of.code_blocks and "`" in text:  # a lone character is found 70 times as fast as three
            weighted += of.code_blocks * _share(text.count("```") // 2)
        if of.multi_file:
            weighted += of.multi_file * _share(_files(text))
        if of.reasoning_keywords:
            weighted += of.reasoning_keywords * _share(_occurring(self.keywords, text.lower()))
        return weighted

    def tier(self, score: float) -> Tier:
        """Both thresholds belong to the tier between them."""
        if score < self.low:
            return Tier.LOCAL
        return Tier.FRONTIER if score > self.high else Tier.STANDARD


def _rising(x: float) -> float:
    """The logistic function, for ``x`` from -3 on (3,000 tokens or 6 messages below the middle)."""
    return 1.0 / (1.0 + exp(-x))


def _share(count: int) -> float:
    return min(1.0, count / ENOUGH)


def _occurring(keywords: Iterable[str], text: str) -> int:
    count = 0
    for keyword in keywords:
        if keyword in text:
            count += 1
            if count == ENOUGH:
                break
    return count


def _files(text: str) -> int:
    """Different paths and different extensions of source files, at most ``ENOUGH``; ``src/main.rs`` is one of each."""
    found: set[str] = set()
    for match in islice(_EXTENSION.finditer(text), MAX_REPEATS):
        found.add(match[0])
        if len(found) == ENOUGH:
            return ENOUGH
    done = 0
    for match in islice(_PATH_END.finditer(text), MAX_REPEATS):
        begin, end = match.span()
        head = _PATH_BEGIN.match(text[max(done, begin - MAX_PATH) : begin][::-1])
        found.add(f"{head[0][::-1] if head else ''}{match[0]}")
        if len(found) == ENOUGH:
            return ENOUGH
        done = end
    return len(found)
