"""What can go wrong between a caller and the disk.

StoreError
├── StoreInUse        another arbstr holds this database
├── StoreTooNew       written by a later version; nothing was changed
├── StoreTooOld       written by an earlier version; opening it for writing brings it up to date
├── UnknownAgent      there is no such agent
├── ReadTimedOut      a query took longer than its reader would wait
├── StoreUnavailable  the commit did not reach the disk (full, read-only, broken); nothing of it is visible
├── StoreBusy         more changes wait than the bound allows
└── Refused           the fault is this change's own; its neighbours are written
    ├── VersionConflict   the account or the hold is not what the change was decided on
    ├── DuplicateKey      this operation was committed before
    └── Unwritable        the change breaks a rule of the database; it will never be written
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


class StoreTooOld(StoreError):
    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(
            f"database {path} has schema version {found}, not {known}; start arbstr once to bring it up to date"
        )
        self.found = found
        self.known = known


class UnknownAgent(StoreError):
    def __init__(self, agent_id: str) -> None:
        super().__init__(f"no agent {agent_id}")
        self.agent_id = agent_id


class ReadTimedOut(StoreError):
    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the query was given up after {timeout_s:g} s; ask for a shorter time, or later")
        self.timeout_s = timeout_s


class StoreUnavailable(StoreError):
    """Nothing of the change is on disk. The text is the database's own."""


class StoreBusy(StoreUnavailable):
    """The queue of the writer is at its bound."""


class Refused(StoreError):
    """This change was refused and nothing of it is on disk."""


class VersionConflict(Refused):
    def __init__(self, agent_id: str, version: int) -> None:
        super().__init__(f"account {agent_id} is no longer as it was at version {version}")
        self.agent_id = agent_id


class DuplicateKey(Refused):
    def __init__(self, key: str) -> None:
        super().__init__(f"operation {key} was committed before")
        self.key = key


class Unwritable(Refused):
    """Trying again would not help. The text is the database's own."""
