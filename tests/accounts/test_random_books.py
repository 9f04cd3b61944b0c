"""Seeded lives of many requests over a ledger that fails, is slow, and whose account actors are killed.

A step is the disk writing, an answer being let through, or a fault. Every acknowledgement is compared with the disk at
the moment it arrives; when all is over the books must be clean and hold exactly what was acknowledged.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field
from trio.testing import MockClock

from actors import ActorDeadError, ActorSystem, AskTimeout
from arbstr.accounts import Accounts, Deposit, Ended, Extend, Held, Release, Renew, Reserve, Settle
from arbstr.errors import BillingRefused, LedgerUnavailable
from arbstr.store import HoldState, Store, StoreBusy, read_hold, read_open_holds

SEEDS = 300
REQUESTS = 24
LEASE_S = 2_000.0
"""Longer than any life here lasts; afterwards the clock is moved past it."""


@define
class Chaos:
    """The disk of one seed: when it writes, what fails, which answers are late."""

    store: Any
    rng: random.Random
    agent_id: str
    accounts: Any = None
    harm: float = 0.0
    """How likely a fault is; 0 once the run is to come to its end."""
    late: list[Callable[[], None]] = field(factory=list)
    over: bool = False

    def strikes(self, weight: float = 1.0) -> bool:
        return self.rng.random() < self.harm * weight

    def refuse_job(self) -> None:
        if self.strikes(0.3):
            raise StoreBusy("busy, says the seed")

    def deliver(self, run: Callable[[], None]) -> None:
        self.late.append(run)
        if not self.strikes(5):
            self.let_through()

    def let_through(self) -> None:
        late, self.late = self.late, []
        for run in late:
            run()

    async def run(self) -> None:
        while not self.over:
            await trio.sleep(self.rng.uniform(0.001, 0.05))
            disk = self.store._writer
            disk.broken = self.strikes(2)
            disk.unreadable = self.strikes()
            disk.write()
            disk.broken = disk.unreadable = False
            if not self.strikes(5):
                self.let_through()
            if self.strikes(0.2):
                self.accounts.ref(self.agent_id).cancel()
            if self.strikes(0.2):
                # A defect: a message that nobody asked for breaks the actor, if it holds this key.
                for hold in read_open_holds(self.store._db, self.agent_id)[:1]:
                    self.accounts.ref(self.agent_id).tell(Renew(hold.key, "no number"))  # type: ignore[arg-type]
            if self.strikes():
                self.accounts.sweep()


@define
class Acknowledged:
    """What somebody was told, and may rely on."""

    deposited: int = 0
    charges: dict[str, int] = field(factory=dict)
    abandoned: set[str] = field(factory=set)
    """Held, and left to the sweep."""


@define
class Client:
    """One request as ``arbstr.requests`` lives it: reserve, perhaps extend and renew, end until that is confirmed."""

    chaos: Chaos
    rng: random.Random
    system: ActorSystem
    acknowledged: Acknowledged
    receipt: Callable[..., Any]
    start_owner: Callable[..., Any]

    async def ask(self, message: Any) -> Any:
        return await self.chaos.accounts.ref(self.chaos.agent_id).request(message, timeout_s=self.rng.choice([0.1, 10]))

    def on_disk(self, key: str) -> Any:
        return read_hold(self.chaos.store._db, key=key)

    async def deposit(self, key: str, amount: int) -> None:
        while True:
            try:
                await self.ask(Deposit(key, amount))
            except (LedgerUnavailable, ActorDeadError, AskTimeout):
                await trio.sleep(0.05)
                continue
            self.acknowledged.deposited += amount
            return

    async def live(self, key: str) -> None:
        await trio.sleep(self.rng.uniform(0, 2))
        owner = self.start_owner(self.system)
        held = await self.reserve(key, owner)
        if held and self.rng.random() < 0.5:
            held = await self.extend(key, held)
        if held and self.rng.random() < 0.5:
            self.chaos.accounts.ref(self.chaos.agent_id).tell(Renew(key, self.rng.randrange(held + 5)))
        await trio.sleep(self.rng.uniform(0, 0.5))
        if held and self.rng.random() < 0.1:
            self.acknowledged.abandoned.add(key)
        else:
            await self.end(key, held)
        await owner.terminate()

    async def reserve(self, key: str, owner: Any) -> int | None:
        amount = self.rng.choice([0, 5, 40, 400])
        try:
            held = await self.ask(Reserve(key, amount, "m", "p", None, owner))
            if self.rng.random() < 0.2:
                held = await self.ask(Reserve(key, amount + 1, "m", "p", None, owner))
        except (BillingRefused, LedgerUnavailable, ActorDeadError, AskTimeout):
            return None
        assert held == Held(key, amount, held.available_msat)
        row = self.on_disk(key)
        assert (row.state, row.amount_msat) == (HoldState.OPEN, amount), "told that it was held before it was"
        return amount

    async def extend(self, key: str, held: int) -> int:
        try:
            answer = await self.ask(Extend(key, held + self.rng.choice([0, 3, 300]), "q"))
        except (BillingRefused, LedgerUnavailable, ActorDeadError, AskTimeout):
            return held
        assert self.on_disk(key).amount_msat >= answer.amount_msat
        return int(answer.amount_msat)

    async def end(self, key: str, held: int | None) -> None:
        """Settle what was delivered; whatever else may be held is released."""
        charge = self.rng.choice([0, held // 2, held, held + 60]) if held is not None else 0
        message: Settle | Release
        if held is not None and self.rng.random() < 0.8:
            message = Settle(key, charge, self.receipt(key, charge))
        else:
            message, charge = Release(key, "x", self.receipt(key)), 0
        while True:
            try:
                ended = await self.ask(message)
            except (ActorDeadError, AskTimeout):
                self.chaos.accounts.ref(self.chaos.agent_id).tell(message)
                await trio.sleep(0.05)
                continue
            break
        assert isinstance(ended, Ended)
        assert ended.charged_msat == charge
        row = self.on_disk(key)
        assert row is not None or held is None, "told that it was held, and it is not there"
        assert row is None or row.charged_msat == charge, "told that it has ended before it had"
        self.acknowledged.charges[key] = charge


async def run_seed(seed: int, store: Any, agent_id: str, receipt: Any, start_owner: Any) -> Acknowledged:
    rng, acknowledged = random.Random(seed), Acknowledged()
    tokens = store.tokens_now()
    chaos = Chaos(store, rng, agent_id)
    store._writer.mode = "held"
    store._writer.deliver_through(chaos.deliver)
    store._writer.before_put = chaos.refuse_job
    async with ActorSystem.run() as system:
        chaos.accounts = Accounts(system, store, tokens, hold_lease_s=LEASE_S)
        chaos.harm = rng.choice([0.0, 0.02, 0.05, 0.1])
        async with trio.open_nursery() as world:
            world.start_soon(chaos.run)
            async with trio.open_nursery() as clients:
                for number in range(REQUESTS):
                    client = Client(
                        chaos, random.Random(f"{seed}/{number}"), system, acknowledged, receipt, start_owner
                    )
                    clients.start_soon(client.live, f"r{number}")
                for number in range(4):
                    clients.start_soon(client.deposit, f"d{number}", 300)
            chaos.harm = 0.0
            await trio.sleep(10)
            chaos.over = True
        left = {hold.key for hold in read_open_holds(store._db)}
        assert left == acknowledged.abandoned, "held by nobody, or swept too soon"
        store._writer.mode = "soon"
        for _ in range(3):  # an actor that replaced another gives the holds it finds one more lease
            chaos.accounts.sweep()
            await trio.sleep(LEASE_S + 10)
    store._writer.mode = "now"
    return acknowledged


@pytest.mark.parametrize("block", range(10))
def test_books_stay_right_whatever_fails(
    tmp_path: Path,
    world: Any,
    receipt: Callable[..., Any],
    start_owner: Any,
    clock_ns: None,
    block: int,
) -> None:
    world.store.close()
    resolved = 0
    for seed in range(block, SEEDS, 10):
        path = tmp_path / f"{seed}.db"
        shutil.copy(world.path, path)
        with Store.open(path, durability="process") as store:
            clock = MockClock(autojump_threshold=0)
            try:
                acknowledged = trio.run(
                    run_seed,
                    seed,
                    store,
                    world.agent_id,
                    receipt,
                    start_owner,
                    clock=clock,
                    strict_exception_groups=True,
                )
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
            charged = dict(store.wait_for(lambda db: db.execute("SELECT key, charged_msat FROM holds").fetchall()))
        report = Store.check(path)
        assert report.problems == (), f"seed {seed}"
        assert report.open_holds == 0, f"seed {seed}"
        (agent,) = report.agents
        assert agent.deposited_msat == 1000 + acknowledged.deposited, f"seed {seed}"
        for key, charge in acknowledged.charges.items():
            assert charged.get(key, 0) == charge, f"seed {seed}"
        resolved += len(acknowledged.abandoned)
        path.unlink()
    assert resolved > 0
