"""Holds that nobody will end: by a sweep while the program runs, by the next start when it was killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from actors import ActorSystem
from arbstr.accounts import Balance, Ended, Extend, Release, Renew, Reserve, Settle, Sweep, deposit_now, resolve_orphans
from arbstr.errors import BillingRefused
from arbstr.store import HoldState, ReceiptOnly, Store, StoreUnavailable

LEASE_S = 10.0


def reserve(key: str, amount: int = 100, **more: Any) -> Reserve:
    return Reserve(key, amount, "m", "p", **more)


# A sweep


async def test_a_sweep_ends_only_holds_whose_lease_is_over_and_whose_owner_is_gone(
    autojump_clock: Any, world: Any, start_owner: Callable[..., Any], clock_ns: None
) -> None:
    async with ActorSystem.run() as system:
        ref = world.start(system, hold_lease_s=LEASE_S)
        alive, dead = start_owner(system), start_owner(system)
        await ref.request(reserve("alive", owner=alive))
        await ref.request(reserve("dead", owner=dead))
        await ref.request(reserve("renewed", owner=dead))
        await ref.request(reserve("extended", owner=dead))
        await ref.request(reserve("unowned"))
        await dead.terminate()
        await trio.sleep(LEASE_S - 1)
        await ref.request(Sweep())
        assert world.check().open_holds == 5
        ref.tell(Renew("renewed", 0))
        await ref.request(Extend("extended", 150, "p"))
        await trio.sleep(2)
        await ref.request(Sweep())
        await trio.sleep(1)
        assert {world.hold(key).state for key in ("alive", "renewed", "extended")} == {HoldState.OPEN}
        assert {world.hold(key).state for key in ("dead", "unowned")} == {HoldState.RELEASED}
        await trio.sleep(LEASE_S)
        await ref.request(Sweep())
        await trio.sleep(1)
        assert world.check().open_holds == 1
        await alive.terminate()
        await ref.request(Sweep())
        await trio.sleep(1)
    assert world.check().open_holds == 0


async def test_a_sweep_charges_what_is_on_record_and_says_so(autojump_clock: Any, world: Any, clock_ns: None) -> None:
    async with ActorSystem.run() as system:
        ref = world.start(system, hold_lease_s=LEASE_S)
        await ref.request(reserve("a", 300, correlation_id="c"))
        for evidence in (70, 120, 90):
            ref.tell(Renew("a", evidence))
        await trio.sleep(LEASE_S + 1)
        await ref.request(Sweep())
        await trio.sleep(1)
    hold = world.hold("a")
    assert (hold.state, hold.charged_msat) == (HoldState.SETTLED, 120)
    assert world.rows("SELECT request_id, agent_id, correlation_id, outcome, cost_msat, estimated FROM receipts") == [
        ("a", world.agent_id, "c", "crashed", 120, 1)
    ]
    assert world.rows("SELECT provider, outcome FROM attempts") == [("p", "unknown")]
    assert world.rows("SELECT action FROM audit ORDER BY sequence DESC LIMIT 1") == [("HOLD_RESOLVED",)]
    assert world.check().spent_msat == 120


async def test_an_end_that_comes_after_a_sweep_gets_its_answer_or_a_refusal(
    autojump_clock: Any, world: Any, receipt: Callable[..., Any], clock_ns: None
) -> None:
    async with ActorSystem.run() as system:
        ref = world.start(system, hold_lease_s=LEASE_S)
        await ref.request(reserve("a", 300))
        ref.tell(Renew("a", 120))
        await trio.sleep(LEASE_S + 1)
        await ref.request(Sweep())
        with pytest.raises(BillingRefused, match="120 msat"):
            await ref.request(Settle("a", 200, receipt("a", 200)))
        assert await ref.request(Settle("a", 120, receipt("a", 120))) == Ended("a", 120, 880, 0)
    assert world.check().spent_msat == 120


async def test_a_sweep_is_tried_again_when_the_disk_fails(autojump_clock: Any, world: Any, clock_ns: None) -> None:
    async with ActorSystem.run() as system:
        ref = world.start(system, hold_lease_s=LEASE_S)
        for key in "abc":
            await ref.request(reserve(key, 100))
        await trio.sleep(LEASE_S + 1)
        for fault in ("broken", "busy"):
            setattr(world.disk, fault, True)
            await ref.request(Sweep())
            await trio.sleep(1)
            assert world.check().open_holds == 3
            setattr(world.disk, fault, False)
            await trio.sleep(5)
        await ref.request(Sweep())
        await trio.sleep(1)
    assert world.check().open_holds == 0


async def test_holds_get_a_lease_to_be_claimed_in_when_their_account_actor_died(
    autojump_clock: Any, world: Any, clock_ns: None
) -> None:
    """Its successor cannot know who owns them; a live request renews in time."""
    async with ActorSystem.run() as system:
        accounts = world.accounts(system, LEASE_S)
        for key in ("live", "lost"):
            await accounts.ref(world.agent_id).request(reserve(key))
        await trio.sleep(LEASE_S - 1)
        await accounts.ref(world.agent_id).terminate()
        await trio.sleep(2)
        accounts.sweep()
        await trio.sleep(1)
        assert world.check().open_holds == 2
        accounts.ref(world.agent_id).tell(Renew("live", 5))
        await trio.sleep(LEASE_S - 0.5)
        accounts.sweep()
        await trio.sleep(1)
        assert world.hold("live").state is HoldState.OPEN
        assert world.hold("lost").state is HoldState.RELEASED
        await accounts.ref(world.agent_id).request(Release("live", "x", None))
    world.check()


async def test_accounts_whose_actor_died_are_swept_too(autojump_clock: Any, world: Any, clock_ns: None) -> None:
    async with ActorSystem.run() as system:
        accounts = world.accounts(system, LEASE_S)
        await accounts.ref(world.agent_id).request(reserve("a"))
        await accounts.ref(world.agent_id).terminate()
        for _ in range(3):
            accounts.sweep()
            await trio.sleep(LEASE_S + 1)
    assert world.check().open_holds == 0


# The next start


def crash(world: Any, agents: dict[str, int], holds_each: int) -> None:
    """Hold money in a run of the program that ends as if it had been killed."""

    async def main() -> None:
        async with ActorSystem.run() as system:
            accounts = world.accounts(system)
            for agent_id in agents:
                ref = accounts.ref(agent_id)
                await ref.request(Balance())
                for number in range(holds_each):
                    key = f"{agent_id}/{number}"
                    ref.tell(reserve(key, 100))
                    if number % 3 == 0:
                        ref.tell(Renew(key, agents[agent_id]))
                await ref.request(Sweep())

    trio.run(main)


def test_every_hold_of_several_agents_is_resolved_when_the_program_was_killed(world: Any) -> None:
    agents = {}
    world.disk.mode = "now"
    for number in range(5):
        agent = world.store.add_agent_now(f"agent {number}")
        deposit_now(world.store, agent.agent_id, 10_000, agent.agent_id)
        agents[agent.agent_id] = number * 20
    world.disk.mode = "soon"
    crash(world, agents, holds_each=100)
    assert world.check().open_holds == 500
    world.disk.mode = "now"
    assert resolve_orphans(world.store) == 500
    report = world.check()
    assert report.open_holds == 0
    assert {row.agent_id: row.spent_msat for row in report.agents if row.name != "agent"} == {
        agent_id: 34 * evidence for agent_id, evidence in agents.items()
    }
    assert world.rows("SELECT count(*) FROM receipts WHERE outcome = 'crashed'") == [(500,)]
    assert resolve_orphans(world.store) == 0


def test_orphans_are_resolved_on_the_real_writer_when_the_database_is_opened_again(
    tmp_path: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(world, {world.agent_id: 25}, holds_each=10)
    world.disk.mode = "now"
    world.store.close()
    monkeypatch.undo()
    with Store.open(world.path, durability="process") as store:
        assert resolve_orphans(store) == 10
    assert world.check().spent_msat == 100


def test_resolving_goes_on_where_it_stopped_when_the_disk_failed(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbstr.accounts._recovery.AT_ONCE", 4)
    crash(world, {world.agent_id: 0}, holds_each=10)
    world.disk.mode = "now"
    written = []
    world.disk.broken = lambda changes: written.append(1) or len(written) > 5
    with pytest.raises(StoreUnavailable):
        resolve_orphans(world.store)
    world.disk.broken = False
    assert 0 < world.check().open_holds < 10
    assert resolve_orphans(world.store) > 0
    assert world.check().open_holds == 0


def test_a_start_is_possible_when_a_lost_request_had_its_receipt_already(
    world: Any, receipt: Callable[..., Any]
) -> None:
    crash(world, {world.agent_id: 30}, holds_each=1)
    world.disk.mode = "now"
    world.store.commit_now(ReceiptOnly(receipt(f"{world.agent_id}/0")))
    assert resolve_orphans(world.store) == 1
    assert world.check().spent_msat == 30
