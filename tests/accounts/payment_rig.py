"""Books in memory, simulated wallets and the actors between them, all on Trio's clock; and a way to kill it all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import trio
from attrs import define, field

from actors import ActorSystem, TrioActorRef
from arbstr.accounts import AgentAccountActor, deposit_now
from arbstr.accounts._approvals import Approvals
from arbstr.accounts._messages import SetPolicy
from arbstr.accounts._payments import Payments, SendPayment
from arbstr.store import (
    ApprovalRow,
    FindApproval,
    FindPayment,
    MemoryLedger,
    PaymentRow,
    PendingApprovals,
    ReadAccount,
    new_agent,
)
from arbstr.wallets import PaymentOrder, Rails, Result, Script, SimulatedBook, SimulatedWallet, settle_at_once

BASE_NS = 1_800_000_000_000_000_000
SECOND_NS = 1_000_000_000


def virtual_ns() -> int:
    return BASE_NS + int(trio.current_time() * 1e9)


class Killer:
    """Counts the places where a process may die, and dies at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0
        self.die: Callable[[int], None] = lambda committed: None

    def place(self, committed: int = 0) -> bool:
        """True when it is here that it died."""
        self.count += 1
        if self.count - 1 != self.at:
            return False
        self.die(committed)
        return True


class KillableWallet(SimulatedWallet):
    killer: Killer

    async def pay(self, order: PaymentOrder) -> Result:
        if self.killer.place():
            await trio.lowlevel.checkpoint()
        try:
            result = await super().pay(order)
        finally:
            self.killer.place()
        await trio.lowlevel.checkpoint()
        return result

    async def lookup(self, key: str) -> Result:
        self.killer.place()
        result = await super().lookup(key)
        self.killer.place()
        await trio.lowlevel.checkpoint()
        return result


@define
class Rig:
    """What outlives a process: books and wallets."""

    ledger: MemoryLedger
    agent_id: str
    script: dict[str, Script] = field(factory=dict)
    books: dict[str, SimulatedBook] = field(factory=dict)
    rails: tuple[str, ...] = ("simulated",)

    @classmethod
    def new(cls, *rails: str, balance_msat: int = 100_000, **policy: Any) -> Rig:
        ledger = MemoryLedger(max_batch=1)
        agent, added = new_agent("agent")
        ledger.commit_now(added)
        if balance_msat:
            deposit_now(ledger, agent.agent_id, balance_msat, "first")
        rig = cls(ledger, agent.agent_id, rails=rails or ("simulated",))
        rig.policy = policy
        return rig

    policy: dict[str, Any] = field(factory=dict)

    @asynccontextmanager
    async def run(self, killer: Killer | None = None) -> AsyncIterator[World]:
        """One life of the process. When ``killer`` strikes, it ends here, and the next one finds what is left."""
        killer = killer or Killer()
        wallets = {}
        for rail in self.rails:
            book = self.books.setdefault(rail, SimulatedBook())
            wallets[rail] = KillableWallet(self.script.get(rail, settle_at_once), book)
            wallets[rail].killer = killer
        with trio.CancelScope() as life:
            async with trio.open_nursery() as nursery:

                def die(committed: int) -> None:
                    self.ledger = self.ledger.crash(committed)
                    life.cancel()

                killer.die = die
                self.ledger.at_once = False
                nursery.start_soon(self._commit, self.ledger, killer)
                async with ActorSystem.run() as system:
                    world = World(self, system, self.ledger)
                    world.payments = system.start(Payments, self.ledger, world.account, Rails(wallets))
                    world.approvals = system.start(Approvals, self.ledger, world.account, world.payments)
                    if self.policy:
                        policy, self.policy = self.policy, {}
                        await world.account(self.agent_id).request(SetPolicy(**policy))
                    yield world
                nursery.cancel_scope.cancel()

    async def _commit(self, ledger: MemoryLedger, killer: Killer) -> None:
        """One job at a time; each may be the last, heard of or not."""
        step = ledger.step

        def killing_step() -> int:
            is_write = ledger.next_is_change
            return 0 if is_write and (killer.place(0) or killer.place(1)) else step()

        with patch.object(ledger, "step", killing_step):
            await ledger.run()

    # What is in the books

    def payment(self, transaction_id: str) -> PaymentRow:
        row = self.ledger.ask_now(FindPayment(transaction_id=transaction_id))
        assert row is not None
        return row

    def payments(self) -> list[dict[str, Any]]:
        return [self._named("payments", row) for row in self.ledger.tables()["payments"]]

    def audit(self) -> list[str]:
        return [str(row[3]) for row in self.ledger.tables()["audit"]]

    def events(self) -> list[str]:
        return [str(row[1]) for row in sorted(self.ledger.tables()["outbox"], key=lambda row: row[4])]  # type: ignore[arg-type, return-value]

    def account(self) -> Any:
        return self.ledger.ask_now(ReadAccount(self.agent_id))

    def approval(self, approval_id: str | None) -> ApprovalRow:
        row = self.ledger.ask_now(FindApproval(approval_id=approval_id))
        assert row is not None
        return row

    def pending(self) -> tuple[ApprovalRow, ...]:
        return self.ledger.ask_now(PendingApprovals())

    def paid(self) -> list[str]:
        return [key for book in self.books.values() for key in book.paid]

    def check(self) -> None:
        """The books are right, and agree with the wallets: nothing was paid twice, or paid and not charged."""
        assert self.ledger.check().problems == ()
        paid = self.paid()
        assert len(set(paid)) == len(paid)
        for row in self.payments():
            assert (row["transaction_id"] in paid) <= (row["state"] in ("sending", "unknown", "succeeded")), row
            assert (row["state"] == "succeeded") <= (row["transaction_id"] in paid), row

    @staticmethod
    def _named(table: str, row: tuple[object, ...]) -> dict[str, Any]:
        from arbstr.store._rows import COLUMNS

        return dict(zip(COLUMNS[table].split(", "), row, strict=True))


@define
class World:
    """One life."""

    rig: Rig
    system: ActorSystem
    ledger: MemoryLedger
    payments: Any = None
    approvals: Any = None
    _accounts: dict[str, TrioActorRef[Any]] = field(factory=dict)

    def account(self, agent_id: str) -> TrioActorRef[Any]:
        ref = self._accounts.get(agent_id)
        if ref is None or not ref.is_alive():
            ref = self._accounts[agent_id] = self.system.start(AgentAccountActor, agent_id, self.ledger, 100.0)
        return ref

    @property
    def own(self) -> TrioActorRef[Any]:
        return self.account(self.rig.agent_id)

    async def pay(self, amount_msat: int, key: str | None = None, **more: Any) -> PaymentRow:
        message = SendPayment(self.rig.agent_id, amount_msat, "to", key=key, **more)
        row: PaymentRow = await self.payments.request(message, timeout_s=1_000.0)
        return row

    async def policy(self, **limits: Any) -> None:
        await self.own.request(SetPolicy(**limits))
