"""Telling the operator's webhook: what is sent, when, how often, and that nothing is forgotten."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st

from actors import ActorSystem
from arbstr.accounts._events import new_event
from arbstr.accounts._webhooks import (
    EVENT_ID_HEADER,
    MAX_AT_ONCE,
    MAX_ATTEMPTS,
    SIGNATURE_HEADER,
    Replay,
    TellingLedger,
    Wake,
    Webhooks,
    WebhookTarget,
    delay_s,
    signature,
)
from arbstr.errors import NotFound
from arbstr.secrets import Secret
from arbstr.store import AccountChange, AuditEntry, EventState, FindEvent, MemoryLedger, ReadAccount, new_agent
from tests.accounts.payment_rig import virtual_ns

SECRET = Secret("a secret of the operator")


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall time is Trio's."""
    monkeypatch.setattr("time.time_ns", lambda: virtual_ns() if trio.lowlevel.in_trio_run() else 1)


def ok(_: int) -> int:
    return 200


@define
class Receiver(httpx.AsyncBaseTransport):
    """Answers the nth delivery with a status; 0: never, -1: not at all."""

    status: Callable[[int], int] = ok
    at: list[float] = field(factory=list)
    requests: list[httpx.Request] = field(factory=list)
    open: int = 0
    most: int = 0
    takes_s: float = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.at.append(trio.current_time())
        self.requests.append(request)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await trio.sleep(self.takes_s)
            status = self.status(len(self.at))
            if status == 0:
                await trio.sleep_forever()
            if status < 0:
                raise httpx.ConnectError("nobody at https://user:password@there")
            return httpx.Response(status)
        finally:
            self.open -= 1

    def ids(self) -> list[str]:
        return [request.headers[EVENT_ID_HEADER] for request in self.requests]


@define
class Outbox:
    ledger: MemoryLedger
    agent_id: str

    @classmethod
    def new(cls) -> Outbox:
        ledger = MemoryLedger()
        agent, added = new_agent("agent")
        ledger.commit_now(added)
        return cls(ledger, agent.agent_id)

    def change(self, events: int = 1) -> AccountChange:
        account = self.ledger.ask_now(ReadAccount(self.agent_id))
        also = tuple([new_event("approval_required", self.agent_id, virtual_ns(), n=n) for n in range(events)])
        after = evolve(account, version=account.version + 1)
        audit = AuditEntry("NOTE", {})
        return AccountChange(f"note:{after.version}", "note", virtual_ns(), account, after, (), audit, also=also)

    def add(self, events: int = 1) -> tuple[str, ...]:
        change = self.change(events)
        self.ledger.commit_now(change)
        return tuple([row.event_id for row in change.also])  # type: ignore[union-attr]  # all of them are events

    def event(self, event_id: str) -> Any:
        return self.ledger.ask_now(FindEvent(event_id))

    def start(self, system: ActorSystem, receiver: Receiver, secret: Secret | None = SECRET) -> Any:
        target = WebhookTarget("https://operator.test/hook", secret)
        return system.start(Webhooks, self.ledger, target, receiver, random.Random(1))


async def test_an_event_is_sent_byte_for_byte_and_signed(autojump_clock: Any) -> None:
    outbox, receiver = Outbox.new(), Receiver()
    (event_id,) = outbox.add()
    async with ActorSystem.run() as system:
        outbox.start(system, receiver)
        await trio.sleep(1)
    (request,) = receiver.requests
    body = outbox.event(event_id).body.encode()
    assert request.content == body
    assert json.loads(body) == {
        "event": "approval_required",
        "agent_id": outbox.agent_id,
        "n": 0,
        "timestamp": 1_800_000_000_000,
    }
    assert list(json.loads(body)) == ["event", "agent_id", "n", "timestamp"]
    digest = hmac.new(SECRET.reveal().encode(), body, hashlib.sha256).hexdigest()
    assert request.headers[SIGNATURE_HEADER] == digest
    assert request.headers["content-type"] == "application/json"
    assert receiver.ids() == [event_id]
    assert outbox.event(event_id).state is EventState.DELIVERED


def test_a_body_is_unsigned_when_there_is_no_secret() -> None:
    assert signature(b"x", None) == "unsigned"


@pytest.mark.parametrize("status", [500, 404, 301, -1])
async def test_four_attempts_are_made_in_21_seconds_when_nobody_takes_it(autojump_clock: Any, status: int) -> None:
    outbox, receiver = Outbox.new(), Receiver(lambda _: status)
    (event_id,) = outbox.add()
    async with ActorSystem.run() as system:
        outbox.start(system, receiver)
        await trio.sleep(30)
    assert [round(at, 1) for at in receiver.at] == [0.0, 1.0, 6.0, 21.0]
    assert len({request.content for request in receiver.requests}) == 1
    assert len({request.headers[SIGNATURE_HEADER] for request in receiver.requests}) == 1
    event = outbox.event(event_id)
    assert (event.state, event.attempts) == (EventState.PENDING, 4)
    assert event.last_error == ("ConnectError" if status < 0 else f"status {status}")


async def test_an_attempt_is_given_up_after_ten_seconds_when_nobody_answers(autojump_clock: Any) -> None:
    outbox, receiver = Outbox.new(), Receiver(lambda _: 0)
    (event_id,) = outbox.add()
    async with ActorSystem.run() as system:
        outbox.start(system, receiver)
        await trio.sleep(12)
    assert [round(at) for at in receiver.at] == [0, 11]
    assert outbox.event(event_id).last_error == "no answer within 10 s"


