"""The estimator that learns as it goes: decayed means, the more particular ones leaning on the more general.

What decides a choice is the mean, for costs are linear in tokens. Long prompts and short ones have answers of different
length, so the length of the prompt, in powers of two, is part of what is learned; the regret of the choices halves with
it (bench/README.md, "regret").
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TypeVar

from attrs import define, field

from arbstr.routing._estimate import EXPECTED_COMPLETION_TOKENS
from arbstr.routing._tokens import expected_prompt_tokens
from arbstr.wire import ModelCall, Usage

LEAN = 8.0
"""Answers that the next more general expectation is worth beside those seen of one kind."""

SLOWEST = 0.005
"""Least weight of a new answer: what is older than some 200 answers fades."""

MAX_KINDS = 4_096
"""Kinds of requests remembered, the latest; some 300 bytes each."""

MAX_NAME = 200
"""Characters of a model's name. Callers may invent names where a provider takes any."""

MAX_TOKENS = 1 << 17
"""Of one answer that are believed: no provider's count may drag a mean without end."""

_K = TypeVar("_K")
_V = TypeVar("_V")
_Kind = tuple[str | int | None, ...]


@define
class _Mean:
    """Of values, the newest with a weight of ``SLOWEST`` at least. The more were seen, the less it leans."""

    mean: float = 0.0
    seen: int = 0

    def add(self, value: float) -> None:
        self.seen += 1
        self.mean += (value - self.mean) * max(1 / self.seen, SLOWEST)

    def leaning_on(self, general: float) -> float:
        return (self.seen * self.mean + LEAN * general) / (self.seen + LEAN)


@define
class _Share:
    """Of prompt tokens that were cached, each token counting alike; fades as a mean does."""

    expected: float = 0.0
    """Of the next prompt, from 0 to below 1: leans on nothing being cached."""
    prompt: float = 0.0
    cached: float = 0.0
    seen: int = 0

    def add(self, usage: Usage) -> None:
        self.seen += 1
        self.prompt += usage.prompt_tokens - SLOWEST * self.prompt
        self.cached += usage.cached_tokens - SLOWEST * self.cached
        self.expected = self.cached / self.prompt * self.seen / (self.seen + LEAN)


@define(eq=False)
class RunningMean:
    """Estimates from what was answered before; without anything seen, what ``FixedEstimate`` says.

    The expected length of an answer is the mean of its kind: model, policy and length of the prompt; which leans on
    that of model and policy, that on the model's, that on everything seen, and that on 256 tokens. The cached share of
    a prompt is that of the provider and model, and leans on nothing.

    Memory is bounded: the kinds seen longest ago are forgotten. One thread, no locks; a reload of the configuration
    hands it on to the next ``Router``.
    """

    _everything: _Mean = field(factory=_Mean)
    _kinds: OrderedDict[_Kind, _Mean] = field(factory=OrderedDict)
    _shares: OrderedDict[tuple[str, str], _Share] = field(factory=OrderedDict)

    def completion_tokens(self, call: ModelCall, model: str, policy: str | None) -> int:
        expected = self._everything.leaning_on(EXPECTED_COMPLETION_TOKENS)
        for kind in _kinds_of(call, model, policy):
            known = self._kinds.get(kind)
            if known is not None:
                expected = known.leaning_on(expected)
        return round(expected)

    def cached_tokens(self, provider: str, model: str, prompt_tokens: int) -> int:
        share = self._shares.get((provider, model))
        return 0 if share is None else int(prompt_tokens * share.expected)

    def observe(self, call: ModelCall, model: str, policy: str | None, provider: str, usage: Usage) -> None:
        """Learn; but nothing from an answer that was cut by the caller's limit before the length expected."""
        completion = min(usage.completion_tokens // call.n, MAX_TOKENS)
        cut = call.max_tokens is not None and completion >= call.max_tokens
        if not cut or completion > self.completion_tokens(call, model, policy):
            self._everything.add(completion)
            for kind in _kinds_of(call, model, policy):
                _latest(self._kinds, kind, _Mean).add(completion)
        # Who has never told of cached tokens needs no memory: the share is 0 without.
        known = (provider, model) in self._shares
        if usage.prompt_tokens and len(model) <= MAX_NAME and (known or usage.cached_tokens):
            _latest(self._shares, (provider, model), _Share).add(usage)


def _kinds_of(call: ModelCall, model: str, policy: str | None) -> Iterator[_Kind]:
    """From the general to the particular."""
    if len(model) > MAX_NAME:
        return
    yield (model,)
    if policy is not None:
        yield (model, policy)
    yield (model, policy, expected_prompt_tokens(call).bit_length())


def _latest(known: OrderedDict[_K, _V], key: _K, make: Callable[[], _V]) -> _V:
    """What is known under ``key``, made if need be, and now the last to be forgotten."""
    value = known.get(key)
    if value is None:
        value = known[key] = make()
        if len(known) > MAX_KINDS:
            known.popitem(last=False)
    else:
        known.move_to_end(key)
    return value
