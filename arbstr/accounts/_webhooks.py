"""Tells the operator's webhook what is in the outbox, at least once, however long the receiver is away.

The outbox is on disk; this actor only carries it. Nothing waits for it. Deliveries of several events overlap and may
arrive in any order; a repeat has the same event id, by which a receiver knows it. What cannot be delivered for about a
day is dead: kept, listed, and sent again when somebody asks for it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import httpx
import trio
from attrs import evolve, field, frozen

from actors import ActorDeadError, Reply, TrioActor
from arbstr.errors import LedgerUnavailable, NotFound
from arbstr.secrets import Secret
from arbstr.store import (
    AccountChange,
    Change,
    Committed,
    DueEvents,
    EventProgress,
    EventRow,
    EventState,
    FindEvent,
    Ledger,
    Question,
    StoreError,
    StoreUnavailable,
)

logger = logging.getLogger(__name__)

A = TypeVar("A")
NS = 1_000_000_000

SIGNATURE_HEADER = "X-ArbstrVault-Signature"
EVENT_ID_HEADER = "X-ArbstrVault-Event-Id"
UNSIGNED = "unsigned"

ATTEMPT_S = 10.0
FIRST_DELAYS_S = (1.0, 5.0, 15.0)
"""After the first three failures, exactly (contract: vault, section 13); what comes later doubles and is spread."""
BACKOFF_S = 60.0
LONGEST_DELAY_S = 3_600.0
JITTER = 0.1
MAX_ATTEMPTS = 36
"""Four within 21 seconds, then from a minute to an hour apart: a little more than a day in all."""

MAX_AT_ONCE = 8
LEDGER_RETRY_S = 1.0
LOOK_S = 60.0
"""It looks into the outbox so often without being woken."""


@frozen
class Wake:
    """There may be something in the outbox. A tell; cheap."""


@frozen
class Replay:
    """Send an event again from its first attempt, dead, delivered or not. Answer: EventRow, once on disk.

    NotFound; LedgerUnavailable.
    """

    event_id: str


def signature(body: bytes, secret: Secret | None) -> str:
    """Lower-case hex HMAC-SHA256 of the body's bytes, or the word for having no secret."""
    if secret is None:
        return UNSIGNED
    return hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()


def delay_s(attempts: int, spread: float) -> float | None:
    """How long to wait after so many attempts have failed; None: that was the last. ``spread`` is from -1 to 1."""
    if attempts >= MAX_ATTEMPTS:
        return None
    if attempts <= len(FIRST_DELAYS_S):
        return FIRST_DELAYS_S[attempts - 1]
    doubled = BACKOFF_S * 2.0 ** min(attempts - len(FIRST_DELAYS_S) - 1, 16)
    return min(doubled, LONGEST_DELAY_S) * (1 + JITTER * spread)


def after_attempt(event: EventRow, failure: str | None, now_ns: int, spread: float) -> EventRow:
    """The event as it is after an attempt; ``failure`` None: it was delivered."""
    attempted = evolve(event, attempts=event.attempts + 1, last_error=failure)
    if failure is None:
        return evolve(attempted, state=EventState.DELIVERED, ended_ns=now_ns)
    wait_s = delay_s(attempted.attempts, spread)
    if wait_s is None:
        return evolve(attempted, state=EventState.DEAD, ended_ns=now_ns)
    return evolve(attempted, due_ns=now_ns + int(wait_s * NS))


@frozen
class WebhookTarget:
    url: str
    secret: Secret | None = None
    attempt_s: float = field(default=ATTEMPT_S, kw_only=True)


class TellingLedger:
    """A ledger that calls ``told`` whenever an event has come to its outbox: the books as such know of no webhook."""

    def __init__(self, ledger: Ledger, told: Callable[[], None] = lambda: None) -> None:
        self._ledger = ledger
        self.told = told

    def submit(self, change: Change, done: Committed | None = None) -> None:
        if isinstance(change, AccountChange) and change.also and any(isinstance(r, EventRow) for r in change.also):
            done = self._telling(done)
        self._ledger.submit(change, done)

    def _telling(self, done: Committed | None) -> Committed:
        def committed(result: Any, error: StoreError | None) -> None:
            if done is not None:
                done(result, error)
            if error is None:
                self.told()

        return committed

    def ask(self, question: Question[A], done: Callable[[A | None, StoreError | None], None]) -> None:
        self._ledger.ask(question, done)

    def commit_now(self, change: Change) -> None:
        self._ledger.commit_now(change)

    def ask_now(self, question: Question[A]) -> A:
        return self._ledger.ask_now(question)


