"""Holds at a vault in another process: whatever the network, the vault or our own process does, money is right.

Time is virtual. The ledger is in memory; a new process is a new actor system over what was committed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import ActorSystem, TrioActor, TrioActorRef
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
from arbstr.errors import (
    AuthenticationFailed,
    BillingRefused,
    LedgerUnavailable,
    NotAnswered,
    SettlementsWaiting,
)
from arbstr.store import (
    DropRemoteHold,
    KeepRemoteHold,
    MemoryLedger,
    ReceiptRow,
    RemoteHoldRow,
    RemoteHolds,
    RemoteHoldState,
    StoreError,
    StoreUnavailable,
)
from tests.accounts.vault_script import AGENT, INTERNAL, SECRET, TOKEN, VaultScript
from tests.store.maker import receipt


@define(eq=False)
class Rig:
    vault: VaultScript
    ledger: MemoryLedger
    client: VaultClient
    bank: RemoteBank
    settlements: TrioActorRef[Settlements]
    system: ActorSystem

    def holder(self, token: str = TOKEN) -> Holder:
        holder = self.bank.holder_of(token)
        assert holder is not None
        return holder

    async def reserve(self, key: str = "r1", amount: int = 10_000, token: str = TOKEN, **more: Any) -> Held:
        held: Held = await self.bank.request(self.holder(token), Reserve(key, amount, "m", "p", "mine", **more))
        return held

    async def settle(self, key: str = "r1", charge: int = 4_000) -> Ended:
        ended: Ended = await self.bank.request(self.holder(), Settle(key, charge, of(key, charge)))
        return ended

    async def release(self, key: str = "r1") -> Ended:
        ended: Ended = await self.bank.request(self.holder(), Release(key, "provider failed", of(key)))
        return ended

    def kept(self, state: RemoteHoldState) -> list[tuple[str, int | None]]:
        """Reservation and charge of what is on our disk."""
        return [(hold.reservation_id, hold.charge_msat) for hold in self.ledger.ask_now(RemoteHolds(state))]

    def receipts(self) -> list[tuple[str, str | None, str | None, int]]:
        """Request, agent, hold and cost."""
        return [(row[0], row[1], row[3], row[17]) for row in self.ledger.tables()["receipts"]]  # type: ignore[misc]


def of(key: str, cost_msat: int = 0) -> ReceiptRow:
    return receipt(key, cost_msat)


@asynccontextmanager
async def rig(
    vault: VaultScript | None = None, ledger: MemoryLedger | None = None, *, threshold: int = 100
) -> AsyncIterator[Rig]:
    vault, ledger = vault or VaultScript(), ledger or MemoryLedger()
    resolve_remote_orphans(ledger)
    async with ActorSystem.run() as system:
        client = VaultClient("http://vault", SECRET, vault)
        backlog = Backlog()
        settlements = system.start(Settlements, ledger, client, backlog)
        bank = RemoteBank(ledger, client, settlements, backlog, pending_threshold=threshold)
        await wait_all_tasks_blocked()
        yield Rig(vault, ledger, client, bank, settlements, system)


# The usual course


async def test_hold_is_on_our_disk_when_the_vault_has_granted_it(autojump_clock: MockClock) -> None:
    async with rig() as it:
        held = await it.reserve()
        assert held.amount_msat == 10_000
        assert it.kept(RemoteHoldState.OPEN) == [("tx_1", None)]
        assert it.vault.sent("reserve") == [
            {"agent_token": TOKEN, "amount_msats": 10_000, "correlation_id": "r1", "model": "m"}
        ]


async def test_charge_and_receipt_are_on_our_disk_before_the_vault_is_told(autojump_clock: MockClock) -> None:
    async with rig() as it:
        await it.reserve()
        it.vault.down = True
        ended = await it.settle()
        assert (ended.charged_msat, ended.recorded) == (4_000, True)
        assert it.kept(RemoteHoldState.ENDING) == [("tx_1", 4_000)]
        assert it.receipts() == [("r1", AGENT, "vault:tx_1", 4_000)]
        assert it.ledger.check().problems == ()


async def test_nothing_is_owed_when_the_vault_has_heard_of_the_end(autojump_clock: MockClock) -> None:
    async with rig() as it:
        await it.reserve()
        await it.settle()
        await wait_all_tasks_blocked()
        assert (it.vault.held, it.vault.charged) == (0, 4_000)
        assert it.ledger.tables()["remote_holds"] == []
        assert it.bank.backlog.waiting == 0
        (body,) = it.vault.sent("settle")
        assert body["metadata"] == {"tokens_in": 1, "tokens_out": 2, "provider": "p", "latency_ms": 0}
        assert {name: body[name] for name in body["metadata"]} == body["metadata"]


async def test_release_gives_back_what_was_held(autojump_clock: MockClock) -> None:
    async with rig() as it:
        await it.reserve()
        await it.release()
        await wait_all_tasks_blocked()
        assert (it.vault.held, it.vault.charged, it.vault.available) == (0, 0, 1_000_000)
        assert it.vault.sent("release") == [{"reservation_id": "tx_1", "reason": "provider failed"}]
        assert it.receipts() == [("r1", AGENT, "vault:tx_1", 0)]


async def test_what_cost_nothing_is_released_and_a_hold_of_nothing_is_of_one_msat(autojump_clock: MockClock) -> None:
    """The predecessor's vault takes neither a 0; and without a reservation nobody would know whose the token is."""
    async with rig(VaultScript(ours=False)) as it:
        await it.reserve(amount=0)
        await it.settle(charge=0)
        await wait_all_tasks_blocked()
        assert [body["amount_msats"] for body in it.vault.sent("reserve")] == [1]
        assert (it.vault.sent("settle"), len(it.vault.sent("release")), it.vault.held) == ([], 1, 0)


