"""The process that keeps the books for several cores: the only writer of the database, and every account.

It ends after the last core. Started anew while cores live, it leaves their holds alone: they come back within
milliseconds and renew them, and what nobody has renewed within its lease is resolved then.
"""

from __future__ import annotations

import logging
import shutil
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import trio
from attrs import define, field, frozen

from actors import ActorSystem
from arbstr.accounts import (
    AskEnter,
    AskPage,
    AskTouch,
    Entered,
    Limited,
    LinkDesk,
    Page,
    Session,
    TellLeft,
    TellSpent,
    resolve_orphans,
)
from arbstr.assembly._collector import relaxed_collector
from arbstr.assembly._control import Ready, Reins, say_failed
from arbstr.assembly._core import ConfigSource
from arbstr.assembly._door import Doorman
from arbstr.assembly._housekeeping import HoldCount, keep_accounts
from arbstr.assembly._program import refuse_wrong_books
from arbstr.assembly._serve import STOP_GRACE_S, demo_agent
from arbstr.assembly._vault import Vault
from arbstr.assembly._views import VaultGauges
from arbstr.config import Config, ConfigError, reloaded
from arbstr.edge import EdgeApp, Gate, Services, answer_page, make_app
from arbstr.errors import AuthenticationFailed, NotFound
from arbstr.requests import Caller, Limits, ModelRequest, PlainAnswer, Quote, Responder
from arbstr.store import NewAgent, OrphanedHolds, ProcessLock, ReceiptRow, Store, StoreError, TokenRow
from arbstr.telemetry import ACCOUNTS, Logs, Metrics, ProcessGauges, render_together, start_logging

logger = logging.getLogger("arbstr")

PAGES_S: Final = 5.0
"""At the end, for pages that are being answered."""
ORPHANED_S: Final = 120.0
"""When the parent has died: for the cores to end."""
_POLL_S: Final = 0.1


@frozen
class AccountsSeed:
    """What the process of the accounts is made with."""

    config: Config
    mock: bool
    again: bool
    """It takes the place of one that died, and cores may live."""
    source: ConfigSource | None
    lock: ProcessLock
    listener: socket.socket
    directory: Path
    """Where the socket is; the parent removes it, if it can."""
    control: socket.socket


def run_accounts(seed: AccountsSeed) -> int:
    """Be the process of the accounts. Returns its exit code."""
    logs = start_logging(seed.config.logging, worker=ACCOUNTS)
    try:
        with relaxed_collector():
            return trio.run(_run, seed, logs)
    finally:
        logs.stop()


async def _run(seed: AccountsSeed, logs: Logs) -> int:
    try:
        await _Process(seed, logs, seed.config).run()
    except* StoreError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        say_failed(seed.control, str(error))
        return_code = 1
    else:
        return_code = 0
    return return_code


