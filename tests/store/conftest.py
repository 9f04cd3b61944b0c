"""A store on a real file, and changes for one agent made by hand: the store must not need the rules to be right."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field

from arbstr.store import (
    AccountChange,
    AccountRow,
    AuditEntry,
    Change,
    HoldChange,
    HoldRow,
    HoldState,
    LedgerAccount,
    Posting,
    ReceiptRow,
    Store,
    StoreError,
    new_hold_id,
)


def make_receipt(request_id: str, cost_msat: int = 0, **changes: Any) -> ReceiptRow:
    receipt = ReceiptRow(
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
        cost_msat=cost_msat,
        saved_median_msat=None,
        saved_dearest_msat=None,
    )
    return evolve(receipt, **changes)


@define
class Hand:
    """Makes the changes of one agent, each on top of the one before."""

    account: AccountRow
    holds: dict[str, HoldRow] = field(factory=dict)

    def _change(self, key: str, kind: str, moved: dict[str, int], deposited: int = 0, **more: Any) -> AccountChange:
        before = self.account
        after = AccountRow(
            before.agent_id,
            before.version + 1,
            before.available_msat + moved.get("available", 0),
            before.held_msat + moved.get("held", 0),
            before.spent_msat + moved.get("spent", 0),
            before.deposited_msat + deposited,
        )
        self.account = after
        amounts = {**moved, "world": -deposited}
        postings = tuple(Posting(LedgerAccount(name), amount) for name, amount in amounts.items() if amount)
        return AccountChange(key, kind, 7, before, after, postings, AuditEntry(kind.upper(), {"key": key}), **more)

    def deposit(self, key: str, amount: int) -> AccountChange:
        return self._change(f"deposit:{key}", "deposit", {"available": amount}, deposited=amount)

    def reserve(self, key: str, amount: int, **changes: Any) -> AccountChange:
        hold = HoldRow(new_hold_id(), key, self.account.agent_id, amount, HoldState.OPEN, "m", "p", 1, 2)
        self.holds[key] = hold = evolve(hold, **changes)
        return self._change(f"reserve:{key}", "reserve", {"available": -amount, "held": amount}, hold=hold)

    def settle(self, key: str, charge: int, receipt: ReceiptRow | None = None) -> AccountChange:
        held = self.holds[key].amount_msat
        return self._change(
            f"end:{key}",
            "settle",
            {"available": held - charge, "held": -held, "spent": charge},
            hold=HoldChange(self.holds[key].hold_id, held, held, HoldState.SETTLED, "p", 2, 0, charge, 9),
            receipt=receipt or make_receipt(key),
        )


class Answers:
    """Collects what the store answers, by name, in the order it came."""

    def __init__(self) -> None:
        self.errors: dict[str, StoreError | None] = {}
        self.threads: set[str] = set()

    def of(self, name: str) -> Callable[[Any, StoreError | None], None]:
        def done(_: Any, error: StoreError | None) -> None:
            assert name not in self.errors, f"{name} was answered twice"
            self.errors[name] = error
            self.threads.add(threading.current_thread().name)

        return done


class Gate:
    """Keeps the writer busy while it is closed, so that what is submitted meanwhile becomes one batch."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._open = threading.Event()
        entered = threading.Event()

        def wait(_: Any) -> None:
            entered.set()
            self._open.wait(10)

        self._store.call(wait, lambda *_: None)
        entered.wait(10)

    def __exit__(self, *_: object) -> None:
        self._open.set()
        self._store.wait_for(lambda _: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, durability="process") as store:
        yield store


@pytest.fixture
def new_hand(store: Store) -> Callable[[], Hand]:
    return lambda: Hand(AccountRow(store.add_agent_now("agent").agent_id))


@pytest.fixture
def hand(store: Store, new_hand: Callable[[], Hand]) -> Hand:
    """An agent with 1000 msat."""
    hand = new_hand()
    store.commit_now(hand.deposit("start", 1000))
    return hand


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def gate(store: Store) -> Gate:
    return Gate(store)


@pytest.fixture
def receipt() -> Callable[..., ReceiptRow]:
    return make_receipt


@pytest.fixture
def submit_batch(store: Store, gate: Gate, answers: Answers) -> Callable[..., list[StoreError | None]]:
    """Commit changes in one batch; what became of each."""

    def submit(*changes: Change) -> list[StoreError | None]:
        names = [f"change {len(answers.errors)}.{number}" for number in range(len(changes))]
        with gate:
            for name, change in zip(names, changes, strict=True):
                store.submit(change, answers.of(name))
        return [answers.errors[name] for name in names]

    return submit
