"""Requests found, counted and added up; and that no query looks at more rows than it must."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.store import (
    AttemptRow,
    ReceiptOnly,
    RecordedUsage,
    RequestFilter,
    Store,
    Totals,
    find_receipt,
    find_receipt_by_number,
    find_requests,
    is_known_model,
    is_known_provider,
    known_models,
    known_providers,
    newest_id,
    recorded_usage,
    requests_after,
    statistics_of,
)
from arbstr.store import _queries as queries_module

S = 1_000_000_000
HOUR = 3_600 * S
NOW = 1_800_000_000 * S
TRUE_FALSE = (True, False)

File = Callable[..., None]
Read = Callable[..., Any]


@pytest.fixture
def file(store: Store, receipt: Callable[..., Any]) -> File:
    """File a receipt that nobody paid for; what is not named is as in ``make_receipt``, one second after the other."""
    numbers = iter(range(1, 1_000_000))

    def file(request_id: str | None = None, **changes: Any) -> None:
        number = next(numbers)
        changes = {"started_ns": number * S, **changes}
        store.commit_now(ReceiptOnly(receipt(request_id or f"r{number}", changes.pop("cost_msat", 0), **changes)))

    return file


@pytest.fixture
def read(store: Store) -> Read:
    """Call a query on the store's rows."""
    return lambda query, *arguments, **options: store.wait_for(lambda db: query(db, *arguments, **options))


def ids(page: Any) -> list[str]:
    return [row.receipt.request_id for row in page.rows]


# One request


def test_receipt_comes_back_as_it_was_filed_when_it_is_asked_for(file: File, read: Read) -> None:
    attempts = (
        AttemptRow("a", 3 * S, 10, None, 500, "failure", "broken"),
        AttemptRow("b", 4 * S, 20, 15, 200, "success"),
    )
    more = {
        "started_ns": 2 * S,
        "stream": True,
        "estimated": True,
        "endpoint": "completions",
        "tier": "frontier",
        "complexity_score": 0.25,
        "policy_header": "nobody-knows",
        "cached_tokens": 3,
        "upstream_model": "vendor/m",
        "selection": '{"strategy":"cheapest"}',
        "attempts": attempts,
        "cost_msat": 42,
    }
    file("one", **more)
    found = read(find_receipt, "one")
    for name, value in more.items():
        assert getattr(found.receipt, name) == value, name
    assert found.receipt.stream is True
    assert (found.id, found.first_byte_us) == (1, 2 * S // 1_000 + 15)
    assert read(find_receipt_by_number, 1) == found
    assert read(find_receipt, "two") is None
    assert read(find_receipt_by_number, 2) is None
    assert read(find_receipt_by_number, 10**30) is None


def test_receipt_of_another_agent_is_none_when_an_agent_asks(file: File, read: Read) -> None:
    file("hers", agent_id="ag_ada")
    file("nobodys")
    assert read(find_receipt, "hers", "ag_ada").receipt.agent_id == "ag_ada"
    assert read(find_receipt, "hers", "ag_bob") is None
    assert read(find_receipt, "nobodys", "ag_bob") is None


def test_time_of_the_first_byte_is_not_negative_when_the_clock_was_set_back(file: File, read: Read) -> None:
    file("one", started_ns=9 * S, attempts=(AttemptRow("b", S, 20, 15, 200, "success"),))
    assert read(find_receipt, "one").first_byte_us == 0


def test_a_selection_is_not_read_when_a_page_is(file: File, read: Read) -> None:
    file("one", selection="x" * 100)
    (row,) = read(find_requests, RequestFilter()).rows
    assert (row.receipt.selection, row.receipt.attempts) == ("{}", ())


# Pages


def test_newest_come_first_when_nothing_else_is_asked_for(file: File, read: Read) -> None:
    for _ in range(3):
        file()
    page = read(find_requests, RequestFilter())
    assert (ids(page), page.total) == (["r3", "r2", "r1"], 3)


def test_bounds_are_inclusive_to_the_nanosecond(file: File, read: Read) -> None:
    for name, at in (("before", 9), ("first", 10), ("last", 20), ("after", 21)):
        file(name, started_ns=at)
    page = read(find_requests, RequestFilter(10, 20))
    assert (ids(page), page.total) == (["last", "first"], 2)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"model": "GPT-4O"}, "ac"),
        ({"model": "gpt-4o-mini"}, "b"),
        ({"model": "gpt-4%"}, ""),
        ({"provider": "ALPHA"}, "ab"),
        ({"success": True}, "ab"),
        ({"success": False}, "cd"),
        ({"streaming": True}, "b"),
        ({"streaming": False}, "acd"),
        ({"agent_id": "ag_1"}, "ad"),
        ({"endpoint": "embeddings"}, "d"),
        ({"model": "gpt-4o", "provider": "beta", "success": False}, "c"),
        ({"model": "\ud800"}, "e"),
        ({"model": "É"}, ""),
    ],
)
def test_filters_let_through_what_they_say(file: File, read: Read, wanted: dict[str, Any], found: str) -> None:
    file("a", model="gpt-4o", provider="alpha", agent_id="ag_1")
    file("b", model="gpt-4o-mini", provider="Alpha", stream=True)
    file("c", model="GPT-4o", provider="beta", outcome="failed")
    file("d", model="embed", provider=None, outcome="crashed", agent_id="ag_1", endpoint="embeddings")
    if found == "e":
        file("e", model="\ud800")
    page = read(find_requests, RequestFilter(**wanted), descending=False)
    assert ("".join(ids(page)), page.total) == (found, len(found))


