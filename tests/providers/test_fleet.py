"""The fleet: what is wanted comes true at once for readers, and never at the cost of a request in flight."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import httpx
import pytest
import trio
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import ActorDeadError, ActorSystem, AskTimeout
from arbstr.config import Model, ProviderConfig, Tier
from arbstr.providers import (
    Acquire,
    BreakerState,
    Directory,
    Fleet,
    Outcome,
    Permit,
    ProviderActor,
    ProviderView,
    Report,
    Shut,
    UpstreamAnswer,
    UpstreamFailure,
)
from arbstr.providers import _fleet as fleet_module
from arbstr.secrets import Secret
from arbstr.units import Price
from arbstr.wire import Endpoint

FAULT, SUCCESS = Outcome.PROVIDER_FAULT, Outcome.SUCCESS


class Body(httpx.AsyncByteStream):
    """One byte now, another when the gate opens; cut when the transport is closed."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._left = 2

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        if self._left == 1:
            await self._transport.gate.wait()
        await trio.lowlevel.checkpoint()
        if self._transport.closed:
            raise httpx.ReadError("closed under the reader")
        self._left -= 1
        return b"x"

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@define(eq=False)
class Transport(httpx.AsyncBaseTransport):
    """A way out that remembers what it was made for."""

    config: ProviderConfig
    gate: trio.Event
    models_status: int = 503
    requests: list[httpx.Request] = field(factory=list)
    closed: bool = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert not self.closed, "used after its end"
        self.requests.append(request)
        await trio.lowlevel.checkpoint()
        if request.method == "GET":
            return httpx.Response(self.models_status, stream=httpx.ByteStream(b'{"data":[]}'))
        return httpx.Response(200, stream=Body(self))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True


class Rig:
    """A fleet over scripted transports, and requests that go through it as real ones do."""

    def __init__(self, system: ActorSystem, make_config: Callable[..., ProviderConfig]) -> None:
        self.make_config = make_config
        self.made: list[Transport] = []
        self.gate = trio.Event()
        self.directory = Directory()
        self.fleet = Fleet(system, self.directory, self._transport)

    def _transport(self, config: ProviderConfig) -> Transport:
        if "bad" in config.url:
            raise ValueError(f"no transport for {config.name}")
        self.made.append(Transport(config, self.gate))
        return self.made[-1]

    def config(self, name: str, **fields: Any) -> ProviderConfig:
        return self.make_config(name, **{"url": f"http://{name}.example/v1", **fields})

    async def apply(self, *wanted: ProviderConfig | str) -> None:
        await self.fleet.apply([self.config(each) if isinstance(each, str) else each for each in wanted])

    @property
    def names(self) -> list[str]:
        return [view.name for view in self.fleet.views()]

    def view(self, name: str) -> ProviderView:
        [view] = [view for view in self.directory.snapshot if view.name == name]
        return view

    def transport(self, name: str) -> Transport:
        found = self.fleet.upstream(name)._transport
        assert isinstance(found, Transport)
        return found

    async def permit(self, name: str) -> Permit:
        answer = await self.directory.ref(name).request(Acquire("req"))
        assert isinstance(answer, Permit), answer
        return answer

    async def send(self, name: str) -> UpstreamAnswer:
        return await self.fleet.upstream(name).send(Endpoint.CHAT, b"{}", stream=True, request_id="req")

    async def request(self, name: str, started: Callable[[], None] = lambda: None) -> str:
        """One request from permit to report. How it ended."""
        try:
            ref = self.directory.ref(name)
            with trio.CancelScope(shield=True):
                permit = await ref.request(Acquire("req"))
        except (KeyError, ActorDeadError):
            return "not there"
        if isinstance(permit, Shut):
            return permit.reason
        outcome = Outcome.ABANDONED
        try:
            async with await self.send(name) as answer:
                started()
                assert await answer.read(10) == b"xx"
            outcome = SUCCESS
        except UpstreamFailure:
            outcome = FAULT
        finally:
            try:
                ref.tell(Report(permit.id, outcome))
            except ActorDeadError:
                outcome = Outcome.ABANDONED
        return outcome.value

    async def note(self, ended: list[str], name: str, started: Callable[[], None]) -> None:
        ended.append(await self.request(name, started))

    async def request_all(self, names: Iterable[str]) -> list[str]:
        self.gate.set()
        return [await self.request(name) for name in names]

    async def open_breaker(self, name: str) -> None:
        ref = self.directory.ref(name)
        for _ in range(3):
            ref.tell(Report((await self.permit(name)).id, FAULT))
        await self.fleet.describe()
        assert self.view(name).breaker_state is BreakerState.OPEN

    async def crash(self, name: str) -> None:
        self.directory.ref(name).tell("nonsense")
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def system() -> AsyncIterator[ActorSystem]:
    async with ActorSystem.run() as system:
        yield system


