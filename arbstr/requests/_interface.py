"""What the front end and the life of a request say to each other: values and one protocol, no behaviour.

Nothing here knows of HTTP servers: the front end turns its connection into a ``ModelRequest`` and a ``Responder`` and
renders what comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from attrs import field, frozen

from arbstr.secrets import Secret
from arbstr.wire import ModelCall


class ClientGone(Exception):
    """The client closed its connection: whatever is written now reaches nobody."""


@frozen
class Caller:
    """Who sends a request, as far as the bearer tells."""

    agent_id: str | None
    role: Literal["anonymous", "client", "agent", "admin"]
    name: str
    client: str = ""
    """Whose rate this counts against: the agent, the token, or the peer's address."""
    budget_id: str | None = None
    """Of an agent's token that may spend from one of its budgets only."""
    token: Secret | None = field(default=None, eq=False, repr=False)
    """The agent's, where the bank needs it to reserve."""
    proven: bool = True
    """False: the token may be anybody's or nobody's; it may be used to buy, which will tell, and for nothing else."""


@frozen
class ModelRequest:
    """One request to a model, parsed and authenticated."""

    request_id: str
    """A fresh UUID v4, lower case."""
    correlation_id: str | None
    """What the client calls this request: printable ASCII, 1 to 200 characters."""
    traceparent: str | None
    """W3C trace context, of valid shape."""
    policy: str | None
    stream_cost: bool
    """The client asked for the trailing cost event of a stream."""
    caller: Caller
    call: ModelCall
    approval_id: str | None = None
    """Of a human's word that the client has waited for, and comes for now."""
    wait_s: float = 0.0
    """How long the client would wait for a human (RFC 7240)."""
    complexity: str | None = None
    """What the caller says of it: ``low``, ``medium`` or ``high`` in any case; anything else is ignored."""


@frozen
class PlainAnswer:
    """A whole answer. The front end adds the request id, the correlation id and the length."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Responder(Protocol):
    """The client's end of a stream. Every method raises ``ClientGone`` once the client has left.

    A write is whole or not begun: cancellation is raised before the first byte of it or after the last, never between.
    It waits while the client does not read, which is the stream's back-pressure.
    """

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send status and headers, once. From here on the answer cannot become another one."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def finish(self) -> None:
        """End the answer cleanly. What happens to the client afterwards no longer matters."""
        ...
