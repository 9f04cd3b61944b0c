"""What a simulation can do to the ledger in memory: time, failures, the end of the process."""

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from arbstr.store import (
    Change,
    DuplicateKey,
    FindHold,
    MemoryLedger,
    ReadAccount,
    StoreBusy,
    StoreError,
    StoreUnavailable,
    VersionConflict,
)
from tests.store.maker import Maker, added

A = "ag_a"


@pytest.fixture
def ledger() -> MemoryLedger:
    """With an agent that has 1000 msat; from now on time has to be made to pass."""
    ledger = MemoryLedger()
    ledger.commit_now(added(A))
    ledger.commit_now(Maker.of(A).deposit("start", 1_000))
    ledger.at_once = False
    return ledger


@pytest.fixture
def maker(ledger: MemoryLedger) -> Maker:
    return Maker(ledger.ask_now(ReadAccount(A)))


class Heard(list[Any]):
    """Answers in the order in which they came."""

    def done(self, answer: Any, error: StoreError | None) -> None:
        self.append(type(error) if error is not None else answer)


def submit(ledger: MemoryLedger, heard: Heard, *changes: Change) -> None:
    for change in changes:
        ledger.submit(change, heard.done)


def test_nothing_is_committed_or_told_before_its_time(ledger: MemoryLedger, maker: Maker) -> None:
    heard, before = Heard(), maker.account
    submit(ledger, heard, maker.reserve("a", 5))
    ledger.ask(ReadAccount(A), heard.done)
    assert (heard, ledger.waiting) == ([], 2)
    assert [agent.held_msat for agent in ledger.check().agents] == [0]
    assert ledger.step() == 2
    assert heard == [None, maker.account]
    assert maker.account != before


def test_a_batch_takes_as_many_ticks_as_it_is_told(ledger: MemoryLedger, maker: Maker) -> None:
    heard = Heard()
    ledger.tick(3)
    submit(ledger, heard, maker.reserve("a", 5))
    ledger.tick(3)
    ledger.tick(3)
    assert heard == []
    ledger.tick(3)
    assert heard == [None]


def test_a_batch_has_a_bound(maker: Maker, ledger: MemoryLedger) -> None:
    ledger = MemoryLedger(ledger.crash()._books, max_batch=2)
    ledger.at_once = False
    heard = Heard()
    submit(ledger, heard, *[maker.reserve(key, 1) for key in "abc"])
    assert (ledger.step(), len(heard), ledger.step(), len(heard)) == (2, 2, 1, 3)


async def test_batches_are_committed_by_the_clock(autojump_clock: Any, ledger: MemoryLedger, maker: Maker) -> None:
    heard = Heard()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.run, lambda: 0.5)
        await wait_all_tasks_blocked()
        submit(ledger, heard, maker.reserve("a", 5))
        await trio.sleep(0.4)
        submit(ledger, heard, maker.reserve("b", 5))
        assert heard == []
        await trio.sleep(0.2)
        assert heard == [None, None]
        ledger.crash()


def test_a_batch_fails_whole_and_the_next_one_does_not(ledger: MemoryLedger, maker: Maker) -> None:
    heard = Heard()
    ledger.fail_next()
    submit(ledger, heard, maker.reserve("a", 5), maker.reserve("b", 5))
    ledger.ask(FindHold(key="a"), heard.done)
    ledger.step()
    assert heard == [StoreUnavailable, StoreUnavailable, None]
    submit(ledger, heard, Maker(ledger.ask_now(ReadAccount(A))).reserve("c", 5))
    ledger.step()
    assert heard[3:] == [None]


def test_a_change_that_is_refused_leaves_its_neighbours_alone(ledger: MemoryLedger, maker: Maker) -> None:
    heard = Heard()
    stale = Maker(maker.account)
    submit(ledger, heard, maker.reserve("a", 5), stale.reserve("b", 5), maker.deposit("start", 5))
    maker = Maker(maker.account)
    ledger.step()
    assert heard == [None, VersionConflict, DuplicateKey]
    assert ledger.check().problems == ()


def test_nothing_is_taken_when_the_queue_is_full_or_said_to_be(ledger: MemoryLedger, maker: Maker) -> None:
    ledger.busy = True
    with pytest.raises(StoreBusy):
        ledger.submit(maker.reserve("a", 5))
    small = MemoryLedger(max_waiting=1)
    small.at_once = False
    small.submit(added(A))
    with pytest.raises(StoreBusy):
        small.ask(ReadAccount(A), Heard().done)


def test_questions_fail_when_the_disk_cannot_be_read(ledger: MemoryLedger) -> None:
    ledger.unreadable = True
    with pytest.raises(StoreUnavailable):
        ledger.ask_now(ReadAccount(A))


@pytest.mark.parametrize(("committed", "held"), [(0, 0), (1, 5), (2, 12)])
def test_a_crash_loses_what_was_not_committed_and_tells_nobody(
    ledger: MemoryLedger, maker: Maker, committed: int, held: int
) -> None:
    heard = Heard()
    submit(ledger, heard, maker.reserve("a", 5), maker.reserve("b", 7))
    after = ledger.crash(committed)
    assert heard == []
    assert after.ask_now(ReadAccount(A)).held_msat == held
    assert after.check().problems == ()
    with pytest.raises(StoreUnavailable):
        ledger.submit(maker.reserve("c", 1))
    after.commit_now(Maker(after.ask_now(ReadAccount(A))).reserve("d", 1))
    assert [agent.held_msat for agent in ledger.check().agents] == [0 if committed == 0 else held]