@pytest.fixture
async def rig(system: ActorSystem, make_config: Callable[..., ProviderConfig]) -> AsyncIterator[Rig]:
    rig = Rig(system, make_config)
    await rig.fleet.start()
    yield rig
    await rig.fleet.aclose()
    assert all(transport.closed for transport in rig.made)
    assert system.refs(ProviderActor) == []


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked()


# -- who comes, who goes


async def test_has_nobody_when_nothing_is_wanted(rig: Rig, autojump_clock: Any) -> None:
    assert rig.fleet.alive
    await rig.apply()
    assert rig.names == []
    with pytest.raises(KeyError):
        rig.fleet.upstream("a")


async def test_has_the_wanted_providers_in_their_order_whatever_came_before(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("b", "a")
    assert rig.names == ["b", "a"]
    await rig.apply("c", "a", "b")
    assert rig.names == ["c", "a", "b"]
    await rig.apply("b", "c")
    assert rig.names == ["b", "c"]
    assert await rig.request_all(["b", "c", "a"]) == ["success", "success", "not there"]


async def test_publishes_nothing_when_nothing_has_changed(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a", "b")
    before, made = rig.directory.snapshot, len(rig.made)
    await rig.apply("a", "b")
    assert rig.directory.snapshot is before
    assert len(rig.made) == made


async def test_ends_the_actor_and_the_connections_when_a_provider_is_not_wanted_any_more(
    rig: Rig, system: ActorSystem, autojump_clock: Any
) -> None:
    await rig.apply("a", "b")
    gone = rig.transport("a")
    await rig.apply("b")
    await quiet()
    assert gone.closed
    assert len(system.refs(ProviderActor)) == 1
    with pytest.raises(KeyError):
        rig.fleet.upstream("a")


async def test_starts_afresh_when_a_provider_is_wanted_again(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a")
    await rig.open_breaker("a")
    former = rig.transport("a")
    await rig.apply()
    await rig.apply("a")
    assert rig.view("a").breaker_state is BreakerState.CLOSED
    assert rig.transport("a") is not former
    rig.gate.set()
    assert await rig.request("a") == "success"
    await quiet()
    assert former.closed
    assert not rig.transport("a").closed


async def test_keeps_another_life_apart_when_it_is_wanted_again_before_the_former_has_ended(
    rig: Rig, autojump_clock: Any
) -> None:
    await rig.apply("a")
    former, old_ref = rig.transport("a"), rig.directory.ref("a")
    permit, answer = await rig.permit("a"), await rig.send("a")
    for _ in range(3):
        await rig.apply()
        await rig.apply("a")
    assert not former.closed
    old_ref.tell(Report(permit.id, Outcome.RATE_LIMITED))
    await quiet()
    assert rig.view("a").breaker_state is BreakerState.CLOSED, "that was the former one"
    assert not former.closed, "its answer is still being read"
    await answer.aclose()
    assert former.closed
    assert not rig.transport("a").closed
    assert not old_ref.is_alive()


# -- requests in flight


async def test_lets_a_request_end_when_its_provider_is_not_wanted_any_more(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a")
    ended = []
    async with trio.open_nursery() as nursery:
        started = trio.Event()
        nursery.start_soon(lambda: rig.note(ended, "a", started.set))
        await started.wait()
        transport = rig.transport("a")
        await rig.apply()
        await quiet()
        assert (rig.names, transport.closed, ended) == ([], False, [])
        assert rig.transport("a") is transport, "who has a permit finds the way"
        rig.gate.set()
    assert ended == ["success"]
    await quiet()
    assert transport.closed
    with pytest.raises(KeyError):
        rig.fleet.upstream("a")


async def test_finds_its_way_when_the_provider_goes_between_permit_and_call(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a")
    ref, permit = rig.directory.ref("a"), await rig.permit("a")
    await rig.apply()
    await quiet()
    rig.gate.set()
    async with await rig.send("a") as answer:
        assert await answer.read(10) == b"xx"
    ref.tell(Report(permit.id, SUCCESS))
    await quiet()
    assert all(transport.closed for transport in rig.made)


async def test_gives_no_permit_any_more_when_the_provider_is_not_wanted(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a")
    ref, permit = rig.directory.ref("a"), await rig.permit("a")
    await rig.apply()
    await quiet()
    assert await ref.request(Acquire("req")) == Shut("removed", None)
    ref.tell(Report(permit.id, SUCCESS))


async def test_waits_only_so_long_when_a_permit_never_comes_back(
    rig: Rig, system: ActorSystem, autojump_clock: Any
) -> None:
    await rig.apply("a")
    await rig.permit("a")
    answer, transport = await rig.send("a"), rig.transport("a")
    await rig.apply()
    await trio.sleep(fleet_module.SEE_OUT_S - 1)
    assert len(system.refs(ProviderActor)) == 1
    await trio.sleep(2)
    assert system.refs(ProviderActor) == []
    assert not transport.closed, "the answer is still being read"
    await answer.aclose()
    assert transport.closed


# -- who changes


async def test_keeps_breaker_permits_and_connections_when_only_the_price_changes(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a")
    await rig.permit("a")
    await rig.open_breaker("a")
    ref, transport = rig.directory.ref("a"), rig.transport("a")
    changed = rig.config("a", price=Price.of(7, 9), models=(Model("m"),), tier=Tier.LOCAL, weight=0)
    await rig.apply(changed)
    view = rig.view("a")
    assert view.config is changed
    assert (view.breaker_state, view.failure_count) == ("open", 3)
    assert (rig.directory.ref("a"), rig.transport("a")) == (ref, transport)
    [described] = await rig.fleet.describe()
    assert described.in_flight == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": Secret("another-key-01")},
        {"first_byte_timeout_s": 3.0},
        {"idle_timeout_s": 3.0},
        {"connect_timeout_s": 3.0},
        {"total_timeout_s": 3.0},
        {"max_concurrent": 3},
        {"http2": True},
        {"proxy": Secret("http://proxy.example:3128")},
    ],
)
async def test_keeps_the_breaker_but_not_the_connections_when_these_depend_on_the_change(
    fields: dict[str, Any], rig: Rig, autojump_clock: Any
) -> None:
    await rig.apply(rig.config("a", api_key=Secret("the-key-of-old")))
    answer, former = await rig.send("a"), rig.transport("a")
    await rig.open_breaker("a")
    await rig.apply(rig.config("a", **{"api_key": Secret("the-key-of-old"), **fields}))
    assert rig.view("a").breaker_state is BreakerState.OPEN
    assert rig.transport("a") is not former
    await quiet()
    assert not former.closed
    rig.gate.set()
    assert await answer.read(10) == b"xx"
    assert former.closed
    key = rig.transport("a").config.api_key
    async with await rig.send("a"):
        [request] = rig.transport("a").requests
        assert request.headers["authorization"] == f"Bearer {key.reveal()}"  # type: ignore[union-attr]


async def test_is_another_host_with_a_closed_breaker_when_the_url_changes(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a", "b")
    await rig.open_breaker("a")
    held, old_ref, former = await rig.send("a"), rig.directory.ref("a"), rig.transport("a")
    await rig.apply(rig.config("a", url="http://elsewhere.example/v1"), "b")
    assert rig.names == ["a", "b"]
    assert (rig.view("a").url, rig.view("a").breaker_state) == ("http://elsewhere.example/v1", "closed")
    async with await rig.send("a"):
        assert rig.transport("a").requests[0].url.host == "elsewhere.example"
    await quiet()
    assert not old_ref.is_alive()
    await held.aclose()
    assert former.closed


async def test_lets_a_request_at_the_former_host_end_when_the_url_changes(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a")
    ended: list[str] = []
    async with trio.open_nursery() as nursery:
        started = trio.Event()
        nursery.start_soon(lambda: rig.note(ended, "a", started.set))
        await started.wait()
        former = rig.transport("a")
        await rig.apply(rig.config("a", url="http://elsewhere.example/v1"))
        await quiet()
        assert (former.closed, ended) == (False, [])
        rig.gate.set()
    await quiet()
    assert (former.closed, ended) == (True, ["success"])
    assert rig.view("a").failure_count == 0


# -- what cannot be


async def test_changes_nothing_when_a_name_is_wanted_twice(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a")
    before = rig.directory.snapshot
    with pytest.raises(ValueError, match="twice"):
        await rig.apply("b", "b")
    assert rig.directory.snapshot is before


async def test_changes_nothing_and_keeps_nothing_open_when_there_is_no_transport_for_a_url(
    rig: Rig, autojump_clock: Any
) -> None:
    await rig.apply("a")
    before, made = rig.directory.snapshot, len(rig.made)
    with pytest.raises(ValueError, match="no transport for c"):
        await rig.apply("b", rig.config("a", max_concurrent=3), rig.config("c", url="http://bad.example"))
    assert rig.directory.snapshot is before
    assert [transport.closed for transport in rig.made[made:]] == [True, True]
    await rig.apply("a", "b")
    assert rig.names == ["a", "b"]


async def test_refuses_to_apply_when_it_is_not_alive(rig: Rig, system: ActorSystem, autojump_clock: Any) -> None:
    asleep = Fleet(system, Directory())
    assert not asleep.alive
    with pytest.raises(ActorDeadError):
        await asleep.apply([])
    await asleep.aclose()
    await rig.apply("a")
    await rig.fleet.aclose()
    await rig.fleet.aclose()
    assert not rig.fleet.alive
    with pytest.raises(ActorDeadError):
        await rig.apply("a")
    assert rig.names == []


async def test_does_the_rest_later_when_an_actor_does_not_answer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    await rig.apply("a", "b", "c")
    stuck = trio.Event()

    async def get_stuck(self: ProviderActor, message: object, now: float) -> None:
        await stuck.wait()

    with monkeypatch.context() as patched:
        patched.setattr(ProviderActor, "_configure", get_stuck)
        patched.setattr(
            ProviderActor,
            "on_receive",
            lambda self, message: self._configure(message, 0.0),
        )
        wanted = [rig.config(name, max_concurrent=3) for name in ("a", "b", "c")]
        with pytest.raises(AskTimeout):
            await rig.fleet.apply([*wanted, rig.config("d")])
        stuck.set()
        await quiet()
    await rig.fleet.apply([*wanted, rig.config("d")])
    assert [(view.name, view.max_concurrent) for view in rig.fleet.views()] == [
        ("a", 3),
        ("b", 3),
        ("c", 3),
        ("d", 256),
    ]
    rig.gate.set()
    assert await rig.request_all(["a", "b", "c", "d"]) == ["success"] * 4
    await quiet()
    assert sum(not transport.closed for transport in rig.made) == 4


# -- cancellation, crashes, the end


async def test_has_done_nothing_or_everything_when_apply_is_cancelled(rig: Rig, autojump_clock: Any) -> None:
    outcomes = []
    for turns in range(12):
        await rig.apply("a", "b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.apply, "c", "b")
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        outcomes.append(rig.names)
    assert outcomes[0] == ["a", "b"]
    assert outcomes[-1] == ["c", "b"]
    assert outcomes == sorted(outcomes), "from the step on that begins with it, it is done to its end"
    assert await rig.request_all(["c", "b"]) == ["success", "success"]


async def test_is_there_again_with_its_present_configuration_when_its_actor_crashes(
    rig: Rig, autojump_clock: Any
) -> None:
    await rig.apply("a", "b")
    changed = rig.config("a", price=Price.of(7, 9), max_concurrent=5)
    await rig.apply(changed, "b")
    await rig.open_breaker("a")
    await rig.crash("a")
    assert rig.names == ["a", "b"]
    assert (rig.view("a").config, rig.view("a").breaker_state) == (changed, "closed")
    rig.gate.set()
    assert await rig.request("a") == "success"


async def test_is_never_found_again_when_it_crashes_on_its_way_out(
    rig: Rig, system: ActorSystem, autojump_clock: Any
) -> None:
    await rig.apply("a", "b")
    ref, _ = rig.directory.ref("a"), await rig.permit("a")
    await rig.apply("b")
    await quiet()
    watch = Watch(rig)
    watch.allowed = [["b"]]
    trio.lowlevel.add_instrument(watch)
    ref.tell("nonsense")
    await quiet()
    trio.lowlevel.remove_instrument(watch)
    assert (watch.wrong, rig.names) == ([], ["b"])
    with pytest.raises(KeyError):
        rig.directory.ref("a")
    assert len(system.refs(ProviderActor)) == 1
    await rig.apply("a", "b")
    assert rig.names == ["a", "b"]


async def test_is_not_alive_any_more_when_its_actors_crash_too_often(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a", "b")
    for _ in range(fleet_module.MAX_CRASHES):
        await rig.crash("a")
        assert rig.fleet.alive
    await rig.crash("b")
    assert not rig.fleet.alive
    assert rig.names == []


async def test_cuts_what_is_in_flight_when_closed(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a", "b")
    held = [await rig.send("a"), await rig.send("b")]
    await rig.apply("b")
    await rig.fleet.aclose()
    assert all(transport.closed for transport in rig.made)
    for answer in held:
        with pytest.raises(UpstreamFailure):
            await answer.read(10)


async def test_closes_everything_when_closing_is_cancelled(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("a", "b")
    with trio.CancelScope() as scope:
        scope.cancel()
        await rig.fleet.aclose()
    assert scope.cancelled_caught
    assert all(transport.closed for transport in rig.made)


async def test_can_be_closed_when_the_actors_have_been_stopped_before(
    rig: Rig, system: ActorSystem, autojump_clock: Any
) -> None:
    await rig.apply("a")
    await rig.permit("a")
    await rig.apply("b")
    await system.stop_all()
    await rig.fleet.aclose()
    assert not rig.fleet.alive


# -- looking


async def test_describes_everybody_up_to_date_in_order(rig: Rig, autojump_clock: Any) -> None:
    await rig.apply("b", "a")
    await rig.permit("a")
    assert [(view.name, view.in_flight) for view in await rig.fleet.describe()] == [("b", 0), ("a", 1)]
    assert [view.in_flight for view in rig.fleet.views()] == [0, 0]


async def test_describes_who_does_not_answer_as_it_was_published(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    await rig.apply("a", "b")

    async def dawdle(self: ProviderActor, message: object) -> None:
        await trio.sleep(5)

    monkeypatch.setattr(ProviderActor, "on_receive", dawdle)
    began = trio.current_time()
    assert await rig.fleet.describe(timeout_s=2) == rig.directory.snapshot
    assert trio.current_time() - began == 2
    await trio.sleep(20)


async def test_lets_the_next_request_probe_when_the_provider_lists_its_models_again(
    rig: Rig, autojump_clock: Any
) -> None:
    await rig.apply(rig.config("a", probe_interval_s=5, breaker_open_s=300, api_key=Secret("old-key-0123")))
    await rig.open_breaker("a")
    await trio.sleep(12)
    former = rig.transport("a")
    assert [str(request.url) for request in former.requests] == ["http://a.example/v1/models"] * 2
    assert await rig.request("a") == "breaker_open"
    changed = evolve(rig.view("a").config, api_key=Secret("new-key-0123"))
    await rig.apply(changed)
    rig.transport("a").models_status = 200
    await trio.sleep(6)
    [request] = rig.transport("a").requests
    assert request.headers["authorization"] == "Bearer new-key-0123"
    assert (await rig.permit("a")).probe


async def test_serves_the_mock_market_when_it_makes_its_own_transports(
    system: ActorSystem, make_config: Callable[..., ProviderConfig], autojump_clock: Any
) -> None:
    fleet = Fleet(system, Directory())
    await fleet.start()
    try:
        await fleet.apply([make_config("a", models=(Model("m", upstream_id="theirs"),))])
        assert [model.id for model in await fleet.upstream("a").models()] == ["theirs"]
        await fleet.apply([make_config("a", models=("n",))])
        assert [model.id for model in await fleet.upstream("a").models()] == ["n"]
    finally:
        await fleet.aclose()


# -- anything, in any order


class Watch(trio.abc.Instrument):
    """Looks after every step of every task at what a reader would see then."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.allowed: list[list[str]] = [[]]  # orders of names of which one must be there; crashed ones may be missing
        self.wrong: list[str] = []
        self.seen: tuple[ProviderView, ...] = ()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        try:
            self.look()
        except Exception as error:  # trio would only log it, and look no more
            self.wrong.append(repr(error))

    def look(self) -> None:
        rig, snapshot = self.rig, self.rig.directory.snapshot
        names = [view.name for view in snapshot]
        if snapshot is not self.seen and not any(is_part_of(names, order) for order in self.allowed):
            self.wrong.append(f"{names} is nothing of {self.allowed}")
        self.seen = snapshot
        for view in snapshot:
            transport = rig.transport(view.name)
            if transport.closed or transport.config.url != view.url or transport.config.api_key != view.config.api_key:
                self.wrong.append(f"{view.name} has the wrong way out")
            if not rig.fleet._applying:  # else one that has just crashed is still shown
                rig.directory.ref(view.name)


def is_part_of(names: Sequence[str], order: Iterable[str]) -> bool:
    rest = iter(order)
    return all(name in rest for name in names)


@pytest.mark.parametrize("url", [None, "http://elsewhere.example/v1"])
async def test_is_as_wanted_when_an_actor_crashes_at_any_moment_of_its_dismissal(
    url: str | None, rig: Rig, autojump_clock: Any
) -> None:
    wanted = ["b"] if url is None else ["a", "b"]
    watch = Watch(rig)
    watch.allowed = [["a", "b"]]
    trio.lowlevel.add_instrument(watch)
    for turns in range(10):
        await rig.apply("a", "b")
        rig.directory.ref("a").tell("nonsense")
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        await rig.apply(*(rig.config(name, **({"url": url} if name == "a" else {})) for name in wanted))
        assert rig.names == wanted
        await quiet()
        assert rig.names == wanted
        await rig.apply()
        await quiet()
        await trio.sleep(fleet_module.CRASH_PERIOD_S)
    trio.lowlevel.remove_instrument(watch)
    assert watch.wrong == []


WANTED = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.fixed_dictionaries(
            {},
            optional={
                "url": st.sampled_from(["http://one.example/v1", "http://two.example/v1"]),
                "api_key": st.sampled_from([Secret("key-number-one"), Secret("key-number-two")]),
                "price": st.just(Price.of(5, 6)),
                "max_concurrent": st.integers(1, 3),
            },
        ),
    ),
    max_size=4,
    unique_by=lambda each: each[0],
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), WANTED),
        st.tuples(st.just("apply and cancel"), WANTED, st.integers(0, 12)),
        st.tuples(st.just("request"), st.sampled_from("abcd")),
        st.tuples(st.just("crash"), st.sampled_from("abcd")),
        st.just(("cancel one",)),
        st.just(("let them end",)),
        st.tuples(st.just("turns"), st.integers(1, 6)),
    ),
    max_size=25,
)


@define(eq=False)
class Play:
    """Carries out steps. Requests run beside them and must all end as they should."""

    rig: Rig
    watch: Watch
    nursery: trio.Nursery
    scopes: list[trio.CancelScope] = field(factory=list)
    ended: list[str] = field(factory=list)
    applied: list[ProviderConfig] = field(factory=list)

    async def take(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("apply", wanted):
                await self.apply(wanted, None)
            case ("apply and cancel", wanted, turns):
                await self.apply(wanted, turns)
            case ("request", name):
                self.scopes.append(trio.CancelScope())
                self.nursery.start_soon(self.request, name, self.scopes[-1])
            case ("crash", name):
                if any(view.name == name for view in self.rig.directory.snapshot):
                    self.rig.directory.ref(name).tell("nonsense")
            case ("cancel one",) if self.scopes:
                self.scopes.pop().cancel()
            case ("let them end",):
                self.rig.gate.set()
                await quiet()
                self.rig.gate = trio.Event()
                for transport in self.rig.made:
                    transport.gate = self.rig.gate
            case ("turns", number):
                for _ in range(number):
                    await trio.lowlevel.checkpoint()

    async def apply(self, wanted: list[tuple[str, dict[str, Any]]], turns: int | None) -> None:
        configs = [self.rig.config(name, **fields) for name, fields in wanted]
        order = [config.name for config in configs]
        before = [config.name for config in self.applied]
        self.watch.allowed = [before, order]
        done = False

        async def apply() -> None:
            nonlocal done
            await self.rig.fleet.apply(configs)
            done = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(apply)
            if turns is not None:
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        if done:
            self.applied = configs
        self.watch.allowed = [[config.name for config in self.applied]]

    async def request(self, name: str, scope: trio.CancelScope) -> None:
        with scope:
            self.ended.append(await self.rig.request(name))


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_readers_and_requests_never_notice_more_than_they_should_whatever_happens(
    make_config: Callable[..., ProviderConfig], steps: list[tuple[Any, ...]]
) -> None:
    async def main() -> None:
        async with ActorSystem.run() as system:
            rig = Rig(system, make_config)
            await rig.fleet.start()
            watch = Watch(rig)
            trio.lowlevel.add_instrument(watch)
            async with trio.open_nursery() as nursery:
                play = Play(rig, watch, nursery)
                for step in steps:
                    await play.take(step)
                await quiet()
                rig.gate.set()
                for transport in rig.made:
                    transport.gate.set()
            await quiet()
            assert watch.wrong == []
            assert set(play.ended) <= {"success", "busy", "not there", "removed", "abandoned"}, "nobody was cut"
            assert [view.config for view in rig.fleet.views()] == play.applied
            for config in play.applied:
                assert await rig.request(config.name) == "success"
            await trio.sleep(fleet_module.SEE_OUT_S + 1)  # permits that a crash has lost
            assert sum(not transport.closed for transport in rig.made) == len(play.applied)
            assert len(system.refs(ProviderActor)) == len(play.applied)
            await rig.fleet.aclose()
            assert all(transport.closed for transport in rig.made)
            trio.lowlevel.remove_instrument(watch)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
