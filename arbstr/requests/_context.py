"""What all requests of a process share. Lives on the Trio thread."""

from __future__ import annotations

from typing import Protocol

from attrs import define, field

from actors import ActorSystem, TrioActorRef
from arbstr.accounts import Approvals, Bank
from arbstr.providers import Directory, ProviderView, Upstream
from arbstr.requests._asking import WaitingRoom
from arbstr.requests._interface import ModelRequest
from arbstr.requests._limits import Limits
from arbstr.routing import Offer, Offers, Router
from arbstr.store import Ledger, ReceiptRow


class Upstreams(Protocol):
    """The way out to each provider."""

    def upstream(self, name: str) -> Upstream:
        """Raises KeyError when there is no such provider, or no more."""
        ...


class Observer(Protocol):
    """Hears of every request whose books are closed, once; also of those that were refused for want of a provider or
    of money. On the request's path: it must neither wait nor raise, and what it raises is logged and forgotten."""

    def finished(self, request: ModelRequest, receipt: ReceiptRow) -> None: ...


@define(eq=False)
class RequestContext:
    """``router``, ``stream_cost_event``, ``heartbeat_s`` and ``observers`` may be replaced while requests run: each
    keeps to the router it began with."""

    system: ActorSystem
    directory: Directory
    fleet: Upstreams
    router: Router
    store: Ledger
    accounts: Bank | None
    """None: requests are priced and recorded, not held."""
    stream_cost_event: bool
    heartbeat_s: float = 0.0
    """Of silence, after which the client of a stream gets a comment; 0: never."""
    limits: Limits = field(factory=Limits)
    observers: tuple[Observer, ...] = ()
    approvals: TrioActorRef[Approvals] | None = None
    waiting_room: WaitingRoom = field(factory=WaitingRoom)
    stopping: bool = False
    """The process is shutting down: a request that is cancelled now was cancelled by us."""
    _rotation: int = 0
    _offered: tuple[ProviderView, ...] = ()
    _offers: Offers = field(factory=lambda: Offers.of(()))
    _drained: frozenset[str] = frozenset()

    def upstream(self, name: str) -> Upstream:
        """Raises KeyError when the provider has gone."""
        return self.fleet.upstream(name)

    def offers(self) -> Offers:
        """The directory as routing reads it; made anew only when a provider has published a change."""
        snapshot = self.directory.snapshot
        if snapshot is not self._offered:
            self._offers = Offers.of([_offer(view) for view in snapshot])
            self._drained = frozenset([view.name for view in snapshot if _is_drained(view)])
            self._offered = snapshot
        return self._offers

    def drains(self, provider: str) -> bool:
        """Whether an answer of it is read to its end when the client has left."""
        return provider in self._drained

    def next_rotation(self) -> int:
        """A number that rises by one with each request, for round robin."""
        self._rotation += 1
        return self._rotation


def _is_drained(view: ProviderView) -> bool:
    return view.config.on_disconnect == "drain"


def _offer(view: ProviderView) -> Offer:
    return Offer(
        provider=view.name,
        models={model.id: model for model in view.models},
        any_model=view.any_model,
        price=view.price,
        tier=view.tier,
        weight=view.weight,
        ttfb_ms=view.ttfb_ms,
        open_until=view.open_until,
        probing=view.probing,
        busy=view.busy,
    )
