"""The vault's own actors: who drives payments, who decides, who tells the operator. Started behind the accounts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from attrs import define

from actors import ActorDeadError, ActorSystem, ChildSpec, InboxFull, Supervisor, TrioActor, TrioActorRef, WhichChildren
from arbstr.accounts import Accounts, Approvals, Payments, TellingLedger, Wake, Webhooks, WebhookTarget
from arbstr.config import ServerConfig, VaultConfig
from arbstr.edge import AccountsVault
from arbstr.providers import PooledTransport
from arbstr.store import Ledger, Store, TokenRow
from arbstr.wallets import SIMULATED, Rails, SimulatedWallet

logger = logging.getLogger("arbstr")

MAX_CRASHES = 30
CRASH_PERIOD_S = 60.0
WEBHOOK_CONNECTIONS = 8


@define(eq=False)
class Vault:
    """The accounts, and what moves their money beyond requests. ``store`` is what all of it is kept in."""

    system: ActorSystem
    store: Store
    config: VaultConfig
    accounts: Accounts
    ledger: Ledger
    webhooks: TrioActorRef[Webhooks] | None = None

    @classmethod
    def of(cls, system: ActorSystem, store: Store, tokens: list[TokenRow], config: VaultConfig) -> Vault:
        """The accounts alone; ``start`` brings the rest."""
        told: list[Callable[[], None]] = []
        ledger = TellingLedger(store, lambda: told[0]() if told else None)
        accounts = Accounts(system, ledger, tokens, hold_lease_s=config.hold_lease_s)
        vault = cls(system, store, config, accounts, ledger)
        told.append(vault._tell)
        return vault

    async def start(self, server: ServerConfig, stack: AsyncExitStack) -> AccountsVault:
        """Take up what an earlier process left, and be there for the front end. ``stack`` closes what it opens."""
        rails = Rails({SIMULATED: SimulatedWallet()})
        payments = await supervised(self.system, lambda: Payments(self.ledger, self.accounts.ref, rails))
        approvals = await supervised(self.system, lambda: Approvals(self.ledger, self.accounts.ref, payments))
        url, secret = self.config.webhook_url, self.config.webhook_secret
        if url is not None:
            transport = PooledTransport(max_connections=WEBHOOK_CONNECTIONS, tls=url.startswith("https:"))
            stack.push_async_callback(transport.aclose)
            self.webhooks = await supervised(
                self.system, lambda: Webhooks(self.ledger, WebhookTarget(url, secret), transport)
            )
        return AccountsVault(
            accounts=self.accounts,
            store=self.store,
            payments=payments,
            approvals=approvals,
            webhooks=self.webhooks,
            admin_token=server.admin_token,
            internal_token=self.config.internal_token,
            reservation_lease_s=self.config.reservation_lease_s,
        )

    def _tell(self) -> None:
        if self.webhooks is not None:
            with suppress(ActorDeadError, InboxFull):  # it looks by itself now and then
                self.webhooks.tell(Wake())


async def supervised(system: ActorSystem, make: Callable[[], TrioActor]) -> TrioActorRef:  # type: ignore[type-arg]  # any actor
    """An actor that is started anew, under the same ref, when it crashes: all it knows is on disk."""
    refs: list[TrioActorRef] = []  # type: ignore[type-arg]

    def child() -> TrioActor:
        actor = make()
        refs.append(actor.actor_ref)
        return actor

    supervisor = system.start(Supervisor, [ChildSpec("vault", child)], intensity=MAX_CRASHES, period_s=CRASH_PERIOD_S)
    await supervisor.request(WhichChildren())
    return refs[0]