class Webhooks(TrioActor):
    """Delivers what is due, at most ``MAX_AT_ONCE`` at a time, and sleeps until the next is.

    ``transport`` is an httpx transport; it is the caller's to close. A cancelled delivery stays due: it is made again.
    """

    def __init__(
        self,
        ledger: Ledger,
        target: WebhookTarget,
        transport: httpx.AsyncBaseTransport,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._target = target
        self._transport = transport
        self._rng = rng or random.Random()
        self._under_way: set[str] = set()
        self._asked = False
        self._ask_again = False
        self._alarm_at = float("inf")

    def on_start(self) -> None:
        self._look()
        self.send_every(LOOK_S, Wake())

    def on_receive(self, message: Any) -> None:
        match message:
            case Wake():
                self._look()
            case Replay(event_id):
                self._replay(event_id, self.take_reply())

    # What is due

    def _look(self) -> None:
        """Ask the ledger, once at a time. Those under way are due too, so as many more are asked for."""
        if self._asked:
            self._ask_again = True
            return
        self._asked = True
        try:
            self._ledger.ask(DueEvents(None, 2 * MAX_AT_ONCE), self._found)
        except StoreUnavailable as error:
            self._found(None, error)

    def _found(self, events: tuple[EventRow, ...] | None, error: StoreError | None) -> None:
        self._asked = False
        with suppress(ActorDeadError):  # we have failed since, and another instance asks for itself
            self._tell(events, error)

    def _tell(self, events: tuple[EventRow, ...] | None, error: StoreError | None) -> None:
        if self.actor_stopped.is_set():
            return
        if events is None:
            logger.warning("the outbox cannot be read: %s", error)
            self._wake_in(LEDGER_RETRY_S)
            return
        now_ns = time.time_ns()
        for event in events:
            if event.event_id in self._under_way:
                continue
            if event.due_ns > now_ns:
                self._wake_in((event.due_ns - now_ns) / NS)
                break
            if len(self._under_way) >= MAX_AT_ONCE:
                break  # the end of any of them brings us here again
            self._under_way.add(event.event_id)
            self.spawn(self._deliver, event)
        if self._ask_again:
            self._ask_again = False
            self._look()

    def _wake_in(self, wait_s: float) -> None:
        """Unless we wake up earlier anyway."""
        at = trio.current_time() + wait_s
        if self._alarm_at <= trio.current_time() or at < self._alarm_at:
            self._alarm_at = at
            self.send_after(wait_s, Wake())

    # One attempt

    async def _deliver(self, event: EventRow) -> None:
        failure: str | None = f"no answer within {self._target.attempt_s:g} s"
        with trio.move_on_after(self._target.attempt_s):
            failure = await self._send(event)
        self._attempted(event, failure)

    async def _send(self, event: EventRow) -> str | None:
        """None when the receiver took it. What failed is told by its kind: foreign texts quote addresses."""
        body = event.body.encode()
        headers = {
            "Content-Type": "application/json",
            SIGNATURE_HEADER: signature(body, self._target.secret),
            EVENT_ID_HEADER: event.event_id,
        }
        try:
            response = await self._transport.handle_async_request(
                httpx.Request("POST", self._target.url, headers=headers, content=body)
            )
            try:
                return None if response.is_success else f"status {response.status_code}"
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            return type(error).__name__

    def _attempted(self, event: EventRow, failure: str | None) -> None:
        after = after_attempt(event, failure, time.time_ns(), self._rng.uniform(-1, 1))
        if after.state is EventState.DEAD:
            logger.error("event %s (%s) is dead after %d attempts", event.event_id, event.event, after.attempts)
        elif failure is not None:
            logger.warning("event %s (%s) was not delivered: %s", event.event_id, event.event, failure)
        self._write(after)

    def _write(self, event: EventRow) -> None:
        try:
            self._ledger.submit(EventProgress(event), lambda _, error: self._written(event, error))
        except StoreUnavailable as error:
            self._written(event, error)

    def _written(self, event: EventRow, error: StoreError | None) -> None:
        if self.actor_stopped.is_set():
            return  # the next start finds it as it was left
        if isinstance(error, StoreUnavailable):
            # Not delivered again meanwhile: it stays under way until what came of it is on disk.
            logger.warning("what became of event %s is not written yet: %s", event.event_id, error)
            with suppress(ActorDeadError):  # then it is due for another instance
                self.spawn(self._write_later, event)
            return
        if error is not None:
            logger.error("what became of event %s is not written: %s", event.event_id, error)
        self._under_way.discard(event.event_id)
        self._look()

    async def _write_later(self, event: EventRow) -> None:
        await trio.sleep(LEDGER_RETRY_S)
        self._write(event)

    # Again, on request

    def _replay(self, event_id: str, reply: Reply) -> None:
        def found(event: EventRow | None, error: StoreError | None) -> None:
            if error is not None:
                reply.set_exception(_unavailable(error))
            elif event is None:
                reply.set_exception(NotFound(f"there is no event {event_id}"))
            elif event_id in self._under_way:
                reply.set(event)  # it is being told at this moment
            else:
                self._replay_found(evolve(event, due_ns=time.time_ns(), **_AFRESH), reply)

        try:
            self._ledger.ask(FindEvent(event_id), found)
        except StoreUnavailable as error:
            found(None, error)

    def _replay_found(self, event: EventRow, reply: Reply) -> None:
        def written(_: object, error: StoreError | None) -> None:
            if error is not None:
                reply.set_exception(_unavailable(error))
                return
            reply.set(event)
            if not self.actor_stopped.is_set():
                self._look()

        try:
            self._ledger.submit(EventProgress(event), written)
        except StoreUnavailable as error:
            written(None, error)


_AFRESH: dict[str, Any] = {"attempts": 0, "state": EventState.PENDING, "last_error": None, "ended_ns": None}


def _unavailable(error: StoreError) -> LedgerUnavailable:
    return LedgerUnavailable(f"the outbox cannot be written: {error}", retry_after_s=1)