@define(eq=False)
class _Process:
    seed: AccountsSeed
    logs: Logs
    config: Config
    limits: Limits = field(factory=Limits)

    async def run(self) -> None:
        """Raises StoreError, in groups or not."""
        seed, config = self.seed, self.seed.config
        # Opening blocks for a moment, before there is anybody to keep waiting.
        with Store.open(config.database.path, config.database.durability, seed.lock) as store:
            refuse_wrong_books(store)
            if not seed.again:
                resolve_orphans(store)
            demo = demo_agent(store) if seed.mock and config.vault is not None and not seed.again else None
            # What is left was made over HTTP, or by a core that lives; whoever has such a hold must be there to end it
            # when its lease runs out.
            holders = sorted({hold.agent_id for hold in store.ask_now(OrphanedHolds())})
            tokens = store.tokens_now()
            store.attach(trio.lowlevel.current_trio_token())
            try:
                nobody_lives = await self._run_tree(store, demo, holders, tokens)
            finally:
                # What the writer still has to say goes to actors that have ended.
                store.detach()
            if nobody_lives:
                resolve_orphans(store)

    async def _run_tree(self, store: Store, demo: NewAgent | None, holders: list[str], tokens: list[TokenRow]) -> bool:
        """Returns whether all cores have ended, when it has been told to stop."""
        seed, config = self.seed, self.config
        told_to_stop = trio.Event()
        reins = Reins(seed.control, self._use, told_to_stop.set, heeds_sigterm=False)
        async with AsyncExitStack() as stack:
            system = await stack.enter_async_context(ActorSystem.run())
            vault = None if config.vault is None else Vault.of(system, store, tokens, config.vault)
            accounts = None if vault is None else vault.accounts
            count = HoldCount(store)
            services = self._services(store)
            if vault is not None:
                for agent_id in holders:
                    vault.accounts.ref(agent_id)
                services.vault = await vault.start(config.server, stack)
            gate = Gate()
            around = VaultGauges(system, store, None if accounts is None else count)
            self._configure_limits()
            answers = _Answers(make_app(services, gate), Metrics(None), ProcessGauges(around), Doorman(self.limits))
            desk = LinkDesk(accounts, store if vault is None else vault.ledger, answers)
            answers.desk = desk
            async with trio.open_nursery() as nursery:
                await nursery.start(reins.run)
                nursery.start_soon(desk.serve, trio.SocketListener(trio.socket.from_stdlib_socket(seed.listener)))
                if accounts is not None:
                    nursery.start_soon(keep_accounts, accounts, count)
                reins.say(Ready(None if demo is None else (demo.agent_id, demo.name, demo.token)))
                await told_to_stop.wait()
                nobody_lives = not reins.parent_gone or await _have_ended(desk)
                if reins.parent_gone:
                    shutil.rmtree(seed.directory, ignore_errors=True)
                gate.drain()
                with trio.move_on_after(PAGES_S):
                    await gate.wait_empty()
                gate.expire()
                nursery.cancel_scope.cancel()
            await system.stop_all(grace_s=STOP_GRACE_S)
        return nobody_lives

    def _services(self, store: Store) -> Services:
        """Of the vault's pages; nothing else is asked for here."""
        limits = self.limits
        return Services(
            config=self.config.server,
            authenticate=_nobody,
            answer=_no_model,
            quote=_no_quote,
            providers=lambda: (),
            read=store.read,
            touch=lambda caller: limits.touch(caller, trio.current_time()),
        )

    def _configure_limits(self) -> None:
        self.limits.configure(self.config.limits, rate_limit_rps=self.config.server.rate_limit_rps)

    async def _use(self, text: str) -> None:
        assert self.seed.source is not None
        try:
            self.config = reloaded(self.config, self.seed.source.parse(text)).config
        except ConfigError as error:
            raise ValueError(str(error)) from error
        self.logs.configure(self.config.logging)
        self._configure_limits()


async def _have_ended(desk: LinkDesk) -> bool:
    """Without a parent nobody says when the cores have ended: wait for it. False when it takes too long."""
    with trio.move_on_after(ORPHANED_S):
        while desk.sessions:  # noqa: ASYNC110 - at the end of the program only
            await trio.sleep(_POLL_S)
        return True
    return False


@define(eq=False)
class _Answers:
    """What the desk asks of the rest (``arbstr.accounts.Answers``)."""

    app: EdgeApp
    metrics: Metrics
    own: ProcessGauges
    doorman: Doorman
    desk: LinkDesk | None = None

    def filed(self, receipt: ReceiptRow) -> None:
        try:
            self.metrics.finished(None, receipt)
        except Exception:  # not what the request is about, and nothing may fail for it
            logger.exception("request %s was not counted", receipt.request_id)

    def limit(self, session: Session, asked: AskEnter | AskTouch) -> Entered | Limited:
        return self.doorman.limit(session, asked)

    def place(self, session: Session, told: TellSpent | TellLeft) -> None:
        self.doorman.place(session, told)

    def forget(self, session: Session) -> None:
        self.doorman.forget(session)

    async def page(self, asked: AskPage) -> Page:
        if asked.path != "/metrics":
            return await answer_page(self.app, asked)
        assert self.desk is not None
        cores = await self.desk.gauges()
        told = [(str(worker), gauges) for worker, gauges in cores]
        return Page(200, (), render_together(self.metrics.registry, [(ACCOUNTS, self.own.gauges()), *told]))


def _nobody(authorization: str | None, peer: str, local: bool) -> Caller:
    raise AuthenticationFailed("this process answers for the vault only")


async def _no_model(request: ModelRequest, responder: Responder) -> PlainAnswer | None:
    raise NotFound("this process answers for the vault only")


def _no_quote(request: ModelRequest) -> Quote:
    raise NotFound("this process answers for the vault only")
