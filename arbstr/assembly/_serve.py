"""Running the whole of it, from what can be refused to the last word."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial

import trio
from attrs import define, field

import arbstr
from actors import ActorSystem, ChildSpec, Supervisor, TrioActorRef, WhichChildren
from arbstr.accounts import Accounts, Bank, RemoteBank, deposit_now, resolve_orphans, resolve_remote_orphans
from arbstr.assembly._housekeeping import Keeper
from arbstr.assembly._program import refuse_wrong_books, run_program, warn_of_debts
from arbstr.assembly._reload import Reloader
from arbstr.assembly._remote import open_bank
from arbstr.assembly._vault import Vault
from arbstr.assembly._views import Gauges, MarketView
from arbstr.config import Config
from arbstr.edge import Gate, Services, addresses_of, make_app, open_listeners
from arbstr.edge import serve as serve_edge
from arbstr.market import CatalogActor, MarketBoard, UseConfig, WhenReady
from arbstr.providers import Directory, Fleet
from arbstr.requests import (
    MAX_WAITING,
    Authenticator,
    Caller,
    Limits,
    ModelRequest,
    PlainAnswer,
    RequestContext,
    Requests,
    Responder,
    WaitingRoom,
)
from arbstr.routing import Router, RunningMean
from arbstr.store import NewAgent, OrphanedHolds, Store, TokenRow
from arbstr.telemetry import Logs, Metrics, RequestLog, Tracing
from arbstr.units import format_sats

logger = logging.getLogger("arbstr")

RESERVE_TOKENS = 4_096
"""Bound on a completion of unstated length where no accounts say otherwise."""
DEMO_DEPOSIT_MSAT = 100_000_000
STOP_GRACE_S = 10.0
MAX_CATALOG_CRASHES = 30
CRASH_PERIOD_S = 60.0
READY_MARGIN_S = 60.0
"""Beside the time that lists of models may take at the start: for actors to come up on a busy machine."""


def serve(config: Config, *, mock: bool = False, read: Callable[[], Config] | None = None) -> int:
    """Run the proxy until SIGINT or SIGTERM. Returns the exit code: 0 when told to stop, 1 when it cannot run.

    ``read`` gives the configuration anew, for SIGHUP; None when there is no file.
    """
    return run_program(config, partial(_traced, config, mock, read))


def _traced(config: Config, mock: bool, read: Callable[[], Config] | None, logs: Logs) -> None:
    tracing = Tracing(config.telemetry) if config.telemetry.traces else None
    try:
        trio.run(_run, config, mock, read, logs, tracing)
    finally:
        if tracing is not None:
            tracing.close()


async def _run(
    config: Config, mock: bool, read: Callable[[], Config] | None, logs: Logs, tracing: Tracing | None
) -> None:
    """Open what can be refused, address first, then run the tree on it."""
    listeners = await open_listeners(config.server.listen)
    try:
        # Opening blocks for a moment, before there is anybody to keep waiting.
        with Store.open(config.database.path, durability=config.database.durability) as store:
            refuse_wrong_books(store)
            resolve_orphans(store)
            resolve_remote_orphans(store)
            if config.vault is None or config.vault.url is None:
                warn_of_debts(store)
            # What is left was made over HTTP; whoever has such a hold must be there to end it when its lease runs out.
            holders = sorted({hold.agent_id for hold in store.ask_now(OrphanedHolds())})
            demo = _demo_agent(store) if mock and config.vault is not None else None
            tokens = store.tokens_now()
            store.attach(trio.lowlevel.current_trio_token())
            try:
                await _Tree(config, store, tokens, holders, demo, read, logs, tracing).run(listeners)
            finally:
                # What the writer still has to say goes to actors that have ended.
                store.detach()
    finally:
        for listener in listeners:
            await listener.aclose()


@define(eq=False)
class _Tree:
    """Everything that runs, from the store up. ``config`` is what is in use."""

    config: Config
    store: Store
    tokens: list[TokenRow]
    holders: list[str]
    """Agents with a reservation that an earlier process granted."""
    demo: NewAgent | None
    read: Callable[[], Config] | None
    logs: Logs
    tracing: Tracing | None
    directory: Directory = field(factory=Directory)
    board: MarketBoard = field(factory=MarketBoard)
    limits: Limits = field(factory=Limits)
    estimator: RunningMean = field(factory=RunningMean)

    async def run(self, listeners: list[trio.SocketListener]) -> None:
        """Serve until a signal comes, then stop in order."""
        async with AsyncExitStack() as stack:
            system = await stack.enter_async_context(ActorSystem.run())
            vault, bank = await self._accounts(system, stack)
            fleet = Fleet(system, self.directory)
            stack.push_async_callback(fleet.aclose)
            await fleet.start()
            catalog = await self._start_catalog(system, fleet)
            log = RequestLog(self.config.logging)
            context = self._context(system, fleet, bank)
            requests = Requests(context)
            keeper = Keeper(fleet, catalog, requests, bank, self.store)
            metrics = Metrics(Gauges(system, self.directory, self.store, keeper))
            context.observers = (metrics, log, *(() if self.tracing is None else (self.tracing,)))
            services = self._services(context, requests, metrics)
            if vault is not None:
                services.vault = await vault.start(self.config.server, stack)
                context.approvals = services.vault.approvals
            addresses = tuple(addresses_of(listeners))
            reloader = Reloader(self.config, self.read, _Live(self, context, catalog, log).use, addresses)
            await reloader.announce()
            gate = Gate()
            async with trio.open_nursery() as nursery:
                told_to_stop: trio.Event = await nursery.start(_listen_to_signals, context, gate, reloader)
                nursery.start_soon(keeper.run)
                await serve_edge(
                    make_app(services, gate),
                    self.config.server,
                    listeners=listeners,
                    bound=self._announce,
                    shutdown=told_to_stop,
                )
                nursery.cancel_scope.cancel()
            await system.stop_all(grace_s=STOP_GRACE_S)

    async def _accounts(
        self, system: ActorSystem, stack: AsyncExitStack
    ) -> tuple[Vault | None, Accounts | RemoteBank | None]:
        """The vault, if it is in this process, and what requests are paid from."""
        config = self.config.vault
        if config is None:
            return None, None
        if config.url is not None:
            return None, await open_bank(system, self.store, config, stack)
        vault = Vault.of(system, self.store, self.tokens, config)
        for agent_id in self.holders:
            vault.accounts.ref(agent_id)
        return vault, vault.accounts

    async def _start_catalog(self, system: ActorSystem, fleet: Fleet) -> TrioActorRef[CatalogActor]:
        """Start the owner of what is wanted, and wait for a first set of providers.

        One in place of one that crashed begins with the configuration of that time, and has the same ref.
        """
        refs: list[TrioActorRef[CatalogActor]] = []

        def make() -> CatalogActor:
            actor = CatalogActor(self.config, fleet, self.board)
            refs.append(actor.actor_ref)
            return actor

        children = [ChildSpec("catalog", make)]
        supervisor = system.start(Supervisor, children, intensity=MAX_CATALOG_CRASHES, period_s=CRASH_PERIOD_S)
        await supervisor.request(WhichChildren())
        await refs[0].request(WhenReady(), timeout_s=self.config.discovery.timeout_s + READY_MARGIN_S)
        return refs[0]

    def _context(self, system: ActorSystem, fleet: Fleet, accounts: Bank | None) -> RequestContext:
        server = self.config.server
        self.limits.configure(self.config.limits, rate_limit_rps=server.rate_limit_rps)
        return RequestContext(
            system=system,
            directory=self.directory,
            fleet=fleet,
            router=self.router(),
            store=self.store,
            accounts=accounts,
            stream_cost_event=server.stream_cost_event,
            heartbeat_s=server.heartbeat_s,
            limits=self.limits,
            waiting_room=WaitingRoom(
                self.config.vault.approval_wait_s if self.config.vault else 0.0,
                places=min(MAX_WAITING, max(1, server.max_requests // 4)),
            ),
        )

    def router(self) -> Router:
        """By the configuration that is in use, and with all that has been learned."""
        config = self.config
        return Router(
            policies=config.policies,
            routing=config.routing,
            aliases=config.aliases,
            default_reserve_tokens=config.vault.default_reserve_tokens if config.vault else RESERVE_TOKENS,
            estimator=self.estimator,
        )

    def _services(self, context: RequestContext, requests: Requests, metrics: Metrics) -> Services:
        return Services(
            config=self.config.server,
            authenticate=Authenticator(self.config.server, context.accounts, self._demo_caller()),
            answer=requests.answer if self.tracing is None else _Traced(self.tracing, requests).answer,
            quote=requests.quote,
            providers=lambda: self.directory.snapshot,
            read=self.store.read,
            touch=requests.touch,
            market=MarketView(self.board),
            metrics=metrics.render,
        )

    def _demo_caller(self) -> Caller | None:
        return Caller(self.demo.agent_id, "agent", self.demo.name) if self.demo else None

    def _announce(self, addresses: list[str]) -> None:
        """Tell on stdout where to connect, and in the demonstration also as whom."""
        lines = [f"arbstr {arbstr.__version__} listening on {address}" for address in addresses]
        if self.demo is not None:
            lines += [
                f"mock market: {len(self.config.providers)} pretended providers, no network, nothing is really spent",
                f"demo agent {self.demo.agent_id} with {format_sats(DEMO_DEPOSIT_MSAT)} sats:",
                f"  export OPENAI_BASE_URL={addresses[0]}/v1",
                f"  export OPENAI_API_KEY={self.demo.token}",
            ]
        print("\n".join(lines), flush=True)  # noqa: T201 - for people and for scripts that wait for it


@define(eq=False)
class _Live:
    """The parts that take a new configuration while they run."""

    tree: _Tree
    context: RequestContext
    catalog: TrioActorRef[CatalogActor]
    log: RequestLog

    async def use(self, config: Config) -> None:
        """Providers first, for that can fail; the rest is replaced in one step, between two requests."""
        await self.catalog.request(UseConfig(config), timeout_s=READY_MARGIN_S)
        self.tree.config = config
        self.context.router = self.tree.router()
        self.context.stream_cost_event = config.server.stream_cost_event
        self.context.heartbeat_s = config.server.heartbeat_s
        self.tree.limits.configure(config.limits, rate_limit_rps=config.server.rate_limit_rps)
        self.tree.logs.configure(config.logging)
        self.log.config = config.logging


@define(eq=False)
class _Traced:
    """Requests that are given a span before they begin."""

    tracing: Tracing
    requests: Requests

    async def answer(self, request: ModelRequest, responder: Responder) -> PlainAnswer | None:
        return await self.requests.answer(self.tracing.begin(request), responder)


async def _listen_to_signals(
    context: RequestContext,
    gate: Gate,
    reloader: Reloader,
    task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The first SIGINT or SIGTERM sets the event that is reported; the next ends the grace of requests in flight.

    One receiver for all of them: between two, a signal would kill the program in the middle of its last words. SIGHUP
    has the configuration read again; further ones that come meanwhile are one.
    """
    told_to_stop = trio.Event()
    wanted, asked = trio.open_memory_channel[None](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_reload_when_asked, asked, reloader)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started(told_to_stop)
            async for number in signals:
                name = signal.Signals(number).name
                if number == signal.SIGHUP:
                    with suppress(trio.WouldBlock):
                        wanted.send_nowait(None)
                elif told_to_stop.is_set():
                    logger.info("received %s again, ending the requests in flight", name)
                    gate.expire()
                else:
                    logger.info("received %s, stopping: requests in flight may end", name)
                    context.stopping = True
                    context.waiting_room.close()
                    told_to_stop.set()


async def _reload_when_asked(asked: trio.MemoryReceiveChannel[None], reloader: Reloader) -> None:
    async for _ in asked:
        logger.info("received SIGHUP, reading the configuration again")
        await reloader.reload()


def _demo_agent(store: Store) -> NewAgent:
    agent = store.add_agent_now("demo")
    deposit_now(store, agent.agent_id, DEMO_DEPOSIT_MSAT, f"demo:{agent.agent_id}")
    return agent