async def test_hold_grows_when_it_is_extended(autojump_clock: MockClock) -> None:
    async with rig() as it:
        await it.reserve()
        held = await it.bank.request(it.holder(), Extend("r1", 25_000, "q"))
        assert (held.amount_msat, it.vault.held) == (25_000, 25_000)
        await it.settle(charge=20_000)
        await wait_all_tasks_blocked()
        assert (it.vault.held, it.vault.charged) == (0, 20_000)


# The predecessor's vault


async def test_larger_hold_takes_the_place_of_the_former_when_the_vault_cannot_extend(
    autojump_clock: MockClock,
) -> None:
    async with rig(VaultScript(ours=False)) as it:
        await it.reserve()
        held = await it.bank.request(it.holder(), Extend("r1", 25_000, "q"))
        await wait_all_tasks_blocked()
        assert (held.amount_msat, it.vault.held) == (25_000, 25_000)
        assert it.kept(RemoteHoldState.OPEN) == [("tx_2", None)]
        await it.settle(charge=20_000)
        await wait_all_tasks_blocked()
        assert (it.vault.held, it.vault.charged) == (0, 20_000)


async def test_former_hold_stays_when_there_is_not_enough_for_a_larger_one_beside_it(autojump_clock: MockClock) -> None:
    async with rig(VaultScript(ours=False, available=30_000)) as it:
        await it.reserve()
        with pytest.raises(BillingRefused) as refused:
            await it.bank.request(it.holder(), Extend("r1", 25_000, "q"))
        assert (refused.value.status, it.vault.held) == (402, 10_000)
        await it.settle()
        await wait_all_tasks_blocked()
        assert (it.vault.held, it.vault.charged) == (0, 4_000)


async def test_reservation_is_not_repeated_when_the_vault_would_make_another_one(autojump_clock: MockClock) -> None:
    async with rig(VaultScript(ours=False)) as it:
        it.vault.fail("reserve", "forget")
        with pytest.raises(NotAnswered):
            await it.reserve()
        assert not (await it.release()).recorded
        await trio.sleep(3_700)
        assert len(it.vault.sent("reserve")) == 1
        assert it.bank.backlog.searched == 0


# Refusals


