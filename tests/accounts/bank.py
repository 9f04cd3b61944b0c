"""Accounts over either ledger, with everything real but the provider: ``open_bank("disk" | "memory", tmp_path)``."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import trio
from attrs import define

from actors import ActorSystem
from arbstr.accounts import Accounts, AccountView, Deposit, Describe, Reserve, SetPolicy, Settle
from arbstr.errors import ArbstrError
from arbstr.store import CheckReport, MemoryLedger, NewAgent, ReceiptRow, Store

Kind = Literal["disk", "memory"]


@define
class Bank:
    ledger: Any
    system: ActorSystem
    accounts: Accounts

    async def agent(self, deposit: int = 0, **policy: Any) -> NewAgent:
        """An agent with money, and a policy if one is given."""
        agent = await self.accounts.add("agent")
        if deposit:
            await self.accounts.ask(agent.agent_id, Deposit(f"d-{agent.agent_id}", deposit))
        if policy:
            await self.accounts.ask(agent.agent_id, SetPolicy(**policy))
        return agent

    async def view(self, agent_id: str) -> AccountView:
        view: AccountView = await self.accounts.ask(agent_id, Describe())
        return view

    async def reserve(self, agent_id: str, key: str, amount: int, **more: Any) -> Any:
        return await self.accounts.ask(agent_id, Reserve(key, amount, more.pop("model", "m"), "p", **more))

    async def settle(self, agent_id: str, key: str, charge: int) -> Any:
        return await self.accounts.ask(agent_id, Settle(key, charge, make_receipt(key)))

    async def refusal(self, agent_id: str, message: Any) -> tuple[int, str]:
        """What ``message`` is refused with."""
        try:
            await self.accounts.ask(agent_id, message)
        except ArbstrError as refusal:
            return refusal.status, refusal.reason
        raise AssertionError(f"{message!r} was not refused")


@asynccontextmanager
async def open_bank(
    kind: Kind, tmp_path: Path, delay_s: Callable[[], float] = lambda: 0.0, **options: Any
) -> AsyncIterator[Bank]:
    """When it is closed the books have been checked. ``options`` are those of ``Accounts``.

    ``delay_s``: how long the next batch in memory takes.
    """
    options.setdefault("hold_lease_s", 100.0)
    if kind == "memory":
        ledger = MemoryLedger()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.run, delay_s)
            async with ActorSystem.run() as system:
                yield Bank(ledger, system, Accounts(system, ledger, [], **options))
            nursery.cancel_scope.cancel()
        ledger.drain()
        assert_clean(ledger.check())
    else:
        with Store.open(tmp_path / "bank.db", durability="process") as store:
            tokens = store.tokens_now()
            async with ActorSystem.run() as system:
                store.attach(trio.lowlevel.current_trio_token())
                yield Bank(store, system, Accounts(system, store, tokens, **options))
            store.detach()
        assert_clean(Store.check(tmp_path / "bank.db"))


def assert_clean(report: CheckReport) -> None:
    assert report.problems == ()


def make_receipt(request_id: str) -> ReceiptRow:
    return ReceiptRow(
        request_id=request_id,
        agent_id=None,
        correlation_id=None,
        hold_id=None,
        started_ns=1,
        duration_us=2,
        model="m",
        provider="p",
        policy=None,
        stream=False,
        outcome="ok",
        http_status=200,
        error=None,
        prompt_tokens=1,
        completion_tokens=2,
        estimated=False,
        expected_msat=3,
        cost_msat=0,
        saved_median_msat=None,
        saved_dearest_msat=None,
    )
