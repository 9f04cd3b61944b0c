"""The owner of one provider: permits, their return and their loss, and what readers see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from actors import ActorSystem, TrioActorRef
from arbstr.config import Model, Tier
from arbstr.providers import (
    Acquire,
    BreakerState,
    Check,
    Configure,
    Describe,
    Directory,
    Outcome,
    Permit,
    ProviderActor,
    ProviderView,
    Report,
    Retire,
    Shut,
)
from arbstr.secrets import Secret
from arbstr.units import Price

FAULT, SUCCESS, DENIED = Outcome.PROVIDER_FAULT, Outcome.SUCCESS, Outcome.DENIED


class Rig:
    """One provider actor and its directory."""

    def __init__(self, system: ActorSystem, config: Any, check: Check | None = None) -> None:
        self.config = config
        self.directory = Directory()
        self.ref: TrioActorRef = system.start(ProviderActor, config, self.directory, check)

    async def configure(self, check: Check | None = None, **fields: Any) -> None:
        self.config = evolve(self.config, **fields)
        await self.ref.request(Configure(self.config, check))

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
        yield lambda check=None, **fields: Rig(system, make_config(**fields), check)


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


async def test_shows_what_the_operator_wants_to_know(start: Any, autojump_clock: Any) -> None:
    models = (Model("a"), Model("b", excluded="its price is 20 times the median"))
    rig = start(models=models, source="market", provider_id="p-7", weight=3)
    view = rig.shown
    assert (view.source, view.provider_id, view.weight) == ("market", "p-7", 3)
    assert view.excluded_models == {"b": "its price is 20 times the median"}
    assert (view.last_error, view.last_error_at, view.recent.error_share) == (None, None, 0.0)


async def test_shows_the_last_error_and_how_many_there_were_lately(start: Any, autojump_clock: Any) -> None:
    rig = start()
    await trio.sleep(5)
    await rig.report(await rig.permit(), FAULT, error="status 503")
    failed_at = trio.current_time()
    await trio.sleep(5)
    for outcome in (SUCCESS, Outcome.CLIENT_FAULT, Outcome.ABANDONED):
        await rig.report(await rig.permit(), outcome)
    view, now = await rig.view(), trio.current_time()
    assert (view.last_error, view.last_error_at) == ("status 503", failed_at)
    assert view.recent.requests(now) == pytest.approx(2.92, abs=0.01), "who gave up says nothing about the provider"
    assert view.recent.errors(now) == pytest.approx(0.92, abs=0.01)
    await rig.report(await rig.permit(), Outcome.RATE_LIMITED)
    assert (rig.shown.last_error, rig.shown.last_error_at) == ("rate_limited", trio.current_time())


# -- denied, repeated


async def test_is_left_alone_for_the_time_of_a_denial_when_it_refuses_us(start: Any, autojump_clock: Any) -> None:
    rig = start(breaker_open_s=30, breaker_denied_open_s=600)
    await rig.report(await rig.permit(), DENIED, error="status 401")
    assert await rig.acquire() == Shut("breaker_open", 600.0)
    assert (rig.shown.opened_by, rig.shown.openings) == (DENIED, 1)


async def test_counts_a_request_once_when_it_is_repeated_here(start: Any, autojump_clock: Any) -> None:
    rig = start()
    await rig.report(await rig.permit(), FAULT)
    for _ in range(5):
        await rig.report(await rig.permit(), FAULT, repeated=True)
    assert (rig.shown.breaker_state, rig.shown.failure_count) == ("closed", 1)
    assert (await rig.view()).recent.errors(trio.current_time()) == 6


# -- Configure


async def test_shows_the_new_configuration_at_once_when_configured(start: Any, autojump_clock: Any) -> None:
    rig = start(models=("old",))
    await rig.configure(models=("new",), price=Price.of(3, 4), tier=Tier.LOCAL, weight=0)
    view = rig.shown
    assert (view.models, view.price, view.tier, view.weight) == ((Model("new"),), Price.of(3, 4), Tier.LOCAL, 0)


async def test_keeps_permits_breaker_and_statistics_when_configured(start: Any, autojump_clock: Any) -> None:
    rig = start(max_concurrent=9)
    await rig.report(await rig.permit(), SUCCESS, ttfb_s=0.2)
    held = await rig.permit()
    await rig.open_breaker()
    before = rig.shown
    await rig.configure(breaker_failures=9, breaker_open_s=5)
    after = rig.shown
    assert evolve(after, config=before.config) == before
    await rig.report(held, SUCCESS)
    assert ((await rig.view()).in_flight, (await rig.view()).unknown_reports) == (0, 0)
    await trio.sleep(30)
    await rig.report(await rig.permit(), FAULT)
    assert await rig.acquire() == Shut("breaker_open", 5.0)


async def test_takes_no_more_until_there_is_room_when_the_bound_was_lowered(start: Any, autojump_clock: Any) -> None:
    rig = start(max_concurrent=4)
    held = [await rig.permit() for _ in range(3)]
    await rig.configure(max_concurrent=2)
    assert rig.shown.busy
    await rig.report(held.pop(), SUCCESS)
    assert await rig.acquire() == Shut("busy", None)
    await rig.report(held.pop(), SUCCESS)
    await rig.permit()
    await rig.configure(max_concurrent=3)
    assert not rig.shown.busy


async def test_takes_permits_back_by_the_new_time_when_the_lifetime_was_changed(
    start: Any, autojump_clock: Any
) -> None:
    rig = start()
    await rig.permit()
    await rig.configure(total_timeout_s=50)
    await rig.permit()
    await trio.sleep(3_600)
    assert ((await rig.view()).in_flight, (await rig.view()).expired_permits) == (0, 2)


@pytest.mark.parametrize(("outcome", "probed"), [(DENIED, True), (FAULT, False)])
async def test_is_probed_at_once_when_the_key_was_changed_and_the_former_was_denied(
    outcome: Outcome, probed: bool, start: Any, autojump_clock: Any
) -> None:
    rig = start(breaker_failures=1, api_key=Secret("old-key-0123"))
    await rig.report(await rig.permit(), outcome)
    await rig.configure(price=Price.of(1, 1))
    assert await rig.acquire() == Shut("breaker_open", rig.config.breaker_denied_open_s if probed else 30.0)
    await rig.configure(api_key=Secret("new-key-0123"))
    answer = await rig.acquire()
    assert isinstance(answer, Permit) == probed


async def test_is_not_left_alone_when_it_was_the_former_key_that_was_denied(start: Any, autojump_clock: Any) -> None:
    rig = start(api_key=Secret("old-key-0123"), max_concurrent=9)
    before = [await rig.permit(), await rig.permit()]
    await rig.configure(api_key=Secret("new-key-0123"))
    await rig.report(before.pop(), DENIED)
    assert (rig.shown.breaker_state, rig.shown.failure_count) == ("closed", 0)
    await rig.report(before.pop(), FAULT)
    assert rig.shown.failure_count == 1
    await rig.report(await rig.permit(), DENIED)
    assert rig.shown.breaker_state == "open"


async def test_refuses_a_configuration_when_it_is_another_providers(start: Any, autojump_clock: Any) -> None:
    rig = start(models=("m",))
    with pytest.raises(ValueError, match="'beta'"):
        await rig.configure(name="beta")
    assert rig.shown.name == "alpha"
    await rig.permit()


# -- Retire


async def test_admits_nobody_and_answers_at_the_last_permit_when_retired(start: Any, autojump_clock: Any) -> None:
    rig = start()
    held = [await rig.permit(), await rig.permit()]
    retired = rig.ref.ask(Retire(), block=False)
    assert await rig.acquire() == Shut("removed", None)
    assert rig.directory.snapshot == ()
    await rig.report(held.pop(), FAULT)
    assert not retired.settled
    assert rig.directory.snapshot == (), "what it still learns is nobody's business"
    await rig.report(held.pop(), SUCCESS)
    assert await retired is None


async def test_answers_at_once_when_it_is_retired_without_a_permit_out(start: Any, autojump_clock: Any) -> None:
    rig = start()
    await rig.ref.request(Retire())
    await rig.ref.request(Retire())


# -- looking whether it is back


class Checks:
    """A check that says what it is told to; Ellipsis never comes."""

    def __init__(self, answers: Any = False) -> None:
        self.answers = answers
        self.times: list[float] = []
        self.running = 0

    async def __call__(self) -> bool:
        self.times.append(trio.current_time())
        self.running += 1
        try:
            if self.answers is ...:
                await trio.sleep_forever()
            await trio.sleep(0.5)
            return self.answers
        finally:
            self.running -= 1


async def test_is_never_checked_when_it_is_closed_or_no_interval_is_set(start: Any, autojump_clock: Any) -> None:
    checks = Checks()
    with_interval, without = start(checks, probe_interval_s=10), start(checks)
    await without.open_breaker()
    await trio.sleep(1_000)
    await with_interval.permit()
    assert checks.times == []


async def test_is_checked_at_the_interval_when_open_until_the_time_is_over(start: Any, autojump_clock: Any) -> None:
    checks = Checks(False)
    rig = start(checks, probe_interval_s=10, breaker_open_s=45)
    await rig.open_breaker()
    await trio.sleep(1_000)
    assert checks.times == pytest.approx([10, 20.5, 31, 41.5])
    assert rig.shown.open_until == 45, "a check that fails changes nothing"


@pytest.mark.parametrize("outcome", [FAULT, DENIED])
async def test_lets_the_next_request_probe_when_a_check_succeeds(
    outcome: Outcome, start: Any, autojump_clock: Any
) -> None:
    checks = Checks(True)
    rig = start(checks, probe_interval_s=10, breaker_failures=1, breaker_open_s=300)
    await rig.report(await rig.permit(), outcome)
    await trio.sleep(10.4)
    assert isinstance(await rig.acquire(), Shut)
    await trio.sleep(0.2)
    assert rig.shown.open_until == 10.5
    permit = await rig.permit()
    assert permit.probe
    await rig.report(permit, SUCCESS)
    assert rig.shown.breaker_state == "closed"
    await trio.sleep(1_000)
    assert len(checks.times) == 1


async def test_is_not_checked_when_it_is_rate_limited(start: Any, autojump_clock: Any) -> None:
    checks = Checks(True)
    rig = start(checks, probe_interval_s=10)
    await rig.report(await rig.permit(), Outcome.RATE_LIMITED, retry_after_s=300)
    await trio.sleep(299)
    assert checks.times == []
    assert await rig.acquire() == Shut("breaker_open", 1.0)


async def test_is_checked_less_and_less_when_the_checks_prove_wrong(start: Any, autojump_clock: Any) -> None:
    checks = Checks(True)
    rig = start(checks, probe_interval_s=10, breaker_failures=1, breaker_open_s=1_000)
    await rig.report(await rig.permit(), FAULT)
    for wait_s in (10, 20, 40, 80, 160):
        opened_at = trio.current_time()
        await trio.sleep(wait_s + 1)
        assert checks.times[-1] - opened_at == pytest.approx(wait_s)
        await rig.report(await rig.permit(), FAULT)
    await trio.sleep(1_000)
    await rig.report(await rig.permit(), SUCCESS)
    opened_at = trio.current_time()
    await rig.report(await rig.permit(), FAULT)
    await trio.sleep(11)
    assert checks.times[-1] - opened_at == pytest.approx(10), "that outage is over"


async def test_hands_out_permits_when_a_check_hangs(start: Any, autojump_clock: Any) -> None:
    checks = Checks(...)
    rig = start(checks, probe_interval_s=10, breaker_open_s=30, max_concurrent=9)
    held = await rig.permit()
    await rig.open_breaker()
    await trio.sleep(29)
    assert checks.running == 1
    await rig.report(held, SUCCESS)
    await trio.sleep(1)
    await rig.report(await rig.permit(), SUCCESS)
    assert rig.shown.breaker_state == "closed"
    await trio.sleep(100)
    assert (checks.running, len(checks.times)) == (0, 1), "it is cut off"


async def test_ignores_a_check_when_it_comes_from_the_outage_before(start: Any, autojump_clock: Any) -> None:
    late = trio.Event()

    async def check() -> bool:
        await late.wait()
        return True

    rig = start(check, probe_interval_s=29, breaker_failures=1, breaker_open_s=30)
    await rig.report(await rig.permit(), FAULT)
    await trio.sleep(30)
    await rig.report(await rig.permit(), FAULT)
    late.set()
    await trio.sleep(1)
    assert rig.shown.open_until == 60


async def test_checks_from_now_on_when_an_interval_is_configured_while_open(start: Any, autojump_clock: Any) -> None:
    first, second = Checks(False), Checks(True)
    rig = start(first, breaker_failures=1, breaker_open_s=300)
    await rig.report(await rig.permit(), FAULT)
    await trio.sleep(50)
    await rig.configure(second, probe_interval_s=20)
    await rig.configure(probe_interval_s=5)
    await trio.sleep(6)
    assert (first.times, second.times) == ([], [55.0])
    assert (await rig.permit()).probe


async def test_checks_no_more_when_the_interval_is_taken_away(start: Any, autojump_clock: Any) -> None:
    checks = Checks(True)
    rig = start(checks, probe_interval_s=10)
    await rig.open_breaker()
    await rig.configure(probe_interval_s=None)
    await trio.sleep(29)
    assert checks.times == []


async def test_ends_its_check_when_it_stops(start: Any, autojump_clock: Any) -> None:
    checks = Checks(...)
    rig = start(checks, probe_interval_s=10)
    await rig.open_breaker()
    await trio.sleep(11)
    assert checks.running == 1
    await rig.ref.terminate()
    assert checks.running == 0


STEPS = st.lists(
    st.one_of(
        st.just("acquire"),
        st.tuples(st.integers(0, 20), st.sampled_from(Outcome)),
        st.tuples(st.none(), st.integers(0, 20)),
        st.floats(0, 200),
        st.fixed_dictionaries(
            {
                "max_concurrent": st.integers(1, 3),
                "breaker_failures": st.integers(1, 4),
                "breaker_open_s": st.floats(1, 100),
                "breaker_denied_open_s": st.floats(1, 700),
                "probe_interval_s": st.none() | st.floats(1, 50),
                "total_timeout_s": st.none() | st.floats(1, 100),
            }
        ),
        st.booleans(),
    ),
    max_size=60,
)


@given(STEPS)
def test_keeps_its_bounds_and_comes_back_when_anything_happened(
    make_config: Callable[..., Any], steps: list[Any]
) -> None:
    config = make_config(max_concurrent=3, breaker_failures=2, probe_interval_s=20)

    async def main() -> None:
        async with ActorSystem.run() as system:
            checks = Checks()
            rig = Rig(system, config, checks)
            held: list[Permit] = []
            for step in steps:
                match step:
                    case "acquire":
                        before = rig.shown
                        answer = await rig.acquire()
                        if isinstance(answer, Permit):
                            assert not before.busy
                            assert before.open_until is None or before.open_until <= trio.current_time()
                            held.append(answer)
                    case (None, int(index)) if held:  # an owner is lost
                        del held[index % len(held)]
                    case (int(index), outcome) if held:
                        rig.ref.tell(Report(held.pop(index % len(held)).id, outcome))
                    case float(seconds):
                        await trio.sleep(seconds)
                    case bool(answers):
                        checks.answers = answers
                    case dict(fields):
                        await rig.configure(**fields)
                view = await rig.view()
                assert view.in_flight <= 3
                assert checks.running <= 1
                assert rig.shown.config is rig.config
                assert rig.shown.busy == view.busy
                assert (rig.shown.breaker_state, rig.shown.probing) == (view.breaker_state, view.probing)
            checks.answers = False
            await trio.sleep(4_000)  # lost permits are over, and so is any opening
            await rig.report(await rig.permit(), SUCCESS)
            assert (await rig.view()).breaker_state is BreakerState.CLOSED
            assert (await rig.view()).in_flight == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
