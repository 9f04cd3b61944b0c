"""One process: what ``arbstr.assembly`` builds over a store on disk and a listening socket, here over books in memory.

It dies like one that is killed: from that moment on neither the books, nor a provider, nor a client hears of it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, cast

import trio
from attrs import Factory, define, field

from actors import ActorDeadError, ChildSpec, InboxFull, Supervisor, TrioActor, TrioActorRef, WhichChildren
from actors.testing import Crash, Faults, InjectedCrash, Rig
from arbstr.accounts import (
    Accounts,
    Approvals,
    Deposit,
    Execute,
    Extend,
    Payments,
    Release,
    Renew,
    Reserve,
    Resolve,
    SendPayment,
    SetPolicy,
    Settle,
    TellingLedger,
    Wake,
    Webhooks,
    resolve_orphans,
)
from arbstr.accounts._payment_messages import Decide, MovePayment, Pay, Withdraw
from arbstr.config import ProviderConfig
from arbstr.edge import AccountsVault
from arbstr.providers import Acquire, Directory, Fleet, Report
from arbstr.requests import Limits, RequestContext, Requests, WaitingRoom
from arbstr.routing import Router, RunningMean
from arbstr.sim._outside import Wire
from arbstr.sim._vault_outside import TARGET, WayToWallet, WayToWebhook
from arbstr.store import ActiveTokens, Ledger, MemoryLedger, OrphanedHolds, Store, TokenRow
from arbstr.wallets import Rails

if TYPE_CHECKING:
    from arbstr.sim._world import World

HOUSEKEEPING_S = 5.0
STOP_GRACE_S = 10.0
WAITING_S = 60.0
MAX_CRASHES = 1_000
CRASH_PERIOD_S = 60.0
MAY_FAIL_AT = (
    *(Reserve, Extend, Renew, Settle, Release, Deposit, SetPolicy, Acquire, Report),
    *(SendPayment, Execute, Resolve, Pay, Withdraw, MovePayment, Decide, Wake),
)


@define(eq=False)
class Process:
    """``number`` counts from 1. ``ready`` once it takes requests; ``gone`` once nothing of it runs."""

    world: World
    ledger: MemoryLedger
    number: int
    dead: bool = False
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ready: trio.Event = field(factory=trio.Event)
    gone: trio.Event = field(factory=trio.Event)
    wires: list[Wire] = field(factory=list)
    changed: trio.Event = field(factory=trio.Event)
    """The configuration has."""
    ended: trio.Event = field(factory=trio.Event)
    """Somebody wants it to stop in order, giving those who speak to it ``patience_s``."""
    patience_s: float = 0.0
    left_alone: trio.Event = field(factory=trio.Event)
    disk_suffered: bool = False
    """There was a time when not everything could be written."""
    clients: int = 0
    """That speak to it."""
    commit_s: float = field(default=Factory(lambda self: self.world.scenario.commit_s, takes_self=True))
    """How long the disk takes for a batch."""
    system: Rig = field(init=False)
    accounts: Accounts = field(init=False)
    approvals: TrioActorRef[Approvals] = field(init=False)
    webhooks: TrioActorRef[Webhooks] | None = None
    vault: AccountsVault = field(init=False)
    """What another core, and those who come by HTTP, speak to."""
    began_s: float = field(factory=trio.current_time)
    fleet: Fleet = field(init=False)
    context: RequestContext = field(init=False)
    requests: Requests = field(init=False)
    front: trio.Nursery = field(init=False)
    """Of those who speak to it, and of what is done as long as somebody may."""

    async def run(self) -> None:
        """Until it is killed or told to stop."""
        try:
            with self.scope:
                self._recover()
                async with AsyncExitStack() as stack:
                    await self._live(stack)
        finally:
            self.gone.set()

    def _recover(self) -> None:
        self.world.before_recovery()
        resolved = resolve_orphans(self.ledger)
        self.world.note(f"process {self.number} begins, {resolved} holds are resolved")
        self.world.begun()

    async def _live(self, stack: AsyncExitStack) -> None:
        self.system = await stack.enter_async_context(Rig.run())
        stack.enter_context(self._faults().installed(self.system))
        directory = Directory()
        self.fleet = Fleet(self.system, directory, self._wire)
        stack.push_async_callback(self.fleet.aclose)
        await self.fleet.start()
        await self._configure(directory)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ledger.run, lambda: self.commit_s)
            async with trio.open_nursery() as self.front:
                self.front.start_soon(self._keep_house)
                self.front.start_soon(self._follow_configuration)
                self.began_s = trio.current_time()
                self.ready.set()
                await self.ended.wait()
                self.context.stopping = True
                self.context.waiting_room.close()
                with trio.move_on_after(self.patience_s):
                    await self.left_alone.wait()
                self.front.cancel_scope.cancel()
            await self.system.stop_all(grace_s=STOP_GRACE_S)
            nursery.cancel_scope.cancel()

    def _faults(self) -> Faults:
        chance, seed = self.world.scenario.actors_crash, self.world.scenario.seed
        return Faults(seed + self.number, Crash(of=MAY_FAIL_AT, chance=chance)) if chance else Faults(seed)

    @property
    def defects(self) -> list[str]:
        """What went wrong in actors that no fault of ours has caused."""
        failures = self.system.failures
        return [f"an actor failed: {each.error!r}" for each in failures if not isinstance(each.error, InjectedCrash)]

    @property
    def is_well(self) -> bool:
        """Nothing has befallen it, so that nothing excuses it."""
        lives = self.ready.is_set() and self.takes_clients
        return lives and not self.disk_suffered and not self.system.failures

    @property
    def lost_an_account(self) -> bool:
        """An account's actor has failed: messages to it may be lost, and its holds wait for their lease to run out."""
        return self.ready.is_set() and bool(self.system.failures)

    async def _configure(self, directory: Directory) -> None:
        scenario = self.world.scenario
        found: tuple[TokenRow, ...] = self.ledger.ask_now(ActiveTokens())
        ledger = TellingLedger(self.ledger, self._wake_webhooks)
        self.accounts = Accounts(
            self.system, ledger, list(found), hold_lease_s=scenario.lease_s, idle_s=scenario.idle_s
        )
        for agent_id in sorted({hold.agent_id for hold in self.ledger.ask_now(OrphanedHolds())}):
            self.accounts.ref(agent_id)  # another core's hold: somebody must be there when its lease runs out
        await self._open_vault(ledger)
        limits = Limits()
        self.left_alone.set()
        self.context = RequestContext(
            system=self.system,
            directory=directory,
            fleet=self.fleet,
            router=self._router(),
            store=self.ledger,
            accounts=self.accounts,
            stream_cost_event=True,
            heartbeat_s=scenario.heartbeat_s,
            limits=limits,
            approvals=self.approvals,
            waiting_room=WaitingRoom(WAITING_S),
        )
        self.requests = Requests(self.context)
        await self._use_configuration()

    async def _open_vault(self, ledger: Ledger) -> None:
        """As ``arbstr.assembly`` does, with wallets and a webhook that are the world's."""
        account, rails = self.accounts.ref, Rails({rail: WayToWallet(self.world, self, rail) for rail in self._rails})
        dice = random.Random(f"webhooks {self.world.scenario.seed} {self.number}")
        transport = WayToWebhook(self.world, self)
        payments = await self._supervised(lambda: Payments(ledger, account, rails))
        self.approvals = await self._supervised(lambda: Approvals(ledger, account, payments))
        self.webhooks = await self._supervised(lambda: Webhooks(ledger, TARGET, transport, dice))
        self.vault = AccountsVault(
            self.accounts,
            cast("Store", self.ledger),  # only asked what any ledger is asked
            payments,
            self.approvals,
            self.webhooks,
            reservation_lease_s=self.world.scenario.reservation_lease_s,
        )

    @property
    def _rails(self) -> tuple[str, ...]:
        return self.world.scenario.rails

    async def _supervised(self, make: Callable[[], TrioActor]) -> TrioActorRef[Any]:
        refs: list[TrioActorRef[Any]] = []

        def child() -> TrioActor:
            actor = make()
            refs.append(actor.actor_ref)
            return actor

        children = [ChildSpec("vault", child)]
        supervisor = self.system.start(Supervisor, children, intensity=MAX_CRASHES, period_s=CRASH_PERIOD_S)
        await supervisor.request(WhichChildren())
        return refs[0]

    def _wake_webhooks(self) -> None:
        if self.webhooks is not None:
            with suppress(ActorDeadError, InboxFull):
                self.webhooks.tell(Wake())

    def _router(self) -> Router:
        scenario = self.world.scenario
        return Router(routing=scenario.routing, default_reserve_tokens=scenario.reserve_tokens, estimator=RunningMean())

    def _wire(self, config: ProviderConfig) -> Wire:
        wire = Wire(self.world, self, config.name)
        self.wires.append(wire)
        return wire

    # While it lives

    def start_client(self, work: Callable[[], Awaitable[None]]) -> None:
        """Somebody speaks to this process, for as long as both live; nobody does once it is stopping."""

        async def speak() -> None:
            try:
                await work()
            finally:
                self.clients -= 1
                if not self.clients:
                    self.left_alone.set()

        self.clients += 1
        self.left_alone = trio.Event()
        self.front.start_soon(speak)

    async def _keep_house(self) -> None:
        """As ``arbstr.assembly`` does."""
        while True:
            await trio.sleep(HOUSEKEEPING_S)
            self.world.note_deliveries(self)
            self.requests.renew_leases()
            self.accounts.sweep()

    async def _follow_configuration(self) -> None:
        while True:
            await self.changed.wait()
            self.changed = trio.Event()
            await self._use_configuration()

    async def _use_configuration(self) -> None:
        world = self.world
        spans = world.current_spans()
        await self.fleet.apply([config for config, wanted in world.providers.values() if wanted])
        self.context.limits.configure(world.limits, rate_limit_rps=0)
        for span in spans:
            span.close_former(trio.current_time())

    # Its end

    @property
    def takes_clients(self) -> bool:
        return not (self.dead or self.ended.is_set())

    def die(self) -> None:
        self.dead = True
        self.scope.cancel()

    async def remains(self) -> list[str]:
        """What should have been given back when nothing is asked of it any more."""
        wrong = []
        for view in await self.fleet.describe():
            counts = (view.in_flight, view.expired_permits, view.unknown_reports)
            if counts[:2] != (0, 0) or (counts[2] and not self.system.failures):
                wrong.append(f"{view.name} has {counts} permits out, expired, unknown")
        if self.requests.in_flight or self.context.limits.in_flight:
            wrong.append(f"{self.requests.in_flight} requests, {self.context.limits.in_flight} places are still taken")
        wrong += [f"a body of {wire.provider} was never closed" for wire in self.wires if self._unclosed(wire)]
        wrong += [f"hold {key} is open" for key in self.world.open_holds()]
        return wrong

    @staticmethod
    def _unclosed(wire: Wire) -> bool:
        return any(not body.closed for body in wire.bodies)
