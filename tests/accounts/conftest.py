"""A real store on a real file whose writer has no thread: what is queued is written when the test says so.

``disk.mode`` is "now" (written inside the call; for set-up), "soon" (as soon as the Trio loop comes round) or "held"
(when ``disk.write()`` is called). ``disk.broken``, ``disk.unreadable`` and ``disk.busy`` fail what comes.
"""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, evolve

from actors import ActorSystem, TrioActor, TrioActorRef
from arbstr.accounts import AccountRef, Accounts, deposit_now
from arbstr.store import AttemptRow, CheckReport, HoldRow, ReceiptRow, Store, StoreBusy, read_account, read_hold
from arbstr.store import _store as store_module
from arbstr.store._writer import Writer


class Disk(Writer):
    mode = "now"
    broken: Callable[[list[Any]], bool] | bool = False
    unreadable = False
    busy = False
    before_put: Callable[[], None] = staticmethod(lambda: None)
    """May raise what the writer raises when it takes nothing."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        self.broken = self.unreadable = self.busy = False
        self._stopped = True
        self.write()

    def _put(self, job: Any) -> None:
        if self.busy:
            raise StoreBusy("busy, says the test")
        self.before_put()
        super()._put(job)
        if self.mode == "now":
            self.write()
        elif self.mode == "soon":
            trio.lowlevel.current_trio_token().run_sync_soon(self._write_soon, idempotent=True)

    def _write_soon(self) -> None:
        if self.mode == "soon":
            self.write()

    def write(self) -> None:
        while not self._queue.empty():
            self._process(self._gather())

    def _transaction(self, apply: Any, changes: Any) -> Any:
        def apply_and_fail(these: Any) -> Any:
            apply(these)
            if self.broken is True or (callable(self.broken) and self.broken(these)):
                raise sqlite3.OperationalError("disk I/O error, says the test")

            return [None] * len(these)

        return super()._transaction(apply_and_fail if self.broken else apply, changes)

    def _call(self, job: Any, answers: Any) -> None:
        def fail(_: sqlite3.Connection) -> None:
            raise sqlite3.OperationalError("cannot read, says the test")

        super()._call(evolve(job, function=fail) if self.unreadable else job, answers)


@define
class World:
    """One store, one agent, and what its books say."""

    path: Path
    store: Store
    agent_id: str

    @property
    def disk(self) -> Disk:
        assert isinstance(self.store._writer, Disk)
        return self.store._writer

    def account(self) -> Any:
        return read_account(self.store._db, self.agent_id)

    def hold(self, key: str) -> HoldRow:
        row = read_hold(self.store._db, key=key)
        assert row is not None
        return row

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.store._db.execute(query).fetchall()

    def deposit(self, amount_msat: int) -> None:
        mode, self.disk.mode = self.disk.mode, "now"
        deposit_now(self.store, self.agent_id, amount_msat, f"more {self.account().version}")
        self.disk.mode = mode

    def check(self) -> CheckReport:
        report = Store.check(self.path)
        assert report.problems == ()
        return report

    def accounts(self, system: ActorSystem, hold_lease_s: float = 100.0) -> Accounts:
        mode, self.disk.mode = self.disk.mode, "now"
        tokens = self.store.tokens_now()
        self.disk.mode = mode
        return Accounts(system, self.store, tokens, hold_lease_s=hold_lease_s)

    def start(self, system: ActorSystem, hold_lease_s: float = 100.0) -> AccountRef:
        return self.accounts(system, hold_lease_s).ref(self.agent_id)


class Owner(TrioActor):
    """Somebody whose life keeps a hold."""

    def on_receive(self, message: Any) -> None: ...


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Books with one agent who has 1000 msat; the disk writes soon."""
    monkeypatch.setattr(store_module, "Writer", Disk)
    with Store.open(tmp_path / "books.db", durability="process") as store:
        world = World(store.path, store, store.add_agent_now("agent").agent_id)
        world.deposit(1000)
        world.disk.mode = "soon"
        yield world
        world.disk.mode = "now"


@pytest.fixture
def receipt() -> Callable[..., ReceiptRow]:
    def make(request_id: str = "a", cost_msat: int = 0, **changes: Any) -> ReceiptRow:
        row = ReceiptRow(
            request_id=request_id,
            agent_id=None,
            correlation_id=None,
            hold_id=None,
            started_ns=1,
            duration_us=2,
            model="m",
            provider="p",
            policy=None,
            stream=True,
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
            attempts=(AttemptRow("p", 1, 2, 3, 200, "success"),),
        )
        return evolve(row, **changes)

    return make


@pytest.fixture
def start_owner() -> Callable[[ActorSystem], TrioActorRef[Owner]]:
    return lambda system: system.start(Owner)


@pytest.fixture
def clock_ns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases run on Trio's clock."""
    monkeypatch.setattr("arbstr.accounts._actor.time.time_ns", lambda: int(trio.current_time() * 1e9))