async def test_an_event_is_delivered_once_when_the_receiver_comes_back_after_hours(autojump_clock: Any) -> None:
    outbox, receiver = Outbox.new(), Receiver(lambda _: 200 if trio.current_time() > 40_000 else 503)
    (event_id,) = outbox.add()
    async with ActorSystem.run() as system:
        outbox.start(system, receiver)
        await trio.sleep(80_000)
    assert outbox.event(event_id).state is EventState.DELIVERED
    assert 40_000 < receiver.at[-1] < 44_000


async def test_an_event_is_dead_after_a_day_and_sent_again_when_asked_for(autojump_clock: Any) -> None:
    outbox, receiver = Outbox.new(), Receiver(lambda _: 503)
    (event_id,) = outbox.add()
    async with ActorSystem.run() as system:
        ref = outbox.start(system, receiver)
        for _ in range(3):
            await trio.sleep(80_000)
        assert outbox.event(event_id).state is EventState.DEAD
        assert len(receiver.at) == MAX_ATTEMPTS
        assert 86_400 < receiver.at[-1] < 2 * 86_400
        receiver.status = ok
        assert (await ref.request(Replay(event_id))).state is EventState.PENDING
        await trio.sleep(1)
        assert outbox.event(event_id).state is EventState.DELIVERED
        await ref.request(Replay(event_id))  # also what was delivered
        await trio.sleep(1)
        assert len(receiver.at) == MAX_ATTEMPTS + 2
        with pytest.raises(NotFound):
            await ref.request(Replay("evt_nope"))


async def test_delivery_goes_on_where_it_was_when_the_process_dies(autojump_clock: Any) -> None:
    outbox, receiver = Outbox.new(), Receiver(lambda n: 200 if n > 3 else 500)
    (event_id,) = outbox.add()
    async with ActorSystem.run() as system:
        outbox.start(system, receiver)
        await trio.sleep(7)  # three attempts, the next one in 14 s
    outbox.ledger = outbox.ledger.crash()
    async with ActorSystem.run() as system:
        outbox.start(system, receiver)
        await trio.sleep(30)
    assert [round(at) for at in receiver.at] == [0, 1, 6, 21]
    assert (outbox.event(event_id).state, outbox.event(event_id).attempts) == (EventState.DELIVERED, 4)


async def test_an_event_is_sent_again_under_its_id_when_the_process_dies_during_delivery(autojump_clock: Any) -> None:
    outbox, receiver = Outbox.new(), Receiver(takes_s=5)
    (event_id,) = outbox.add()
    for life_s in (2, 20):
        async with ActorSystem.run() as system:
            outbox.start(system, receiver)
            await trio.sleep(life_s)
        outbox.ledger = outbox.ledger.crash()
    assert receiver.ids() == [event_id] * 2
    assert outbox.event(event_id).state is EventState.DELIVERED


async def test_few_are_under_way_at_once_when_many_are_due(autojump_clock: Any) -> None:
    outbox, receiver = Outbox.new(), Receiver(takes_s=1)
    ids = outbox.add(50)
    async with ActorSystem.run() as system:
        outbox.start(system, receiver)
        await trio.sleep(60)
    assert receiver.most == MAX_AT_ONCE
    assert sorted(receiver.ids()) == sorted(ids)


async def test_an_event_is_sent_at_once_when_its_change_is_committed(autojump_clock: Any) -> None:
    outbox, receiver = Outbox.new(), Receiver()
    async with ActorSystem.run() as system:
        ref = outbox.start(system, receiver)
        await trio.sleep(5)
        TellingLedger(outbox.ledger, lambda: ref.tell(Wake())).submit(outbox.change())
        await trio.sleep(5)
    assert receiver.at == [5.0]


async def test_an_event_is_not_sent_twice_when_its_delivery_cannot_be_written_down(autojump_clock: Any) -> None:
    outbox, receiver = Outbox.new(), Receiver(takes_s=1)
    (event_id,) = outbox.add()
    async with ActorSystem.run() as system:
        outbox.start(system, receiver)
        await trio.sleep(0.5)
        outbox.ledger.busy = True
        await trio.sleep(100)
        assert len(receiver.at) == 1
        outbox.ledger.busy = False
        await trio.sleep(5)
    assert (len(receiver.at), outbox.event(event_id).state) == (1, EventState.DELIVERED)


async def test_events_wait_when_the_outbox_cannot_be_read(autojump_clock: Any) -> None:
    outbox, receiver = Outbox.new(), Receiver()
    outbox.add()
    outbox.ledger.unreadable = True
    async with ActorSystem.run() as system:
        outbox.start(system, receiver)
        await trio.sleep(10)
        assert receiver.at == []
        outbox.ledger.unreadable = False
        await trio.sleep(2)
    assert len(receiver.at) == 1


@given(st.integers(1, MAX_ATTEMPTS - 1), st.floats(-1, 1))
def test_delays_grow_up_to_about_an_hour(attempts: int, spread: float) -> None:
    wait_s, ends = delay_s(attempts, spread), delay_s(MAX_ATTEMPTS, spread)
    assert ends is None
    assert wait_s is not None
    assert 1 <= wait_s <= 3_600 * 1.1
    later = delay_s(attempts + 1, spread)
    assert later is None or later >= wait_s
