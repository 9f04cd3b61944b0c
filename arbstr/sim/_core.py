"""A routing core of ours in a process of its own: its bank is the vault's, over a way that loses, doubles and delays.

It lives and dies by itself: what is in its own books, and what has reached the vault, outlives it. Providers and
clients are not in it; how requests use a bank is what the other process shows.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import uuid4

import httpx
import trio
from attrs import define, evolve, field, frozen

from actors.testing import Rig
from arbstr.accounts import (
    Backlog,
    Ended,
    Extend,
    Held,
    Holder,
    Release,
    RemoteBank,
    Renew,
    Reserve,
    Settle,
    Settlements,
    VaultClient,
    resolve_remote_orphans,
)
from arbstr.assembly._vault import supervised
from arbstr.edge import VaultServices
from arbstr.edge import _vault as pages
from arbstr.edge import _vault_bodies as bodies
from arbstr.edge._vault_routes import find_vault_route
from arbstr.edge._vault_schema import Invalid, read_part
from arbstr.errors import ArbstrError, NotAnswered
from arbstr.secrets import Secret
from arbstr.sim._events import make_receipt
from arbstr.sim._facts import Asked, Token
from arbstr.sim._talk import say
from arbstr.store import MemoryLedger, RemoteHoldState, derived_hold_id
from arbstr.wire import dumps

if TYPE_CHECKING:
    from arbstr.sim._process import Process
    from arbstr.sim._world import World

HOUSEKEEPING_S = 5.0
STOP_GRACE_S = 5.0
PENDING_THRESHOLD = 50

Fate = Literal["arrives", "late", "lost", "unheard", "hangs", "twice", "refused"]
"""Of one call. ``late``: its answer comes after its caller has given up. ``unheard``: done, and the answer is lost.
``hangs``: done, and no answer comes. ``twice``: a copy of it arrives later."""
LATE_S = 6.0
COPY_S = 9.0


async def answer_core(vault: VaultServices, path: str, sent: object) -> tuple[int, Any]:
    """As the vault's pages do, without a server: the shape of the body, one call, one rendering."""
    found = find_vault_route("POST", path)
    assert found is not None
    assert found[0].body is not None
    route = found[0]
    page = getattr(pages.VaultPages, f"_{route.page}")
    try:
        body = read_part("body", found[0].body, pages._flattened(sent) if route.page == "settle" else sent)
        asked = pages.Asked({}, body, {}, None, None, None)
        return cast("tuple[int, Any]", await page(_Pages(vault), asked))
    except pages._Refused as refused:
        return refused.status, refused.body
    except Invalid as invalid:
        return 400, bodies.framework_error(400, "FST_ERR_VALIDATION", invalid.message)
    except ArbstrError as error:
        return error.status, pages._error_body(error)


@frozen
class _Pages:
    """As much of them as internal billing needs."""

    _vault: VaultServices


@frozen
class CoreRequest:
    """One request: what it holds, what it has consumed by and by, and how it ends."""

    begins_s: float
    amount_msat: int
    extends_to_msat: int | None
    lives_s: float
    charge_msat: int
    releases: bool

    def sentence(self) -> str:
        more = "" if self.extends_to_msat is None else f", then {self.extends_to_msat}"
        end = "is released" if self.releases else f"costs {self.charge_msat}"
        return f"holds {self.amount_msat}{more} msat for {self.lives_s:g} s and {end}"


@define(eq=False)
class WayToVault(httpx.AsyncBaseTransport):
    """What is sent arrives at whatever vault lives then, whatever becomes of the core meanwhile."""

    core: Core
    calls: int = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.core.dead:
            await trio.sleep_forever()
        path, body = request.url.path, json.loads(await request.aread())
        fate = self._fate()
        self.core.world.note(f"core {fate}: {path} {body.get('correlation_id') or body.get('reservation_id')}")
        if fate == "refused":
            raise httpx.ConnectError("nobody listens, says the script")
        if fate == "lost":
            raise httpx.ReadError("lost on its way, says the script")
        answers: list[Any] = []
        heard = trio.Event()
        self._send(path, body, LATE_S if fate == "late" else 0.0, answers, heard)
        if fate == "twice":
            self._send(path, body, COPY_S, [], trio.Event())
        await heard.wait()
        if fate == "hangs":
            await trio.sleep_forever()
        if fate == "unheard" or answers[0] is None:
            raise httpx.ReadError("the answer is lost, says the script")
        status, said = answers[0]
        return httpx.Response(status, content=dumps(said))

    def _fate(self) -> Fate:
        self.calls += 1
        fates = self.core.fates
        return "arrives" if self.core.may_end else fates[self.calls % len(fates)]

    def _send(self, path: str, body: Any, travels_s: float, answers: list[Any], heard: trio.Event) -> None:
        async def ask(process: Process) -> tuple[int, Any]:
            return await answer_core(process.vault, path, body)

        async def carry() -> None:
            await trio.sleep(travels_s)
            answers.append(await say(self.core.world, ask))
            heard.set()

        self.core.world.errands.start_soon(carry)

    async def aclose(self) -> None:
        pass


