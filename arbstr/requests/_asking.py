"""A request that its account refuses unless a human allows it: asked about, waited for, put off.

The money is set aside while a human thinks, and only a request that comes for it gets it. A client that leaves while it
waits has never heard of the approval, so that is withdrawn; one that has been told (202) comes for it by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import trio
from attrs import define, field, frozen

from actors import ActorDeadError, AskTimeout, InboxFull, SystemNotRunning, TrioActorRef
from arbstr.accounts import Approvals, WaitFor, not_granted
from arbstr.errors import ApprovalNeeded, ArbstrError, BillingRefused
from arbstr.requests._purse import Purse
from arbstr.store import ApprovalRow, ApprovalStatus

T = TypeVar("T")

MAX_WAITING = 256
"""Requests that wait for a human at once, and at most a quarter of those that may be in flight: the others need places
too."""
POLL_S = 5
"""What a client is told to wait before it looks again."""
_UNANSWERED = (ActorDeadError, AskTimeout, InboxFull, SystemNotRunning)


@define(eq=False)
class WaitingRoom:
    """Where requests wait for a human. Lives on the Trio thread. ``longest_s`` is the most that one may ask for."""

    longest_s: float = 0.0
    places: int = MAX_WAITING
    _inside: dict[trio.CancelScope, None] = field(factory=dict, init=False)
    _closed: bool = field(default=False, init=False)

    async def wait(self, outcome: Callable[[], Awaitable[T]], wait_s: float) -> T | None:
        """The outcome; None when it did not come in time, nobody else may wait, or the room was closed."""
        seconds = min(wait_s, self.longest_s)
        if seconds <= 0 or self._closed or len(self._inside) >= self.places:
            return None
        with trio.move_on_after(seconds) as scope:
            self._inside[scope] = None
            try:
                return await outcome()
            finally:
                del self._inside[scope]
        return None

    def close(self) -> None:
        """Nobody waits any longer: the program stops, and each should still hear where to look again."""
        self._closed = True
        for scope in self._inside:
            scope.cancel()


@frozen
class PutOff:
    """A human has not decided yet."""

    approval_id: str
    amount_msat: int
    expires_ns: int

    @property
    def poll_url(self) -> str:
        return f"/v1/approvals/{self.approval_id}"

    @property
    def expires_at(self) -> str:
        """ISO 8601."""
        at = datetime.fromtimestamp(self.expires_ns // 1_000_000 / 1_000, UTC)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def as_error(self) -> BillingRefused:
        """For a stream that has been begun, by a heartbeat, and cannot become another answer."""
        return BillingRefused(
            f"approval {self.approval_id} waits for a human; look at {self.poll_url}",
            status=403,
            reason="approval_pending",
            details={"approval_id": self.approval_id, "poll_url": self.poll_url, "expires_at": self.expires_at},
        )


@frozen
class Asking:
    """For one request. ``approvals`` None: nobody could be waited for."""

    purse: Purse
    approvals: TrioActorRef[Approvals] | None
    room: WaitingRoom
    approval_id: str | None
    """What the request has come for."""
    wait_s: float

    async def answer_to(self, refused: BillingRefused) -> PutOff | None:
        """What becomes of a request that was refused so: None when it may go on now, for a human has allowed it.

        Raises the refusal where no human is asked, and BillingRefused (403 ``approval_denied``, ``approval_timed_out``)
        and what ``Purse.ask`` raises.
        """
        put_off = await self._asked(refused)
        resolved = await self.room.wait(lambda: self._outcome(put_off.approval_id), self.wait_s)
        if resolved is None:
            self.purse.put_off()
            return put_off
        if resolved.status is ApprovalStatus.APPROVED:
            self.purse.claim(resolved.approval_id)
            return None
        self.purse.put_off()
        raise not_granted(resolved)

    async def _asked(self, refused: BillingRefused) -> PutOff:
        if isinstance(refused, ApprovalNeeded) and self.approval_id is None:
            row = await self.purse.ask()
            return PutOff(row.approval_id, row.amount_msat, row.expires_ns)
        if refused.reason == "approval_pending" and self.approval_id is not None:
            details = refused.details
            return PutOff(self.approval_id, int(details["amount_msat"]), int(details["expires_ns"]))
        raise refused

    async def _outcome(self, approval_id: str) -> ApprovalRow | None:
        if self.approvals is None:
            return None
        try:
            row: ApprovalRow = await self.approvals.request(WaitFor(approval_id), timeout_s=2 * self.room.longest_s)
        except (ArbstrError, *_UNANSWERED):  # the approval stands all the same, and can be looked at
            return None
        return row
