"""Alerts of low balances: pure decisions first, then the account's own."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from arbstr.accounts import Settle
from arbstr.accounts._alerts import is_alert_due
from arbstr.accounts._messages import Reserve
from arbstr.store import AccountRow, PolicyRow
from tests.accounts.payment_rig import Rig, virtual_ns

FLOOR = {"max_transaction_msat": 10**9, "daily_limit_msat": 10**9, "alert_floor_msat": 30_000}


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall time is Trio's."""
    monkeypatch.setattr("time.time_ns", lambda: virtual_ns() if trio.lowlevel.in_trio_run() else 1)


@given(st.integers(0, 100), st.integers(0, 100), st.none() | st.integers(0, 100))
def test_an_alert_is_due_when_the_balance_is_below_a_floor(available: int, debt: int, floor: int | None) -> None:
    account = AccountRow("a", available_msat=available, debt_msat=debt)
    assert is_alert_due(account, PolicyRow("a", 1, alert_floor_msat=floor), None, 5) == (
        available - debt < (floor or 0)
    )


@pytest.mark.parametrize("cooldown_ms", [None, 60_000])
def test_no_alert_is_due_when_the_last_one_is_too_young(cooldown_ms: int | None) -> None:
    policy = PolicyRow("a", 1, alert_floor_msat=10, alert_cooldown_ms=cooldown_ms)
    wait_ns = (cooldown_ms or 3_600_000) * 1_000_000
    assert not is_alert_due(AccountRow("a"), policy, 7, 7 + wait_ns - 1)
    assert is_alert_due(AccountRow("a"), policy, 7, 7 + wait_ns)
    assert not is_alert_due(AccountRow("a"), evolve(policy, alert_floor_msat=0), None, 7)


async def test_one_alert_is_raised_when_two_payments_go_below_the_floor(autojump_clock: Any) -> None:
    rig = Rig.new(balance_msat=50_000, **FLOOR)
    async with rig.run() as world:
        await world.pay(10_000)
        assert "balance_alert" not in rig.events()
        await world.pay(15_000)
        await world.pay(1_000)
        await trio.sleep(1)
    assert rig.events().count("balance_alert") == rig.audit().count("BALANCE_ALERT") == 1
    async with rig.run() as world:  # the cooldown outlives the process
        await world.pay(1_000)
        await trio.sleep(3_600)
        await world.pay(1_000)
        await trio.sleep(1)
    assert rig.events().count("balance_alert") == rig.audit().count("BALANCE_ALERT") == 2
    rig.check()


async def test_an_alert_is_raised_when_a_request_is_charged(autojump_clock: Any, receipt: Any) -> None:
    rig = Rig.new(balance_msat=31_000, **FLOOR)
    async with rig.run() as world:
        await world.own.request(Reserve("r", 20_000, "m", "p"))
        await world.own.request(Settle("r", 2_000, receipt("r", 2_000)))
        await trio.sleep(1)
    assert rig.events() == ["balance_alert"]
    rig.check()