@define(eq=False)
class Core:
    """One life of it. ``ledger`` is over books of its own."""

    world: World
    token: Token
    fates: tuple[Fate, ...]
    ledger: MemoryLedger
    dead: bool = False
    may_end: bool = False
    """Nothing more is asked of it, and nothing stands in the way of its last words."""
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ready: trio.Event = field(factory=trio.Event)
    gone: trio.Event = field(factory=trio.Event)
    ended: trio.Event = field(factory=trio.Event)
    clients: int = 0
    told: trio.Event = field(factory=trio.Event)
    """Some client has heard what it cost."""
    backlog: Backlog = field(factory=Backlog)
    system: Rig = field(init=False)
    bank: RemoteBank = field(init=False)
    front: trio.Nursery = field(init=False)

    async def run(self) -> None:
        try:
            with self.scope:
                resolve_remote_orphans(self.ledger)
                async with AsyncExitStack() as stack:
                    await self._live(stack)
        finally:
            self.gone.set()

    async def _live(self, stack: AsyncExitStack) -> None:
        self.system = await stack.enter_async_context(Rig.run())
        client = VaultClient("http://vault.test", Secret("the internal token"), WayToVault(self))
        settlements = await supervised(self.system, lambda: Settlements(self.ledger, client, self.backlog))
        self.bank = RemoteBank(self.ledger, client, settlements, self.backlog, pending_threshold=PENDING_THRESHOLD)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ledger.run, lambda: self.world.scenario.commit_s)
            async with trio.open_nursery() as self.front:
                self.front.start_soon(self._keep_house)
                self.ready.set()
                await self.ended.wait()
                self.front.cancel_scope.cancel()
            await self.system.stop_all(grace_s=STOP_GRACE_S)
            nursery.cancel_scope.cancel()

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(HOUSEKEEPING_S)
            self.bank.sweep()

    def crash(self) -> Core:
        """Kill it; its successor, over what is on its disk."""
        self.dead = True
        self.scope.cancel()
        return Core(self.world, self.token, self.fates, self.ledger.crash())

    # A request, as far as its money goes

    async def serve(self, request: CoreRequest) -> None:
        self.clients += 1
        try:
            await self._serve(request)
        finally:
            self.clients -= 1

    async def _serve(self, request: CoreRequest) -> None:
        key = str(uuid4())
        holder = self.bank.holder_of(self.token.text)
        assert holder is not None
        asked = Asked(
            key=derived_hold_id("reserve", self.token.agent_id, key),
            agent_id=self.token.agent_id,
            at_s=trio.current_time(),
            process=0,
            direct=True,
            remote=True,
            token=self.token,
        )
        self.world.ask(asked)
        self.world.facts.cores[key] = asked
        try:
            held: Held = await self.bank.request(holder, Reserve(key, request.amount_msat, "m", "p"))
        except NotAnswered:
            self._tell(holder, Release(key, "nobody answers", None))
            return
        except ArbstrError:
            return
        self._check_held(asked, held)
        await self._consume(holder, key, request)
        await self._end(holder, asked, key, request)

    def _check_held(self, asked: Asked, held: Held) -> None:
        hold = self.world.books.holds.get(self.world.books.hold_ids.get(asked.key, ""))
        if hold is None or hold.amount_msat < held.amount_msat:
            self.world.wrong([f"M6: a core believes that {held.amount_msat} msat are held for it, and it is {hold}"])

    async def _consume(self, holder: Holder, key: str, request: CoreRequest) -> None:
        if request.extends_to_msat is not None:
            try:
                await self.bank.request(holder, Extend(key, request.extends_to_msat, "p"))
            except ArbstrError:
                self.world.note(f"core: {key} was not extended")
        until = trio.current_time() + request.lives_s
        while trio.current_time() < until:
            await trio.sleep(min(HOUSEKEEPING_S, until - trio.current_time()))
            self._tell(holder, Renew(key, request.charge_msat // 2))

    async def _end(self, holder: Holder, asked: Asked, key: str, request: CoreRequest) -> None:
        charge_msat = 0 if request.releases else request.charge_msat
        receipt = evolve(make_receipt(asked, charge_msat, self.world.machine.wall_ns()), request_id=key)
        message = Release(key, "no", receipt) if request.releases else Settle(key, charge_msat, receipt)
        try:
            ended: Ended = await self.bank.request(holder, message)
        except NotAnswered:
            self._tell(holder, message)
            return
        if not self.dead:
            self.world.facts.core_costs[key] = ended.charged_msat
            self.told.set()

    def _tell(self, holder: Holder, message: Renew | Settle | Release) -> None:
        try:
            self.bank.tell(holder, message)
        except NotAnswered:
            self.world.note(f"core: {message.key} was not told")

    # Its end

    @property
    def is_settled(self) -> bool:
        """Nothing is asked of it, and it owes nothing to the vault: neither on disk nor in hand."""
        in_hand = self.clients + self.ledger.waiting + self.backlog.waiting + self.backlog.searched
        return self.ready.is_set() and not in_hand and not any(self._owed(state) for state in _OWED)

    def _owed(self, state: RemoteHoldState) -> int:
        return sum(hold.state is state for hold in self.ledger._books.remote_holds.values())

    def judge(self) -> None:
        """Hand over its receipts, for the laws."""
        self.world.wrong([f"an actor of a core failed: {each.error!r}" for each in self.system.failures])
        if self._owed(RemoteHoldState.DEAD):
            self.world.wrong(["M6: the vault will never take the end of what a core has used"])
        for receipt in self.ledger._books.receipts.values():
            key = receipt.request_id.partition(":")[0]
            costs = self.world.facts.core_receipts
            costs[key] = costs.get(key, 0) + receipt.cost_msat


_OWED = (RemoteHoldState.OPEN, RemoteHoldState.ENDING)
