"""What the pages ask of the vault behind them, what they make of its failures, and what outlives the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from arbstr.accounts import Accounts, Holder, Settle, resolve_orphans
from arbstr.edge import AccountsVault
from arbstr.edge._vault_interface import PayWish
from arbstr.errors import BillingRefused, LedgerUnavailable, RateLimited
from arbstr.secrets import Secret
from arbstr.store import (
    FindHold,
    HoldRow,
    HoldState,
    PaymentRow,
    PaymentState,
    ReadTimedOut,
    Store,
    StoreUnavailable,
    read_hold,
)
from arbstr.wallets import Answer, Behaviour, SimulatedWallet, WalletState
from tests.edge.vault_rig import ADM, ADMIN, INTERNAL, PAY, Caller, open_vault

AGENT = Holder("ag_1", "bot")


class Fake:
    """A vault that remembers what it was asked, and answers or fails as it is told."""

    admin_token = Secret(ADMIN)
    internal_token = Secret(INTERNAL)

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple[Any, ...]] = []
        self.entered = trio.Event()

    def holder_of(self, token: str) -> Holder | None:
        return AGENT if token == "vtk_1" else None

    def now_ns(self) -> int:
        return 0

    async def read(self, function: Any) -> Any:
        raise self.error or AssertionError

    async def pay(self, agent_id: str, wish: PayWish, key: str | None, wait_s: float | None) -> PaymentRow:
        self.asked.append((agent_id, key, wait_s))
        if self.error is not None:
            raise self.error
        return PaymentRow("tx_1", agent_id, "payment", 5, PaymentState.HELD, 0, 0, decision="ALLOW")

    async def register(self, *_: Any) -> Any:
        self.entered.set()
        await trio.sleep_forever()


def agent(rig: Any) -> Caller:
    return Caller(rig, "authorization: Bearer vtk_1")


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        ((), ("ag_1", None, None)),
        (("idempotency-key: k-1",), ("ag_1", "k-1", None)),
        (("prefer: wait=7",), ("ag_1", None, 7.0)),
        (("prefer: respond-async, wait=0",), ("ag_1", None, 0.0)),
        (("prefer: wait=99999",), ("ag_1", None, 300.0)),
        (("prefer: nothing",), ("ag_1", None, None)),
    ],
)
async def test_key_and_patience_of_the_caller_are_passed_on(start: Any, lines: Any, asked: Any) -> None:
    fake = Fake()
    reply = await agent(await start(vault=fake))("POST", "/agents/ag_1/pay", PAY, *lines)
    assert reply.body["status"] == "PENDING"
    assert fake.asked == [asked]


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "\xe9"])
async def test_key_that_is_none_is_refused_before_anything_is_asked(start: Any, key: str) -> None:
    fake = Fake()
    reply = await agent(await start(vault=fake))("POST", "/agents/ag_1/pay", PAY, f"idempotency-key: {key}")
    assert (reply.status, reply.body["code"], fake.asked) == (400, "FST_ERR_VALIDATION", [])
    assert reply.message.startswith("headers/idempotency-key ")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BillingRefused("used", status=409, reason="key_used"), 409, "conflict"),
        (LedgerUnavailable("down", retry_after_s=1), 503, "ledger_unavailable"),
    ],
)
async def test_refusal_of_the_vault_is_told_in_the_applications_shape(
    start: Any, error: Exception, status: int, code: str
) -> None:
    reply = await agent(await start(vault=Fake(error)))("POST", "/agents/ag_1/pay", PAY)
    assert (reply.status, reply.code) == (status, code)


async def test_bug_of_the_vault_tells_nothing_internal(start: Any) -> None:
    reply = await agent(await start(vault=Fake(KeyError("a secret"))))("POST", "/agents/ag_1/pay", PAY)
    assert reply.status == 500
    assert "a secret" not in str(reply.body)


@pytest.mark.parametrize(
    ("error", "status"), [(StoreUnavailable("/var/secret.db is gone"), 503), (ReadTimedOut(3.0), 504)]
)
async def test_books_that_cannot_be_read_are_told_without_their_path(start: Any, error: Exception, status: int) -> None:
    reply = await Caller(await start(vault=Fake(error)), ADM)("GET", "/agents")
    assert reply.status == status
    assert "secret" not in str(reply.body)


async def test_callers_are_limited_after_they_are_known(start: Any) -> None:
    def touch(caller: Any) -> Any:
        raise RateLimited(f"{caller.name} asks too often", retry_after_s=3)

    rig = await start(vault=Fake(), touch=touch)
    reply = await Caller(rig, ADM)("GET", "/agents")
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (429, "rate_limited", "3")
    assert (await Caller(rig, None)("GET", "/agents")).message == "anonymous asks too often"


async def test_command_under_way_is_answered_503_when_the_program_stops(start: Any, nursery: trio.Nursery) -> None:
    fake = Fake()
    rig = await start(vault=fake)
    replies: list[Any] = []

    async def register() -> None:
        replies.append(await Caller(rig, ADM)("POST", "/agents", {"name": "bot"}))

    async with trio.open_nursery() as asking:
        asking.start_soon(register)
        await fake.entered.wait()
        rig.gate.drain()
        rig.gate.expire()
    assert (replies[0].status, replies[0].code) == (503, "shutting_down")


# The real thing


async def test_payment_in_doubt_is_pending_and_keeps_its_money_aside(start: Any, tmp_path: Path) -> None:
    behaviour = Behaviour(
        outcome=WalletState.SUCCEEDED, answer=Answer.SAYS_UNKNOWN, doubtful_lookups=10_000, fee_msat=3
    )
    wallet = SimulatedWallet(lambda _: behaviour)
    async with open_vault(start, tmp_path) as serve:
        vault = await serve(wallet, rail="lightning")
        bot = await vault.agent(100_000, (50_000, 80_000))
        paid = (await bot.pay(10_000)).body
        assert (paid["status"], paid["mode"], paid["rail_used"]) == ("PENDING", "lightning", "lightning")
        assert (await bot.status(paid["transaction_id"])).body["status"] == "PENDING"
        assert await bot.balance() == 89_000  # with the fee that it may cost


async def test_fee_of_a_payment_is_its_fee(start: Any, tmp_path: Path) -> None:
    wallet = SimulatedWallet(lambda _: Behaviour(fee_msat=500))
    async with open_vault(start, tmp_path) as serve:
        vault = await serve(wallet, rail="lightning")
        bot = await vault.agent(100_000, (50_000, 80_000))
        paid = (await bot.pay(10_000)).body
        assert (paid["status"], paid["fee_msat"]) == ("SETTLED", 500)
        assert (await bot.status(paid["transaction_id"])).body["fee_msat"] == 500
        assert await bot.balance() == 89_500


async def test_reservation_of_another_process_outlives_ours(start: Any, tmp_path: Path) -> None:
    async with open_vault(start, tmp_path) as serve:
        vault = await serve()
        bot = await vault.agent(100_000)
        reservation = (await vault.reserve(bot, 10_000, "c")).body["reservation_id"]
    await trio.to_thread.run_sync(_restart, tmp_path, reservation)
    async with open_vault(start, tmp_path) as serve:
        vault = await serve()
        assert (await vault.reserve(bot, 10_000, "c")).body["reservation_id"] == reservation
        assert (await vault.settle(reservation, 4_000)).body["remaining_balance_msats"] == 96_000


def _restart(path: Path, reservation: str) -> None:
    with Store.open(path / "vault.db", durability="process") as store:
        assert resolve_orphans(store) == 0
        hold = store.ask_now(FindHold(key=reservation))
        assert hold is not None
        assert hold.state is HoldState.OPEN


async def test_lost_reservation_is_given_back_at_a_start_after_its_lease(start: Any, tmp_path: Path) -> None:
    async with open_vault(start, tmp_path) as serve:
        vault = await serve(lease_s=0.0)
        bot = await vault.agent(100_000)
        reservation = (await vault.reserve(bot, 10_000, "c")).body["reservation_id"]
    assert await trio.to_thread.run_sync(_resolve, tmp_path) == 1
    async with open_vault(start, tmp_path) as serve:
        vault = await serve()
        bot = vault.with_token(bot.id, bot.token)
        assert await bot.balance() == 100_000
        assert (await vault.internal("POST", "/internal/release", {"reservation_id": reservation})).status == 200


@pytest.mark.parametrize(("charge", "balance"), [(4_000, 96_000), (120_000, -20_000)])
async def test_what_was_used_is_charged_when_its_settlement_comes_after_the_lease(
    start: Any, tmp_path: Path, charge: int, balance: int
) -> None:
    """By no policy: the agent has had it, and the core that could not reach the vault has paid for it."""
    async with open_vault(start, tmp_path) as serve:
        vault = await serve(lease_s=0.0)
        bot = await vault.agent(100_000)
        reservation = (await vault.reserve(bot, 10_000, "c")).body["reservation_id"]
    await trio.to_thread.run_sync(_resolve, tmp_path)
    async with open_vault(start, tmp_path) as serve:
        vault = await serve()
        bot = vault.with_token(bot.id, bot.token)
        await vault.admin("POST", f"/operator/agents/{bot.id}/freeze")
        first = await vault.settle(reservation, charge)
        again = await vault.settle(reservation, charge)
        other = await vault.settle(reservation, charge + 1)
        assert await bot.balance() == balance
    assert (first.status, first.body) == (200, again.body)
    assert (first.body["actual_msats"], first.body["refunded_msats"]) == (charge, 0)
    assert (other.status, other.reason) == (409, "ended_otherwise")
    assert Store.check(tmp_path / "vault.db").problems == ()


async def test_what_was_used_is_charged_when_the_lease_runs_out_while_the_settlement_is_decided(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_vault(start, tmp_path) as serve:
        vault = await serve(lease_s=0.0)
        bot = await vault.agent(100_000)
        reservation = (await vault.reserve(bot, 10_000, "c")).body["reservation_id"]
        seen = await vault.store.read(lambda db: read_hold(db, key=reservation))
    await trio.to_thread.run_sync(_resolve, tmp_path)
    _look_first_at(monkeypatch, seen)
    async with open_vault(start, tmp_path) as serve:
        vault = await serve()
        bot = vault.with_token(bot.id, bot.token)
        assert (await vault.settle(reservation, 4_000)).status == 200
        assert await bot.balance() == 96_000


@pytest.mark.parametrize("releases", [False, True])
async def test_end_without_a_charge_is_the_end_when_the_lease_runs_out_while_it_is_decided(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, releases: bool
) -> None:
    async with open_vault(start, tmp_path) as serve:
        vault = await serve(lease_s=0.0)
        bot = await vault.agent(100_000)
        reservation = (await vault.reserve(bot, 10_000, "c")).body["reservation_id"]
        seen = await vault.store.read(lambda db: read_hold(db, key=reservation))
    await trio.to_thread.run_sync(_resolve, tmp_path)
    _look_first_at(monkeypatch, seen)
    async with open_vault(start, tmp_path) as serve:
        vault = await serve()
        bot = vault.with_token(bot.id, bot.token)
        ended = await (vault.release(reservation) if releases else vault.settle(reservation, 0))
        other = await vault.settle(reservation, 1)
        again = await (vault.release(reservation) if releases else vault.settle(reservation, 0))
        assert (ended.status, other.status, again.status) == (200, 409, 200)
        assert await bot.balance() == 100_000
    assert Store.check(tmp_path / "vault.db").problems == ()


async def test_release_is_a_conflict_when_the_reservation_was_settled_after_its_lease(
    start: Any, tmp_path: Path
) -> None:
    async with open_vault(start, tmp_path) as serve:
        vault = await serve(lease_s=0.0)
        bot = await vault.agent(100_000)
        reservation = (await vault.reserve(bot, 10_000, "c")).body["reservation_id"]
    await trio.to_thread.run_sync(_resolve, tmp_path)
    async with open_vault(start, tmp_path) as serve:
        vault = await serve()
        assert (await vault.settle(reservation, 4_000)).status == 200
        assert (await vault.release(reservation)).status == 409


async def test_late_charge_is_made_once_when_the_vault_dies_in_the_middle_of_it(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it had made for the charge has lost its lease before the core comes back."""
    async with open_vault(start, tmp_path) as serve:
        vault = await serve(lease_s=0.0)
        bot = await vault.agent(100_000)
        reservation = (await vault.reserve(bot, 10_000, "c")).body["reservation_id"]
    await trio.to_thread.run_sync(_resolve, tmp_path)
    with monkeypatch.context() as dying:
        dying.setattr(Accounts, "ask", _dead_at_a_settlement(Accounts.ask))
        async with open_vault(start, tmp_path) as serve:
            vault = await serve(lease_s=0.0)
            assert (await vault.settle(reservation, 4_000)).status == 503
    assert await trio.to_thread.run_sync(_resolve, tmp_path) == 1
    async with open_vault(start, tmp_path) as serve:
        vault = await serve()
        bot = vault.with_token(bot.id, bot.token)
        for _ in range(2):
            assert (await vault.settle(reservation, 4_000)).body["actual_msats"] == 4_000
        assert (await vault.settle(reservation, 4_001)).reason == "ended_otherwise"
        assert await bot.balance() == 96_000
    assert Store.check(tmp_path / "vault.db").problems == ()


