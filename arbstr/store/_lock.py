"""One writing arbstr per database: an advisory lock on a file beside it, dropped by the kernel with its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from arbstr.store._errors import StoreInUse


def holder_of(database: Path) -> int | None:
    """The process that holds a database at this moment; None when nobody does, or nobody knows who."""
    try:
        fd = os.open(database.with_name(database.name + ".lock"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(fd, 32).decode(errors="replace").strip()
        return int(text) if text.isdecimal() else None
    finally:
        os.close(fd)
    return None


class ProcessLock:
    """Holds ``<database>.lock`` from construction to ``close``. The file names the holder's process id.

    Raises StoreInUse, and OSError when the file cannot be made or written.
    """

    def __init__(self, database: Path) -> None:
        fd = os.open(database.with_name(database.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(fd, database)
        except BaseException:
            os.close(fd)
            raise
        self._fd: int | None = fd
        self._borrowed = False

    def _take(self, fd: int, database: Path) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(fd, 32).decode(errors="replace").strip()
            raise StoreInUse(database, int(text) if text.isdecimal() else None) from None
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())

    def borrow(self) -> None:
        """In a process that was forked from the holder: from now on closing leaves the lock to the other one.

        The kernel drops it when the last of them has ended, so neither can lose it to a stranger while one lives.
        """
        self._borrowed = True

    def close(self) -> None:
        """Let go; a second time does nothing. The file stays: without it two processes could lock two of one name."""
        fd, self._fd = self._fd, None
        if fd is not None:
            if not self._borrowed:
                os.ftruncate(fd, 0)
            os.close(fd)
