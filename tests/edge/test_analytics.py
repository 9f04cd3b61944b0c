"""Statistics, the list of requests and receipts, over a real store (contract sections 4.8, 4.9 and Q21)."""

import json
import time

import pytest

from arbstr.requests import Caller
from arbstr.store import AttemptRow, ReceiptOnly, ReceiptRow, Store, StoreUnavailable
from tests.edge.views import view_of

ADMIN = Caller(None, "admin", "admin")
SECOND_NS = 10**9
DAY_NS = 86_400 * SECOND_NS


def receipt(request_id, *, age_ns=60 * SECOND_NS, **changes):
    values = {
        "request_id": request_id,
        "agent_id": None,
        "correlation_id": None,
        "hold_id": None,
        "started_ns": time.time_ns() - age_ns,
        "duration_us": 150_000,
        "model": "gpt-4o",
        "provider": "cheap",
        "policy": None,
        "stream": False,
        "outcome": "ok",
        "http_status": 200,
        "error": None,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "estimated": False,
        "expected_msat": 12_000,
        "cost_msat": 10_000,
        "saved_median_msat": 5,
        "saved_dearest_msat": 7,
        "tier": "standard",
        **changes,
    }
    return ReceiptRow(**values)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "books.db", durability="process") as store:
        yield store


@pytest.fixture
async def log(start, store):
    """``await log(path, caller=...)`` asks the server; ``log.add(...)`` files receipts."""

    class Log:
        caller = ADMIN

        def add(self, *receipts):
            for one in receipts:
                store.commit_now(ReceiptOnly(one))

        async def __call__(self, path, caller=ADMIN):
            self.caller = caller
            return await rig.request("GET", path)

        async def get(self, path, caller=ADMIN):
            answer = await self(path, caller)
            assert answer.status == 200, answer.body
            return json.loads(answer.body)

        async def refusal(self, path, caller=ADMIN):
            answer = await self(path, caller)
            assert answer.headers["x-arbstr-request-id"]
            return answer.status, answer.error

    log = Log()
    views = (view_of("cheap", "gpt-4o", "gpt-4o-mini"), view_of("dear", "gpt-4o"))
    rig = await start(authenticate=lambda *said: log.caller, read=store.read, providers=lambda: views)
    return log


def four():
    """Case 99 of the contract."""
    return (
        receipt("r1", duration_us=150_000, cost_msat=10_000, age_ns=600 * SECOND_NS),
        receipt("r2", duration_us=200_000, cost_msat=20_000, age_ns=500 * SECOND_NS, stream=True, provider="dear"),
        receipt(
            "r3",
            duration_us=500_000,
            cost_msat=0,
            age_ns=400 * SECOND_NS,
            outcome="failed",
            http_status=502,
            error_status=502,
            error="Provider error: cheap broke",
            prompt_tokens=None,
            completion_tokens=None,
            tier=None,
        ),
        receipt("r4", cost_msat=5_000, age_ns=8 * DAY_NS, model="old-model"),
    )


# Statistics


async def test_statistics_are_of_the_last_week_unless_said_otherwise(log):
    log.add(*four())
    stats = await log.get("/v1/stats")
    assert stats["counts"] == {"total": 3, "success": 2, "error": 1, "streaming": 1}
    assert (stats["costs"]["total_cost_sats"], stats["costs"]["total_cost_msat"]) == (30.0, 30_000)
    assert (stats["costs"]["total_input_tokens"], stats["costs"]["total_output_tokens"]) == (20, 40)
    assert stats["performance"]["avg_latency_ms"] == pytest.approx(283.333, abs=0.01)
    assert "empty" not in stats
    assert stats["since"].endswith("+00:00")
    assert (await log.get("/v1/stats?range=last_30d"))["costs"]["total_cost_sats"] == 35.0


