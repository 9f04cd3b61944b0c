"""An operator's webhook receiver (contract section 13): a backend of an :class:`Upstream` that keeps what it is told.

It answers 204 until a script says otherwise, and knows how a body is signed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

from attrs import define, frozen

from tests.contract.program import eventually
from tests.contract.upstream import Reply, Seen, Upstream, answer

SIGNATURE = "x-arbstrvault-signature"
EVENT_ID = "x-arbstrvault-event-id"
TAKEN = answer(status=204, content_type=None)


@frozen
class Delivery:
    """One attempt to tell an event."""

    seen: Seen

    @property
    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = self.seen.json
        return found

    @property
    def event(self) -> str:
        return str(self.body["event"])

    @property
    def signature(self) -> str:
        return self.seen.headers[SIGNATURE]

    @property
    def event_id(self) -> str:
        """The same in all attempts of one event."""
        return self.seen.headers[EVENT_ID]

    def is_signed_with(self, secret: str) -> bool:
        return self.signature == hmac.new(secret.encode(), self.seen.body, hashlib.sha256).hexdigest()


@define(eq=False)
class Receiver:
    """``url`` is for a configuration. Made before the program, outlives it."""

    upstream: Upstream
    name: str = "receiver"

    def __attrs_post_init__(self) -> None:
        self.answers(TAKEN)

    @property
    def url(self) -> str:
        return self.upstream.backend(self.name, "").url + "/hook"

    def answers(self, *replies: Reply) -> None:
        """To the deliveries to come, in this order; the last is repeated."""
        self.upstream.backend(self.name, "").on("/hook", *replies)

    def deliveries(self, agent: str, event: str | None = None) -> list[Delivery]:
        """What came about one agent, in the order of its coming."""
        heard = [Delivery(seen) for seen in self.upstream.backend(self.name, "").calls("/hook")]
        return [one for one in heard if one.body["agent_id"] == agent and event in (None, one.event)]

    def heard(self, agent: str, event: str, *, which: Callable[[Delivery], bool] = lambda _: True) -> Delivery:
        """The first such delivery; waits for it."""

        def find() -> Delivery | None:
            return next(filter(which, self.deliveries(agent, event)), None)

        return eventually(find, f"{event} about {agent}")

    def heard_times(self, count: int, agent: str, event: str) -> list[Delivery]:
        """So many deliveries of that event, or more; waits for them."""

        def find() -> list[Delivery] | None:
            found = self.deliveries(agent, event)
            return found if len(found) >= count else None

        return eventually(find, f"{count} times {event} about {agent}")


def outline(body: bytes) -> list[str]:
    """The members of a JSON object in the order in which they stand. Fails when the body is not compact."""
    assert body == json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode()
    return list(json.loads(body))
