"""How long the answer will probably be: what decides who is cheapest for this request.

The seam for estimators: routing asks for an expectation before a request, and tells what came of it afterwards.
"""

from __future__ import annotations

from typing import Protocol

from arbstr.wire import ModelCall, Usage

EXPECTED_COMPLETION_TOKENS = 256
"""Of one choice, when nothing is known about the model (contract section 11.3)."""


class Estimator(Protocol):
    """Expectations of tokens, in tokens. Lives on one thread; all methods are on the path of every request."""

    def completion_tokens(self, call: ModelCall, model: str, policy: str | None) -> int:
        """Expected completion tokens of one choice, not bounded by what the caller allows."""
        ...

    def cached_tokens(self, provider: str, model: str, prompt_tokens: int) -> int:
        """How many of the prompt's tokens this provider will probably have cached, at most all of them."""
        ...

    def observe(self, call: ModelCall, model: str, policy: str | None, provider: str, usage: Usage) -> None:
        """A request has been answered in full, and this is what was counted."""
        ...


class FixedEstimate:
    """Knows nothing and learns nothing."""

    def completion_tokens(self, call: ModelCall, model: str, policy: str | None) -> int:
        return EXPECTED_COMPLETION_TOKENS

    def cached_tokens(self, provider: str, model: str, prompt_tokens: int) -> int:
        return 0

    def observe(self, call: ModelCall, model: str, policy: str | None, provider: str, usage: Usage) -> None:
        return
