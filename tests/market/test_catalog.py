"""The owner of "which providers are wanted": when it reads, what it applies, what it tells."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actors import ActorDeadError, ActorSystem, ChildSpec, Supervisor
from arbstr.config import Config, DiscoveryConfig, Model, ProviderConfig, TokenstatsConfig
from arbstr.market import CatalogActor, MarketBoard, Refresh, UseConfig, WhenReady
from arbstr.secrets import Secret
from arbstr.units import Price
from tests.market.conftest import Rig
from tests.market.rig import RecordingFleet, World, never, ok, refused, row

KEYS = {"routstr": Secret("sk-routstr")}


def provider(name: str = "a", *models: str, auto_discover: bool = True, **more: Any) -> ProviderConfig:
    url = more.pop("url", f"https://{name}.example/v1")
    return ProviderConfig(name=name, url=url, models=models, auto_discover=auto_discover, price=Price.of(1, 2), **more)


def feed(**more: Any) -> TokenstatsConfig:
    return TokenstatsConfig(**{"url": "http://feed", "keys": KEYS, **more})


def config(*providers: ProviderConfig, **more: Any) -> Config:
    return Config(providers=providers, **more)


def lists(*ids: str) -> Any:
    return ok({"data": [{"id": each} for each in ids]})


def models_url(name: str) -> str:
    return f"https://{name}.example/v1/models"


# --- The start --------------------------------------------------------------------------------------------------------


async def test_the_providers_of_the_file_run_at_once_when_nothing_is_to_be_read(rig: Rig, autojump_clock: Any) -> None:
    plain = provider("a", "m", auto_discover=False)
    report = await rig.ready(config(plain))

    assert (rig.fleet.applied, rig.world.asked, trio.current_time()) == ([(plain,)], [], 0)
    assert (report.enabled, report.discovery) == (False, ())
    assert report.notes == ("no [tokenstats] in the configuration: there is no market feed",)


async def test_found_models_are_in_the_first_set_when_they_come_in_time(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = lists("x", "y")
    await rig.ready(config(provider("a", "old"), provider("b", "m", auto_discover=False)))

    assert len(rig.fleet.applied) == 1
    assert (rig.fleet.models("a"), rig.fleet.models("b")) == (["x", "y"], ["m"])
    assert [(state.provider, state.models, state.last_error) for state in rig.report.discovery] == [("a", 2, None)]


async def test_the_written_list_stays_when_discovery_fails(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = refused
    await rig.ready(config(provider("a", "old")))

    assert rig.fleet.models("a") == ["old"]
    (state,) = rig.report.discovery
    assert (state.models, state.last_success_at) == (None, None)
    assert "cannot be reached" in (state.last_error or "")


async def test_nothing_is_served_when_the_list_is_neither_written_nor_found(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = refused
    await rig.ready(config(provider("a")))

    (wanted,) = rig.fleet.wanted
    assert (wanted.models, wanted.any_model) == ((), False)


async def test_serving_waits_no_longer_than_the_bound_when_all_are_silent(rig: Rig, autojump_clock: Any) -> None:
    names = [f"p{n}" for n in range(20)]
    rig.world.answers.update({models_url(name): never for name in names})
    rig.world.answers["http://feed/health"] = never
    await rig.ready(config(*[provider(name, "m") for name in names], tokenstats=feed()))

    assert trio.current_time() == 5
    assert rig.fleet.names == names


async def test_what_comes_late_is_applied_when_it_comes(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([row()])
    health = rig.world.answers["http://feed/health"]

    async def slow(request: Any) -> Any:
        await trio.sleep(3)
        return health

    rig.world.answers["http://feed/health"] = slow
    plain = provider("a", "m", auto_discover=False)
    await rig.ready(config(plain, tokenstats=feed(), discovery=DiscoveryConfig(timeout_s=2)))
    first = rig.fleet.names
    await trio.sleep(3)

    assert (first, rig.fleet.names) == (["a"], ["a", "routstr-Node-p1"])


async def test_the_key_goes_only_to_its_provider_when_lists_are_read(rig: Rig, autojump_clock: Any) -> None:
    await rig.ready(config(provider("a", api_key=Secret("sk-a")), provider("b")))

    sent = {request.url.host: request.headers.get("authorization") for request in rig.world.asked}
    assert sent == {"a.example": "Bearer sk-a", "b.example": None}


async def test_a_pretended_provider_is_not_asked_when_it_should_be_discovered(rig: Rig, autojump_clock: Any) -> None:
    await rig.ready(config(provider("a", "m", url="mock://a")))

    assert (rig.world.asked, rig.fleet.models("a")) == ([], ["m"])


# --- Discovery goes on ------------------------------------------------------------------------------------------------


async def test_lists_are_read_again_when_the_interval_is_over(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = lists("x")
    await rig.ready(config(provider("a"), discovery=DiscoveryConfig(interval_s=100)))
    rig.world.answers[models_url("a")] = lists("x", "y")
    await trio.sleep(99)
    early = rig.world.count(models_url("a"))
    await trio.sleep(2)

    assert (early, rig.world.count(models_url("a"))) == (1, 2)
    assert rig.fleet.models("a") == ["x", "y"]


async def test_the_fleet_is_told_nothing_when_nothing_has_changed(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = lists("x")
    await rig.ready(config(provider("a"), discovery=DiscoveryConfig(interval_s=100)))
    await trio.sleep(1_000)

    assert (rig.world.count(models_url("a")), len(rig.fleet.applied), rig.report.counts.applied) == (10, 1, 1)


async def test_the_last_known_list_stays_when_a_later_reading_fails(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = lists("x", "y")
    await rig.ready(config(provider("a", "old"), discovery=DiscoveryConfig(interval_s=100)))
    for answer in (refused, ok({"data": []}), ok({}, 500), ok("<html>"), never):
        rig.world.answers[models_url("a")] = answer
        await trio.sleep(200)
        assert rig.fleet.models("a") == ["x", "y"]

    (state,) = rig.report.discovery
    assert (state.models, state.last_error) == (2, "no complete answer within 5 s")


async def test_a_failed_reading_is_tried_again_sooner_when_the_interval_is_long(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = refused
    await rig.ready(config(provider("a")))
    await trio.sleep(36_000)
    times = rig.world.times(models_url("a"))

    assert [round(time) for time in times[:4]] == [0, 30, 90, 210]
    assert len(times) < 20
    assert rig.report.counts.discoveries_failed == len(times)


# --- The feed ---------------------------------------------------------------------------------------------------------


async def test_the_report_has_the_numbers_when_the_feed_has_answered(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([row(), row("p2", source="other")], [{"provider_id": "p1", "reliability": 0.9}])
    report = await rig.ready(config(tokenstats=feed()))

    assert (report.enabled, report.url, report.last_error, report.notes) == (True, "http://feed", None, ())
    assert (report.last_poll_at, report.last_success_at) == (rig.unix, rig.unix)
    assert (report.quotes_seen, report.nodes_seen, report.routable_market_providers) == (2, 1, 1)
    assert [skipped.reason for skipped in report.skipped] == ["missing_api_key"]
    assert rig.fleet.names == ["routstr-Node-p1"]


@pytest.mark.parametrize(("configured", "effective"), [(60.0, 60), (1.0, 5), (0.0, 5)])
async def test_the_feed_is_polled_no_more_often_than_every_five_seconds_when_configured(
    rig: Rig, autojump_clock: Any, configured: float, effective: int
) -> None:
    rig.world.feed()
    await rig.ready(config(tokenstats=feed(poll_interval_secs=configured)))
    await trio.sleep(effective * 10 + 0.5)

    assert rig.world.count("http://feed/health") == 11
    assert rig.report.counts.polls_ok == 11


async def test_prices_change_when_the_feed_says_so(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([row(asked=100)])
    await rig.ready(config(tokenstats=feed()))
    rig.world.feed([row(asked=200)])
    await trio.sleep(61)

    assert rig.fleet.wanted[0].models == (Model("m", price=Price.of(200, 600, unit="sats_per_1m_tokens")),)


async def test_a_host_goes_when_the_feed_does_not_name_it_any_more(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([row(), row("p2")])
    await rig.ready(config(tokenstats=feed()))
    rig.world.feed([row("p2")])
    await trio.sleep(61)

    assert rig.fleet.names == ["routstr-Node-p2"]


async def test_quotes_are_kept_but_not_bought_by_for_ever_when_the_feed_is_down(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([row(), row(model="n", observed_at="2026-06-30T23:55:00Z")])
    await rig.ready(config(tokenstats=feed(stale_after_secs=600)))
    rig.world.answers["http://feed/health"] = refused
    seen = {}
    for second in (295, 301, 595, 601):
        await trio.sleep(second - trio.current_time())
        seen[second] = rig.fleet.models("routstr-Node-p1")

    assert seen == {295: ["m", "n"], 301: ["m"], 595: ["m"], 601: []}
    report = rig.report
    assert "cannot be reached" in (report.last_error or "")
    assert report.notes == ("the feed is not healthy; the last known prices are kept",)
    assert (report.last_success_at, report.routable_market_providers) == (rig.unix, 0)
    assert [(skipped.reason, skipped.models_count) for skipped in report.skipped] == [("stale_quotes", 2)]
    assert "older than 600 s" in (rig.fleet.wanted[0].models[0].excluded or "")


async def test_quotes_grow_old_on_time_when_the_feed_is_asked_seldom(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([row()])
    await rig.ready(config(tokenstats=feed(stale_after_secs=100, poll_interval_secs=3_600)))
    await trio.sleep(99.5)
    before = rig.fleet.models("routstr-Node-p1")
    await trio.sleep(1)

    assert (before, rig.fleet.models("routstr-Node-p1")) == (["m"], [])


async def test_the_fleet_is_told_once_when_many_quotes_grow_old_together(rig: Rig, autojump_clock: Any) -> None:
    rows = [row(model=f"m{n}", observed_at=rig.unix - n / 1_000) for n in range(500)]
    rig.world.feed(rows)
    await rig.ready(config(tokenstats=feed(stale_after_secs=100, poll_interval_secs=3_600)))
    await trio.sleep(200)

    assert len(rig.fleet.applied) == 2


async def test_the_market_comes_back_when_the_feed_does(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([row()])
    await rig.ready(config(tokenstats=feed()))
    health = rig.world.answers["http://feed/health"]
    rig.world.answers["http://feed/health"] = refused
    await trio.sleep(1_000)
    gone = rig.fleet.models("routstr-Node-p1")
    rig.world.answers["http://feed/health"] = health
    await trio.sleep(61)

    assert (gone, rig.fleet.models("routstr-Node-p1"), rig.report.last_error) == ([], ["m"], None)


async def test_an_absurd_price_is_told_and_not_bought_when_the_feed_has_one(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([*[row(f"p{n}") for n in range(4)], row("x", asked=100_000)])
    report = await rig.ready(config(tokenstats=feed()))

    assert [told.provider for told in report.quarantined] == ["routstr-Node-x"]
    assert rig.fleet.models("routstr-Node-x") == []


# --- Asks -------------------------------------------------------------------------------------------------------------


async def test_everything_is_read_now_when_refreshed(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = lists("x")
    rig.world.feed([row()])
    await rig.ready(config(provider("a"), tokenstats=feed()))
    rig.world.answers[models_url("a")] = lists("y")
    rig.world.feed([row("p2")])
    report = await rig.ref.request(Refresh())

    assert (rig.fleet.names, rig.fleet.models("a")) == (["a", "routstr-Node-p2"], ["y"])
    assert (report.counts.polls_ok, report.counts.discoveries_ok) == (2, 2)


async def test_a_refresh_is_answered_when_a_host_is_silent(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = never
    await rig.ready(config(provider("a", "m")))
    begun = trio.current_time()
    report = await rig.ref.request(Refresh(), timeout_s=20)

    assert trio.current_time() - begun == 5
    assert report.discovery[0].last_error == "no complete answer within 5 s"


async def test_many_refreshes_read_once_when_they_come_together(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = lists("x")
    await rig.ready(config(provider("a")))
    asked = [rig.ref.ask(Refresh(), block=False) for _ in range(10)]
    for each in asked:
        await each

    assert rig.world.count(models_url("a")) == 2


async def test_a_refresh_is_answered_at_once_when_there_is_nothing_to_read(rig: Rig, autojump_clock: Any) -> None:
    await rig.ready(config())

    assert (await rig.ref.request(Refresh())).enabled is False


async def test_the_next_reading_is_a_whole_interval_later_when_refreshed(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed()
    await rig.ready(config(tokenstats=feed()))
    await trio.sleep(50)
    await rig.ref.request(Refresh())
    await trio.sleep(50)

    assert rig.world.count("http://feed/health") == 2


async def test_a_message_of_another_kind_is_refused_when_asked(rig: Rig, autojump_clock: Any) -> None:
    await rig.ready(config())
    with pytest.raises(TypeError, match="takes UseConfig"):
        await rig.ref.request("poll")
    assert rig.ref.is_alive()


# --- Another configuration --------------------------------------------------------------------------------------------


async def test_the_new_providers_run_when_the_answer_comes(rig: Rig, autojump_clock: Any) -> None:
    await rig.ready(config(provider("a", "m", auto_discover=False)))
    await rig.ref.request(UseConfig(config(provider("b", "m", auto_discover=False))))

    assert rig.fleet.names == ["b"]


async def test_known_lists_stay_when_provider_and_key_are_the_same(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = lists("x")
    await rig.ready(config(provider("a")))
    rig.world.answers[models_url("a")] = never
    await rig.ref.request(UseConfig(config(provider("a", max_concurrent=3))))

    assert (rig.fleet.models("a"), rig.fleet.wanted[0].max_concurrent) == (["x"], 3)


@pytest.mark.parametrize("more", [{"url": "https://other.example/v1"}, {"api_key": Secret("new")}])
async def test_a_list_is_forgotten_when_url_or_key_change(rig: Rig, autojump_clock: Any, more: dict[str, Any]) -> None:
    rig.world.answers[models_url("a")] = lists("x")
    await rig.ready(config(provider("a")))
    rig.world.answers.clear()
    await rig.ref.request(UseConfig(config(provider("a", "written", **more))))

    assert rig.fleet.models("a") == ["written"]


async def test_an_answer_under_way_is_ignored_when_the_url_changes(rig: Rig, autojump_clock: Any) -> None:
    came = trio.Event()

    async def late(request: Any) -> Any:
        with trio.CancelScope(shield=True):
            await came.wait()
        return lists("of the old host")

    rig.world.answers[models_url("a")] = late
    rig.start(config(provider("a", "m")))
    await trio.testing.wait_all_tasks_blocked()
    await rig.ref.request(UseConfig(config(provider("a", "m", url="https://other.example/v1"))))
    came.set()
    await trio.sleep(20)

    assert rig.fleet.models("a") == ["m"]


async def test_a_queued_answer_is_ignored_when_it_is_of_the_configuration_before(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = lists("of the old host")
    rig.world.answers["https://other.example/v1/models"] = never
    await rig.ready(config())
    rig.fleet.gate = trio.Event()
    first = rig.ref.ask(UseConfig(config(provider("a", "m"))), block=False)
    second = rig.ref.ask(UseConfig(config(provider("a", "m", url="https://other.example/v1"))), block=False)
    await trio.testing.wait_all_tasks_blocked()  # the answer is in the inbox, behind the second configuration
    rig.fleet.gate.set()
    await first
    await second
    await trio.sleep(1)

    assert rig.fleet.models("a") == ["m"]


async def test_the_market_goes_when_the_feed_is_switched_off(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([row()])
    await rig.ready(config(tokenstats=feed()))
    report = await rig.ref.request(UseConfig(config()))
    asked = len(rig.world.asked)
    await trio.sleep(500)

    assert (rig.fleet.wanted, report.enabled, report.quotes_seen) == ((), False, 0)
    assert len(rig.world.asked) == asked


async def test_quotes_stay_when_only_what_is_made_of_them_changes(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([row()])
    await rig.ready(config(tokenstats=feed(keys={})))
    rig.world.answers["http://feed/health"] = never
    await rig.ref.request(UseConfig(config(tokenstats=feed())))

    assert rig.fleet.names == ["routstr-Node-p1"]


async def test_quotes_go_when_another_feed_is_configured(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed([row()])
    rig.world.feed([row("p2")], base="http://second")
    await rig.ready(config(tokenstats=feed()))
    await rig.ref.request(UseConfig(config(tokenstats=feed(url="http://second"))))
    at_once = rig.fleet.names
    await trio.sleep(1)

    assert (at_once, rig.fleet.names) == ([], ["routstr-Node-p2"])


async def test_a_new_interval_counts_at_once_when_it_is_shorter(rig: Rig, autojump_clock: Any) -> None:
    rig.world.feed()
    await rig.ready(config(tokenstats=feed(poll_interval_secs=3_600)))
    await rig.ref.request(UseConfig(config(tokenstats=feed(poll_interval_secs=10))))
    await trio.sleep(25)

    assert rig.world.count("http://feed/health") == 4


async def test_a_refresh_is_answered_when_what_it_waits_for_is_gone(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = never
    await rig.ready(config(provider("a")))
    asked = rig.ref.ask(Refresh(), block=False)
    await rig.ref.request(UseConfig(config()))
    with trio.fail_after(0.5):
        await asked

    assert rig.fleet.wanted == ()


async def test_the_asker_is_told_and_it_is_tried_again_when_the_fleet_fails(rig: Rig, autojump_clock: Any) -> None:
    await rig.ready(config(provider("a", "m", auto_discover=False)))
    rig.fleet.faults.append(RuntimeError("no room"))
    with pytest.raises(RuntimeError, match="no room"):
        await rig.ref.request(UseConfig(config(provider("b", "m", auto_discover=False))))
    await rig.ref.request(UseConfig(config(provider("b", "m", auto_discover=False))))

    assert rig.fleet.names == ["b"]


@pytest.mark.parametrize("through_proxy", [False, True])
async def test_it_reads_over_a_connection_of_its_own_when_no_transport_is_given(through_proxy: bool) -> None:
    body = b'{"data": [{"id": "x"}]}'
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    target = b"http://provider.example/v1/models" if through_proxy else b"/v1/models"
    ended = trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += await stream.receive_some()
            assert asked.startswith(b"GET %b HTTP/1.1\r\n" % target)
            await stream.send_all(head + body)
            assert await stream.receive_some() == b""
            ended.set()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    here = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    asked = (
        provider("a", url="http://provider.example/v1", proxy=Secret(here))
        if through_proxy
        else provider("a", url=f"{here}/v1")
    )
    fleet = RecordingFleet()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, answer, [listener])
            async with ActorSystem.run() as system:
                ref = system.start(CatalogActor, config(asked), fleet, MarketBoard())
                await ref.request(WhenReady(), timeout_s=20)
                await ref.terminate()
            await ended.wait()  # the connection was kept, and closed with the actor
            nursery.cancel_scope.cancel()

    assert fleet.models("a") == ["x"]


# --- Ends -------------------------------------------------------------------------------------------------------------


async def test_a_given_transport_stays_open_when_it_stops(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = never
    rig.start(config(provider("a")))
    await trio.testing.wait_all_tasks_blocked()
    await rig.ref.terminate()

    assert not rig.world.closed


async def test_those_who_wait_are_told_when_it_stops(rig: Rig, autojump_clock: Any) -> None:
    rig.world.answers[models_url("a")] = never
    rig.start(config(provider("a")))
    waiting = [rig.ref.ask(message, block=False) for message in (WhenReady(), Refresh())]
    await trio.testing.wait_all_tasks_blocked()
    await rig.ref.terminate()
    for each in waiting:
        with pytest.raises(ActorDeadError):
            await each


async def test_the_fleet_keeps_the_market_when_the_catalog_is_restarted(autojump_clock: Any) -> None:
    world, fleet, board = World(), RecordingFleet(), MarketBoard()
    world.feed([row()])
    configured = config(provider("a", "m", auto_discover=False), tokenstats=feed(poll_interval_secs=10))

    def catalog() -> CatalogActor:
        return CatalogActor(configured, fleet, board, transport=world, chance=lambda: 0.0)

    async with ActorSystem.run() as system:
        supervisor = system.start(Supervisor, [ChildSpec("catalog", catalog)], intensity=3, period_s=60)
        await trio.sleep(1)
        fleet.faults.append(RuntimeError("crash"))
        world.feed([row(asked=200)])
        await trio.sleep(15)
        await supervisor.terminate()

    assert [len(wanted) for wanted in fleet.applied] == [2, 2]
    assert fleet.wanted[1].models[0].price == Price.of(200, 600, unit="sats_per_1m_tokens")


junk = st.one_of(
    st.binary(max_size=30),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["data", "id", "quotes", "nodes", "model", "endpoint", "ok"]), inner)
        ),
        max_leaves=8,
    ),
)


@given(st.lists(st.tuples(junk, st.sampled_from([200, 204, 302, 500])), min_size=4, max_size=4))
def test_it_lives_and_keeps_the_file_when_everybody_answers_junk(answers: list[tuple[Any, int]]) -> None:
    paths = [models_url("a"), "http://feed/health", "http://feed/api/quotes", "http://feed/api/nodes"]
    world = World({path: ok(document, status) for path, (document, status) in zip(paths, answers, strict=True)})
    fleet = RecordingFleet()

    async def live() -> None:
        async with ActorSystem.run() as system:
            settings = config(provider("a", "m"), tokenstats=feed())
            ref = system.start(CatalogActor, settings, fleet, MarketBoard(), transport=world)
            await ref.request(Refresh(), timeout_s=30)
            assert ref.is_alive()
            await system.stop_all()

    trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))
    assert fleet.names[0] == "a"
    assert not fleet.wanted[0].any_model
    assert fleet.wanted[0].models
