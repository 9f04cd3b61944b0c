"""What everybody may read about all providers: an immutable tuple that each provider's actor republishes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors import TrioActorRef
    from arbstr.providers._actor import ProviderActor
    from arbstr.providers._messages import ProviderView


class Directory:
    """The providers of this process, in file order.

    Readers take ``snapshot`` and keep it: it is never changed, only replaced. Writers are the provider actors. Sync
    throughout and used on the Trio thread only, so nobody sees half a change. ``order`` fixes the order by name;
    providers not named there follow in the order in which they were first enlisted.
    """

    def __init__(self, order: Iterable[str] = ()) -> None:
        self._views: dict[str, ProviderView | None] = dict.fromkeys(order)
        self._refs: dict[str, TrioActorRef[ProviderActor]] = {}
        self._snapshot: tuple[ProviderView, ...] = ()

    @property
    def snapshot(self) -> tuple[ProviderView, ...]:
        return self._snapshot

    def ref(self, name: str) -> TrioActorRef[ProviderActor]:
        """The actor of that provider. Raises KeyError when none runs; a ref may die at any time after that."""
        return self._refs[name]

    def enlist(self, view: ProviderView, ref: TrioActorRef[ProviderActor]) -> None:
        """Add a provider, or replace it: after a restart the same name has a new actor."""
        self._refs[view.name] = ref
        self.publish(view)

    def publish(self, view: ProviderView) -> None:
        self._views[view.name] = view
        self._replace()

    def withdraw(self, name: str, ref: TrioActorRef[ProviderActor]) -> None:
        """Take a provider out, unless ``ref`` has a successor already. Its place in the order stays."""
        if self._refs.get(name) == ref:
            del self._refs[name]
            self._views[name] = None
            self._replace()

    def _replace(self) -> None:
        self._snapshot = tuple(view for view in self._views.values() if view is not None)
