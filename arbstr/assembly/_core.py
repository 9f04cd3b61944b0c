"""One of several processes that answer requests. Its accounts, and the way of its receipts, are another process."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Protocol

import trio
from attrs import define, frozen

from actors import ActorDeadError, ActorSystem, AskTimeout, InboxFull
from arbstr.accounts import AskPage, LinkBank
from arbstr.assembly._collector import relaxed_collector
from arbstr.assembly._control import Ready, Reins, say_failed
from arbstr.assembly._door import FarDoor
from arbstr.assembly._housekeeping import Keeper
from arbstr.assembly._serve import STOP_GRACE_S, Live, Parts
from arbstr.assembly._views import Gauges, MarketView
from arbstr.config import Config, ConfigError, reloaded
from arbstr.edge import Gate, Services, Shares, Turn, make_app
from arbstr.edge import serve as serve_edge
from arbstr.link import LinkFull
from arbstr.providers import Fleet
from arbstr.requests import Authenticator, Caller, RequestContext, Requests
from arbstr.store import Committed, Readers, ReceiptOnly, StoreUnavailable
from arbstr.telemetry import Logs, ProcessGauges, RequestLog, Tracing, TracingUnavailable, start_logging

logger = logging.getLogger("arbstr")

READ_TIMEOUT_S: Final = 10.0
METRICS_S: Final = 5.0
LINK_S: Final = 30.0
"""For the process of the accounts to answer for the first time; it was ready before this one was started."""


class ConfigSource(Protocol):
    """The configuration file. Each raises ConfigError."""

    def __call__(self) -> Config: ...

    def text(self) -> str: ...

    def parse(self, text: str) -> Config: ...


@frozen
class CoreSeed:
    """What a core process is made with."""

    config: Config
    worker: int
    """From 1 on."""
    source: ConfigSource | None
    demo: Caller | None
    listeners: tuple[socket.socket, ...]
    shares: Shares
    control: socket.socket
    accounts: Path
    """The socket of the process of the accounts."""


def run_core(seed: CoreSeed) -> int:
    """Be a core process. Returns its exit code."""
    logs = start_logging(seed.config.logging, worker=str(seed.worker))
    try:
        tracing = Tracing(seed.config.telemetry) if seed.config.telemetry.traces else None
        try:
            with relaxed_collector():
                trio.run(_run, seed, logs, tracing)
        finally:
            if tracing is not None:
                tracing.close()
    except TracingUnavailable as error:
        say_failed(seed.control, str(error))
        return 1
    finally:
        logs.stop()
    return 0


async def _run(seed: CoreSeed, logs: Logs, tracing: Tracing | None) -> None:
    async def connect() -> trio.SocketStream:
        return await trio.open_unix_socket(str(seed.accounts))

    bank = LinkBank(seed.worker, connect)
    receipts = LinkedReceipts(bank, seed.config.database.path)
    try:
        async with trio.open_nursery() as outside:
            with trio.fail_after(LINK_S):
                await outside.start(bank.run)
            tree = CoreTree(config=seed.config, logs=logs, tracing=tracing, seed=seed, bank=bank, receipts=receipts)
            await tree.run_core()
            if not await bank.aclose():
                logger.error("%d messages were not confirmed by the accounts; leases resolve them", bank.waiting)
                outside.cancel_scope.cancel()
    finally:
        receipts.close()


class LinkedReceipts:
    """In the place of a store: receipts go over the link, reads are this process's own."""

    def __init__(self, bank: LinkBank, path: Path) -> None:
        self._bank = bank
        self._readers = Readers(path)

    def submit(self, change: ReceiptOnly, done: Committed | None = None) -> None:
        """See ``Ledger``. Raises StoreUnavailable at the bound of what may wait."""
        try:
            self._bank.file(change.receipt, None if done is None else lambda: done(None, None))
        except LinkFull as error:
            raise StoreUnavailable(f"the accounts are away: {error}") from error

    async def read(self, function: Callable[[Any], Any]) -> Any:
        """See ``Store.read``."""
        return await self._readers.read(function, READ_TIMEOUT_S)

    @property
    def waiting(self) -> int:
        return self._bank.waiting

    def close(self) -> None:
        self._readers.close()


@define(eq=False, kw_only=True)
class CoreTree(Parts):
    """Everything that runs in a core process. The accounts' actors, and the writer, are not here."""

    seed: CoreSeed
    bank: LinkBank
    receipts: LinkedReceipts

    async def run_core(self) -> None:
        """Serve until told to stop, then stop in order."""
        seed, bank = self.seed, self.bank
        async with AsyncExitStack() as stack:
            system = await stack.enter_async_context(ActorSystem.run())
            bank.use(system)
            fleet = Fleet(system, self.directory)
            stack.push_async_callback(fleet.aclose)
            await fleet.start()
            catalog = await self.start_catalog(system, fleet)
            log = RequestLog(self.config.logging)
            context = self.context(system, fleet, self.receipts, None if self.config.vault is None else bank)
            door = context.door = FarDoor(bank, self.limits)
            requests = Requests(context)
            keeper = Keeper(fleet, catalog, requests)
            bank.watched = ProcessGauges(Gauges(system, self.directory, self.receipts, keeper))
            context.observers = (log, *(() if self.tracing is None else (self.tracing,)))
            gate = Gate()
            told_to_stop = trio.Event()

            def stop() -> None:
                context.stopping = True
                told_to_stop.set()

            live = Live(self, context, catalog, log)
            reins = Reins(seed.control, _Using(self, live).use, stop, gate.expire)
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in seed.listeners]
            async with trio.open_nursery() as nursery:
                await nursery.start(reins.run)
                nursery.start_soon(keeper.run)
                await serve_edge(
                    make_app(self._core_services(context, requests, door), gate),
                    self.config.server,
                    listeners=listeners,
                    bound=lambda _: reins.say(Ready()),
                    shutdown=told_to_stop,
                    turn=Turn(seed.shares, seed.worker - 1),
                )
                nursery.cancel_scope.cancel()
            await system.stop_all(grace_s=STOP_GRACE_S)

    def _core_services(self, context: RequestContext, requests: Requests, door: FarDoor) -> Services:
        return Services(
            config=self.config.server,
            authenticate=Authenticator(self.config.server, context.accounts, self.seed.demo),
            answer=self.answer_of(requests),
            quote=requests.quote,
            providers=lambda: self.directory.snapshot,
            read=self.receipts.read,
            touch_elsewhere=door.touch,
            market=MarketView(self.board),
            gather_metrics=self._metrics,
            forward=None if context.accounts is None else self.bank.page,
        )

    async def _metrics(self) -> bytes:
        return (await self.bank.page(AskPage("GET", "/metrics", b"", (), b"", ""), METRICS_S)).body


@frozen
class _Using:
    """Reading the configuration again, by the parent's word."""

    tree: CoreTree
    live: Live

    async def use(self, text: str) -> None:
        assert self.tree.seed.source is not None
        try:
            wanted = self.tree.seed.source.parse(text)
            await self.live.use(reloaded(self.tree.config, wanted).config)
        except (ConfigError, ActorDeadError, AskTimeout, InboxFull) as error:
            raise ValueError(str(error)) from error