@pytest.mark.parametrize(
    ("answer", "kind", "status", "reason"),
    [
        ((402, {"error": {"code": "insufficient_balance"}}), BillingRefused, 402, "insufficient_balance"),
        ((402, {"error": {"code": "x", "reason": "outstanding_debt"}}), BillingRefused, 402, "outstanding_debt"),
        ((403, {"error": {"code": "policy_denied", "reason": "frozen"}}), BillingRefused, 403, "frozen"),
        ((429, {"error": {"code": "too_many_holds"}}), BillingRefused, 429, "too_many_holds"),
        ((401, {"error": {"code": "unauthorized", "message": "Invalid agent token"}}), AuthenticationFailed, 401, None),
        ((401, {"error": {"message": "Invalid internal token"}}), LedgerUnavailable, 502, "ledger_unavailable"),
        ((404, {"message": "secret.internal"}), LedgerUnavailable, 502, "ledger_unavailable"),
        ((302, {}), LedgerUnavailable, 502, "ledger_unavailable"),
        ((200, {"granted": "secret.internal"}), LedgerUnavailable, 502, "ledger_unavailable"),
        ((503, {"error": {"code": "overloaded"}}), LedgerUnavailable, 503, "ledger_unavailable"),
        ("refuse", LedgerUnavailable, 503, "ledger_unavailable"),
    ],
)
async def test_refusal_means_what_the_vault_says_and_tells_nothing_of_it(
    autojump_clock: MockClock, answer: Any, kind: type, status: int, reason: str | None
) -> None:
    async with rig() as it:
        it.vault.fail("reserve", answer)
        with pytest.raises(kind) as refused:
            await it.reserve()
        assert not isinstance(refused.value, NotAnswered)
        assert refused.value.status == status
        assert reason in (None, refused.value.reason)
        assert "secret" not in str(refused.value)
        assert "vault:" not in str(refused.value)
        assert it.bank.open_holds() == (0, 0, 0.0)
        assert len(it.vault.sent("reserve")) == 1


async def test_shortage_says_how_much_is_there(autojump_clock: MockClock) -> None:
    async with rig(VaultScript(available=7_000)) as it:
        with pytest.raises(BillingRefused, match=r"up to 10 sats and 7 sats are available"):
            await it.reserve()


@pytest.mark.parametrize("answer", [(500, {}), (503, {"error": {"code": "ledger_unavailable"}}), "hang"])
async def test_vault_that_does_not_say_is_asked_again_until_five_seconds_have_passed(
    answer: Any, autojump_clock: MockClock
) -> None:
    async with rig() as it:
        it.vault.fail("reserve", *[answer] * 1_000)
        began = trio.current_time()
        with pytest.raises(NotAnswered) as refused:
            await it.reserve()
        assert (refused.value.status, trio.current_time() - began) == (503, 5.0)
        it.vault.faults.clear()
        await it.release()
        await trio.sleep(60)
        assert it.vault.held == 0


async def test_request_that_comes_for_an_approval_is_refused_and_nothing_is_held(autojump_clock: MockClock) -> None:
    """It would be held for under one key and ended under another."""
    async with rig() as it:
        claimed = Reserve("r1", 10_000, "m", "p", approval_id="apr_1")
        with pytest.raises(BillingRefused) as refused:
            await it.bank.request(it.holder(), claimed)
        assert (refused.value.status, it.vault.sent("reserve"), it.bank.open_holds()[0]) == (404, [], 0)


async def test_request_is_refused_unasked_when_it_may_cost_more_than_a_vault_can_read(
    autojump_clock: MockClock,
) -> None:
    async with rig() as it:
        with pytest.raises(BillingRefused) as refused:
            await it.reserve(amount=1 << 53)
        assert (refused.value.status, refused.value.reason) == (402, "insufficient_balance")
        assert (it.vault.sent("reserve"), it.bank.open_holds()[0]) == ([], 0)
        await it.reserve(amount=1)


async def test_internal_token_is_not_shown_when_the_client_is(autojump_clock: MockClock) -> None:
    async with rig() as it:
        assert INTERNAL not in repr(it.client)


async def test_settlement_without_a_hold_is_refused_and_not_taken_for_done(autojump_clock: MockClock) -> None:
    async with rig() as it:
        with pytest.raises(BillingRefused) as refused:
            await it.settle("nobody's")
        assert refused.value.status == 404


# Lost answers


@pytest.mark.parametrize("fault", ["forget", "lose"])
async def test_hold_is_found_by_its_key_when_the_answer_is_lost(autojump_clock: MockClock, fault: str) -> None:
    async with rig() as it:
        it.vault.fail("reserve", fault)
        await it.reserve()
        assert (len(it.vault.holds), it.vault.held) == (1, 10_000)
        await it.settle()
        await wait_all_tasks_blocked()
        assert (it.vault.held, it.vault.charged) == (0, 4_000)


async def test_hold_is_given_back_when_its_grant_was_never_heard_of(autojump_clock: MockClock) -> None:
    async with rig() as it:
        it.vault.fail("reserve", "hang")
        with trio.move_on_after(1):
            await it.reserve()  # its client leaves
        assert it.vault.held == 10_000
        it.vault.down = True
        assert not (await it.release()).recorded  # whoever asked files its receipt
        await trio.sleep(10)
        assert it.bank.backlog.searched == 1
        it.vault.down = False
        await trio.sleep(60)
        assert (it.vault.held, it.bank.backlog.searched, it.kept(RemoteHoldState.ENDING)) == (0, 0, [])


