"""One writing arbstr per database: an advisory lock on a file beside it, dropped by the kernel with its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from arbstr.store._errors import StoreInUse


class ProcessLock:
    """Holds ``<database>.lock`` from construction to ``close``. The file names the holder's process id."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + ".lock")
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(self._fd, 32).decode(errors="replace").strip()
            os.close(self._fd)
            raise StoreInUse(database, int(text) if text.isdigit() else None) from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, str(os.getpid()).encode())

    def close(self) -> None:
        """Let go. The file stays: removing it would let two processes lock two files of one name."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)
