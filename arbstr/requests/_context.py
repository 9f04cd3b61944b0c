"""What all requests of a process share. Lives on the Trio thread."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from actors import ActorSystem
from arbstr.accounts import Accounts
from arbstr.providers import Directory, ProviderView, Upstream
from arbstr.routing import Offer, Router
from arbstr.store import Store


@define(eq=False)
class RequestContext:
    system: ActorSystem
    directory: Directory
    upstreams: Mapping[str, Upstream]
    router: Router
    store: Store
    accounts: Accounts | None
    """None: requests are priced and recorded, not held."""
    stream_cost_event: bool
    stopping: bool = False
    """The process is shutting down: a request that is cancelled now was cancelled by us."""
    _rotation: int = 0
    _offered: tuple[ProviderView, ...] = ()
    _offers: tuple[Offer, ...] = field(default=())

    def offers(self) -> tuple[Offer, ...]:
        """The directory as routing reads it; made anew only when a provider has published a change."""
        snapshot = self.directory.snapshot
        if snapshot is not self._offered:
            self._offers = tuple([_offer(view) for view in snapshot])
            self._offered = snapshot
        return self._offers

    def next_rotation(self) -> int:
        """A number that rises by one with each request, for round robin."""
        self._rotation += 1
        return self._rotation


def _offer(view: ProviderView) -> Offer:
    return Offer(
        provider=view.name,
        models={model.id: model for model in view.models},
        any_model=view.any_model,
        price=view.price,
        tier=view.tier,
        weight=view.config.weight if view.config is not None else 1,
        ttfb_ms=view.ttfb_ms,
        open_until=view.open_until,
        probing=view.probing,
        busy=view.busy,
    )