async def test_end_is_told_again_when_its_answer_was_lost_and_counts_once(autojump_clock: MockClock) -> None:
    async with rig() as it:
        it.vault.fail("settle", "forget", "hang")
        await it.reserve()
        await it.settle()
        await trio.sleep(10)
        assert (len(it.vault.sent("settle")), it.vault.charged, it.vault.held) == (3, 4_000, 0)
        assert it.kept(RemoteHoldState.ENDING) == []


# A vault that is away


async def test_ends_wait_for_the_vault_however_long_it_is_away(autojump_clock: MockClock) -> None:
    async with rig() as it:
        for number in range(40):
            await it.reserve(f"r{number}")
        it.vault.down = True
        for number in range(40):
            await it.settle(f"r{number}", 100 + number)
        await trio.sleep(48 * 3_600)
        assert it.bank.backlog.waiting == 40
        in_a_minute = [at for at in it.vault.times("settle") if at > trio.current_time() - 60]
        assert len(in_a_minute) <= 3
        it.vault.down = False
        await trio.sleep(31)
        assert (it.vault.held, it.vault.charged) == (0, sum(range(100, 140)))
        assert (it.bank.backlog.waiting, it.kept(RemoteHoldState.ENDING)) == (0, [])


async def test_end_is_tried_again_after_two_tenths_of_a_second_and_then_four(autojump_clock: MockClock) -> None:
    async with rig() as it:
        await it.reserve()
        it.vault.fail("settle", *[(500, {})] * 3)
        await it.settle()
        await trio.sleep(5)
        first, *later = it.vault.times("settle")
        assert [round(at - first, 3) for at in later] == [0.2, 0.6, 1.4]


async def test_one_end_that_is_refused_keeps_no_other_waiting(autojump_clock: MockClock) -> None:
    async with rig() as it:
        await it.reserve("bad")
        await it.reserve("good")
        it.vault.fail("settle", (400, {"statusCode": 400}))
        await it.settle("bad")
        await wait_all_tasks_blocked()
        await it.settle("good", 7)
        await wait_all_tasks_blocked()
        assert it.vault.charged == 7
        await trio.sleep(10)
        assert it.vault.charged == 4_007


@pytest.mark.parametrize("status", [404, 409])
async def test_end_is_kept_for_somebody_to_look_into_when_the_vault_will_never_take_it(
    autojump_clock: MockClock, status: int
) -> None:
    ledger = MemoryLedger()
    async with rig(ledger=ledger) as it:
        await it.reserve()
        it.vault.fail("settle", (status, {"error": {"code": "not_found" if status == 404 else "conflict"}}))
        await it.settle()
        await trio.sleep(3_600)
        assert it.kept(RemoteHoldState.DEAD) == [("tx_1", 4_000)]
        assert (it.bank.backlog.waiting, it.bank.backlog.dead, len(it.vault.sent("settle"))) == (0, 1, 1)
    async with rig(ledger=ledger) as again:
        assert again.bank.backlog.dead == 1
        assert again.vault.sent("settle") == []


@pytest.mark.parametrize("answer", [(404, {"message": "Route POST:/internal/settle not found"}), (401, {"error": {}})])
async def test_end_waits_when_the_vault_is_not_set_up_to_take_it(autojump_clock: MockClock, answer: Any) -> None:
    async with rig() as it:
        await it.reserve()
        it.vault.fail("settle", *[answer] * 5)
        await it.settle()
        await trio.sleep(60)
        assert (it.vault.charged, it.bank.backlog.dead) == (4_000, 0)


async def test_nothing_more_is_bought_while_too_many_ends_wait(autojump_clock: MockClock) -> None:
    async with rig(threshold=3) as it:
        for number in range(4):
            await it.reserve(f"r{number}")
        it.vault.down = True
        for number in range(3):
            await it.settle(f"r{number}")
        await wait_all_tasks_blocked()
        it.vault.fail("reserve", *[(402, {})] * 9)
        with pytest.raises(SettlementsWaiting) as refused:
            await it.reserve("one more")
        assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (503, "vault_backpressure", 5)
        assert len(it.vault.sent("reserve")) == 4
        await it.settle("r3")  # what is open may end
        it.vault.down = False
        it.vault.faults.clear()
        await trio.sleep(31)
        await it.reserve("one more")


