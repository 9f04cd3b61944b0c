"""What the operator has configured and what has been learned, put to a request: demand first, then a selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve, field, frozen

from arbstr.config import PoliciesConfig, RoutingConfig
from arbstr.routing._demand import Demand, demand_of
from arbstr.routing._estimate import Estimator, FixedEstimate
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

    def quote(self, demand: Demand, offers: Sequence[Offer]) -> Selection:
        """Who would answer it, whatever the state of the circuits (contract section 4.7). Raises as ``select``."""
        open_offers = [evolve(offer, open_until=None, probing=False, busy=False) for offer in offers]
        return select(demand, open_offers, self.policies, now=0.0)

    def observe(self, call: ModelCall, selection: Selection, provider: str, usage: Usage) -> None:
        """Learn from a request that was answered in full."""
        self.estimator.observe(call, call.model, selection.policy, provider, usage)
