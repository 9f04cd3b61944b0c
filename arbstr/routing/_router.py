"""What the operator has configured and what has been learned, put to a request: demand first, then a selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import Factory, evolve, field, frozen

from arbstr.config import PoliciesConfig, RoutingConfig, Tier
from arbstr.routing._complexity import Scorer, tier_said
from arbstr.routing._demand import Demand, demand_of, rule_for
from arbstr.routing._estimate import Estimator, FixedEstimate
from arbstr.routing._offers import Offer, Offers
from arbstr.routing._select import Selection, select
from arbstr.wire import Endpoint, ModelCall, Usage


def _scorer(router: Router) -> Scorer:
    return Scorer.of(router.routing)


@frozen
class Router:
    """Replaced whole when the configuration changes; the estimator goes over to the next one."""

    policies: PoliciesConfig = field(factory=PoliciesConfig)
    routing: RoutingConfig = field(factory=RoutingConfig)
    aliases: Mapping[str, str] = field(factory=dict)
    """Real names of models, by the names that callers may use instead."""
    default_reserve_tokens: int = 4_096
    estimator: Estimator = field(factory=FixedEstimate)
    _scorer: Scorer = field(init=False, repr=False, eq=False, default=Factory(_scorer, takes_self=True))

    def demand(self, call: ModelCall, *, policy: str | None, complexity: str | None) -> Demand:
        """What a request asks for. ``policy`` and ``complexity`` are what its headers say.

        Without a (valid) word about its complexity it is scored. An embedding has none: any tier may answer it.
        """
        model = self._model(call)
        rule = rule_for(self.policies.rules, policy, call.last_user_text)
        tier, score = tier_said(complexity), None
        rated = tier is not None or call.endpoint is not Endpoint.EMBEDDINGS
        if tier is None:
            tier = Tier.FRONTIER
            if rated:
                score = self._scorer.score(call)
                tier = self._scorer.tier(score)
        return demand_of(
            call,
            default_reserve_tokens=self.default_reserve_tokens,
            model=model,
            policy_header=policy,
            policy=rule,
            tier=tier,
            floor=tier if rated and self.routing.enforce_tier else Tier.LOCAL,
            complexity_score=score,
            expected_completion_tokens=self.estimator.completion_tokens(call, model, rule.name if rule else None),
        )

    def select(self, demand: Demand, offers: Sequence[Offer] | Offers, *, now: float, rotation: int = 0) -> Selection:
        """Who may answer it, in order. Raises InvalidRequest and NoProviderAvailable, as ``select`` does."""
        return select(
            demand, offers, now=now, rotation=rotation, default=self.policies.default, estimator=self.estimator
        )

    def quote(self, demand: Demand, offers: Sequence[Offer] | Offers) -> Selection:
        """Who would answer it if everybody were free, of any tier, the cheapest first (contract 4.7). Raises as
        ``select``."""
        anywhere = evolve(demand, tier=Tier.FRONTIER, floor=Tier.LOCAL, complexity_score=None)
        return select(anywhere, offers, now=0.0, heedless=True)

    def observe(self, call: ModelCall, selection: Selection, provider: str, usage: Usage) -> None:
        """Learn from a request that was answered in full."""
        self.estimator.observe(call, self._model(call), selection.policy, provider, usage)

    def _model(self, call: ModelCall) -> str:
        return self.aliases.get(call.model, call.model)
