"""What the front end is given: the functions behind the routes, and how long it waits for peers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from attrs import define, frozen

from arbstr.config import ServerConfig
from arbstr.edge._catalogue import NO_FEED, Snapshot
from arbstr.edge._vault_interface import VaultServices
from arbstr.requests import Caller, ModelRequest, PlainAnswer, Quote, Responder
from arbstr.store import Connection

T = TypeVar("T")

HeaderTuple = tuple[tuple[bytes, bytes], ...]


class Reader(Protocol):
    """``Store.read``: a function over a read-only connection, run off the event loop. Raises StoreError."""

    async def __call__(self, function: Callable[[Connection], T]) -> T: ...


@define
class Services:
    """Everything behind the routes; the front end parses, makes one call here, and renders."""

    config: ServerConfig
    authenticate: Callable[[str | None, str, bool], Caller]
    """``(authorization header value, address of the peer, peer is on this machine)``; raises AuthenticationFailed."""
    answer: Callable[[ModelRequest, Responder], Awaitable[PlainAnswer | None]]
    """``None``: the answer went out through the responder. Raises ``ArbstrError``. It is cancelled when the client
    leaves or the program stops, and settles by itself, shielded."""
    quote: Callable[[ModelRequest], Quote]
    """What ``answer`` would choose, were everybody well. Raises ``ArbstrError``."""
    providers: Callable[[], Snapshot]
    read: Reader
    touch: Callable[[Caller], HeaderTuple] = lambda caller: ()
    """Count a request that is not for a model. Gives the headers that tell of limits; raises RateLimited."""
    market: Callable[[], Mapping[str, object]] = lambda: NO_FEED
    """The ``market`` object of ``/providers`` (contract section 16.4)."""
    metrics: Callable[[], bytes] = bytes
    """Prometheus' text format."""
    vault: VaultServices | None = None
    """None: there are no accounts here, or they are not managed over HTTP."""
    vault_alone: bool = False
    """This server is nothing but a vault: what is not its own is not there."""


@frozen
class Limits:
    """How long, and for how much, the server waits for a peer. Seconds and bytes."""

    keep_alive_s: float = 75.0
    """An idle connection is closed after this."""
    head_timeout_s: float = 20.0
    """From the first byte of a request to the end of its headers."""
    head_bytes: int = 65_536
    """Request line and headers together; also what may wait behind a request that is being answered."""
    headers: int = 128
    """Of one request; not counted by h11."""
    write_stall_s: float = 30.0
    """A client that takes none of a piece of 64 KiB for this long is gone."""
    linger_s: float = 10.0
    """After an answer to a request that was not read to its end: how long the rest is read and thrown away, so that the
    answer is not destroyed by a reset. Nothing arriving for ``linger_idle_s`` ends it."""
    linger_idle_s: float = 1.0
    discard_bytes: int = 65_536
    """A refused request with a declared body of at most this is read to its end, and the connection kept."""
    discard_s: float = 1.0
    parse_in_thread_bytes: int = 1_048_576
    """Larger bodies are parsed beside the event loop."""
    abort_after_s: float = 2.0
    """At shutdown, after the grace: how long the last words may take to reach clients that do not read."""
    body_bytes: int = 512 << 20
    """Bodies of all requests in flight together, or ``max_body_bytes`` if that is more: one must always fit."""
    connections: int = 10_000
    """Open connections at once; one more is closed unheard."""
