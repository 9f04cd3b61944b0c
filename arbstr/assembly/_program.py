"""What every long-running verb does around its own work: the log, what may be refused, the last word."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from arbstr.assembly._collector import relaxed_collector
from arbstr.config import Config
from arbstr.edge import CannotListen
from arbstr.store import RemoteHolds, RemoteHoldState, Store, StoreError, quick_check
from arbstr.telemetry import Logs, TracingUnavailable, start_logging

logger = logging.getLogger("arbstr")


def run_program(config: Config, main: Callable[[Logs], None]) -> int:
    """Run ``main`` to its end. Returns the exit code: 1 when it was refused something, which is told on stderr."""
    logs = start_logging(config.logging)
    for warning in config.warnings:
        logger.warning("%s", warning)
    try:
        with relaxed_collector():
            main(logs)
    except* (CannotListen, StoreError, TracingUnavailable) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - the program's last word
        return_code = 1
    else:
        return_code = 0
    logs.stop()
    return return_code


def refuse_wrong_books(store: Store) -> None:
    """No spending from books that are wrong (M10). Raises StoreError."""
    report = store.wait_for(quick_check)
    if report.problems:
        more = f" (and {len(report.problems) - 1} more)" if len(report.problems) > 1 else ""
        raise StoreError(
            f"the books in {store.path} are wrong: {report.problems[0]}{more}; arbstr audit check tells all of it, "
            "arbstr restore puts a backup in their place"
        )


def warn_of_debts(store: Store) -> None:
    """A vault that is not configured any more is still owed word of how holds have ended."""
    owed = store.ask_now(RemoteHolds(RemoteHoldState.ENDING))
    if owed:
        logger.warning(
            "%d settlements wait for a vault, and no [vault] url is configured: they go on waiting", len(owed)
        )