# A long request


class Owner(TrioActor):
    pass


async def test_vault_hears_that_a_long_request_lives_and_our_disk_what_it_has_consumed(
    autojump_clock: MockClock,
) -> None:
    async with rig() as it:
        it.vault.lease_s = 30.0
        await it.reserve()
        for evidence in range(0, 600, 5):
            it.bank.tell(it.holder(), Renew("r1", evidence))
            await trio.sleep(5)
        assert 55 <= it.vault.holds["tx_1"].extended <= 65
        (hold,) = it.ledger.ask_now(RemoteHolds(RemoteHoldState.OPEN))
        assert hold.evidence_msat == 595


async def test_hold_of_a_request_that_is_gone_without_a_word_is_ended_by_what_it_consumed(
    autojump_clock: MockClock,
) -> None:
    async with rig() as it:
        owner = it.system.start(Owner)
        await it.reserve(owner=owner)
        it.bank.tell(it.holder(), Renew("r1", 1_234))
        it.bank.sweep()
        owner.stop(block=False)
        await owner.wait_stopped()
        it.bank.sweep()
        assert it.vault.held == 10_000
        it.bank.sweep()
        await wait_all_tasks_blocked()
        assert (it.vault.held, it.vault.charged) == (0, 1_234)
        assert it.receipts() == [("r1", AGENT, "vault:tx_1", 1_234)]


# Our own disk and process


async def test_hold_is_given_back_when_it_cannot_be_written_down(autojump_clock: MockClock) -> None:
    async with rig() as it:
        it.ledger.fail_next(2)
        with pytest.raises(LedgerUnavailable) as refused:
            await it.reserve()
        assert not isinstance(refused.value, NotAnswered)
        await trio.sleep(5)
        assert (it.vault.held, it.bank.open_holds()[0]) == (0, 0)


async def test_end_is_written_as_soon_as_the_disk_takes_it(autojump_clock: MockClock) -> None:
    async with rig() as it:
        await it.reserve()
        it.ledger.fail_next(3, StoreUnavailable("full"))
        with pytest.raises(NotAnswered):
            await it.settle()
        it.bank.tell(it.holder(), Settle("r1", 4_000, of("r1", 4_000)))
        await trio.sleep(10)
        assert it.vault.charged == 4_000
        assert it.receipts() == [("r1", AGENT, "vault:tx_1", 4_000)]


async def test_no_row_is_left_when_the_disk_was_full_as_the_vault_had_heard(autojump_clock: MockClock) -> None:
    async with rig() as it:
        await it.reserve()
        await it.settle()
        it.ledger.fail_next()
        await trio.sleep(5)
        assert (it.vault.charged, it.bank.backlog.waiting) == (4_000, 0)
        assert it.ledger.tables()["remote_holds"] == []


async def test_end_that_is_told_twice_is_charged_once_and_has_one_receipt(autojump_clock: MockClock) -> None:
    async with rig() as it:
        await it.reserve()
        it.ledger.at_once = False
        with trio.move_on_after(1):
            await it.settle()  # written, and nobody waits for it any more
        it.bank.tell(it.holder(), Settle("r1", 4_000, of("r1", 4_000)))
        await wait_all_tasks_blocked()
        it.ledger.drain()
        await wait_all_tasks_blocked()
        it.ledger.drain()
        assert (it.vault.charged, it.vault.held) == (4_000, 0)
        assert it.receipts() == [("r1", AGENT, "vault:tx_1", 4_000)]
        assert it.kept(RemoteHoldState.ENDING) == []


@pytest.mark.parametrize(("evidence", "charged"), [(0, 0), (777, 777)])
async def test_next_process_ends_what_the_last_one_left_by_what_was_consumed(
    autojump_clock: MockClock, evidence: int, charged: int
) -> None:
    vault, ledger = VaultScript(), MemoryLedger()
    async with rig(vault, ledger) as it:
        await it.reserve()
        it.bank.tell(it.holder(), Renew("r1", evidence))
        await wait_all_tasks_blocked()
        left = ledger.crash()
    assert vault.held == 10_000
    async with rig(vault, left) as it:
        await wait_all_tasks_blocked()
        assert (vault.held, vault.charged, it.kept(RemoteHoldState.OPEN)) == (0, charged, [])
        assert it.receipts() == [("r1", AGENT, "vault:tx_1", charged)]
        assert left.check().problems == ()