@pytest.mark.parametrize("sort", ["timestamp", "cost", "latency"])
@pytest.mark.parametrize("descending", TRUE_FALSE)
def test_pages_hold_each_request_once_when_many_are_equal(file: File, read: Read, sort: Any, descending: bool) -> None:
    for number in range(11):
        file(started_ns=S, cost_msat=number % 2, duration_us=number % 3)
    seen: list[Any] = []
    for offset in range(0, 12, 3):
        page = read(find_requests, RequestFilter(), sort=sort, descending=descending, limit=3, offset=offset)
        assert page.total == 11
        seen += page.rows
    assert len({row.id for row in seen}) == len(seen) == 11
    key = {"timestamp": "started_ns", "cost": "cost_msat", "latency": "duration_us"}[sort]
    order = [(getattr(row.receipt, key), row.id) for row in seen]
    assert order == sorted(order, reverse=descending)


@pytest.mark.parametrize("offset", [3, 2**31 * 100, 2**63, 10**40])
def test_page_beyond_the_end_is_empty_however_far_it_is(file: File, read: Read, offset: int) -> None:
    for _ in range(3):
        file()
    page = read(find_requests, RequestFilter(), limit=100, offset=offset)
    assert (page.rows, page.total) == ((), 3)


def test_page_is_bounded_when_all_rows_are_asked_for(file: File, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries_module, "MAX_PAGE", 2)
    for _ in range(3):
        file()
    assert len(read(find_requests, RequestFilter(), limit=10**30).rows) == 2
    assert read(find_requests, RequestFilter(), limit=-1).rows == ()


def test_time_may_be_any_number_when_a_range_is_asked_for(file: File, read: Read) -> None:
    file()
    assert read(find_requests, RequestFilter(-(10**30), 10**30)).total == 1
    assert read(find_requests, RequestFilter(10**30, -(10**30))).total == 0


def test_requests_filed_since_come_in_their_order_when_followed(file: File, read: Read) -> None:
    assert read(newest_id) == 0
    file("late", started_ns=9 * S)
    seen = read(newest_id)
    assert seen == 1
    file("early", started_ns=S, agent_id="ag_1")
    file("other", outcome="failed")
    found = [row.receipt.request_id for row in read(requests_after, RequestFilter(), seen, limit=10)]
    assert found == ["early", "other"]
    assert [row.id for row in read(requests_after, RequestFilter(agent_id="ag_1"), 0, limit=10)] == [2]
    assert [row.id for row in read(requests_after, RequestFilter(), 0, limit=1)] == [1]


# Sums


