"""Cases 99 to 107: ``GET /v1/stats`` and ``GET /v1/requests``.

The log is made by requests alone: one of eight days ago (by a program whose clock is behind), then three, whose sums
are taken at once, then two more.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import frozen

from tests.contract.client import Answer
from tests.contract.program import P, World, run, started, write_config
from tests.contract.upstream import Pause, Upstream, error, stream

PROVIDERS = [
    P("ten", 0, 0, 10),
    P("twenty", 0, 0, 20, models=["twenty-model"]),
    P("failing", 0, 0, 1, models=["failing-model"]),
    P("idle", 0, 0, 1, models=["idle-model"]),
]


@frozen
class Log:
    """The program over its log, and what it said when there were three requests of today."""

    world: World
    week: dict[str, Any]
    month: dict[str, Any]
    latencies_ms: list[int]

    def stats(self, query: str = "") -> Answer:
        return self.world.get(f"/v1/stats?{query}")

    def requests(self, query: str = "") -> Answer:
        return self.world.get(f"/v1/requests?{query}")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    directory = tmp_path_factory.mktemp("log")
    with started(directory, [P("old", 0, 0, 5, models=["old-model"])], past=True) as past:
        past.entry(past.chat(model="old-model").request_id)
    with started(directory, PROVIDERS) as world:
        world.backend("failing").replies(error(400))
        # What counts as the latency of a stream is the time to its beginning, not to its end.
        world.backend("twenty").replies(stream("po", Pause(0.4), "ng"))
        three = [world.chat(), world.stream(model="twenty-model"), world.chat(model="failing-model")]
        entries = [world.entry(answer.request_id) for answer in three]
        week = world.get("/v1/stats").json
        month = world.get("/v1/stats?range=last_30d").json
        more = [world.chat(model="nosuch"), world.chat()]
        for answer in more:
            world.entry(answer.request_id)
        yield Log(world, week, month, [entry["timing"]["latency_ms"] for entry in entries])


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).strftime("%Y-%m-%dT%H:%M:%SZ")


def assert_refused(answer: Answer, status: int, *words: str) -> None:
    assert answer.status == status
    assert all(word in answer.error["message"] for word in words), answer.error


def test_sums_are_those_of_the_last_week_when_nothing_is_asked_for(log: Log) -> None:
    assert log.week["counts"].items() >= {"total": 3, "success": 2, "error": 1, "streaming": 1}.items()
    assert log.week["costs"]["total_cost_sats"] == pytest.approx(30)
    assert (log.week["costs"]["total_input_tokens"], log.week["costs"]["total_output_tokens"]) == (20, 40)
    mean = sum(log.latencies_ms) / 3
    assert log.week["performance"]["avg_latency_ms"] == pytest.approx(mean, abs=1.5)
    assert "empty" not in log.week


def test_older_requests_count_when_the_range_is_longer(log: Log) -> None:
    assert log.month["counts"]["total"] == 4
    assert log.month["costs"]["total_cost_sats"] == pytest.approx(35)


def test_bounds_win_when_a_range_is_given_too(log: Log) -> None:
    assert log.stats("range=last_1h").json["counts"]["total"] == 5
    assert log.stats(f"range=last_1h&since={ago(days=30)}").json["counts"]["total"] == 6
    assert log.stats(f"range=nonsense&since={ago(days=30)}&until={ago(days=1)}").json["counts"]["total"] == 1


@pytest.mark.parametrize("query", ["since=not-a-date", "range=last_999d", "group_by=x"])
def test_query_is_refused_when_a_value_has_no_meaning(log: Log, query: str) -> None:
    assert_refused(log.stats(query), 400)


def test_timestamp_is_refused_when_its_plus_is_not_escaped(log: Log) -> None:
    assert_refused(log.stats("since=2026-01-01T00:00:00+00:00"), 400)
    assert log.stats("since=2026-01-01T00:00:00%2B00:00").status == 200


def test_request_of_this_second_is_there_at_once(log: Log) -> None:
    """The predecessor compared times as text and hid the current second."""
    request_id = log.world.chat(model="idle-model").request_id
    log.world.entry(request_id)
    assert log.stats("model=idle-model").json["counts"]["total"] == 1


def test_model_is_found_in_any_case(log: Log) -> None:
    assert log.stats("model=GPT-4O").json["counts"]["total"] == 2
    assert log.stats("provider=TEN").json["counts"]["total"] == 2


@pytest.mark.parametrize("query", ["model=nonexistent", "provider=nonexistent"])
def test_unknown_name_is_not_found(log: Log, query: str) -> None:
    assert_refused(log.stats(query), 404, "not found")
    assert_refused(log.requests(query), 404, "not found")


def test_model_is_known_when_only_old_requests_name_it(log: Log) -> None:
    answer = log.stats("model=old-model&range=last_30d")
    assert (answer.status, answer.json["counts"]["total"]) == (200, 1)


def test_empty_window_says_so(log: Log) -> None:
    body = log.stats("since=2001-01-01T00:00:00Z&until=2001-01-02T00:00:00Z").json
    assert body["empty"] is True
    assert body["message"]
    assert body["counts"].items() >= {"total": 0, "success": 0, "error": 0, "streaming": 0}.items()
    assert body["costs"]["total_cost_sats"] == 0
    assert body["performance"]["avg_latency_ms"] == 0


def test_idle_models_are_listed_when_the_sums_are_by_model(log: Log) -> None:
    models = log.stats("group_by=model&range=last_1h").json["models"]
    assert {"gpt-4o", "twenty-model", "failing-model", "idle-model", "nosuch"} <= set(models)
    assert models["gpt-4o"]["counts"]["total"] == 2
    idle = log.stats("group_by=model&since=2001-01-01T00:00:00Z&until=2001-01-02T00:00:00Z").json["models"]
    assert idle["idle-model"]["counts"]["total"] == 0


def test_all_tiers_are_listed_when_the_sums_are_by_tier(log: Log) -> None:
    tiers = log.stats("group_by=tier&range=last_1h").json["tiers"]
    assert {"local", "standard", "frontier", "unknown"} == set(tiers)
    assert tiers["unknown"]["counts"]["total"] == 1
    assert tiers["standard"]["counts"]["total"] >= 4


def test_newest_come_first_when_nothing_is_asked_for(log: Log) -> None:
    body = log.requests().json
    assert (body["page"], body["per_page"]) == (1, 20)
    times = [entry["timestamp"] for entry in body["data"]]
    assert times == sorted(times, reverse=True)
    assert len(times) == body["total"]


@pytest.mark.parametrize(
    ("query", "page", "per_page"),
    [("per_page=500", 1, 100), ("per_page=0", 1, 1), ("page=0", 1, 20), ("page=999", 999, 20)],
)
def test_page_is_brought_into_bounds(log: Log, query: str, page: int, per_page: int) -> None:
    answer = log.requests(query)
    assert answer.status == 200
    assert (answer.json["page"], answer.json["per_page"]) == (page, per_page)
    assert (answer.json["data"] == []) == (page == 999)


@pytest.mark.parametrize("query", ["page=-1", "page=x", "success=yes", "success=1", "streaming=no"])
def test_query_is_refused_as_json_when_a_value_has_the_wrong_type(log: Log, query: str) -> None:
    assert_refused(log.requests(query), 400)


def test_last_page_is_counted_when_it_is_not_full(log: Log) -> None:
    until = "until=2100-01-01T00:00:00Z"
    total = log.requests(f"{until}&per_page=1").json["total"]
    body = log.requests(f"{until}&per_page=2").json
    assert body["total_pages"] == -(-total // 2)
    assert len(body["data"]) == 2
    assert log.requests("since=2001-01-01T00:00:00Z&until=2001-01-02T00:00:00Z").json["total_pages"] == 0


def test_requests_are_filtered_when_success_and_streaming_are_asked_for(log: Log) -> None:
    failed = log.requests("success=false").json["data"]
    assert {entry["model"] for entry in failed} == {"failing-model", "nosuch"}
    assert [entry["model"] for entry in log.requests("streaming=true").json["data"]] == ["twenty-model"]


def test_requests_are_sorted_when_an_order_is_asked_for(log: Log) -> None:
    latencies = [entry["timing"]["latency_ms"] for entry in log.requests("sort=latency_ms&order=DESC").json["data"]]
    assert latencies == sorted(latencies, reverse=True)
    costs = [entry["cost"]["sats"] or 0 for entry in log.requests("sort=cost_sats&order=asc").json["data"]]
    assert costs == sorted(costs)


@pytest.mark.parametrize("query", ["sort=model", "order=up"])
def test_valid_orders_are_named_when_the_order_is_unknown(log: Log, query: str) -> None:
    assert_refused(log.requests(query), 400, "Valid options")


def of_model(log: Log, model: str) -> dict[str, Any]:
    return dict(log.requests(f"model={model}").json["data"][0])


def test_error_is_told_when_the_request_failed(log: Log) -> None:
    failed = of_model(log, "failing-model")
    assert failed["error"]["status"] == 400
    assert failed["error"]["message"]
    assert failed["provider"] == "failing"
    assert failed["success"] is False


def test_provider_is_absent_when_nobody_was_asked(log: Log) -> None:
    unrouted = next(entry for entry in log.requests("success=false").json["data"] if entry["model"] == "nosuch")
    assert unrouted.get("provider") is None
    assert unrouted["error"]["status"] == 400


def test_error_is_absent_when_the_request_succeeded(log: Log) -> None:
    plain, streamed = of_model(log, "gpt-4o"), of_model(log, "twenty-model")
    assert plain.get("error") is None
    assert plain["timing"].get("stream_duration_ms") is None
    assert streamed["timing"]["stream_duration_ms"] >= 300
    assert plain["cost"]["sats"] == pytest.approx(10)


def test_program_does_not_start_when_its_database_cannot_be_opened(tmp_path: Any) -> None:
    """No ledger, no spending. The predecessor served without its log."""
    (tmp_path / "folder").mkdir()
    with Upstream() as upstream:
        tables = {"database": {"path": str(tmp_path / "folder")}}
        config = write_config(tmp_path, upstream, PROVIDERS, port=0, tables=tables)
        done = run("serve", "-c", str(config), cwd=tmp_path)
    assert done.returncode == 1
    assert "folder" in done.stderr