async def test_next_process_tells_the_vault_what_the_last_one_could_not(autojump_clock: MockClock) -> None:
    vault, ledger = VaultScript(), MemoryLedger()
    async with rig(vault, ledger) as it:
        await it.reserve()
        vault.down = True
        await it.settle()
        left = ledger.crash()
    vault.down = False
    async with rig(vault, left) as it:
        await wait_all_tasks_blocked()
        assert (vault.held, vault.charged, it.bank.backlog.waiting) == (0, 4_000, 0)


async def test_only_the_newer_hold_is_charged_when_a_crash_left_two_of_one_request(autojump_clock: MockClock) -> None:
    vault, ledger = VaultScript(ours=False), MemoryLedger()
    async with rig(vault, ledger) as it:
        await it.reserve()
        it.bank.tell(it.holder(), Renew("r1", 500))
        await wait_all_tasks_blocked()
        ledger.at_once = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.bank.request, it.holder(), Extend("r1", 25_000, "q"))
            await wait_all_tasks_blocked()
            left = ledger.crash(committed=1)  # the larger one is written, the end of the former is not
            nursery.cancel_scope.cancel()
    async with rig(vault, left) as it:
        await wait_all_tasks_blocked()
        assert (vault.held, vault.charged) == (0, 500)
        assert [(key, cost) for key, _, _, cost in it.receipts()] == [("r1", 500)]


async def test_token_is_never_written(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as it:
        await it.reserve()
        it.vault.fail("settle", "forget", (500, {}), (401, {"error": {"message": "Invalid internal token"}}))
        await it.settle()
        await trio.sleep(10)
        with pytest.raises(AuthenticationFailed):
            await it.reserve("r2", token="vtk_wrong_token")
        written = repr(it.ledger.tables()) + caplog.text + repr(it.holder())
    assert TOKEN not in written
    assert "vtk_wrong_token" not in written
    assert INTERNAL not in written
    assert "password" not in written


# Tokens


async def test_token_is_known_once_the_vault_has_said_whose_it_is(autojump_clock: MockClock) -> None:
    async with rig() as it:
        before = it.holder()
        assert (before.proven, before.agent_id.startswith("tok_")) == (False, True)
        await it.reserve()
        assert (it.holder().proven, it.holder().agent_id) == (True, AGENT)
        assert it.holder("vtk_other").agent_id != AGENT
        await trio.sleep(3_601)
        assert not it.holder().proven


async def test_token_is_forgotten_when_the_vault_knows_it_no_more(autojump_clock: MockClock) -> None:
    async with rig() as it:
        await it.reserve()
        it.vault.fail("reserve", (401, {"error": {"code": "unauthorized", "message": "Invalid agent token"}}))
        with pytest.raises(AuthenticationFailed):
            await it.reserve("r2")
        assert not it.holder().proven


async def test_agent_goes_by_a_pseudonym_when_the_vault_does_not_name_it(autojump_clock: MockClock) -> None:
    async with rig(VaultScript(ours=False)) as it:
        name = it.holder().agent_id
        await it.reserve()
        assert (it.holder().proven, it.holder().agent_id) == (True, name)
        await it.settle()
        assert it.receipts() == [("r1", name, "vault:tx_1", 4_000)]


@pytest.mark.parametrize("token", ["", "x" * 201, "vtk_\n"])
async def test_token_that_can_be_none_is_nobodys(autojump_clock: MockClock, token: str) -> None:
    async with rig() as it:
        assert it.bank.holder_of(token) is None


def test_ledger_takes_no_second_end_of_a_hold() -> None:
    ledger = MemoryLedger()
    hold = RemoteHoldRow("tx_1", "r1", AGENT, 5, "m", "p", 1)
    ledger.commit_now(KeepRemoteHold(hold))
    with pytest.raises(StoreError):
        ledger.commit_now(DropRemoteHold("tx_1"))
    ended = evolve(hold, state=RemoteHoldState.ENDING, charge_msat=3)
    ledger.commit_now(KeepRemoteHold(ended))
    with pytest.raises(StoreError):
        ledger.commit_now(KeepRemoteHold(evolve(ended, charge_msat=4)))
    ledger.commit_now(DropRemoteHold("tx_1"))
    ledger.commit_now(DropRemoteHold("tx_1"))
