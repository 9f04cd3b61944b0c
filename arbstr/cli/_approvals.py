"""``arbstr approvals``: what waits for a human, and the human's word on it."""

from __future__ import annotations

import getpass
import os
from argparse import Namespace
from typing import TYPE_CHECKING

from arbstr.cli._books import read_receipts
from arbstr.cli._errors import Refused
from arbstr.cli._output import note, on_terminal, print_json, print_table, printable
from arbstr.cli._running import find_running
from arbstr.cli._times import show_time
from arbstr.units import format_sats

if TYPE_CHECKING:
    from arbstr.store import ApprovalRow, Connection

MAX_SHOWN = 1_000


def run(arguments: Namespace) -> int:
    """Those that wait, or all, oldest first; the database is only read, so it does not matter whether arbstr runs."""
    from arbstr.store import list_approvals

    def find(db: Connection) -> tuple[list[ApprovalRow], bool]:
        page = list_approvals(db, pending_only=not arguments.all, limit=MAX_SHOWN)
        return list(page.rows), page.more

    rows, more = read_receipts(arguments, find)
    if arguments.json:
        print_json([_json(row) for row in rows])
    else:
        _print(rows, arguments.all)
    if more:
        note(f"Only the oldest {MAX_SHOWN} are shown.")
    return 0


def _print(rows: list[ApprovalRow], every: bool) -> None:
    more = ("STATUS", "BY", "WHY") if every else ()
    lines = [
        (
            row.approval_id,
            row.agent_id,
            row.kind,
            format_sats(row.amount_msat),
            printable(row.destination or "-", limit=40),
            show_time(row.expires_ns),
            *((row.status.value, printable(row.decided_by or "-"), printable(row.reason or "-")) if every else ()),
        )
        for row in rows
    ]
    print_table(("ID", "AGENT", "TYPE", "SATS", "FOR", "EXPIRES", *more), lines, numbers=frozenset(("SATS",)))
    if not rows:
        note("There are no approvals." if every else "Nothing waits for a human.")


def _json(row: ApprovalRow) -> dict[str, object]:
    return {
        "id": row.approval_id,
        "agent_id": row.agent_id,
        "type": row.kind,
        "amount_msat": row.amount_msat,
        "for": row.destination,
        "status": row.status.value,
        "created_ns": row.created_ns,
        "expires_ns": row.expires_ns,
        "resolved_ns": row.resolved_ns,
        "by": row.decided_by,
        "why": row.reason,
    }


def grant(arguments: Namespace) -> int:
    """1 when it was denied all the same, for something that counts by now."""
    found = find_running(arguments).decide(arguments.id, "approve", _who(arguments), arguments.why)
    if found["status"] != "approved":
        raise Refused(f"{arguments.id} was not granted but denied: {found.get('reason') or 'it is not allowed now'}")
    _told(found, str(found.get("payment_status") or "HELD"))
    return 0


def deny(arguments: Namespace) -> int:
    """Give the money back."""
    _told(find_running(arguments).decide(arguments.id, "deny", _who(arguments), arguments.why), "")
    return 0


def _told(found: dict[str, object], payment: str) -> None:
    """In a pipe: id, status, and of a grant what became of the money."""
    cells = [str(found["approval_id"]), str(found["status"]), *([payment] if payment else [])]
    if not on_terminal():
        print("\t".join(cells))
        return
    came = {"HELD": "the request may come for it", "": "its money is given back"}.get(payment, f"payment {payment}")
    print(f"{cells[0]}: {cells[1]}, {came}")


def _who(arguments: Namespace) -> str:
    if arguments.by:
        return str(arguments.by)
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user, in a container
        return f"uid {os.getuid()}"