def test_counts_and_sums_are_those_of_the_contract_when_a_week_is_asked_for(file: File, read: Read) -> None:
    """Contract section 21, case 99."""
    file(started_ns=NOW, cost_msat=10_000, duration_us=150_000, stream=True)
    file(started_ns=NOW, cost_msat=20_000, duration_us=200_000, saved_median_msat=7, saved_dearest_msat=9)
    file(started_ns=NOW - HOUR, duration_us=500_000, outcome="failed", prompt_tokens=None, completion_tokens=None)
    file(started_ns=NOW - 8 * 24 * HOUR, cost_msat=5_000)
    week = read(statistics_of, RequestFilter(NOW - 7 * 24 * HOUR, NOW)).totals
    assert (week.total, week.success, week.error, week.streaming) == (3, 2, 1, 1)
    assert (week.cost_msat, week.prompt_tokens, week.completion_tokens) == (30_000, 2, 4)
    assert (week.saved_median_msat, week.saved_dearest_msat) == (7, 9)
    assert week.average_latency_ms == pytest.approx(283.3333)
    assert read(statistics_of, RequestFilter(NOW - 30 * 24 * HOUR, NOW)).totals.cost_msat == 35_000


def test_all_is_zero_when_there_is_nothing(read: Read) -> None:
    found = read(statistics_of, RequestFilter(), "model")
    assert (found.totals, found.groups, found.groups_left_out) == (Totals(), {}, False)
    assert found.totals.average_latency_ms == 0.0


@pytest.mark.parametrize(
    ("group_by", "names"),
    [
        ("model", {"m": 2, "M": 1}),
        ("tier", {"local": 2, None: 1}),
        ("provider", {"p": 2, None: 1}),
        ("agent", {"ag_1": 1, None: 2}),
        ("policy", {"code": 1, None: 2}),
    ],
)
def test_groups_are_those_of_the_column(file: File, read: Read, group_by: Any, names: dict[str | None, int]) -> None:
    file(tier="local", agent_id="ag_1")
    file(tier="local", policy="code")
    file(model="M", provider=None)
    found = read(statistics_of, RequestFilter(), group_by)
    assert {name: one.total for name, one in found.groups.items()} == names


def test_filter_by_model_does_not_restrict_the_models_when_grouped_by_them(file: File, read: Read) -> None:
    file(model="a", provider="x")
    file(model="b", provider="x")
    file(model="b", provider="y")
    wanted = RequestFilter(model="A", provider="x")
    found = read(statistics_of, wanted, "model")
    assert (found.totals.total, list(found.groups)) == (1, ["a", "b"])
    assert list(read(statistics_of, wanted, "provider").groups) == ["x"]
    assert read(statistics_of, wanted, "provider").groups["x"].total == 1


@pytest.mark.parametrize("group_by", ["model", "tier", "provider", "agent", "policy"])
def test_totals_are_the_same_however_they_are_grouped(large: sqlite3.Connection, group_by: Any) -> None:
    for wanted in (RequestFilter(), RequestFilter(success=False), RequestFilter(model="m1"), RequestFilter(7, 5)):
        assert statistics_of(large, wanted, group_by).totals == statistics_of(large, wanted).totals


def test_groups_are_bounded_and_the_busiest_kept_when_there_are_many(
    file: File, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries_module, "MAX_GROUPS", 2)
    for name in ("a", "b", "b", "c", "c"):
        file(model=name)
    found = read(statistics_of, RequestFilter(), "model")
    assert (list(found.groups), found.groups_left_out, found.totals.total) == (["b", "c"], True, 5)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**63 - 1), st.none() | st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from(["ok", "no"])
        ),
        max_size=6,
    )
)
def test_sums_are_exact_however_large_they_are(rows: list[tuple[int, int | None, str]]) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        sums = [name for name in queries_module._SUMS if name.isidentifier()]
        columns = ("stream", "outcome", "started_ns", "model", "latency_us", "duration_us", *sums)
        db.execute(f"CREATE TABLE receipts ({', '.join(columns)})")
        for cost, tokens, outcome in rows:
            values = {"cost_msat": cost, "prompt_tokens": tokens, "outcome": outcome, "started_ns": 1, "stream": 1}
            db.execute(
                f"INSERT INTO receipts VALUES ({', '.join('?' * len(columns))})",  # noqa: S608 - question marks
                [values.get(column) for column in columns],
            )
        totals = statistics_of(db, RequestFilter()).totals
    assert totals.cost_msat == sum(cost for cost, _, _ in rows)
    assert totals.prompt_tokens == sum(tokens or 0 for _, tokens, _ in rows)
    assert totals.success == Counter(outcome for *_, outcome in rows)["ok"]
    assert totals.total == totals.streaming == len(rows)


