"""What the operator has configured and what has been learned, put to a request: demand first, then a selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve, field, frozen

from arbstr.config import PoliciesConfig, RoutingConfig
from arbstr.routing._demand import BYTES_PER_TOKEN, Demand, demand_of
from arbstr.routing._estimate import EXPECTED_COMPLETION_TOKENS, Estimator, FixedEstimate
from arbstr.routing._select import Offer, Selection, select
from arbstr.wire import ModelCall, Usage


@frozen
class Router:
    """Replaced whole when the configuration changes; the estimator goes over to the next one."""

    policies: PoliciesConfig = field(factory=PoliciesConfig)
    routing: RoutingConfig = field(factory=RoutingConfig)
    aliases: Mapping[str, str] = field(factory=dict)
    default_reserve_tokens: int = 4_096
    estimator: Estimator = field(factory=FixedEstimate)

    def demand(self, call: ModelCall, *, policy: str | None, complexity: str | None) -> Demand:
        """What a request asks for. ``policy`` and ``complexity`` are what its headers say."""
        return demand_of(call, default_reserve_tokens=self.default_reserve_tokens, policy=policy)

    def select(self, demand: Demand, offers: Sequence[Offer], *, now: float, rotation: int = 0) -> Selection:
        """Who may answer it, in order. Raises InvalidRequest and NoProviderAvailable."""
        return select(demand, offers, self.policies, now=now, rotation=rotation)

    def demand_to_quote(self, call: ModelCall, *, policy: str | None) -> Demand:
        """What ``/v1/cost`` counts (contract section 4.7)."""
        limit = EXPECTED_COMPLETION_TOKENS if call.max_tokens is None else call.max_tokens
        demand = self.demand(call, policy=policy, complexity=None)
        prompt_tokens = max(1, call.messages_text_bytes // BYTES_PER_TOKEN)
        return evolve(demand, prompt_tokens=prompt_tokens, completion_tokens=call.n * limit)

    def quote(self, demand: Demand, offers: Sequence[Offer]) -> Selection:
        """Who would answer it, whatever the state of the circuits (contract section 4.7). Raises as ``select``."""
        open_offers = [evolve(offer, open_until=None, probing=False, busy=False) for offer in offers]
        return select(demand, open_offers, self.policies, now=0.0)

    def observe(self, call: ModelCall, selection: Selection, provider: str, usage: Usage) -> None:
        """Learn from a request that was answered in full."""
        self.estimator.observe(call, call.model, selection.policy, provider, usage)
