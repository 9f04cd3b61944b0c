"""What can go wrong between a caller and the disk.

StoreError
├── StoreInUse        another arbstr holds this database
├── StoreTooNew       written by a later version; nothing was changed
├── StoreUnavailable  the commit did not reach the disk (full, read-only, broken); nothing of it is visible
├── StoreBusy         more changes wait than the bound allows
├── VersionConflict   somebody else changed this account first
└── DuplicateKey      this operation was committed before
"""

from __future__ import annotations

from pathlib import Path


class StoreError(Exception):
    """Base of all errors of this room."""


class StoreInUse(StoreError):
    def __init__(self, path: Path, pid: int | None) -> None:
        holder = f"process {pid}" if pid else "another process"
        super().__init__(f"database {path} is in use by another arbstr ({holder}); stop it or name another file")
        self.path = path
        self.pid = pid


class StoreTooNew(StoreError):
    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(
            f"database {path} has schema version {found}, this arbstr knows up to {known}; "
            "upgrade arbstr or use a copy made by this version"
        )
        self.found = found
        self.known = known


class StoreUnavailable(StoreError):
    """Nothing of the change is on disk. The text is the database's own."""


class StoreBusy(StoreUnavailable):
    """The queue of the writer is at its bound."""


class VersionConflict(StoreError):
    def __init__(self, agent_id: str, version: int) -> None:
        super().__init__(f"account {agent_id} is no longer at version {version}")
        self.agent_id = agent_id


class DuplicateKey(StoreError):
    def __init__(self, key: str) -> None:
        super().__init__(f"operation {key} was committed before")
        self.key = key
