"""What choosing was worth: the same tokens at the prices of the others."""

from __future__ import annotations

from attrs import frozen

from arbstr.routing._select import Candidate, Selection
from arbstr.wire import Usage


@frozen
class Saved:
    """In msat, never negative: against the median of all candidates (the winner among them), and the dearest."""

    median_msat: int
    dearest_msat: int


def savings(selection: Selection, winner: Candidate | str, usage: Usage) -> Saved:
    """What ``winner`` (a candidate or its name) saved for the tokens that were used.

    Costs are rounded up to msat one by one, as they would have been charged, with the cached part of the prompt at each
    one's own price for that. The median of an even number is rounded down, so as not to boast. Raises ValueError when
    the winner is not among the candidates.
    """
    name = winner if isinstance(winner, str) else winner.provider
    used = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens
    costs = {one.provider: one.price.cost_msat(*used) for one in selection.candidates}
    if name not in costs:
        raise ValueError(f"{name!r} is not among the candidates: {', '.join(costs) or 'there are none'}")
    ordered = sorted(costs.values())
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2
    return Saved(max(0, median - costs[name]), max(0, ordered[-1] - costs[name]))
