"""Actors of the vault that fail while the ledger still has something to tell them: another instance takes over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors import ActorSystem, ChildSpec, Supervisor, TrioActor, WhichChildren
from arbstr.accounts import Approvals, Payments, SendPayment, Webhooks, WebhookTarget
from arbstr.store import MemoryLedger
from arbstr.wallets import Rails, SimulatedWallet
from tests.accounts.payment_rig import Rig, virtual_ns


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall time is Trio's."""
    monkeypatch.setattr("time.time_ns", lambda: virtual_ns() if trio.lowlevel.in_trio_run() else 1)


class Takes(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(204)


def failing(kind: Any) -> Any:
    """One that a message can take down."""

    class Failing(kind):  # type: ignore[misc]  # whatever kind it is
        def on_receive(self, message: Any) -> Any:
            if message == "fail":
                raise RuntimeError("taken down, says the test")
            return super().on_receive(message)

    return Failing


async def books_with_a_question() -> MemoryLedger:
    """A withdrawal that waits for a human, and an event about it."""
    rig = Rig.new(max_transaction_msat=10_000, daily_limit_msat=100_000, approval_timeout_ms=15_000)
    async with rig.run() as world:
        await world.payments.request(SendPayment(rig.agent_id, 500, "mine", kind="withdrawal", wait_s=0))
    return rig.ledger


MAKERS: dict[str, Callable[[MemoryLedger], TrioActor]] = {
    "webhooks": lambda ledger: failing(Webhooks)(ledger, WebhookTarget("http://operator.test"), Takes()),
    "approvals": lambda ledger: failing(Approvals)(ledger, None, None),
    "payments": lambda ledger: failing(Payments)(ledger, None, Rails({"simulated": SimulatedWallet()})),
}


@pytest.mark.parametrize("unreadable", [False, True])
@pytest.mark.parametrize("which", MAKERS)
async def test_what_a_failed_actor_had_asked_is_left_to_its_successor_when_the_ledger_answers_late(
    autojump_clock: Any, which: str, unreadable: bool
) -> None:
    ledger = await books_with_a_question()
    refs: list[Any] = []
    async with ActorSystem.run() as system:

        def child() -> TrioActor:
            actor = MAKERS[which](ledger)
            refs.append(actor.actor_ref)
            return actor

        supervisor = system.start(Supervisor, [ChildSpec("one", child)], intensity=3, period_s=60)
        await supervisor.request(WhichChildren())
        asked = ledger.waiting
        refs[0].tell("fail")
        await wait_all_tasks_blocked()
        assert len(refs) == 2
        assert asked > 0
        assert ledger.waiting > asked  # the successor has asked for itself
        ledger.unreadable = unreadable
        ledger.step()  # raises what an answer raises: it must not
        ledger.unreadable = False
        assert refs[0].is_alive()
