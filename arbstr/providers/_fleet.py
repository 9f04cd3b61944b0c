"""All providers of the process: for each an actor that judges it and an upstream that sends to it.

What is wanted is said as configurations, at the start and whenever that changes; who comes, who changes and who goes is
found out here. Knows nothing of files, markets and requests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final

import httpx
import trio
from attrs import define, field, frozen

from actors import (
    ActorDeadError,
    ActorSystem,
    AskTimeout,
    ChildSpec,
    InboxFull,
    StartChild,
    StopChild,
    Supervisor,
    SystemNotRunning,
    TrioActorRef,
    WhichChildren,
)
from arbstr.config import ProviderConfig
from arbstr.providers._actor import ProviderActor
from arbstr.providers._directory import Directory
from arbstr.providers._messages import Configure, Describe, ProviderView, Retire
from arbstr.providers._models import UndecodableModels
from arbstr.providers._transport import build_transport
from arbstr.providers._upstream import Upstream, UpstreamFailure

MAX_CRASHES: Final = 30
"""Within ``CRASH_PERIOD_S``, of all provider actors together: more are no accident."""

CRASH_PERIOD_S: Final = 60.0

ANSWER_S: Final = 10.0
"""For actors to start, to take a configuration, to stop: all of it local work."""

SEE_OUT_S: Final = 900.0
"""How long requests to a provider that is no longer wanted may go on before its actor stops listening to them. They
themselves are not cut: its connections stay for as long as they are read."""

STOP_GRACE_S: Final = 5.0


class _Providers(Supervisor):
    # All providers may leave at once.
    inbox_capacity = 1 << 16


@define(eq=False)
class _Slot:
    """One provider at one address: what stays when its actor is started anew."""

    id: str
    config: ProviderConfig
    upstream: Upstream
    directory: Directory
    ref: TrioActorRef[ProviderActor] | None = None
    """None until its actor is up."""
    applied: bool = True
    """The actor is known to run with ``config``."""

    def make(self) -> ProviderActor:
        """The actor, also the one in place of one that has crashed."""
        return ProviderActor(self.config, self.directory, self.check)

    async def check(self) -> bool:
        """The provider lists its models, for our key."""
        try:
            await self.upstream.models()
        except (UpstreamFailure, UndecodableModels):
            return False
        return True


@frozen
class _Change:
    """A provider that stays."""

    slot: _Slot
    config: ProviderConfig
    upstream: Upstream | None
    """None: the one that it has will do."""


@define(eq=False)
class _Plan:
    """From what is to what is wanted."""

    changes: list[_Change] = field(factory=list)
    fresh: list[_Slot] = field(factory=list)

    def upstreams(self) -> Iterator[Upstream]:
        """Those that were made for it."""
        yield from (slot.upstream for slot in self.fresh)
        yield from (change.upstream for change in self.changes if change.upstream is not None)

    def unused(self) -> Iterator[Upstream]:
        """Those of changes that it never came to."""
        for change in self.changes:
            if change.upstream is not None and change.upstream is not change.slot.upstream:
                yield change.upstream


class Fleet:
    """The providers that are wanted, each with its actor in ``directory`` and its upstream.

    ``start``, then ``apply`` as often as one likes, but by one task at a time, and ``aclose``. ``transport`` makes the
    way out to a provider. Actors that crash are started anew, with a closed breaker and fresh statistics, until they do
    so too often: then all of them stop and ``alive`` is False.
    """

    def __init__(
        self,
        system: ActorSystem,
        directory: Directory,
        transport: Callable[[ProviderConfig], httpx.AsyncBaseTransport] = build_transport,
    ) -> None:
        self._system = system
        self._directory = directory
        self._transport = transport
        self._supervisor: TrioActorRef[Supervisor] | None = None
        self._slots: dict[str, _Slot] = {}
        self._upstreams: dict[str, Upstream] = {}  # also of those who leave, until their last permit is back
        self._open: set[Upstream] = set()
        self._tasks: set[trio.CancelScope] = set()
        self._ids = count(1)
        self._applying = False

    async def start(self) -> None:
        """Be there, without a provider."""
        supervisor = self._system.start(_Providers, [], intensity=MAX_CRASHES, period_s=CRASH_PERIOD_S)
        self._supervisor = supervisor
        await supervisor.request(WhichChildren())

    @property
    def alive(self) -> bool:
        """Started, and its actors have not crashed faster than they could be started anew."""
        return self._supervisor is not None and self._supervisor.is_alive()

    def upstream(self, name: str) -> Upstream:
        """The way to a provider at this moment: fetch it where it is used, together with a permit.

        Raises KeyError for one that is not wanted any more and has no permit out.
        """
        return self._upstreams[name]

    def views(self) -> Iterator[ProviderView]:
        """The providers in the order in which they were wanted, as they were last published."""
        return iter(self._directory.snapshot)

    async def describe(self, *, timeout_s: float = 1.0) -> tuple[ProviderView, ...]:
        """The same, up to date. An actor that does not answer in time is shown as it was published."""
        views = {view.name: view for view in self._directory.snapshot}
        asked: dict[str, Awaitable[ProviderView]] = {}
        for name in views:
            with suppress(KeyError, InboxFull):
                asked[name] = self._directory.ref(name).ask(Describe(), block=False)
        with trio.move_on_after(timeout_s):
            for name, answer in asked.items():
                with suppress(ActorDeadError):
                    views[name] = await answer
        return tuple(views.values())

    async def apply(self, wanted: Sequence[ProviderConfig]) -> None:
        """Have exactly these providers, in this order.

        One that is new gets an actor and an upstream. One that has changed keeps its permits, its breaker and its
        statistics, and gets another upstream where that depends on the change; with another URL it is another host, so
        it is a new one. Readers of the directory and of ``upstream`` see all of it at once. Who is not wanted any more
        is not found from then on, and requests in flight, to this one or by an upstream of before, end as they would
        have.

        Raises ValueError for a name that is there twice or a URL without a transport, and then nothing has changed.
        Cancelled before it has begun, or not at all: it takes milliseconds. ActorDeadError when the fleet is not alive.
        AskTimeout when actors do not answer: what could be done is done, and the next apply does the rest.
        """
        configs = {config.name: config for config in wanted}
        if len(configs) != len(wanted):
            raise ValueError("a provider is wanted twice; names must differ")
        if not self.alive:
            raise ActorDeadError("the actors of the providers are not running")
        assert not self._applying, "one apply at a time"
        self._applying = True
        try:
            await trio.lowlevel.checkpoint()
            with trio.CancelScope(shield=True):
                await self._carry_out(configs, await self._plan(configs))
        finally:
            self._applying = False

    async def aclose(self) -> None:
        """Stop the actors and close every connection, those in use too. If cancelled, all the same but faster."""
        for task in self._tasks:
            task.cancel()
        try:
            if self._supervisor is not None:
                await self._supervisor.terminate(grace_s=STOP_GRACE_S)
        finally:
            with trio.CancelScope(shield=True):  # each bounds itself
                async with trio.open_nursery() as nursery:
                    for upstream in self._open:
                        nursery.start_soon(upstream.aclose)

    # From what is to what is wanted

    async def _plan(self, configs: dict[str, ProviderConfig]) -> _Plan:
        plan = _Plan()
        try:
            for name, config in configs.items():
                slot = self._slots.get(name)
                if slot is None or slot.config.url != config.url:
                    slot = _Slot(f"{name} #{next(self._ids)}", config, self._new_upstream(config), self._directory)
                    plan.fresh.append(slot)
                elif slot.config != config or not slot.applied:
                    same_way = _way_out(slot.config) == _way_out(config)
                    upstream = None if same_way else self._new_upstream(config)
                    plan.changes.append(_Change(slot, config, upstream))
        except BaseException:
            for upstream in plan.upstreams():
                await upstream.aclose()
            raise
        return plan

    def _new_upstream(self, config: ProviderConfig) -> Upstream:
        return Upstream(config, self._transport(config))

    async def _carry_out(self, configs: dict[str, ProviderConfig], plan: _Plan) -> None:
        self._open = {upstream for upstream in self._open if not upstream.closed}
        self._open.update(plan.upstreams())
        with self._directory.one_change():
            try:
                for change in plan.changes:
                    await self._configure(change)
                for slot in plan.fresh:
                    slot.ref = await self._ask_supervisor(StartChild(ChildSpec(slot.id, slot.make)))
            finally:
                self._switch(configs, plan.fresh)
                for unused in plan.unused():
                    self._spawn(unused.aclose)

    async def _configure(self, change: _Change) -> None:
        slot = change.slot
        assert slot.ref is not None
        # From here on also for an actor that is started in place of a crashed one.
        slot.config, slot.applied = change.config, False
        if change.upstream is not None:
            slot.upstream = change.upstream
        with suppress(ActorDeadError):  # it has crashed over something else
            await slot.ref.request(Configure(change.config), timeout_s=ANSWER_S)
        slot.applied = True

    def _switch(self, configs: dict[str, ProviderConfig], fresh: Iterable[_Slot]) -> None:
        """What readers see. In one step, within the directory's one change."""
        former, self._slots = self._slots, {}
        up = {slot.config.name: slot for slot in fresh if slot.ref is not None}
        for name in configs:
            slot = up.get(name) or former.get(name)
            if slot is not None:
                self._slots[name] = slot
        staying = set(self._slots.values())
        for slot in (*former.values(), *fresh):
            if slot not in staying:
                self._dismiss(slot)
        for name, slot in self._slots.items():
            before = self._upstreams.get(name)
            self._upstreams[name] = slot.upstream
            if before is not None and before is not slot.upstream and former.get(name) is slot:
                self._spawn(before.retire)
        self._directory.arrange(configs)

    def _dismiss(self, slot: _Slot) -> None:
        slot.directory = Directory()  # should its actor be started anew, then for nobody to find
        if slot.ref is not None:
            self._directory.withdraw(slot.config.name, slot.ref)
        self._spawn(lambda: self._see_out(slot))

    async def _see_out(self, slot: _Slot) -> None:
        """Let the requests to a provider end, then its actor and its connections."""
        if slot.ref is not None:
            with suppress(ActorDeadError, AskTimeout, InboxFull):
                await slot.ref.request(Retire(), timeout_s=SEE_OUT_S)
        with suppress(ActorDeadError, AskTimeout, InboxFull):
            await self._ask_supervisor(StopChild(slot.id))
        if self._upstreams.get(slot.config.name) is slot.upstream:
            del self._upstreams[slot.config.name]
        await slot.upstream.retire()

    async def _ask_supervisor(self, message: Any) -> Any:
        assert self._supervisor is not None
        return await self._supervisor.request(message, timeout_s=ANSWER_S)

    def _spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """For what nobody waits for. When the system is closing already, ``aclose`` does what matters of it."""

        async def run() -> None:
            try:
                await function()
            finally:
                self._tasks.discard(scope)

        with suppress(SystemNotRunning):
            scope = self._system.spawn(run)
            self._tasks.add(scope)


def _way_out(config: ProviderConfig) -> tuple[object, ...]:
    """What an upstream and its transport depend on."""
    return (
        config.url,
        config.api_key,
        config.connect_timeout_s,
        config.first_byte_timeout_s,
        config.idle_timeout_s,
        config.total_timeout_s,
        config.max_concurrent,
        config.http2,
        config.proxy,
        config.models if config.is_mock else None,
    )