def test_usage_is_that_of_requests_whose_tokens_are_known(file: File, read: Read) -> None:
    file(model="late", started_ns=9 * S, cached_tokens=1, cost_msat=5)
    file(model="early", started_ns=S, outcome="failed")
    file(model="none", prompt_tokens=None)
    file(model="none", completion_tokens=None)
    found = read(lambda db: list(recorded_usage(db, RequestFilter())))
    assert found == [RecordedUsage("early", 1, 2, 0, 0), RecordedUsage("late", 1, 2, 1, 5)]


# Names


def test_each_name_is_known_once_in_any_case(file: File, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    for model, provider in (("b", "y"), ("a", None), ("B", "X"), ("c", "x"), ("b", None)):
        file(model=model, provider=provider)
    assert [name.lower() for name in read(known_models)] == ["a", "b", "c"]
    assert [name.lower() for name in read(known_providers)] == ["x", "y"]
    assert read(is_known_model, "C")
    assert not read(is_known_model, "d")
    assert read(is_known_provider, "Y")
    assert not read(is_known_provider, "")
    monkeypatch.setattr(queries_module, "MAX_NAMES", 2)
    assert len(read(known_models)) == 2


def test_no_name_is_known_when_there_is_nothing(read: Read) -> None:
    assert read(known_models) == read(known_providers) == []


# What it costs


ROWS = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A hundred thousand receipts, one per second, of 50 models, 20 providers and 10 agents; one in 20 failed."""
    path = tmp_path_factory.mktemp("large") / "books.db"
    Store.open(path, durability="process").close()
    with closing(sqlite3.connect(path)) as db:
        db.executemany(
            "INSERT INTO receipts (request_id, agent_id, started_ns, duration_us, model, provider, stream, outcome, "
            "http_status, prompt_tokens, completion_tokens, estimated, cost_msat, selection) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 200, 10, 20, 0, ?, '{}')",
            (
                (
                    f"r{n}",
                    f"ag_{n % 10}",
                    n * S,
                    n % 977,
                    f"m{n % 50}",
                    f"p{n % 20}",
                    n % 2,
                    ("ok", "failed")[not n % 20],
                    n,
                )
                for n in range(ROWS)
            ),
        )
        db.commit()
        yield db


def plans(db: sqlite3.Connection, query: Callable[[sqlite3.Connection], object]) -> list[list[str]]:
    """The query plan of each statement that ``query`` executes."""
    statements: list[str] = []
    db.set_trace_callback(statements.append)
    query(db)
    db.set_trace_callback(None)
    return [[row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}")] for text in statements]


RANGE = (1_000 * S, 2_000 * S)
CASES = [
    pytest.param({}, "receipts_started (started_ns>? AND started_ns<?)", id="time"),
    pytest.param({"agent_id": "ag_1"}, "receipts_agent (agent_id=? AND started_ns>? AND started_ns<?)", id="agent"),
    pytest.param({"model": "m1"}, "receipts_model (model=? AND started_ns>? AND started_ns<?)", id="model"),
    pytest.param({"provider": "P1"}, "receipts_provider (provider=? AND started_ns>? AND started_ns<?)", id="provider"),
    pytest.param({"success": False}, "receipts_failed (started_ns>? AND started_ns<?)", id="failed"),
    pytest.param({"success": True}, "receipts_started (started_ns>? AND started_ns<?)", id="succeeded"),
    pytest.param({"streaming": True}, "receipts_started (started_ns>? AND started_ns<?)", id="streaming"),
    pytest.param({"endpoint": "x"}, "receipts_started (started_ns>? AND started_ns<?)", id="endpoint"),
]
QUERIES: list[Any] = [
    pytest.param(find_requests, {}, id="page"),
    pytest.param(find_requests, {"descending": False}, id="page ascending"),
    pytest.param(find_requests, {"sort": "cost"}, id="dearest"),
    pytest.param(find_requests, {"sort": "latency"}, id="slowest"),
    pytest.param(statistics_of, {}, id="totals"),
    pytest.param(statistics_of, {"group_by": "tier"}, id="by tier"),
    pytest.param(statistics_of, {"group_by": "agent"}, id="by agent"),
    pytest.param(lambda db, wanted: list(recorded_usage(db, wanted)), {}, id="usage"),
]


@pytest.mark.parametrize(("wanted", "index"), CASES)
@pytest.mark.parametrize(("query", "options"), QUERIES)
def test_rows_outside_of_the_range_are_not_looked_at(
    large: sqlite3.Connection, query: Any, options: dict[str, Any], wanted: dict[str, Any], index: str
) -> None:
    for plan in plans(large, lambda db: query(db, RequestFilter(*RANGE, **wanted), **options)):
        searches = [step for step in plan if "receipts" in step]
        assert searches
        assert any(step.endswith(index) for step in searches), plan
        for step in searches:
            assert step.endswith(index) or "rowid=?" in step, plan


@pytest.mark.parametrize("wanted", [{}, {"agent_id": "ag_1"}, {"model": "m1"}, {"success": False}])
def test_nothing_is_sorted_when_the_newest_are_asked_for(large: sqlite3.Connection, wanted: dict[str, Any]) -> None:
    (page, _) = plans(large, lambda db: find_requests(db, RequestFilter(*RANGE, **wanted)))
    of_keys = page[: next(n for n, step in enumerate(page) if step.startswith("SCAN"))]
    assert not any("TEMP B-TREE" in step for step in of_keys), page


@pytest.mark.parametrize("wanted", [{}, {"agent_id": "ag_1"}, {"model": "m1"}, {"success": False}])
def test_only_new_rows_are_looked_at_when_followed(large: sqlite3.Connection, wanted: dict[str, Any]) -> None:
    (plan,) = plans(large, lambda db: requests_after(db, RequestFilter(**wanted), ROWS - 5, limit=10))
    assert plan[0] == "SEARCH receipts USING INTEGER PRIMARY KEY (rowid>?)"


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (lambda db: find_receipt(db, "r7"), "(request_id=?)"),
        (lambda db: find_receipt_by_number(db, 7), "(rowid=?)"),
        (lambda db: is_known_model(db, "M7"), "receipts_model (model=?)"),
        (lambda db: is_known_provider(db, "P7"), "receipts_provider (provider=?)"),
    ],
)
def test_one_is_found_without_looking_at_others(large: sqlite3.Connection, query: Any, index: str) -> None:
    for plan in plans(large, query):
        for step in plan:
            if "receipts" in step:
                assert step.endswith((index, "(request_id=?)")), plan


def test_names_are_found_from_one_to_the_next(large: sqlite3.Connection) -> None:
    steps: list[int] = []
    large.set_progress_handler(lambda: steps.append(1), 100)
    assert len(known_models(large)) == 50
    assert len(known_providers(large)) == 20
    large.set_progress_handler(None, 0)
    assert len(steps) * 100 < ROWS / 10


def test_sums_of_many_rows_are_right(large: sqlite3.Connection) -> None:
    found = statistics_of(large, RequestFilter(), "model")
    assert (found.totals.total, found.totals.cost_msat) == (ROWS, ROWS * (ROWS - 1) // 2)
    assert {one.total for one in found.groups.values()} == {ROWS // 50}


def test_queries_work_beside_a_running_store(store: Store, file: File, path: Path) -> None:
    file("one", cost_msat=5)
    assert Store.read_from(path, lambda db: statistics_of(db, RequestFilter())).totals.cost_msat == 5