async def test_statistics_say_so_when_there_is_nothing(log):
    log.add(*four())
    stats = await log.get("/v1/stats?since=2001-01-01T00:00:00Z&until=2001-01-02T00:00:00Z&range=last_1h")
    assert stats["empty"] is True
    assert stats["message"]
    assert stats["counts"]["total"] == 0
    assert stats["performance"] == {"avg_latency_ms": 0.0}
    assert (stats["since"], stats["until"]) == ("2001-01-01T00:00:00+00:00", "2001-01-02T00:00:00+00:00")


async def test_since_after_until_is_not_an_error(log):
    assert (await log.get("/v1/stats?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z"))["empty"]


async def test_groups_by_model_have_what_is_configured_and_what_was_asked(log):
    log.add(*four(), receipt("r5", model="unheard-of"))
    models = (await log.get("/v1/stats?group_by=model&model=gpt-4o"))["models"]
    assert {name: one["counts"]["total"] for name, one in models.items()} == {
        "gpt-4o": 3,
        "gpt-4o-mini": 0,
        "unheard-of": 1,
    }


async def test_groups_by_tier_always_have_all_three_and_unknown_for_rows_without(log):
    stats = await log.get("/v1/stats?group_by=tier")
    assert set(stats["tiers"]) == {"local", "standard", "frontier"}
    log.add(*four())
    tiers = (await log.get("/v1/stats?group_by=tier&provider=CHEAP"))["tiers"]
    assert {name: one["counts"]["total"] for name, one in tiers.items()} == {
        "local": 0,
        "standard": 1,
        "frontier": 0,
        "unknown": 1,
    }


@pytest.mark.parametrize(
    ("group_by", "member", "groups"),
    [
        ("provider", "providers", {"cheap": 2, "dear": 1}),
        ("policy", "policies", {"unknown": 3}),
        ("agent", "agents", {"unknown": 3}),
    ],
)
async def test_groups_of_ours(log, group_by, member, groups):
    log.add(*four())
    found = (await log.get(f"/v1/stats?group_by={group_by}"))[member]
    assert {name: one["counts"]["total"] for name, one in found.items()} == groups


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("since=not-a-date", 400, "RFC 3339"),
        ("range=last_999d", 400, "Valid options"),
        ("group_by=x", 400, "model, tier"),
        ("model=nonexistent", 404, "not found"),
        ("provider=nonexistent", 404, "not found"),
        ("agent=nonexistent", 404, "not found"),
        ("model=a&model=b", 400, "given twice"),
        # what is wrong first is told first
        ("range=x&model=nonexistent&group_by=x", 400, "range"),
        ("model=nonexistent&provider=nonexistent&group_by=x", 404, "model"),
        ("provider=nonexistent&group_by=x", 404, "provider"),
    ],
)
async def test_statistics_are_refused_when_the_query_says(log, query, status, words):
    found, error = await log.refusal(f"/v1/stats?{query}")
    assert found == status
    assert words in error["message"]


async def test_names_are_known_from_the_log_and_in_any_case(log):
    log.add(*four())
    assert (await log.get("/v1/stats?model=GPT-4O"))["counts"]["total"] == 3
    assert (await log.get("/v1/stats?model=OLD-model"))["counts"]["total"] == 0
    assert (await log.get("/v1/stats?model=gpt-4o-mini&provider=DEAR"))["empty"]


# Requests


async def test_requests_are_listed_newest_first_with_all_that_is_known(log):
    log.add(
        *four(),
        receipt(
            "r6",
            agent_id="ag_1",
            correlation_id="job-7",
            policy="thrifty",
            policy_header="Thrifty",
            complexity_score=0.25,
            cached_tokens=4,
            endpoint="embeddings",
            age_ns=SECOND_NS,
        ),
    )
    page = await log.get("/v1/requests")
    assert [one["request_id"] for one in page["data"]] == ["r6", "r3", "r2", "r1"]
    assert (page["page"], page["per_page"], page["total"], page["total_pages"]) == (1, 20, 4, 1)
    newest, failed, stream, plain = page["data"]
    assert (newest["correlation_id"], newest["policy"], newest["policy_header"]) == ("job-7", "thrifty", "Thrifty")
    assert (newest["agent"], newest["endpoint"], newest["complexity_score"]) == ("ag_1", "embeddings", 0.25)
    assert newest["tokens"] == {"input": 10, "output": 20, "cached": 4, "estimated": False}
    assert newest["cost"] == {
        "sats": 10.0,
        "msat": 10_000,
        "expected_msat": 12_000,
        "provider_cost_msat": None,
    }
    assert newest["saved"] == {"msat": 5, "dearest_msat": 7}
    assert (newest["success"], newest["streaming"], "error" in newest) == (True, False, False)
    assert failed["error"] == {"status": 502, "message": "Provider error: cheap broke"}
    assert failed["cost"]["sats"] is None
    assert stream["timing"]["stream_duration_ms"] == 200
    assert plain["timing"] == {"latency_ms": 150}
    assert isinstance(plain["id"], int)
    assert plain["timestamp"].endswith("+00:00")


