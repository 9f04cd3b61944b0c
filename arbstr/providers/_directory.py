"""What everybody may read about all providers: an immutable tuple that each provider's actor republishes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors import TrioActorRef
    from arbstr.providers._actor import ProviderActor
    from arbstr.providers._messages import ProviderView


class Directory:
    """The providers of this process, in file order.

    Readers take ``snapshot`` and keep it: it is never changed, only replaced. Writers are the provider actors, and who
    owns them. Sync throughout and used on the Trio thread only, so nobody sees half a change. ``order`` fixes the order
    by name; providers not named there follow in the order in which they were first enlisted.
    """

    def __init__(self, order: Iterable[str] = ()) -> None:
        self._views: dict[str, ProviderView | None] = dict.fromkeys(order)
        self._refs: dict[str, TrioActorRef[ProviderActor]] = {}
        self._snapshot: tuple[ProviderView, ...] = ()
        self._waiting: dict[TrioActorRef[ProviderActor], ProviderView] = {}  # to be enlisted, the last of a name counts
        self._held = False
        self._changed = False  # while held

    @property
    def snapshot(self) -> tuple[ProviderView, ...]:
        return self._snapshot

    def ref(self, name: str) -> TrioActorRef[ProviderActor]:
        """The actor of that provider. Raises KeyError when none runs; a ref may die at any time after that."""
        return self._refs[name]

    def enlist(self, view: ProviderView, ref: TrioActorRef[ProviderActor]) -> None:
        """Add a provider, or replace it: after a restart the same name has a new actor."""
        if self._held:
            self._waiting[ref] = view
        else:
            self._refs[view.name] = ref
            self.publish(view, ref)

    def publish(self, view: ProviderView, ref: TrioActorRef[ProviderActor]) -> None:
        """Show another view of a provider, unless ``ref`` is not, or no longer, the one that is enlisted."""
        if ref in self._waiting:
            self._waiting[ref] = view
        elif self._refs.get(view.name) is ref:
            self._views[view.name] = view
            self._replace()

    def withdraw(self, name: str, ref: TrioActorRef[ProviderActor]) -> None:
        """Take a provider out, unless ``ref`` has a successor already. Its place in the order stays."""
        self._waiting.pop(ref, None)
        if self._refs.get(name) is ref:
            del self._refs[name]
            self._views[name] = None
            self._replace()

    def arrange(self, order: Iterable[str]) -> None:
        """Fix another order. A place that is not named in it is kept only for a provider that is there."""
        former, self._views = self._views, dict.fromkeys(order)
        for name, view in former.items():
            if view is not None:
                self._views[name] = view
        if list(former) != list(self._views):
            self._replace()

    @contextmanager
    def one_change(self) -> Iterator[None]:
        """Readers see everything that is done within only at its end, and all of it at once. May span waits.

        Until then also what the other actors publish is not seen: so it must be short. Not to be nested.
        """
        assert not self._held, "one change at a time"
        self._held = True
        try:
            yield
        finally:
            self._held = False
            for ref, view in self._waiting.items():
                self._views[view.name], self._refs[view.name] = view, ref
            if self._changed or self._waiting:
                self._waiting.clear()
                self._replace()

    def _replace(self) -> None:
        self._changed = self._held
        if not self._held:
            self._snapshot = tuple([view for view in self._views.values() if view is not None])
