"""``arbstr settlements``: what a vault in another process has still to hear, and what it will not take."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from arbstr.cli._books import database_path
from arbstr.cli._errors import store_errors
from arbstr.cli._output import print_json, print_table, printable
from arbstr.cli._times import show_time
from arbstr.units import format_sats

if TYPE_CHECKING:
    from arbstr.store import RemoteHoldRow

_HEADERS = ("STATE", "RESERVATION", "REQUEST", "AGENT", "HELD", "CHARGE", "SINCE", "TRIES", "LAST ERROR")


def run(arguments: Namespace) -> int:
    """List them, oldest first; 1 when there are some that the vault will not take."""
    from arbstr.store import RemoteHoldState, Store, read_remote_holds

    with store_errors():
        holds = Store.read_from(database_path(arguments), read_remote_holds)
    if arguments.json:
        print_json([_document(hold) for hold in holds])
    elif holds:
        print_table(_HEADERS, [_cells(hold) for hold in holds], numbers=frozenset(("HELD", "CHARGE", "TRIES")))
    else:
        print("the vault has heard of the end of every hold")
    return 1 if any(hold.state is RemoteHoldState.DEAD for hold in holds) else 0


def _cells(hold: RemoteHoldRow) -> tuple[str, ...]:
    return (
        hold.state,
        hold.reservation_id,
        hold.key,
        printable(hold.agent_id),
        format_sats(hold.amount_msat),
        "" if hold.charge_msat is None else format_sats(hold.charge_msat),
        show_time(hold.created_ns),
        str(hold.attempts),
        printable(hold.last_error or ""),
    )


def _document(hold: RemoteHoldRow) -> dict[str, object]:
    return {
        "state": hold.state,
        "reservation_id": hold.reservation_id,
        "request_id": hold.key,
        "agent_id": hold.agent_id,
        "held_msat": hold.amount_msat,
        "charge_msat": hold.charge_msat,
        "evidence_msat": hold.evidence_msat,
        "created_ns": hold.created_ns,
        "attempts": hold.attempts,
        "last_error": hold.last_error,
    }
