"""The owner of one provider: permits, their return and their loss, and what readers see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors import ActorSystem, TrioActorRef
from arbstr.config import Model, Tier
from arbstr.providers import (
    Acquire,
    BreakerState,
    Describe,
    Directory,
    Outcome,
    Permit,
    ProviderActor,
    ProviderView,
    Report,
    Shut,
)
from arbstr.secrets import Secret

FAULT, SUCCESS = Outcome.PROVIDER_FAULT, Outcome.SUCCESS


class Rig:
    """One provider actor and its directory."""

    def __init__(self, system: ActorSystem, config: Any) -> None:
        self.directory = Directory()
        self.ref: TrioActorRef = system.start(ProviderActor, config, self.directory)

    async def acquire(self) -> Permit | Shut:
        return await self.ref.request(Acquire("req"))

    async def permit(self) -> Permit:
        answer = await self.acquire()
        assert isinstance(answer, Permit), answer
        return answer

    async def report(self, permit: Permit, outcome: Outcome, **more: Any) -> None:
        self.ref.tell(Report(permit.id, outcome, **more))
        await self.view()  # messages are handled in order

    async def view(self) -> ProviderView:
        return await self.ref.request(Describe())

    @property
    def shown(self) -> ProviderView:
        [view] = self.directory.snapshot
        return view

    async def open_breaker(self) -> None:
        for _ in range(3):
            await self.report(await self.permit(), FAULT)
        assert (await self.view()).breaker_state is BreakerState.OPEN


@pytest.fixture
async def start(make_config: Callable[..., Any]) -> AsyncIterator[Callable[..., Rig]]:
    async with ActorSystem.run() as system:
        yield lambda **fields: Rig(system, make_config(**fields))


async def test_shows_the_provider_at_once_when_started(start: Any, autojump_clock: Any) -> None:
    rig = start(models=("m",), tier=Tier.FRONTIER, api_key=Secret("sk-abcdefghijk"), max_concurrent=4)
    view = rig.shown
    assert (view.name, view.url, view.models, view.tier) == ("alpha", "mock://alpha", (Model("m"),), Tier.FRONTIER)
    assert (view.breaker_state, view.failure_count, view.open_until, view.probing) == ("closed", 0, None, False)
    assert (view.in_flight, view.max_concurrent, view.busy, view.ttfb_ms) == (0, 4, False, None)
    assert (view.has_key, view.masked_key) == (True, "sk-abc...***")
    assert rig.directory.ref("alpha") == rig.ref


async def test_shows_no_key_when_it_has_none(start: Any, autojump_clock: Any) -> None:
    assert (start().shown.has_key, start().shown.masked_key) == (False, None)


async def test_is_shut_as_busy_when_every_permit_is_out(start: Any, autojump_clock: Any) -> None:
    rig = start(max_concurrent=2)
    first = await rig.permit()
    assert not rig.shown.busy
    await rig.permit()
    assert rig.shown.busy
    assert await rig.acquire() == Shut("busy", None)
    await rig.report(first, SUCCESS)
    assert not rig.shown.busy
    await rig.permit()


async def test_says_that_the_breaker_is_open_when_it_is_busy_as_well(start: Any, autojump_clock: Any) -> None:
    rig = start(max_concurrent=1, breaker_failures=1, breaker_open_s=30)
    rig.ref.tell(Report((await rig.permit()).id, Outcome.RATE_LIMITED, retry_after_s=9))
    assert await rig.acquire() == Shut("breaker_open", 9.0)


async def test_is_shut_for_the_open_time_when_failures_came_in_a_row(start: Any, autojump_clock: Any) -> None:
    rig = start(breaker_open_s=30)
    await rig.open_breaker()
    assert (rig.shown.breaker_state, rig.shown.failure_count) == ("open", 3)
    assert rig.shown.open_until == trio.current_time() + 30
    await trio.sleep(10)
    assert await rig.acquire() == Shut("breaker_open", 20.0)


async def test_refuses_all_but_one_when_it_is_probed(start: Any, autojump_clock: Any) -> None:
    rig = start()
    await rig.open_breaker()
    await trio.sleep(30)
    answers = [await rig.acquire() for _ in range(5)]
    assert [isinstance(answer, Permit) for answer in answers] == [True, False, False, False, False]
    assert answers[0].probe
    assert answers[1:] == [Shut("probing", None)] * 4
    assert (rig.shown.breaker_state, rig.shown.probing, rig.shown.open_until) == ("half_open", True, None)
    await rig.report(answers[0], Outcome.CLIENT_FAULT)
    assert (rig.shown.breaker_state, rig.shown.probing, rig.shown.failure_count) == ("closed", False, 0)


async def test_lets_the_next_one_probe_when_the_probe_was_abandoned(start: Any, autojump_clock: Any) -> None:
    rig = start()
    await rig.open_breaker()
    await trio.sleep(30)
    await rig.report(await rig.permit(), Outcome.ABANDONED)
    assert (rig.shown.breaker_state, rig.shown.probing) == ("half_open", False)
    assert (await rig.permit()).probe


async def test_lets_the_next_one_probe_when_the_probe_never_comes_back(start: Any, autojump_clock: Any) -> None:
    rig = start(connect_timeout_s=10, first_byte_timeout_s=20)
    await rig.open_breaker()
    await trio.sleep(30)
    lost = await rig.permit()
    await trio.sleep(29.9)
    assert await rig.acquire() == Shut("probing", None)
    await trio.sleep(0.1)
    second = await rig.permit()
    assert second.probe
    assert (await rig.view()).in_flight == 2, "a slow probe is still under way"
    await rig.report(lost, SUCCESS)
    assert rig.shown.breaker_state == "closed"


async def test_shows_that_it_can_be_probed_when_described_after_the_probes_time(
    start: Any, autojump_clock: Any
) -> None:
    rig = start(connect_timeout_s=10, first_byte_timeout_s=20)
    await rig.open_breaker()
    await trio.sleep(30)
    await rig.permit()
    await trio.sleep(30)
    assert not (await rig.view()).probing
    assert not rig.shown.probing


@pytest.mark.parametrize(("total_timeout_s", "lifetime_s"), [(None, 3_600.0), (60.0, 70.0)])
async def test_takes_permits_back_when_their_owners_are_lost(
    total_timeout_s: float | None, lifetime_s: float, start: Any, autojump_clock: Any
) -> None:
    rig = start(max_concurrent=2, total_timeout_s=total_timeout_s)
    lost = [await rig.permit(), await rig.permit()]
    await trio.sleep(lifetime_s - 1)
    assert await rig.acquire() == Shut("busy", None)
    await trio.sleep(1)
    await rig.permit()
    view = await rig.view()
    assert (view.in_flight, view.expired_permits, view.breaker_state) == (1, 2, "closed")
    await rig.report(lost[0], FAULT)
    assert ((await rig.view()).unknown_reports, (await rig.view()).failure_count) == (1, 0)


async def test_counts_a_request_once_when_it_reports_twice(start: Any, autojump_clock: Any) -> None:
    rig = start()
    permit = await rig.permit()
    for _ in range(5):
        await rig.report(permit, FAULT)
    view = await rig.view()
    assert (view.failure_count, view.in_flight, view.unknown_reports) == (1, 0, 4)


async def test_ignores_a_report_when_nobody_holds_such_a_permit(start: Any, autojump_clock: Any) -> None:
    rig = start()
    await rig.report(Permit(123_456_789, False), FAULT)
    view = await rig.view()
    assert (view.failure_count, view.unknown_reports) == (0, 1)


async def test_knows_its_permits_from_those_of_its_predecessor_when_restarted(start: Any, autojump_clock: Any) -> None:
    before, after = start(), start()
    old, new = await before.permit(), await after.permit()
    assert old.id != new.id
    await after.report(old, FAULT)
    assert (await after.view()).in_flight == 1


async def test_opens_for_as_long_as_asked_when_rate_limited(start: Any, autojump_clock: Any) -> None:
    rig = start(breaker_open_s=30)
    await rig.report(await rig.permit(), Outcome.RATE_LIMITED, retry_after_s=5)
    assert (rig.shown.breaker_state, rig.shown.failure_count) == ("open", 0)
    assert await rig.acquire() == Shut("breaker_open", 5.0)


async def test_shows_the_time_to_first_byte_when_successes_report_it(start: Any, autojump_clock: Any) -> None:
    rig = start()
    await rig.report(await rig.permit(), SUCCESS, ttfb_s=0.2, duration_s=1.0)
    assert rig.shown.ttfb_ms == pytest.approx(200)
    assert rig.shown.ttfb_ms_p99 == pytest.approx(200, rel=0.06)
    await rig.report(await rig.permit(), FAULT, ttfb_s=50.0)
    await rig.report(await rig.permit(), SUCCESS)
    assert rig.shown.ttfb_ms == pytest.approx(200)


async def test_publishes_nothing_when_a_reader_could_not_see_a_difference(start: Any, autojump_clock: Any) -> None:
    rig = start()
    await rig.report(await rig.permit(), SUCCESS, ttfb_s=0.2)
    shown = rig.directory.snapshot
    await rig.report(await rig.permit(), SUCCESS, ttfb_s=0.201)
    assert rig.directory.snapshot is shown
    assert (await rig.view()).ttfb_ms == pytest.approx(200.5, rel=0.001)


async def test_gives_no_permit_away_when_the_asker_is_gone(start: Any, autojump_clock: Any) -> None:
    rig = start(max_concurrent=1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await rig.acquire()
    assert scope.cancelled_caught
    assert (await rig.view()).in_flight == 0


async def test_takes_every_report_when_many_come_at_once(start: Any, autojump_clock: Any) -> None:
    rig = start(max_concurrent=10_000)
    permits = [await rig.permit() for _ in range(2_000)]
    for permit in permits:
        rig.ref.tell(Report(permit.id, SUCCESS))
    assert (await rig.view()).in_flight == 0


async def test_lives_on_when_asked_something_it_does_not_know(start: Any, autojump_clock: Any) -> None:
    rig = start()
    with pytest.raises(TypeError, match="str"):
        await rig.ref.request("hello")
    await rig.permit()


async def test_leaves_the_directory_when_it_stops(start: Any, autojump_clock: Any) -> None:
    rig = start()
    await rig.view()
    await rig.ref.terminate()
    assert rig.directory.snapshot == ()
    with pytest.raises(KeyError):
        rig.directory.ref("alpha")


async def test_leaves_the_directory_when_it_fails(start: Any, autojump_clock: Any) -> None:
    rig = start()
    await rig.view()
    rig.ref.tell("nonsense")
    await rig.ref.wait_stopped()
    assert rig.directory.snapshot == ()


STEPS = st.lists(
    st.one_of(
        st.just("acquire"),
        st.tuples(st.integers(0, 20), st.sampled_from(Outcome)),
        st.tuples(st.none(), st.integers(0, 20)),
        st.floats(0, 200),
    ),
    max_size=60,
)


@given(STEPS)
def test_keeps_its_bounds_and_comes_back_when_anything_happened(
    make_config: Callable[..., Any], steps: list[Any]
) -> None:
    config = make_config(max_concurrent=3, breaker_failures=2)

    async def main() -> None:
        async with ActorSystem.run() as system:
            rig = Rig(system, config)
            held: list[Permit] = []
            for step in steps:
                match step:
                    case "acquire":
                        answer = await rig.acquire()
                        if isinstance(answer, Permit):
                            held.append(answer)
                    case (None, int(index)) if held:  # an owner is lost
                        del held[index % len(held)]
                    case (int(index), outcome) if held:
                        rig.ref.tell(Report(held.pop(index % len(held)).id, outcome))
                    case float(seconds):
                        await trio.sleep(seconds)
                view = await rig.view()
                assert view.in_flight <= 3
                assert rig.shown.busy == view.busy
                assert (rig.shown.breaker_state, rig.shown.probing) == (view.breaker_state, view.probing)
            await trio.sleep(4_000)  # lost permits are over, and so is any opening
            await rig.report(await rig.permit(), SUCCESS)
            assert (await rig.view()).breaker_state is BreakerState.CLOSED
            assert (await rig.view()).in_flight == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
