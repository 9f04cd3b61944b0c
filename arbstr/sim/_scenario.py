"""What a seed draws: a market, agents with money, and events. A value: the same scenario runs the same way."""

from __future__ import annotations

import random

from attrs import field, frozen

from arbstr.accounts import SetPolicy
from arbstr.config import LimitsConfig, ProviderConfig, RoutingConfig
from arbstr.sim import _vault_events as vault
from arbstr.sim._events import KINDS, Event, Setting, draw_limits, draw_price
from arbstr.sim._scripts import WebhookScript, draw_webhook_script
from arbstr.wallets import CASHU, LIGHTNING


@frozen
class Scenario:
    """``events`` are in the order of their time. ``seed`` also decides the order of tasks and all random numbers."""

    seed: int
    deposits_msat: tuple[int, ...]
    """Of each agent, to begin with."""
    providers: tuple[ProviderConfig, ...]
    events: tuple[Event, ...]
    routing: RoutingConfig
    limits: LimitsConfig
    lease_s: float
    heartbeat_s: float
    reserve_tokens: int
    """For a completion without a limit."""
    commit_s: float
    """What the disk takes for a batch."""
    actors_crash: float
    """The chance of each message to an actor to take it down."""
    policies: tuple[SetPolicy | None, ...] = ()
    """Of each agent, to begin with; None: nobody has set one."""
    rails: tuple[str, ...] = (LIGHTNING,)
    webhook: WebhookScript = field(factory=WebhookScript)
    reservation_lease_s: float = 60.0
    """What another core holds is kept so long without a sign of life."""
    idle_s: float = 600.0
    """After which an account's actor ends for want of anything to do."""

    def story(self) -> list[str]:
        """In sentences."""
        money = ", ".join(f"{amount} msat" for amount in self.deposits_msat)
        names = ", ".join(f"{config.name} ({config.on_disconnect}, {config.price})" for config in self.providers)
        fragile = f"; actors fail at one of {1 / self.actors_crash:.0f} messages" if self.actors_crash else ""
        return [
            f"seed {self.seed}: agents with {money}; providers {names}{fragile}",
            *[f"  the policy of agent {agent}: {vault.in_words(each)}" for agent, each in enumerate(self.policies)],
            f"  wallets for {' and '.join(self.rails)}; {self.webhook.sentence()}",
            *[f"  {event.at_s:6.2f} s  {event.sentence()}" for event in self.events],
        ]


def draw(seed: int) -> Scenario:
    dice = random.Random(f"scenario {seed}")
    agents = dice.randrange(2, 5)
    providers = tuple([_draw_provider(dice, name) for name in ("p", "q", "r", "s")[: dice.randrange(1, 5)]])
    rails = dice.choice(((LIGHTNING,), (CASHU,), (LIGHTNING, CASHU), (LIGHTNING, CASHU)))
    setting = Setting(agents, tuple([config.name for config in providers]), rails)
    kinds = (*KINDS, *vault.KINDS)
    events = [one(dice, setting) for one, least, most in kinds for _ in range(dice.randint(least, most))]
    return Scenario(
        seed=seed,
        deposits_msat=tuple(
            [dice.choice((500, 5_000, 100_000, 100_000, 10_000_000, 10_000_000)) for _ in range(agents)]
        ),
        providers=providers,
        events=tuple(sorted(events, key=lambda event: event.at_s)),
        routing=RoutingConfig(retries=dice.randrange(3), backoff_s=1.0, deadline_s=dice.choice((10.0, 60.0, 60.0))),
        limits=draw_limits(dice) if dice.random() < 0.3 else LimitsConfig(),
        lease_s=dice.choice((30.0, 60.0)),
        heartbeat_s=dice.choice((0.0, 2.0)),
        reserve_tokens=dice.choice((1, 20, 100)),
        commit_s=dice.choice((0.0, 0.005, 0.4)),
        actors_crash=dice.choice((0.0, 0.0, 0.0, 0.02)),
        policies=tuple([None if dice.random() < 0.12 else vault.draw_policy(dice) for _ in range(agents)]),
        rails=rails,
        webhook=draw_webhook_script(dice),
        reservation_lease_s=dice.choice((20.0, 60.0)),
        idle_s=dice.choice((600.0, 8.0)),
    )


def _draw_provider(dice: random.Random, name: str) -> ProviderConfig:
    return ProviderConfig(
        name=name,
        url=f"http://{name}.test/v1",
        models=("m",),
        price=None if dice.random() < 0.1 else draw_price(dice),
        first_byte_timeout_s=15.0,
        idle_timeout_s=8.0,
        max_concurrent=dice.choice((1, 3, 100, 100)),
        breaker_failures=dice.choice((1, 3, 10)),
        breaker_open_s=5.0,
        breaker_denied_open_s=20.0,
        on_disconnect=dice.choice(("close", "close", "drain")),
    )
