"""A vault on a real file behind a real server, and a caller who speaks its API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field, frozen

from actors import ActorSystem
from arbstr.accounts import Accounts, Approvals, Payments
from arbstr.edge._vault_services import AccountsVault
from arbstr.secrets import Secret
from arbstr.store import Store
from arbstr.wallets import Rails, SimulatedWallet, Wallet

ADMIN = "admin-token-of-more-than-32-characters"
INTERNAL = "internal-token-of-more-than-32-characters"
ADM = f"authorization: Bearer {ADMIN}"
INT = f"x-internal-token: {INTERNAL}"
JSON = "content-type: application/json"
PAY = {
    "amount_msat": 10_000,
    "asset": "BTC_simulated",
    "purpose": "test",
    "destination_type": "internal",
    "destination": "somewhere",
}
USAGE = {"tokens_in": 3, "tokens_out": 5, "provider": "p", "latency_ms": 42}


@frozen
class Reply:
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        return self.body["error"]["code"]

    @property
    def message(self) -> str:
        """Of either family."""
        return self.body["message"] if "message" in self.body else self.body["error"]["message"]

    @property
    def reason(self) -> str | None:
        return self.body["error"].get("reason")


@define
class Caller:
    """Whoever holds some header."""

    rig: Any
    header: str | None

    async def __call__(self, method: str, path: str, body: Any = None, *lines: str) -> Reply:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = [self.header] if self.header else []
        if body is not None and not any(line.lower().startswith("content-type") for line in lines):
            head.append(JSON)
        answer = await self.rig.request(method, path, *head, *lines, body=data)
        return Reply(answer.status, json.loads(answer.body) if answer.body else None, answer.headers)


@define
class Agent:
    id: str
    token: str
    call: Caller

    async def balance(self) -> int:
        return (await self.call("GET", f"/agents/{self.id}/balance")).body["balance_msat"]

    async def pay(self, amount: int, *lines: str, **changes: Any) -> Reply:
        body = {**PAY, "amount_msat": amount, **changes}
        return await self.call("POST", f"/agents/{self.id}/pay", body, *lines)

    async def status(self, transaction_id: str) -> Reply:
        return await self.call("GET", f"/agents/{self.id}/payments/{transaction_id}")

    async def history(self, query: str = "") -> list[dict[str, Any]]:
        return (await self.call("GET", f"/agents/{self.id}/history{query}")).body["entries"]


@define
class Vault:
    """The API as the operator, as agents and as a routing core."""

    rig: Any
    store: Store
    admin: Caller = field(init=False)
    internal: Caller = field(init=False)
    anyone: Caller = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.admin = Caller(self.rig, ADM)
        self.internal = Caller(self.rig, INT)
        self.anyone = Caller(self.rig, None)

    def with_token(self, agent_id: str, token: str) -> Agent:
        return Agent(agent_id, token, Caller(self.rig, f"authorization: Bearer {token}"))

    async def agent(self, deposit: int = 0, policy: tuple[int, ...] | None = None, name: str = "bot") -> Agent:
        """Registered, with money, and a policy of max, day and approval timeout."""
        made = (await self.admin("POST", "/agents", {"name": name})).body
        agent = self.with_token(made["agent_id"], made["token"])
        if deposit:
            await self.admin("POST", f"/agents/{agent.id}/deposit", {"amount_msat": deposit})
        if policy is not None:
            assert (await self.policy(agent, *policy)).status == 200
        return agent

    async def policy(self, agent: Agent, most: int, day: int, approval_ms: int | None = None, **more: Any) -> Reply:
        body: dict[str, Any] = {"max_transaction_msat": most, "daily_limit_msat": day, **more}
        if approval_ms is not None:
            body["approval_timeout_ms"] = approval_ms
        return await self.admin("PATCH", f"/operator/agents/{agent.id}/policy", body)

    async def reserve(self, agent: Agent, amount: int, correlation_id: str = "", model: str = "m") -> Reply:
        body = {"agent_token": agent.token, "amount_msats": amount, "correlation_id": correlation_id, "model": model}
        return await self.internal("POST", "/internal/reserve", body)

    async def settle(self, reservation_id: str, actual: int, **usage: Any) -> Reply:
        body = {"reservation_id": reservation_id, "actual_msats": actual, **USAGE, **usage}
        return await self.internal("POST", "/internal/settle", body)

    async def release(self, reservation_id: str) -> Reply:
        return await self.internal("POST", "/internal/release", {"reservation_id": reservation_id, "reason": "x"})


StartVault = Callable[..., Awaitable[Vault]]


@asynccontextmanager
async def open_vault(start: Any, path: Path) -> AsyncIterator[StartVault]:
    """Gives a function that serves a vault on the file; several share the file, one after the other does not."""
    async with ActorSystem.run() as system:
        with Store.open(path / "vault.db", durability="process") as store:
            tokens = store.tokens_now()
            store.attach(trio.lowlevel.current_trio_token())
            accounts = Accounts(system, store, tokens, hold_lease_s=120)

            async def serve(
                wallet: Wallet | None = None,
                rail: str = "simulated",
                admin: str | None = ADMIN,
                internal: str | None = INTERNAL,
                lease_s: float = 3_600.0,
                **more: Any,
            ) -> Vault:
                rails = Rails({rail: wallet or SimulatedWallet()})
                payments = system.start(Payments, store, accounts.ref, rails)
                approvals = system.start(Approvals, store, accounts.ref, payments)
                services = AccountsVault(
                    accounts,
                    store,
                    payments,
                    approvals,
                    admin_token=None if admin is None else Secret(admin),
                    internal_token=None if internal is None else Secret(internal),
                    reservation_lease_s=lease_s,
                )
                return Vault(await start(vault=services, **more), store)

            try:
                yield serve
            finally:
                await system.stop_all(grace_s=5)
                store.detach()
