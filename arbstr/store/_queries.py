"""What the receipts say: requests found, counted and added up. Pure functions over a connection; values out.

Each takes as long as there are rows in its time range, or fewer where an index knows better (one agent, model or
provider, or the failures): no query looks at older or newer receipts. The caller owns the snapshot, so two queries of
one read agree with each other. Times are nanoseconds UTC and bounds inclusive: what has ended is visible at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Literal

from attrs import astuple, evolve, field, frozen

from arbstr.store._journal import MAX_INTEGER, storable
from arbstr.store._rows import ATTEMPT_COLUMNS, RECEIPT_COLUMNS
from arbstr.store._values import AttemptRow, ReceiptRow

Connection = sqlite3.Connection
"""What a query works on, by a name for rooms that have no business with sqlite3."""

Sort = Literal["timestamp", "cost", "latency"]
GroupBy = Literal["model", "tier", "provider", "agent", "policy"]

MAX_PAGE = 1_000
MAX_GROUPS = 1_000
MAX_NAMES = 1_000

_SORTS: dict[Sort, str] = {
    "timestamp": "started_ns",
    "cost": "cost_msat",
    "latency": "coalesce(latency_us, duration_us)",
}
_GROUPS: dict[GroupBy, str] = {
    "model": "model",
    "tier": "tier",
    "provider": "provider",
    "agent": "agent_id",
    "policy": "policy",
}


def _time_ns(value: int) -> int:
    """Nothing is recorded outside of what a column can hold, but people may ask for the year 9999."""
    return max(-MAX_INTEGER, min(value, MAX_INTEGER))


@frozen
class RequestFilter:
    """Which receipts. Bounds are inclusive; None: any.

    ``model`` and ``provider`` are compared without regard to the case of ASCII letters. ``success`` is outcome ``ok``.
    """

    since_ns: int = field(default=0, converter=_time_ns)
    until_ns: int = field(default=MAX_INTEGER, converter=_time_ns)
    model: str | None = None
    provider: str | None = None
    success: bool | None = None
    streaming: bool | None = None
    agent_id: str | None = None
    endpoint: str | None = None


@frozen
class StoredReceipt:
    """A receipt as it was filed. ``receipt.attempts`` and ``receipt.selection`` are read by ``find_receipt`` only."""

    id: int
    """Counts the receipts of this database, in the order in which they were filed."""
    receipt: ReceiptRow
    first_byte_us: int | None
    """From the arrival of the request to the first byte of the last provider that sent one."""


@frozen
class RequestPage:
    rows: tuple[StoredReceipt, ...]
    total: int
    """How many there are on all pages."""


@frozen
class Totals:
    """Sums over some receipts; what a receipt does not know counts as 0, and failures count like the rest."""

    total: int = 0
    success: int = 0
    streaming: int = 0
    cost_msat: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    saved_median_msat: int = 0
    """What the same tokens would have cost more at the median of the candidates."""
    saved_dearest_msat: int = 0
    latency_us: int = 0

    @property
    def error(self) -> int:
        return self.total - self.success

    @property
    def average_latency_ms(self) -> float:
        """From arrival to end, of streams to their beginning; 0.0 when there is none."""
        return self.latency_us / self.total / 1_000 if self.total else 0.0


@frozen
class Statistics:
    totals: Totals
    groups: dict[str | None, Totals] = field(factory=dict)
    """By value of the column; None: it had none. The busiest first, at most ``MAX_GROUPS``."""
    groups_left_out: bool = False
    """There were more."""


@frozen
class RecordedUsage:
    """The tokens of one request and what was paid for them."""

    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_msat: int


def _where(wanted: RequestFilter) -> tuple[str, list[object]]:
    """The condition and its values. Texts come from outside; they are bent as they were when they were stored."""
    parts = ["started_ns BETWEEN ? AND ?"]
    values: list[object] = [wanted.since_ns, wanted.until_ns]
    for condition, value in (
        ("agent_id = ?", wanted.agent_id),
        ("model = ? COLLATE NOCASE", wanted.model),
        ("provider = ? COLLATE NOCASE", wanted.provider),
        ("endpoint = ?", wanted.endpoint),
        ("stream = ?", wanted.streaming),
    ):
        if value is not None:
            parts.append(condition)
            values.append(storable(value))
    if wanted.success is not None:  # written out: an index of the failures is only used for these very words
        parts.append("outcome = 'ok'" if wanted.success else "outcome != 'ok'")
    return " AND ".join(parts), values


# One request


_COLUMNS = ", ".join(
    "'{}'" if column == "selection" else f"receipts.{column}" for column in RECEIPT_COLUMNS.split(", ")
)
_FIRST_BYTE = (
    "(SELECT max(0, (attempts.started_ns - receipts.started_ns) / 1000 + ttfb_us) FROM attempts "
    "WHERE attempts.request_id = receipts.request_id AND ttfb_us IS NOT NULL ORDER BY position DESC LIMIT 1)"
)
_ENTRY = f"SELECT receipts.rowid, {_FIRST_BYTE}, {_COLUMNS} FROM"


def _stored(row: tuple[object, ...]) -> StoredReceipt:
    values = dict(zip(RECEIPT_COLUMNS.split(", "), row[2:], strict=True))
    for flag in ("stream", "estimated"):
        values[flag] = bool(values[flag])
    return StoredReceipt(row[0], ReceiptRow(**values), row[1])  # type: ignore[arg-type]  # STRICT tables have the types


def find_requests(
    db: sqlite3.Connection,
    wanted: RequestFilter,
    *,
    sort: Sort = "timestamp",
    descending: bool = True,
    limit: int = 20,
    offset: int = 0,
) -> RequestPage:
    """One page of receipts and the number of all of them. Equal ones are in the order of filing, so pages are stable.

    Sorted by time, the rows of a page and those before it are read; otherwise all rows of the range are sorted. At most
    ``MAX_PAGE`` rows come back; ``offset`` may be any number.
    """
    rows = _page(db, wanted, sort, descending, limit, offset)
    where, values = _where(wanted)
    (total,) = db.execute(f"SELECT count(*) FROM receipts WHERE {where}", values).fetchone()  # noqa: S608 - constant names
    return RequestPage(rows, total)


def _page(
    db: sqlite3.Connection, wanted: RequestFilter, sort: Sort, descending: bool, limit: int, offset: int
) -> tuple[StoredReceipt, ...]:
    where, values = _where(wanted)
    direction = "DESC" if descending else "ASC"
    order = f"{_SORTS[sort]} {direction}, receipts.rowid {direction}"
    # Keys first: what has to be sorted or skipped is small, and only the page itself is read whole.
    rows = db.execute(
        f"{_ENTRY} (SELECT rowid AS id FROM receipts WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?) "  # noqa: S608 - constant names
        f"JOIN receipts ON receipts.rowid = id ORDER BY {order}",
        [*values, max(0, min(limit, MAX_PAGE)), max(0, min(offset, MAX_INTEGER))],
    ).fetchall()
    return tuple(map(_stored, rows))


def newest_requests(db: sqlite3.Connection, wanted: RequestFilter, *, limit: int) -> list[StoredReceipt]:
    """The newest of them, newest first; what ``find_requests`` finds first, without counting the rest."""
    return list(_page(db, wanted, "timestamp", True, limit, 0))


def requests_after(db: sqlite3.Connection, wanted: RequestFilter, after_id: int, *, limit: int) -> list[StoredReceipt]:
    """The next receipts in the order of filing. Costs what was filed since, whatever the filter lets through."""
    where, values = _where(wanted)
    # NOT INDEXED: by rowid, however tempting the index of an agent may look.
    rows = db.execute(
        f"{_ENTRY} receipts NOT INDEXED WHERE receipts.rowid > ? AND {where} ORDER BY receipts.rowid LIMIT ?",
        [after_id, *values, limit],
    ).fetchall()
    return list(map(_stored, rows))


def newest_id(db: sqlite3.Connection) -> int:
    """Of the last receipt; 0 when there is none."""
    (found,) = db.execute("SELECT coalesce(max(rowid), 0) FROM receipts").fetchone()
    return int(found)


def find_receipt(db: sqlite3.Connection, request_id: str, agent_id: str | None = None) -> StoredReceipt | None:
    """The whole receipt of a request, attempts and selection included; of this agent only, when one is named."""
    return _find(db, "receipts.request_id = ?", storable(request_id), agent_id)


def find_receipt_by_number(db: sqlite3.Connection, number: int) -> StoredReceipt | None:
    """The whole receipt with this ``StoredReceipt.id``."""
    return _find(db, "receipts.rowid = ?", max(0, min(number, MAX_INTEGER)), None)


def _find(db: sqlite3.Connection, condition: str, value: object, agent_id: str | None) -> StoredReceipt | None:
    row = db.execute(f"{_ENTRY} receipts WHERE {condition}", (value,)).fetchone()
    if row is None:
        return None
    found = _stored(row)
    if agent_id is not None and found.receipt.agent_id != agent_id:
        return None
    request_id = found.receipt.request_id
    attempts = db.execute(
        f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE request_id = ? ORDER BY position",  # noqa: S608 - constant names
        (request_id,),
    )
    (selection,) = db.execute("SELECT selection FROM receipts WHERE request_id = ?", (request_id,)).fetchone()
    receipt = evolve(
        found.receipt, attempts=tuple(AttemptRow(*values) for _, _, *values in attempts), selection=selection
    )
    return evolve(found, receipt=receipt)


# Many requests


_SUMS = (
    "cost_msat",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "saved_median_msat",
    "saved_dearest_msat",
    "coalesce(latency_us, duration_us)",
)
_HALF = 31
# SQLite refuses a sum that outgrows 64 bits, and one absurd token count would do: both halves are added up alone.
_TOTALS = "count(*), coalesce(sum(outcome = 'ok'), 0), coalesce(sum(stream), 0), " + ", ".join(
    f"coalesce(sum({column} >> {_HALF}), 0), coalesce(sum({column} & {(1 << _HALF) - 1}), 0)" for column in _SUMS
)


def _totals(row: tuple[int, ...]) -> Totals:
    total, success, streaming, *halves = row
    sums = [(high << _HALF) + low for high, low in zip(halves[::2], halves[1::2], strict=True)]
    return Totals(total, success, streaming, *sums)


def statistics_of(db: sqlite3.Connection, wanted: RequestFilter, group_by: GroupBy | None = None) -> Statistics:
    """Counts and sums of the receipts, and the same for each group. Reads every row of the range, at most twice.

    The models are compared with each other: a filter by model restricts the totals but not the groups by model
    (contract section 4.8).
    """
    if group_by is None:
        return Statistics(_totals_of(db, wanted))
    compared = evolve(wanted, model=None) if group_by == "model" else wanted
    where, values = _where(compared)
    rows = db.execute(
        f"SELECT {_GROUPS[group_by]}, {_TOTALS} FROM receipts WHERE {where} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?",  # noqa: S608 - constant names
        [*values, MAX_GROUPS + 1],
    ).fetchall()
    groups = {name: _totals(sums) for name, *sums in rows[:MAX_GROUPS]}
    left_out = len(rows) > MAX_GROUPS
    # Half the work, nearly always: what is grouped need not be read again to be added up.
    totals = _totals_of(db, wanted) if left_out or compared != wanted else _sum(groups.values())
    return Statistics(totals, groups, left_out)


def _totals_of(db: sqlite3.Connection, wanted: RequestFilter) -> Totals:
    where, values = _where(wanted)
    return _totals(db.execute(f"SELECT {_TOTALS} FROM receipts WHERE {where}", values).fetchone())  # noqa: S608 - constant names


def _sum(parts: Iterable[Totals]) -> Totals:
    return Totals(*map(sum, zip(*map(astuple, parts), strict=True)))


def recorded_usage(db: sqlite3.Connection, wanted: RequestFilter) -> Iterator[RecordedUsage]:
    """Requests whose tokens are known, oldest first. To be consumed while the connection is open."""
    where, values = _where(wanted)
    rows = db.execute(
        "SELECT model, prompt_tokens, completion_tokens, coalesce(cached_tokens, 0), cost_msat FROM receipts "  # noqa: S608 - constant names
        f"WHERE {where} AND prompt_tokens IS NOT NULL AND completion_tokens IS NOT NULL ORDER BY started_ns",
        values,
    )
    return (RecordedUsage(*row) for row in rows)


# Names


def known_models(db: sqlite3.Connection) -> list[str]:
    """Models that were ever asked for, the first ``MAX_NAMES`` by alphabet; of names that differ only in case, one."""
    return _names(db, "model")


def known_providers(db: sqlite3.Connection) -> list[str]:
    """Providers that were ever tried, the first ``MAX_NAMES`` by alphabet; of names that differ only in case, one."""
    return _names(db, "provider")


def _names(db: sqlite3.Connection, column: str) -> list[str]:
    """From one name to the next through the index: costs the number of names, not of receipts."""
    rows = db.execute(
        f"WITH RECURSIVE names (name) AS (SELECT min({column} COLLATE NOCASE) FROM receipts "  # noqa: S608 - constant names
        f"UNION ALL SELECT (SELECT min({column} COLLATE NOCASE) FROM receipts WHERE {column} > name COLLATE NOCASE) "
        "FROM names WHERE name IS NOT NULL) SELECT name FROM names WHERE name IS NOT NULL LIMIT ?",
        (MAX_NAMES,),
    )
    return [name for (name,) in rows]


def is_known_model(db: sqlite3.Connection, model: str) -> bool:
    """Whether this model was ever asked for, in any case of its letters. One look into the index."""
    return _is_known(db, "model", model)


def is_known_provider(db: sqlite3.Connection, provider: str) -> bool:
    """Whether this provider was ever tried, in any case of its letters. One look into the index."""
    return _is_known(db, "provider", provider)


def _is_known(db: sqlite3.Connection, column: str, name: str) -> bool:
    query = f"SELECT 1 FROM receipts WHERE {column} = ? COLLATE NOCASE LIMIT 1"  # noqa: S608 - constant names
    return db.execute(query, (storable(name),)).fetchone() is not None
