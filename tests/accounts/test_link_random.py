"""Requests whose accounts are elsewhere, while connections break and processes die at random: nothing is lost, nothing
happens twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from attrs import define, field

from arbstr.accounts import Holder, LinkBank
from arbstr.accounts._link_desk import RETURN_S
from arbstr.errors import ArbstrError
from arbstr.requests._purse import AccountPurse
from arbstr.store import ReceiptOnly, ReceiptRow
from tests.accounts.test_link import Rig, Start, started  # noqa: F401 - a fixture

REQUESTS = 60
SEEDS = 25


@define
class Receipts:
    bank: LinkBank

    def submit(self, change: ReceiptOnly, done: Any = None) -> None:
        self.bank.file(change.receipt)


@define
class Traffic:
    """Of one core. ``charges`` is what was delivered and must be paid, ``told`` what clients were told of."""

    rig: Rig
    bank: LinkBank
    draw: random.Random
    receipt: Callable[..., ReceiptRow]
    charges: dict[str, int] = field(factory=dict)
    told: dict[str, int] = field(factory=dict)
    keys: list[str] = field(factory=list)

    async def run(self, name: str) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(REQUESTS):
                await trio.sleep(self.draw.uniform(0, 0.5))
                nursery.start_soon(self.request, f"{name}-{number}")

    async def request(self, key: str) -> None:
        self.keys.append(key)
        owner: Any = SimpleNamespace(is_alive=lambda: True)
        holder = Holder(self.rig.world.agent_id, "agent")
        purse = AccountPurse(
            self.bank, Receipts(self.bank), holder=holder, key=key, model="m", correlation_id=None, owner=owner
        )
        patience_s = self.draw.choice([0.0, 0.001, 0.3, 60.0, 60.0, 60.0])
        delivered = False
        try:
            with trio.move_on_after(patience_s):
                await purse.cover(SimpleNamespace(provider="p"), 4)  # type: ignore[arg-type]
                await trio.sleep(self.draw.uniform(0, 1))
                delivered = True
        except ArbstrError:
            pass
        charge = self.draw.randint(0, 4) if delivered else 0
        if delivered:
            self.charges[key] = charge
        with trio.CancelScope(shield=True):
            if await purse.end(charge, self.receipt(key, charge), delivered=delivered) and delivered:
                self.told[key] = charge


async def trouble(rig: Rig, draw: random.Random) -> None:
    """Until cancelled."""
    while True:
        await trio.sleep(draw.uniform(0, 3))
        if draw.random() < 0.5:
            rig.side.break_connections()  # type: ignore[union-attr]
            continue
        await rig.kill_accounts()
        await trio.sleep(draw.choice([0.0, 0.1, 2.0, 12.0]))
        side = await rig.start_accounts()
        side.accounts.ref(rig.world.agent_id)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_every_delivery_is_charged_once_and_nothing_stays_held(
    autojump_clock: Any,
    started: Start,  # noqa: F811
    receipt: Callable[..., ReceiptRow],
    world: Any,
    seed: int,
) -> None:
    draw = random.Random(seed)
    async with started() as rig:
        doomed_bank = rig.core(2)
        mine = Traffic(rig, rig.bank, draw, receipt)
        doomed = Traffic(rig, doomed_bank, draw, receipt)
        async with trio.open_nursery() as troubles:
            troubles.start_soon(trouble, rig, draw)
            async with trio.open_nursery() as nursery, trio.open_nursery() as dying:
                nursery.start_soon(mine.run, "mine")
                dying.start_soon(doomed_bank.run)
                dying.start_soon(doomed.run, "doomed")
                await trio.sleep(draw.uniform(5, 20))
                dying.cancel_scope.shield = False
                dying.cancel_scope.cancel()
            troubles.cancel_scope.cancel()
        if rig.side is None:
            await rig.start_accounts()
        rig.side.accounts.ref(world.agent_id)  # type: ignore[union-attr]
        await trio.sleep(30)
        assert rig.bank.waiting == 0
        for _ in range(3):  # the leases of what the dead one held
            await trio.sleep(60 + RETURN_S)
            rig.side.accounts.sweep()  # type: ignore[union-attr]
        await trio.sleep(1)
    charged = dict(world.rows("SELECT key, charged_msat FROM holds"))
    for key, charge in mine.charges.items():
        assert charged[key] == charge, key
    for key, charge in {**mine.told, **doomed.told}.items():
        assert charged[key] == charge, key
    receipts = [request_id for (request_id,) in world.rows("SELECT request_id FROM receipts")]
    assert len(receipts) == len(set(receipts))
    assert set(mine.keys) <= set(receipts)
    report = world.check()
    assert report.open_holds == 0
    assert mine.told
