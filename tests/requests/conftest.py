"""The market of ``rig`` as a fixture; ``deposited`` and ``held_accounts`` may be overridden."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from actors import ActorSystem
from arbstr.accounts import Accounts, deposit_now
from arbstr.store import Store
from tests.requests.rig import Ledger, World

LEASE_S = 120.0
TEST_BOUND_S = 30.0


async def _fail_after(seconds: float) -> None:
    """In real time, whatever the clock of the run says: somebody who waits for ever is what these tests look for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:  # noqa: ASYNC110 - no event tells the time
        await trio.sleep(1)
    pytest.fail(f"the test hangs: it has not ended within {seconds:g} s", pytrace=False)


@pytest.fixture
def deposited() -> int:
    return 1_000_000


@pytest.fixture
def held_accounts() -> bool:
    return True


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Only a test that names it itself runs on it."""
    return trio.testing.MockClock(rate=1.0)


@pytest.fixture
async def world(tmp_path: Path, deposited: int, held_accounts: bool) -> AsyncIterator[World]:
    path = tmp_path / "books.db"
    with Store.open(path, durability="process") as store:
        agent = store.add_agent_now("agent")
        if deposited:
            deposit_now(store, agent.agent_id, deposited, "first")
        tokens = store.tokens_now()
        ledger = Ledger(store)
        store.attach(trio.lowlevel.current_trio_token())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_fail_after, TEST_BOUND_S)
                async with ActorSystem.run() as system:
                    accounts = Accounts(system, ledger, tokens, hold_lease_s=LEASE_S) if held_accounts else None  # type: ignore[arg-type]  # quacks
                    yield World(path, store, ledger, system, accounts, agent)
                nursery.cancel_scope.cancel()
        finally:
            store.detach()
