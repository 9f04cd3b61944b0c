"""Who is inside, and whether anyone may still come in.

Every request enters the gate and leaves it. That makes the bound on requests in flight and an orderly shutdown the same
piece of bookkeeping: drain (nobody new), wait, expire (cancel what still runs), wait.
"""

from __future__ import annotations

import trio
from attrs import define, field

from arbstr.errors import Overloaded, ShuttingDown


@define(eq=False)
class Visit:
    """One request inside the gate. Its work runs in ``scope``; what it has to say afterwards runs outside of it."""

    scope: trio.CancelScope = field(factory=trio.CancelScope)
    admitted: bool = False
    """It counts against the bound; a health check or a request that is being refused does not."""
    expired: bool = False
    """The scope was cancelled because the program stops."""
    body_bytes: int = 0
    """Of its body, in memory until it leaves."""


class Gate:
    """The requests in flight. Not to be shared between threads."""

    def __init__(self) -> None:
        self._visits: set[Visit] = set()
        self._in_flight = 0
        self._body_bytes = 0
        self._draining = False
        self._emptied: trio.Event | None = None
        """There while somebody waits for it."""

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def in_flight(self) -> int:
        """Requests that were admitted and have not left."""
        return self._in_flight

    @property
    def body_bytes(self) -> int:
        """In memory, of the bodies of all who are inside."""
        return self._body_bytes

    @property
    def occupied(self) -> bool:
        """Somebody is inside, admitted or not."""
        return bool(self._visits)

    def enter(self) -> Visit:
        """Count somebody in who is answered in any case, be it by a refusal."""
        visit = Visit()
        self._visits.add(visit)
        return visit

    def admit(self, visit: Visit, limit: int) -> None:
        """Let a visit do work. Raises ``ShuttingDown``, or ``Overloaded`` when ``limit`` others are at work."""
        if self._draining:
            raise ShuttingDown("the server is shutting down; send the request again", retry_after_s=1)
        if self._in_flight >= limit:
            raise Overloaded(f"{limit} requests are in flight, which is the limit; try again shortly", retry_after_s=1)
        visit.admitted = True
        self._in_flight += 1

    def take_in(self, visit: Visit, size: int, limit: int) -> None:
        """Count ``size`` more bytes of a visit's body. Raises ``Overloaded`` when all together pass ``limit``."""
        if self._body_bytes + size > limit:
            raise Overloaded(f"the requests in flight hold {limit} bytes, which is the limit", retry_after_s=1)
        visit.body_bytes += size
        self._body_bytes += size

    def leave(self, visit: Visit) -> None:
        self._visits.remove(visit)
        self._in_flight -= visit.admitted
        self._body_bytes -= visit.body_bytes
        if self._emptied is not None and not self._visits:
            self._emptied.set()
            self._emptied = None

    def drain(self) -> None:
        """From now on nobody is admitted."""
        self._draining = True

    async def wait_empty(self) -> None:
        """Wait until nobody is inside; cancelling the wait changes nothing."""
        while self._visits:
            if self._emptied is None:
                self._emptied = trio.Event()
            await self._emptied.wait()

    def expire(self) -> None:
        """Cancel the work of everybody inside; each still says its last words and leaves by itself."""
        for visit in self._visits:
            visit.expired = True
            visit.scope.cancel()
