"""The supervision tree: what starts when, what replaces whom, and how all of it stops.

Start: store, accounts, providers, requests, edge. Stop is the reverse, and each part stops only when nothing above it
can need it any more: the edge lets requests end, accounts answer their last messages, the store writes what is queued.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

import trio
from attrs import define, frozen

import arbstr
from actors import ActorSystem, ChildSpec, InboxFull, Supervisor, TrioActorRef, WhichChildren
from arbstr.accounts import Accounts, deposit_now, resolve_orphans
from arbstr.config import Config, ProviderConfig
from arbstr.edge import CannotListen, Gate, Services, make_app, open_listeners
from arbstr.edge import serve as serve_edge
from arbstr.providers import Directory, ProviderActor, Upstream
from arbstr.requests import Authenticator, Caller, Limits, RequestContext, Requests
from arbstr.routing import Router
from arbstr.store import NewAgent, Store, StoreError, TokenRow
from arbstr.units import format_sats

logger = logging.getLogger("arbstr")

HOUSEKEEPING_S = 5.0
"""Between looks at leases."""
MAX_PROVIDER_CRASHES = 30
"""Within ``CRASH_PERIOD_S``, of all provider actors together: more are no accident, and the program ends."""
CRASH_PERIOD_S = 60.0
RESERVE_TOKENS = 4_096
"""Bound on a completion of unstated length where no accounts say otherwise."""
DEMO_DEPOSIT_MSAT = 100_000_000
STOP_GRACE_S = 10.0


def serve(config: Config, *, mock: bool = False) -> int:
    """Run the proxy until SIGINT or SIGTERM. Returns the exit code: 0 when told to stop, 1 when it cannot run."""
    _log_to_stderr(config.logging.level)
    for warning in config.warnings:
        logger.warning("%s", warning)
    try:
        trio.run(_run, config, mock)
    except* (CannotListen, StoreError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - the program's last word
        return_code = 1
    else:
        return_code = 0
    return return_code


async def _run(config: Config, mock: bool) -> None:
    """Open what can be refused, address first, then run the tree on it."""
    listeners = await open_listeners(config.server.listen)
    try:
        # Opening blocks for a moment, before there is anybody to keep waiting.
        with Store.open(config.database.path, durability=config.database.durability) as store:
            resolve_orphans(store)
            demo = _demo_agent(store) if mock and config.vault is not None else None
            tokens = store.tokens_now()
            store.attach(trio.lowlevel.current_trio_token())
            try:
                await _Tree(config, store, tokens, demo).run(listeners)
            finally:
                # What the writer still has to say goes to actors that have ended.
                store.detach()
    finally:
        for listener in listeners:
            await listener.aclose()


@define(eq=False)
class _Tree:
    """Everything that runs, from the store up."""

    config: Config
    store: Store
    tokens: list[TokenRow]
    demo: NewAgent | None

    async def run(self, listeners: list[trio.SocketListener]) -> None:
        """Serve until a signal comes, then stop in order."""
        config = self.config
        async with AsyncExitStack() as stack:
            system = await stack.enter_async_context(ActorSystem.run())
            accounts = self._accounts(system)
            directory = Directory(provider.name for provider in config.providers)
            upstreams = {provider.name: Upstream(provider) for provider in config.providers}
            for upstream in upstreams.values():
                stack.push_async_callback(upstream.aclose)
            context = RequestContext(
                system=system,
                directory=directory,
                fleet=_Upstreams(upstreams),
                router=self._router(),
                store=self.store,
                accounts=accounts,
                stream_cost_event=config.server.stream_cost_event,
                heartbeat_s=config.server.heartbeat_s,
                limits=Limits(config.limits, rate_limit_rps=config.server.rate_limit_rps),
            )
            requests = Requests(context)
            providers = await _supervise_providers(system, config.providers, directory)
            keeper = _Keeper(providers, requests, accounts)
            gate = Gate()
            services = Services(
                config=config.server,
                authenticate=Authenticator(config.server, accounts, self._demo_caller()),
                answer=requests.answer,
                quote=requests.quote,
                providers=lambda: directory.snapshot,
                read=self.store.read,
                touch=requests.touch,
            )
            async with trio.open_nursery() as nursery:
                told_to_stop: trio.Event = await nursery.start(_listen_to_signals, context, gate)
                nursery.start_soon(keeper.run)
                await serve_edge(
                    make_app(services, gate),
                    config.server,
                    listeners=listeners,
                    bound=self._announce,
                    shutdown=told_to_stop,
                )
                nursery.cancel_scope.cancel()
            await system.stop_all(grace_s=STOP_GRACE_S)

    def _accounts(self, system: ActorSystem) -> Accounts | None:
        vault = self.config.vault
        if vault is None:
            return None
        return Accounts(system, self.store, self.tokens, hold_lease_s=vault.hold_lease_s)

    def _router(self) -> Router:
        config = self.config
        return Router(
            policies=config.policies,
            routing=config.routing,
            aliases=config.aliases,
            default_reserve_tokens=config.vault.default_reserve_tokens if config.vault else RESERVE_TOKENS,
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


@frozen
class _Upstreams:
    """The way out to each provider, by name."""

    by_name: Mapping[str, Upstream]

    def upstream(self, name: str) -> Upstream:
        return self.by_name[name]


async def _listen_to_signals(
    context: RequestContext, gate: Gate, task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED
) -> None:
    """The first SIGINT or SIGTERM sets the event that is reported; the next ends the grace of requests in flight.

    One receiver for all of them: between two, a signal would kill the program in the middle of its last words.
    """
    told_to_stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started(told_to_stop)
        async for number in signals:
            name = signal.Signals(number).name
            if told_to_stop.is_set():
                logger.info("received %s again, ending the requests in flight", name)
                gate.expire()
            else:
                logger.info("received %s, stopping: requests in flight may end", name)
                context.stopping = True
                told_to_stop.set()


async def _supervise_providers(
    system: ActorSystem, providers: Sequence[ProviderConfig], directory: Directory
) -> TrioActorRef[Supervisor]:
    """Start an actor for each provider. One that crashes is replaced, with a closed breaker and fresh statistics."""
    children = [ChildSpec(one.name, partial(ProviderActor, one, directory)) for one in providers]
    supervisor = system.start(Supervisor, children, intensity=MAX_PROVIDER_CRASHES, period_s=CRASH_PERIOD_S)
    await supervisor.request(WhichChildren())  # answered when all of them have started
    return supervisor


@frozen
class _Keeper:
    """Housekeeping: leases are renewed and swept."""

    providers: TrioActorRef[Supervisor]
    requests: Requests
    accounts: Accounts | None

    async def run(self) -> None:
        """Go on until cancelled. Raises RuntimeError when there is nobody left to send requests to."""
        while True:
            await trio.sleep(HOUSEKEEPING_S)
            if not self.providers.is_alive():
                raise RuntimeError("the provider actors crash faster than they can be restarted; the log says why")
            try:
                self.requests.renew_leases()
                if self.accounts is not None:
                    self.accounts.sweep()
            except InboxFull as error:  # an actor that is this busy is told next time: leases are much longer
                logger.warning("housekeeping was cut short: %s", error)


def _demo_agent(store: Store) -> NewAgent:
    agent = store.add_agent_now("demo")
    deposit_now(store, agent.agent_id, DEMO_DEPOSIT_MSAT, f"demo:{agent.agent_id}")
    return agent


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("pykka").setLevel(logging.WARNING)
