"""``arbstr backup`` and ``arbstr restore``: a copy of the books, audited before it counts."""

from __future__ import annotations

from argparse import Namespace

from arbstr.cli._books import database_path
from arbstr.cli._errors import store_errors
from arbstr.cli._output import note


def backup(arguments: Namespace) -> int:
    """Copy the database, which may be in use, to a file."""
    from arbstr.store import back_up

    with store_errors():
        copied = back_up(database_path(arguments), arguments.file, overwrite=arguments.force)
    print(f"{copied.path}: {copied.path.stat().st_size} bytes, {len(copied.report.agents)} agents; the books are right")
    return 0


def restore(arguments: Namespace) -> int:
    """Put a backup in the place of the database; nobody may be using it."""
    from arbstr.store import restore as restore_from

    with store_errors():
        copied = restore_from(arguments.file, database_path(arguments))
    print(f"{copied.path}: restored with {len(copied.report.agents)} agents; the books are right")
    if copied.former is not None:
        note(f"What was there before is in {copied.former}")
    return 0