async def test_settlement_is_a_conflict_when_its_core_has_released_the_reservation(start: Any, tmp_path: Path) -> None:
    async with open_vault(start, tmp_path) as serve:
        vault = await serve()
        bot = await vault.agent(100_000)
        reservation = (await vault.reserve(bot, 10_000, "c")).body["reservation_id"]
        await vault.release(reservation)
        assert (await vault.settle(reservation, 4_000)).reason == "already_released"
        assert await bot.balance() == 100_000


async def test_reservation_says_whose_it_is_and_how_long_it_is_kept(start: Any, tmp_path: Path) -> None:
    async with open_vault(start, tmp_path) as serve:
        vault = await serve(lease_s=77.0)
        bot = await vault.agent(100_000)
        made = (await vault.reserve(bot, 10_000, "c")).body
    assert (made["agent_id"], made["lease_s"]) == (bot.id, 77.0)


def _look_first_at(monkeypatch: pytest.MonkeyPatch, seen: HoldRow | None) -> None:
    """Have the vault find this once, and after that what is there."""
    looked, found = [seen], AccountsVault._reservation

    async def look(self: AccountsVault, reservation_id: str) -> Any:
        return looked.pop() if looked else await found(self, reservation_id)

    monkeypatch.setattr(AccountsVault, "_reservation", look)


def _dead_at_a_settlement(ask: Any) -> Any:
    async def die(self: Accounts, agent_id: str, message: Any, *args: Any, **options: Any) -> Any:
        if isinstance(message, Settle):
            raise LedgerUnavailable("it dies before this is decided", retry_after_s=1)
        return await ask(self, agent_id, message, *args, **options)

    return die


def _resolve(path: Path) -> int:
    with Store.open(path / "vault.db", durability="process") as store:
        return resolve_orphans(store)


async def test_what_no_name_can_be_is_nobodys_when_a_core_sends_it(start: Any, tmp_path: Path) -> None:
    async with open_vault(start, tmp_path) as serve:
        vault = await serve()
        body = {"agent_token": "\ud800", "amount_msats": 5, "correlation_id": "c", "model": "m"}
        assert (await vault.internal("POST", "/internal/reserve", body)).status == 401
        assert (await vault.settle("tx_\ud800", 5)).status == 404
        assert (await vault.release("tx_\ud800")).status == 404
