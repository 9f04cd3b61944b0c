"""A vault and nothing else: its HTTP API on its own address, for proxies in other processes."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from typing import NoReturn

import trio
from attrs import define

import arbstr
from actors import ActorSystem
from arbstr.accounts import Accounts, resolve_orphans
from arbstr.assembly._housekeeping import HOUSEKEEPING_S, count_open_holds
from arbstr.assembly._program import refuse_wrong_books, run_program
from arbstr.assembly._reload import Reloader
from arbstr.assembly._vault import Vault
from arbstr.config import Config, VaultConfig
from arbstr.edge import Gate, Services, addresses_of, make_app, open_listeners
from arbstr.edge import serve as serve_edge
from arbstr.errors import NotFound
from arbstr.providers import ProviderView
from arbstr.requests import Authenticator, Limits
from arbstr.store import OrphanedHolds, Store
from arbstr.telemetry import Logs, Metrics, OpenHolds, Settlements

logger = logging.getLogger("arbstr")

STOP_GRACE_S = 10.0


def serve_vault(config: Config) -> int:
    """Run the vault of ``[vault]``, which has no ``url``, until SIGINT or SIGTERM. Returns the exit code."""

    def main(_: Logs) -> None:
        trio.run(_run, config)

    return run_program(config, main)


async def _run(config: Config) -> None:
    assert config.vault is not None
    listeners = await open_listeners(config.server.listen)
    try:
        with Store.open(config.database.path, durability=config.database.durability) as store:
            refuse_wrong_books(store)
            resolve_orphans(store)
            holders = sorted({hold.agent_id for hold in store.ask_now(OrphanedHolds())})
            tokens = store.tokens_now()
            store.attach(trio.lowlevel.current_trio_token())
            try:
                async with AsyncExitStack() as stack:
                    system = await stack.enter_async_context(ActorSystem.run())
                    vault = Vault.of(system, store, tokens, config.vault)
                    for agent_id in holders:
                        vault.accounts.ref(agent_id)
                    await _serve(config, config.vault, vault, stack, listeners)
                    await system.stop_all(grace_s=STOP_GRACE_S)
            finally:
                store.detach()
    finally:
        for listener in listeners:
            await listener.aclose()


async def _serve(
    config: Config, of: VaultConfig, vault: Vault, stack: AsyncExitStack, listeners: list[trio.SocketListener]
) -> None:
    limits = Limits()
    limits.configure(config.limits, rate_limit_rps=config.server.rate_limit_rps)
    keeper = _Keeper(vault.accounts, vault.store)
    services = Services(
        config=config.server,
        authenticate=Authenticator(config.server, vault.accounts),
        answer=_nothing_to_buy,
        quote=_nothing_to_buy,
        providers=tuple,
        read=vault.store.read,
        touch=lambda caller: limits.touch(caller, trio.current_time()),
        metrics=Metrics(_Gauges(vault.system, vault.store, keeper)).render,
        vault=await vault.start(config.server, stack),
        vault_alone=True,
    )
    reloader = Reloader(config, None, _keep, tuple(addresses_of(listeners)))
    await reloader.announce()
    async with trio.open_nursery() as nursery:
        told_to_stop: trio.Event = await nursery.start(_listen_to_signals, reloader)
        nursery.start_soon(keeper.run)
        await serve_edge(
            make_app(services, Gate()), config.server, listeners=listeners, bound=_announce, shutdown=told_to_stop
        )
        nursery.cancel_scope.cancel()


def _nothing_to_buy(*_: object) -> NoReturn:
    """No route leads here: a vault alone has none to models."""
    raise NotFound("this is a vault")


def _announce(addresses: list[str]) -> None:
    for address in addresses:
        print(f"arbstr {arbstr.__version__} vault listening on {address}", flush=True)  # noqa: T201 - for scripts, too


async def _keep(_: Config) -> None:
    """There is nothing that could take another configuration."""


async def _listen_to_signals(
    reloader: Reloader, task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED
) -> None:
    """The first SIGINT or SIGTERM sets the event that is reported."""
    told_to_stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started(told_to_stop)
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                logger.info("received %s: a vault reads its configuration when it starts, and not again", name)
                await reloader.reload()  # which leaves word of that
            else:
                logger.info("received %s, stopping: what is under way may end", name)
                told_to_stop.set()


@define(eq=False)
class _Keeper:
    """Every few seconds: leases are swept, and what is open is counted."""

    accounts: Accounts
    store: Store
    open_holds: OpenHolds | None = None

    async def run(self) -> None:
        while True:
            count_open_holds(self.store, self._counted)
            await trio.sleep(HOUSEKEEPING_S)
            self.accounts.sweep()

    def _counted(self, holds: OpenHolds) -> None:
        self.open_holds = holds


@define(eq=False)
class _Gauges:
    """``arbstr.telemetry.Surroundings`` of a program without providers."""

    system: ActorSystem
    store: Store
    keeper: _Keeper

    def providers(self) -> Iterable[ProviderView]:
        return ()

    def requests_in_flight(self) -> int:
        return 0

    def inbox_depths(self) -> Iterator[tuple[str, int]]:
        for ref in self.system.refs():
            yield ref.actor_class.__name__, ref.actor_inbox.depth

    def tasks(self) -> int:
        return trio.lowlevel.current_statistics().tasks_living

    def writes_waiting(self) -> int:
        return self.store.waiting

    def open_holds(self) -> OpenHolds | None:
        return self.keeper.open_holds

    def settlements(self) -> Settlements | None:
        return None
