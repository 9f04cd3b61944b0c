"""Everything outside of the process, and the run of one scenario from its first event to the last account.

``note`` writes the log, which two runs of one seed must agree on byte for byte; ``wrong`` ends the run.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import trio
from attrs import Factory, asdict, define, evolve, field, frozen

from actors.testing import deterministic
from arbstr.accounts import Holder, SetPolicy, deposit_now
from arbstr.config import LimitsConfig, ProviderConfig
from arbstr.sim import _laws as laws
from arbstr.sim import _vault_laws as vault_laws
from arbstr.sim._facts import Asked, Call, Facts, Span, Token, Wish
from arbstr.sim._process import HOUSEKEEPING_S, Process
from arbstr.sim._scenario import Scenario
from arbstr.sim._scene import Memory, Scene
from arbstr.sim._scripts import Hearing, Script, WalletScript
from arbstr.sim._seams import Machine, seeded_machine
from arbstr.store import (
    AccountChange,
    ApprovalRow,
    AuditEntry,
    Change,
    EventState,
    HoldChange,
    HoldState,
    MemoryBooks,
    MemoryLedger,
    PaymentRow,
    PaymentState,
    PolicyRow,
    derived_hold_id,
    new_agent,
)
from arbstr.units import Price
from arbstr.wallets import PaymentOrder, SimulatedBook

PATIENCE_S = 10_000.0
"""For the last request to end; the bounds on the way there together are far below."""
MAX_WRONG = 5


@frozen
class Report:
    """What came of a run. ``wrong`` is empty when every law held."""

    scenario: Scenario
    log: tuple[str, ...]
    wrong: tuple[str, ...]
    counts: dict[str, int]
    """How much of each happened, to see that a run is not idle."""


@define(eq=False)
class WatchedBooks(MemoryBooks):
    """Says what was committed. A crash leaves them as they are: what had reached them is the disk."""

    world: World = field(kw_only=True, default=None)

    def apply(self, change: Change) -> None:
        MemoryBooks.apply(self, change)
        self.world.committed(change)

    def __deepcopy__(self, memo: object) -> WatchedBooks:
        return self  # the ledger that crashed writes nothing more


@frozen
class _Repriced:
    spans: list[Span]

    def close_former(self, now_s: float) -> None:
        for span in self.spans[:-1]:
            if span.to_s is None:
                span.to_s = now_s


@define(eq=False)
class World:
    scenario: Scenario
    machine: Machine
    facts: Facts = field(factory=Facts)
    memory: Memory = field(factory=Memory)
    books: WatchedBooks = field(default=Factory(lambda world: WatchedBooks(world=world), takes_self=True))
    log: list[str] = field(factory=list)
    problems: list[str] = field(factory=list)
    agents: list[str] = field(factory=list)
    scripts: dict[str, tuple[Script, ...]] = field(factory=dict)
    providers: dict[str, tuple[ProviderConfig, bool]] = field(factory=dict)
    """And whether it is wanted at present."""
    limits: LimitsConfig = field(factory=LimitsConfig)
    processes: list[Process] = field(factory=list)
    counts: dict[str, int] = field(factory=dict)
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    nursery: trio.Nursery = field(init=False)
    errands: trio.Nursery = field(init=False)
    """What is on its way outside, whatever becomes of the process that sent it."""
    wallet_scripts: dict[str, dict[str, WalletScript]] = field(factory=dict)
    """By destination and rail."""
    signs: list[tuple[Asked, int]] = field(factory=list)
    """Of life, by other cores, which the vault has seen and is writing down."""
    deliveries: int = 0
    """To the webhook."""
    winding_up: bool = False
    scene: Scene = field(default=Factory(lambda world: Scene(world.books, world.facts, world.memory), takes_self=True))
    _fuses: list[list[Any]] = field(factory=list)
    """Crashes to come: on which occasion, after how many of them, and what of the queue reaches the disk."""
    _restless: bool = False
    """Something was committed since the laws of rest were last looked at."""

    @property
    def process(self) -> Process:
        """The one that lives."""
        return self.processes[-1]

    # The log and the laws

    def note(self, text: str) -> None:
        self.log.append(f"{trio.current_time():.6f} {text}")

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def wrong(self, found: Iterable[str]) -> None:
        """If there is anything in it, that is the end of the run."""
        for text in found:
            if len(self.problems) < MAX_WRONG:
                self.problems.append(f"at {trio.current_time():.3f} s: {text}")
                self.note(f"WRONG {text}")
            self.scope.cancel()

    def committed(self, change: Change) -> None:
        """By the ledger, after every change."""
        self.facts.latest_ns = max(self.facts.latest_ns, self.machine.wall_ns())
        self.facts.disk_suffered = bool(self.processes) and self.process.disk_suffered
        self._note_loss(change)
        self._note_approval(change)
        self._restless = True
        key = getattr(change, "key", type(change).__name__)
        after = getattr(change, "after", None)
        self.count(getattr(change, "kind", type(change).__name__))
        self.note(f"committed {key} {after} {getattr(change, 'hold', '')}")
        for row in getattr(change, "also", ()):
            if isinstance(row, PaymentRow):
                self.count(f"payment {row.state.value}")
        for law in laws.COMMIT:
            self.wrong(law(self.scene, change))
        if after is not None:
            for account_law in laws.ACCOUNT:
                self.wrong(account_law(self.scene, after.agent_id))
        self.happened("change is committed")

    def _note_loss(self, change: Change) -> None:
        """What an account's actor was told as it failed is lost, and the lease ends what it was about (M7)."""
        if isinstance(change, AccountChange) and change.kind == "resolve" and isinstance(change.hold, HoldChange):
            asked = self.facts.asked.get(self.books.holds[change.hold.hold_id].key)
            if asked is not None and self.processes and not self.process.dead and self.process.lost_an_account:
                asked.crashed = True

    def _note_approval(self, change: Change) -> None:
        """Whose an approval's hold is: of the request that asks, then of the one that has come for it."""
        if not isinstance(change, AccountChange):
            return
        for row in change.also:
            if isinstance(row, ApprovalRow) and row.kind == "request":
                self.count(f"request {row.status.value}")
                asked = self.facts.asked.get(str(change.audit.details.get("request_id")))
                if asked is not None:
                    asked.approval_id = row.approval_id
                    self.facts.asked[row.approval_id] = asked

    def called(self, asked: Asked, provider: str) -> Call:
        """By a provider, when a request has reached it."""
        call = Call(provider, trio.current_time())
        asked.calls.append(call)
        self.count("calls")
        self.note(f"{provider} is called for {asked.key}")
        for law in laws.CALL:
            self.wrong(law(self.scene, asked, call))
        self.happened("call reaches a provider")
        return call

    def told(self, asked: Asked) -> None:
        """By a client that has got something."""
        self.note(f"{asked.key} has got {asked.pieces} pieces, {asked.text_bytes} bytes")
        for law in laws.TOLD:
            self.wrong(law(self.scene, asked))
        self.happened("client gets something")

    def promise_end(self, asked: Asked, charge_msat: int) -> None:
        self.count("promises")
        first = self.facts.promised_ends.setdefault(asked.key, charge_msat)
        if first != charge_msat:
            self.wrong([f"M3: {asked.key} was told {first} msat and now {charge_msat}"])
        self.wrong(laws.m6_what_is_told_is_on_disk(self.scene, asked))

    def begun(self) -> None:
        """By a process that has recovered."""
        for law in laws.BEGUN:
            self.wrong(law(self.scene))

    def at_rest(self) -> None:
        """Nothing can run before time passes."""
        if not self.processes:
            return
        process = self.process
        if not process.is_well:
            self.memory.due_alerts.clear()
            self.signs.clear()
        else:
            self._look_at_approvals(process)
            if not process.ledger.waiting:
                self._all_is_on_disk()
        if self._restless:
            self._restless = False
            for law in laws.REST:
                self.wrong(law(self.scene))

    def _all_is_on_disk(self) -> None:
        """Also what nobody was to wait for: alerts, and longer leases."""
        self.wrong(vault_laws.alerts_are_raised(self.scene))
        for asked, at_ns in self.signs:
            asked.sign_of_life_ns = at_ns  # the last one counts, also when the clock has stepped back since the others
        self.signs.clear()

    def _look_at_approvals(self, process: Process) -> None:
        """Unless somebody who watches has had no time to see that the clock has jumped, or to start."""
        now_s, on_time_s = trio.current_time(), vault_laws.ON_TIME_S + 6 * process.commit_s
        since_jump_s = now_s - self.facts.clock_jumped_s
        if now_s - process.began_s > on_time_s and since_jump_s > vault_laws.LOOK_S + on_time_s:
            self.wrong(vault_laws.approvals_expire_on_time(self.scene, self.machine.wall_ns(), on_time_s))

    # The vault, from outside

    def ordered(self, rail: str, order: PaymentOrder) -> None:
        """By a process that asks a wallet to pay."""
        self.count("orders")
        self.note(f"{rail} is asked to pay {order.key}")
        for law in laws.ORDER:
            self.wrong(law(self.scene, rail, order))
        self.happened("order leaves for a wallet")

    def told_payment(self, wish: Wish, row: PaymentRow, known: dict[str, PaymentState]) -> None:
        """Somebody hears how far their payment is; ``known`` is what had been told when they asked."""
        self.count(f"told {row.state.value}")
        self.note(f"{wish.destination} is {row.state.value}: {row.transaction_id}")
        first = known.get(row.transaction_id)
        if first in vault_laws.ENDED and row.state is not first:
            self.wrong([f"M3: payment {row.transaction_id} was {first}, they were told, and now it is {row.state}"])
        if wish.told.get(row.transaction_id) not in vault_laws.ENDED:
            wish.told[row.transaction_id] = row.state
        self.wrong(vault_laws.m6_what_payers_are_told_is_true(self.scene))

    def presented(self, token: Token, holder: Holder | None) -> None:
        """A token, to a process, that takes them for ``holder``."""
        whose = None if holder is None else (holder.agent_id, holder.budget_id)
        now_ns = self.machine.wall_ns()
        self.facts.latest_ns = max(self.facts.latest_ns, now_ns)
        self.wrong(vault_laws.tokens_count_as_long_as_they_live(self.scene, token.text, whose, now_ns))
        if holder is None:
            self.count("tokens that have ended")

    def done(self, agent_id: str, action: str) -> None:
        """Somebody was told that this is done."""
        self.facts.done[agent_id, action] = self.facts.done.get((agent_id, action), 0) + 1
        self.wrong(vault_laws.m6_what_was_done_is_audited(self.scene))

    def told_event(self, event_id: str, body: str) -> Hearing:
        """By a process, to the webhook; what that does about it."""
        hearings = self.scenario.webhook.hearings
        hearing = "takes" if self.winding_up else hearings[self.deliveries % len(hearings)]
        self.deliveries += 1
        self.count("events")
        self.note(f"the webhook {hearing} {event_id}")
        self.wrong(vault_laws.an_event_is_told_as_it_is_on_disk(self.scene, event_id, body))
        self.happened("event is told")
        return hearing

    def heard_event(self, event_id: str, body: str) -> None:
        first = self.facts.heard.setdefault(event_id, body)
        if first != body:
            self.wrong([f"events: {event_id} was {first}, and now it is {body}"])

    def token_of(self, agent_id: str, which: int) -> Token:
        """0: the agent's own newest; else one of all."""
        tokens = self.tokens_of(agent_id)
        if which:
            return tokens[(which - 1) % len(tokens)]
        return [token for token in tokens if token.budget_id is None][-1]

    def tokens_of(self, agent_id: str) -> list[Token]:
        """All that were ever shown, oldest first."""
        return [token for token in self.facts.tokens if token.agent_id == agent_id]

    def open_holds(self) -> list[str]:
        """Without those of payments that no wallet will ever say anything about."""
        found = []
        for hold in self.books.holds.values():
            payment = self.books.payments.get(hold.key)
            lost = payment is not None and vault_laws.never_known(self.facts, payment)
            if hold.state is HoldState.OPEN and not lost:
                found.append(hold.key)
        return found

    def note_deliveries(self, process: Process) -> None:
        """What has passed when leases are renewed: the least that a crash may charge from then on."""
        now_ns = self.machine.wall_ns()
        for asked in self.facts.asked.values():
            if asked.process == process.number:
                asked.renewed.append((now_ns, asked.pieces))

    # What events do

    def ask(self, asked: Asked, scripts: tuple[Script, ...] = ()) -> None:
        """Somebody names a key."""
        self.facts.asked[asked.key] = asked
        if asked.remote:
            key = derived_hold_id("late", asked.agent_id, asked.key)
            asked.late = evolve(asked, key=key, is_late=True)
            self.facts.asked[key] = asked.late
        self.scripts[asked.key] = scripts

    def price(self, provider: str, price: Price | None) -> None:
        config, wanted = self.providers[provider]
        self.providers[provider] = (evolve(config, price=price), wanted)
        self.facts.prices.setdefault(provider, []).append(Span(price, trio.current_time()))

    def current_spans(self) -> list[_Repriced]:
        return [_Repriced(list(spans)) for spans in self.facts.prices.values()]

    def clock_jumps(self, by_ns: int) -> None:
        """The wall clock does."""
        self.facts.latest_ns = max(self.facts.latest_ns, self.machine.wall_ns())
        self.machine.wall_is_off_ns += by_ns
        self.facts.clock_jumped_s = trio.current_time()

    def configuration_changed(self) -> None:
        self.process.changed.set()

    def crash_when(self, when: str, times: int, reached_disk: int) -> None:
        """``at once``, or the so many'th time from now on that ``happened`` hears of this."""
        if when == "at once":
            self.crash(reached_disk)
        else:
            self._fuses.append([when, times, reached_disk])

    def happened(self, what: str) -> None:
        for fuse in list(self._fuses):
            if fuse[0] == what:
                fuse[1] -= 1
                if fuse[1] == 0:
                    self._fuses.remove(fuse)
                    self.crash(fuse[2])

    def crash(self, reached_disk: int) -> None:
        """Kill the process, and start another one over what is on disk."""
        process = self.process
        if process.dead or process.gone.is_set() or not process.ready.is_set():
            return  # of what a start has not begun, nothing can be lost; its own changes are whole batches
        self.count("crashes")
        for asked in self.facts.asked.values():
            asked.crashed = asked.crashed or asked.process == process.number
        process.die()
        ledger = process.ledger.crash(reached_disk)
        self.note(f"process {process.number} is killed")
        self._start(ledger)

    async def restart(self, patience_s: float) -> None:
        """Stop the process as a signal does, and start another one. Returns when it has been started."""
        process = self.process
        if process.dead or process.ended.is_set():
            return
        self.count("restarts")
        self.note(f"process {process.number} is told to stop")
        process.patience_s = patience_s
        process.ended.set()
        await process.gone.wait()
        if not process.dead:
            process.ledger.drain()
            self.wrong(process.defects)
            self._start(process.ledger.crash())

    def before_recovery(self) -> None:
        """Whoever stops in order leaves no hold of a request, unless the disk or an actor failed it."""
        if len(self.processes) < 2 or self.processes[-2].dead:
            return
        former = self.processes[-2]
        for hold in self.books.holds.values():
            asked = self.facts.asked.get(hold.key)
            approval = self.books.approvals.get(hold.key)
            if approval is not None and approval.is_open:
                continue
            if hold.state is HoldState.OPEN and asked is not None and not asked.direct:
                if not (former.disk_suffered or former.lost_an_account):
                    self.wrong([f"M7: hold {hold.key} is open although process {former.number} stopped in order"])
                asked.crashed = True

    def _start(self, ledger: MemoryLedger) -> None:
        self.processes.append(Process(self, ledger, len(self.processes) + 1))
        self.nursery.start_soon(self.process.run)

    # The run

    async def run(self) -> None:
        """All events, then the rest of what they began; ``problems`` has what was wrong."""
        self.machine.now_s = trio.lowlevel.current_clock().current_time
        self.memory.lease_ns = int(self.scenario.lease_s * 1_000_000_000)
        self.memory.reservation_lease_ns = int(self.scenario.reservation_lease_s * 1_000_000_000)
        tasks = trio.lowlevel.current_statistics().tasks_living
        trio.lowlevel.add_instrument(_Rest(self))
        with self.scope:
            ledger = self._set_up()
            async with trio.open_nursery() as self.errands, trio.open_nursery() as self.nursery:
                self._start(ledger)
                await self._let_it_happen()
                await self._wind_up()
                self.errands.cancel_scope.cancel()
        left = trio.lowlevel.current_statistics().tasks_living - tasks
        if left and not self.problems:
            self.wrong([f"{left} tasks are left"])

    def _set_up(self) -> MemoryLedger:
        ledger = MemoryLedger(self.books)
        for number, deposit_msat in enumerate(self.scenario.deposits_msat):
            agent, change = new_agent(f"agent {number}")
            ledger.commit_now(change)
            self.agents.append(agent.agent_id)
            self.facts.tokens.append(Token(agent.token, agent.agent_id, change.token.token_id))
            self.facts.deposits[f"first {number}"] = (agent.agent_id, deposit_msat)
            deposit_now(ledger, agent.agent_id, deposit_msat, f"first {number}")
            policy = self.scenario.policies[number]
            if policy is not None:
                ledger.commit_now(self._first_policy(agent.agent_id, policy))
        self.facts.wallets.update({rail: SimulatedBook() for rail in self.scenario.rails})
        for config in self.scenario.providers:
            self.providers[config.name] = (config, True)
            self.price(config.name, config.price)
        self.limits = self.scenario.limits
        return ledger

    def _first_policy(self, agent_id: str, wish: SetPolicy) -> AccountChange:
        now_ns, account = self.machine.wall_ns(), self.books.accounts[agent_id]
        values = asdict(wish, filter=lambda field, _: field.name not in ("keep", "effective_ns"))
        return AccountChange(
            key=f"policy:first of {agent_id}",
            kind="policy",
            at_ns=now_ns,
            before=account,
            after=evolve(account, version=account.version + 1),
            postings=(),
            audit=AuditEntry("POLICY_UPDATED", {}),
            also=(PolicyRow(agent_id, 2, **values, effective_ns=now_ns, created_ns=now_ns),),
        )

    async def _let_it_happen(self) -> None:
        async with trio.open_nursery() as nursery:
            for number, event in enumerate(self.scenario.events):
                await trio.sleep_until(event.at_s)
                self.note(event.sentence())
                self.count(type(event).__name__)
                nursery.start_soon(event.happen, self, number)

    async def _wind_up(self) -> None:
        """Until nothing is under way, and then until the process has stopped in order."""
        self.winding_up = True
        with trio.move_on_after(PATIENCE_S) as scope:
            while self._under_way():  # noqa: ASYNC110 - leases run out by time, and nothing tells of it
                await trio.sleep(HOUSEKEEPING_S)
            self._fuses.clear()
            for earlier in self.processes[:-1]:
                await earlier.gone.wait()
            self.wrong(await self.process.remains())
            self.process.ended.set()
            await self.process.gone.wait()
        if scope.cancelled_caught:
            self.wrong(await self.process.remains())
            self.wrong([f"it does not come to an end within {PATIENCE_S:g} s"])
        self._judge()

    def _under_way(self) -> bool:
        """Somebody waits, or something is held: by nobody, until its lease runs out; or is still to be told."""
        process = self.process
        if not process.ready.is_set():
            return True
        if process.clients or process.requests.in_flight or process.ledger.waiting:
            return True
        books = self.books
        if any(row.is_open for row in books.approvals.values()):
            return True
        if any(row.state is EventState.PENDING for row in books.outbox.values()):
            return True
        return bool(self.open_holds())

    def _judge(self) -> None:
        for law in laws.END:
            self.wrong(law(self.scene))
        for agent_id in self.agents:
            for account_law in laws.END_OF_ACCOUNT:
                self.wrong(account_law(self.scene, agent_id))
        self.wrong(self.books.check().problems)
        self.wrong(self.process.defects)


class _Rest(trio.abc.Instrument):
    def __init__(self, world: World) -> None:
        self._world = world

    def before_io_wait(self, timeout: float) -> None:
        self._world.at_rest()


def run(scenario: Scenario) -> Report:
    """One scenario, in a Trio run of its own. The same scenario gives the same report."""
    with seeded_machine(scenario.seed) as machine, _quiet():
        world = World(scenario, machine)
        try:
            deterministic(scenario.seed)(world.run)()
        except Exception as error:  # whatever it is, the seed has found it, unless it comes of the run's being cut off
            if world.problems:
                return Report(scenario, tuple(world.log), tuple(world.problems), world.counts)
            trace = "".join(traceback.format_exception(error)[-12:])
            world.problems.append(f"the run ended with {error!r}\n{trace}")
    return Report(scenario, tuple(world.log), tuple(world.problems), world.counts)


@contextmanager
def _quiet() -> Iterator[None]:
    """The program has much to say about all that goes wrong around it, and nobody reads it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