async def test_a_request_that_nobody_was_asked_for_has_no_provider(log):
    log.add(receipt("r", provider=None, outcome="failed", http_status=400, error="no"))
    [one] = (await log.get("/v1/requests"))["data"]
    assert "provider" not in one


async def test_a_stream_tells_when_it_began_and_how_long_it_took(log):
    started_ns = time.time_ns() - SECOND_NS
    attempt = AttemptRow("cheap", started_ns + 1_000_000, 8_000_000, 70_000, 200, "success")
    times = {"duration_us": 9_000_000, "latency_us": 71_000, "started_ns": started_ns}
    log.add(receipt("r", stream=True, **times, attempts=(attempt,)))
    [found] = (await log.get("/v1/requests"))["data"]
    assert found["timing"] == {"latency_ms": 71, "stream_duration_ms": 9_000}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("success=true", ["r2", "r1"]),
        ("success=false", ["r3"]),
        ("streaming=true", ["r2"]),
        ("streaming=false&success=true", ["r1"]),
        ("provider=Dear", ["r2"]),
        ("sort=cost_sats", ["r2", "r1", "r3"]),
        ("sort=latency_ms&order=ASC", ["r1", "r2", "r3"]),
        ("order=asc&per_page=2", ["r1", "r2"]),
        ("per_page=2&page=2", ["r1"]),
        ("page=0&per_page=0", ["r3"]),
        ("range=last_30d&model=old-model", ["r4"]),
        ("unknown=1&unknown=2", ["r3", "r2", "r1"]),
    ],
)
async def test_requests_are_filtered_sorted_and_paged(log, query, found):
    log.add(*four())
    assert [one["request_id"] for one in (await log.get(f"/v1/requests?{query}"))["data"]] == found


async def test_pages_are_counted_and_one_beyond_the_end_is_empty(log):
    log.add(*four())
    page = await log.get("/v1/requests?per_page=2&page=4294967295")
    assert (page["data"], page["page"], page["total"], page["total_pages"]) == ([], 4294967295, 3, 2)
    assert (await log.get("/v1/requests?per_page=500"))["per_page"] == 100
    empty = await log.get("/v1/requests?until=2001-01-01T00:00:00Z")
    assert (empty["total"], empty["total_pages"]) == (0, 0)


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("success=yes", 400, "true or false"),
        ("streaming=1", 400, "true or false"),
        ("page=-1", 400, "integer"),
        ("per_page=x", 400, "integer"),
        ("sort=model", 400, "Valid options"),
        ("sort=TIMESTAMP", 400, "Valid options"),
        ("order=up", 400, "Valid options"),
        ("page=1&page=1", 400, "given twice"),
        ("since=2026-01-01T00:00:00+01:00", 400, "RFC 3339"),
        ("success=yes&range=x", 400, "success"),
        ("range=x&sort=x", 400, "range"),
        ("model=nope&sort=x", 404, "not found"),
        ("sort=x&order=up", 400, "sort"),
    ],
)
async def test_requests_are_refused_when_the_query_says(log, query, status, words):
    found, error = await log.refusal(f"/v1/requests?{query}")
    assert found == status
    assert words in error["message"]


# Whose rows


