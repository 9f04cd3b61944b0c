"""``arbstr audit``: do the books add up, and is the audit log what was written?"""

from __future__ import annotations

from argparse import Namespace

import attrs

from arbstr.cli._books import database_path
from arbstr.cli._errors import store_errors
from arbstr.cli._output import note, print_json
from arbstr.units import format_sats


def verify(arguments: Namespace) -> int:
    """Walk the hash chain of the audit log; 1 when a row does not follow from the one before."""
    from arbstr.store import Store

    with store_errors():
        chain = Store.verify(database_path(arguments))
    if arguments.json:
        print_json({"rows": chain.rows, "broken_sequence": chain.broken_sequence, "problem": chain.problem})
    elif chain.problem is None:
        print(f"audit log: {chain.rows} rows, each follows from the one before")
    if chain.problem is not None:
        note(f"Error: {chain.problem}; {chain.rows} rows before it are right")
    return 0 if chain.problem is None else 1


def check(arguments: Namespace) -> int:
    """Add up everything that is in the books; 1 when something is wrong."""
    from arbstr.store import Store

    with store_errors():
        report = Store.check(database_path(arguments))
    if arguments.json:
        totals = attrs.asdict(report, filter=lambda attribute, _: attribute.name != "agents")
        print_json({"right": report.clean, "agents": len(report.agents), **totals})
    elif report.clean:
        print(
            f"books: {len(report.agents)} agents, {format_sats(report.spent_msat)} sats spent, "
            f"{format_sats(report.debt_msat)} sats owed, {report.open_holds} open holds; everything adds up"
        )
    for problem in report.problems:
        note(f"Error: {problem}")
    return 0 if report.clean else 1
