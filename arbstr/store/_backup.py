"""Copies of a database: made while it is in use, trusted only after an audit, and put back."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from arbstr.store._check import check_books
from arbstr.store._errors import StoreError, StoreUnavailable
from arbstr.store._lock import ProcessLock
from arbstr.store._readers import connect_read_only
from arbstr.store._schema import SCHEMA_VERSION
from arbstr.store._store import refuse_foreign, refuse_newer
from arbstr.store._values import CheckReport

STEP_PAGES = 1_024
"""4 MB at a time, so that it can be interrupted."""


@frozen
class Copied:
    path: Path
    report: CheckReport
    former: Path | None = None
    """Where what was there before is kept."""


def back_up(database: Path, target: Path, *, overwrite: bool = False) -> Copied:
    """Copy a database that may be in use, as it is at one moment, and audit the copy.

    Writers are not kept waiting; their log grows until the copy is made. ``target`` is one file, readable by its owner
    only, and appears when it is whole, right and on disk. Raises StoreError, also when the books are wrong: then there
    is no copy.
    """
    if target.exists() and not overwrite:
        raise StoreError(f"{target} exists; name another file, or overwrite it with --force")
    with _partial(target) as part:
        _copy(database, part)
        report = _audited(part)
        os.replace(part, target)
        _sync_directory(target)
    return Copied(target, report)


def restore(backup: Path, database: Path) -> Copied:
    """Put a copy in the place of a database that nobody uses; what is there now is kept beside it.

    Raises StoreInUse when an arbstr holds the database, StoreError when the copy is none, is of a later version, or has
    wrong books; then nothing was changed.
    """
    try:
        lock = ProcessLock(database)
    except OSError as error:
        raise StoreUnavailable(f"cannot lock database {database}: {error}") from error
    try:
        with _partial(database) as part:
            _copy(backup, part)
            report = _audited(part)
            former = _put_aside(database)
            os.replace(part, database)
            _sync_directory(database)
    finally:
        lock.close()
    return Copied(database, report, former)


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A new empty file beside the target, gone afterwards if it is still there; what the system says is StoreError."""
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"cannot write {target}: {error}") from error


def _copy(source: Path, part: Path) -> None:
    if not source.exists():
        raise StoreError(f"there is no database {source}")
    try:
        with (
            contextlib.closing(connect_read_only(source)) as original,
            contextlib.closing(sqlite3.connect(part, isolation_level=None)) as copy,
        ):
            refuse_newer(original, source)
            # One snapshot for all steps: otherwise each commit of the writer would make the copy begin anew.
            original.execute("BEGIN")
            refuse_foreign(original, source)
            original.backup(copy, pages=STEP_PAGES)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, and nothing beside it
    except sqlite3.Error as error:
        raise StoreUnavailable(f"cannot copy database {source}: {error}") from error
    with part.open("rb") as file:
        os.fsync(file.fileno())


def _audited(part: Path) -> CheckReport:
    try:
        with contextlib.closing(connect_read_only(part)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if not 0 < version <= SCHEMA_VERSION:
                raise StoreError("the copy is no database of arbstr")
            report = check_books(db)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the copy cannot be read: {error}") from error
    if not report.clean:
        wrong = "; ".join(report.problems)
        raise StoreError(f"the books are wrong, so there is no copy of them: {wrong}")
    return report


def _put_aside(database: Path) -> Path | None:
    """Rename it, and the log that belongs to it, by the time of day."""
    if not database.exists():
        return None
    former = database.with_name(f"{database.name}.before-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}")
    for suffix in ("-wal", "-shm", ""):
        beside = database.with_name(database.name + suffix)
        if beside.exists():
            beside.rename(former.with_name(former.name + suffix))
    return former


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path.absolute().parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