async def test_an_agent_sees_its_own_requests_only(log, store):
    mine, other = store.add_agent_now("mine"), store.add_agent_now("other")
    log.add(
        receipt("r1", agent_id=mine.agent_id),
        receipt("r2", agent_id=other.agent_id, model="secret-model", provider="gone"),
    )
    me = Caller(mine.agent_id, "agent", "mine")
    assert [one["request_id"] for one in (await log.get("/v1/requests", me))["data"]] == ["r1"]
    assert (await log.get("/v1/stats", me))["counts"]["total"] == 1
    assert (await log.get("/v1/stats?agent=mine", me))["counts"]["total"] == 1
    assert (await log.get("/v1/requests/r1", me))["request_id"] == "r1"
    for path in ("/v1/requests/r2", "/v1/stats?model=secret-model", "/v1/requests?provider=gone"):
        status, error = await log.refusal(path, me)
        assert (status, error["reason"]) == (404, "not_found")
    for path in ("/v1/stats?agent=other", f"/v1/requests?agent={other.agent_id}"):
        assert (await log.refusal(path, me))[0] == 403


async def test_an_admin_sees_all_and_may_ask_for_one_agent_by_id_or_name(log, store):
    mine, other = store.add_agent_now("mine"), store.add_agent_now("other")
    log.add(receipt("r1", agent_id=mine.agent_id), receipt("r2", agent_id=other.agent_id, model="secret-model"))
    assert (await log.get("/v1/stats"))["counts"]["total"] == 2
    assert (await log.get("/v1/stats?model=secret-model"))["counts"]["total"] == 1
    for agent in ("mine", mine.agent_id):
        [one] = (await log.get(f"/v1/requests?agent={agent}"))["data"]
        assert one["agent"] == mine.agent_id


# Receipts


async def test_a_receipt_has_attempts_candidates_and_reasons(log):
    one = receipt(
        "r1",
        attempts=(
            AttemptRow("cheap", time.time_ns(), 5_500, None, 503, "provider_fault", "status 503"),
            AttemptRow("dear", time.time_ns(), 90_000, 70_000, 200, "success"),
        ),
        selection=json.dumps(
            {"strategy": "cheapest", "candidates": [["cheap", 5], ["dear", 9]], "left_out": [["odd", "busy"]]}
        ),
    )
    log.add(one)
    found = await log.get("/v1/requests/r1")
    assert (found["object"], found["strategy"]) == ("arbstr.receipt", "cheapest")
    assert found["candidates"] == [
        {"provider": "cheap", "expected_cost_msat": 5},
        {"provider": "dear", "expected_cost_msat": 9},
    ]
    assert found["left_out"] == [{"provider": "odd", "reason": "busy"}]
    first, second = found["attempts"]
    assert (first["provider"], first["outcome"], first["duration_ms"]) == ("cheap", "provider_fault", 5.5)
    assert (first["error"], second["ttfb_ms"], second["http_status"]) == ("status 503", 70.0, 200)
    assert found["cost"]["msat"] == 10_000


async def test_a_receipt_without_a_selection_has_no_candidates(log):
    log.add(receipt("r1"))
    found = await log.get("/v1/requests/r1")
    assert (found["strategy"], found["candidates"], found["left_out"], found["attempts"]) == (None, [], [], [])


@pytest.mark.parametrize("name", ["nope", "x" * 2_000, "%00", "a/b"])
async def test_a_receipt_is_404_when_there_is_none(log, name):
    assert (await log.refusal(f"/v1/requests/{name}"))[0] == 404


# When the store cannot be read


async def test_an_unreadable_log_is_a_500_that_names_no_file(start, caplog):
    async def read(function):
        raise StoreUnavailable("/secret/books.db: disk I/O error")

    rig = await start(read=read)
    for path in ("/v1/stats", "/v1/requests", "/v1/requests/x"):
        answer = await rig.request("GET", path)
        assert answer.status == 500
        assert "Database error: " in answer.error["message"]
        assert "secret" not in answer.body.decode()
    assert "disk I/O error" in caplog.text
