"""``arbstr requests``: the newest receipts, those that come, or one of them whole. Works while an arbstr runs."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from attrs import asdict

from arbstr.cli._books import filter_of, read_receipts
from arbstr.cli._errors import Refused
from arbstr.cli._output import note, on_terminal, print_json, print_json_line, print_table, printable
from arbstr.cli._times import show_time
from arbstr.store import (
    AttemptRow,
    ReceiptRow,
    RequestFilter,
    StoredReceipt,
    find_receipt,
    find_receipt_by_number,
    newest_id,
    newest_requests,
    requests_after,
)
from arbstr.units import format_sats

POLL_S = 0.5
MAX_POLLED = 1_000
_WIDTHS = {
    "TIME": 19,
    "NUMBER": 8,
    "MODEL": 24,
    "PROVIDER": 16,
    "IN": 7,
    "OUT": 7,
    "COST": 10,
    "SAVED": 10,
    "OUTCOME": 10,
    "MS": 7,
}
_NUMBERS = frozenset(("NUMBER", "IN", "OUT", "COST", "SAVED", "MS"))


def run(arguments: Namespace) -> int:
    if arguments.id is not None:
        if arguments.follow:
            raise Refused("-f is for lists; leave it out to see one request")
        return _show_one(arguments)
    wanted = filter_of(arguments)
    newest, seen = read_receipts(
        arguments, lambda db: (newest_requests(db, wanted, limit=arguments.number), newest_id(db))
    )
    oldest_first = newest[::-1]
    if arguments.follow:
        _follow(arguments, wanted, oldest_first, seen)
    if arguments.json:
        _print_json_lines(oldest_first)
    else:
        print_table(tuple(_WIDTHS), map(_cells, oldest_first), numbers=_NUMBERS)
        if not oldest_first:
            note("No such requests yet.")
    return 0


# As they come


def _follow(arguments: Namespace, wanted: RequestFilter, first: Sequence[StoredReceipt], seen: int) -> None:
    """Until interrupted. In columns of a fixed width: nobody knows what is still to come."""
    show = _print_json_lines if arguments.json else _print_lines
    if not arguments.json:
        _print_line(tuple(_WIDTHS))
    show(first)
    while True:
        time.sleep(POLL_S)
        while found := _filed_since(arguments, wanted, seen):
            show(found)
            seen = found[-1].id


def _filed_since(arguments: Namespace, wanted: RequestFilter, seen: int) -> list[StoredReceipt]:
    return read_receipts(arguments, lambda db: requests_after(db, wanted, seen, limit=MAX_POLLED))


def _print_lines(rows: Sequence[StoredReceipt]) -> None:
    for row in rows:
        _print_line(_cells(row))


def _print_line(cells: Sequence[str]) -> None:
    padded = [
        cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
        for cell, (name, width) in zip(cells, _WIDTHS.items(), strict=True)
    ]
    print("  ".join(padded).rstrip(), flush=True)


def _print_json_lines(rows: Sequence[StoredReceipt]) -> None:
    for row in rows:
        print_json_line(_json(row))


def _cells(row: StoredReceipt) -> tuple[str, ...]:
    receipt = row.receipt
    return (
        show_time(receipt.started_ns),
        str(row.id),
        printable(receipt.model),
        printable(receipt.provider or "-"),
        _known(receipt.prompt_tokens),
        _known(receipt.completion_tokens),
        format_sats(receipt.cost_msat),
        "-" if receipt.saved_median_msat is None else format_sats(receipt.saved_median_msat),
        receipt.outcome,
        str(receipt.duration_us // 1_000),
    )


def _known(value: object) -> str:
    return "-" if value is None else str(value)


def _json(row: StoredReceipt) -> dict[str, Any]:
    body = {"number": row.id, **asdict(row.receipt), "first_byte_us": row.first_byte_us}
    del body["attempts"], body["selection"]
    return body


# One of them


def _show_one(arguments: Namespace) -> int:
    row = _find(arguments)
    selection = _selection(row.receipt.selection)
    if arguments.json:
        attempts = [asdict(attempt) for attempt in row.receipt.attempts]
        print_json({**_json(row), "attempts": attempts, "selection": selection})
    else:
        _print_receipt(row)
        _print_attempts(row.receipt)
        _print_selection(selection)
    return 0


def _find(arguments: Namespace) -> StoredReceipt:
    """By request id, or by the number in the list. Raises Refused."""
    given: str = arguments.id

    def find(db: Any) -> StoredReceipt | None:
        if given.isascii() and given.isdecimal() and len(given) < 20:
            return find_receipt_by_number(db, int(given))
        return find_receipt(db, given)

    found = read_receipts(arguments, find)
    if found is None:
        raise Refused(f"there is no request {given!r}; write an x-arbstr-request-id or a number from `arbstr requests`")
    return found


def _print_receipt(row: StoredReceipt) -> None:
    for name, value in _facts(row):
        if value is not None:
            print(f"{name + ':':<13}{printable(value, limit=500)}")


def _facts(row: StoredReceipt) -> list[tuple[str, str | None]]:
    receipt = row.receipt
    return [
        ("Request", f"{receipt.request_id} (number {row.id})"),
        ("Named", receipt.correlation_id),
        ("Time", show_time(receipt.started_ns)),
        ("Endpoint", receipt.endpoint + (", streamed" if receipt.stream else "")),
        ("Model", receipt.model + _beside(receipt.model, receipt.upstream_model)),
        ("Provider", receipt.provider),
        ("Policy", receipt.policy),
        ("Asked for", None if receipt.policy_header is None else f"policy {receipt.policy_header}"),
        ("Tier", receipt.tier),
        ("Complexity", None if receipt.complexity_score is None else f"{receipt.complexity_score:.3f}"),
        ("Agent", receipt.agent_id),
        ("Hold", receipt.hold_id),
        ("Outcome", f"{receipt.outcome} (HTTP {receipt.http_status})"),
        ("Error", receipt.error),
        ("Tokens", _tokens(receipt)),
        ("Cost", f"{format_sats(receipt.cost_msat)} sats{_expected(receipt)}"),
        ("Saved", _saved(receipt)),
        ("Latency", f"{receipt.duration_us // 1_000} ms{_first_byte(row)}"),
    ]


def _beside(model: str, upstream: str | None) -> str:
    return "" if upstream in (None, model) else f" (there: {upstream})"


def _tokens(receipt: ReceiptRow) -> str:
    cached = "" if receipt.cached_tokens is None else f" ({receipt.cached_tokens} cached)"
    estimated = ", counted by arbstr" if receipt.estimated else ""
    return f"{_known(receipt.prompt_tokens)} in{cached}, {_known(receipt.completion_tokens)} out{estimated}"


def _expected(receipt: ReceiptRow) -> str:
    return "" if receipt.expected_msat is None else f" (expected {format_sats(receipt.expected_msat)})"


def _saved(receipt: ReceiptRow) -> str | None:
    if receipt.saved_median_msat is None or receipt.saved_dearest_msat is None:
        return None
    median, dearest = format_sats(receipt.saved_median_msat), format_sats(receipt.saved_dearest_msat)
    return f"{median} sats against the median of the candidates, {dearest} against the dearest"


def _first_byte(row: StoredReceipt) -> str:
    return "" if row.first_byte_us is None else f", first byte after {row.first_byte_us // 1_000} ms"


def _print_attempts(receipt: ReceiptRow) -> None:
    if receipt.attempts:
        _print_section("Attempts")
        headers = ("PROVIDER", "OUTCOME", "HTTP", "FIRST BYTE", "MS", "ERROR")
        print_table(headers, map(_attempt_cells, receipt.attempts), numbers=frozenset(("HTTP", "FIRST BYTE", "MS")))


def _attempt_cells(attempt: AttemptRow) -> tuple[str, ...]:
    return (
        printable(attempt.provider),
        attempt.outcome,
        _known(attempt.http_status),
        "-" if attempt.ttfb_us is None else str(attempt.ttfb_us // 1_000),
        str(attempt.duration_us // 1_000),
        printable(attempt.error or "", limit=200),
    )


def _selection(text: str) -> dict[str, Any]:
    """As it was filed. Rows are written by this program, so anything else is another version's."""
    try:
        selection = json.loads(text)
    except ValueError:
        return {}
    return selection if isinstance(selection, dict) else {}


def _print_selection(selection: dict[str, Any]) -> None:
    if candidates := _pairs(selection.get("candidates")):
        _print_section(f"Candidates, by {printable(str(selection.get('strategy', 'cost')))}")
        rows = [(name, format_sats(cost) if isinstance(cost, int) else _known(cost)) for name, cost in candidates]
        print_table(("PROVIDER", "EXPECTED"), rows, numbers=frozenset(("EXPECTED",)))
    if left_out := _pairs(selection.get("left_out")):
        _print_section("Left out")
        print_table(("PROVIDER", "REASON"), [(name, printable(str(reason))) for name, reason in left_out])


def _pairs(value: object) -> list[tuple[str, Any]]:
    """Name and what is said of it; what follows them is for programs."""
    if not isinstance(value, list):
        return []
    return [(printable(str(one[0])), one[1]) for one in value if isinstance(one, list) and len(one) > 1]


def _print_section(title: str) -> None:
    print(f"\n{title}:" if not on_terminal() else f"\n{title}")
