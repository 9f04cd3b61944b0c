"""The books on disk: SQLite in WAL mode, one writer thread with group commit, double-entry journal, audit chain.

Knows rows and changes, not rules: who may spend what is decided in ``arbstr.accounts``. The only room that may import
``sqlite3`` and ``sqlite_utils``.
"""

from arbstr.store._errors import (
    DuplicateKey,
    Refused,
    StoreBusy,
    StoreError,
    StoreInUse,
    StoreTooNew,
    StoreUnavailable,
    Unwritable,
    VersionConflict,
)
from arbstr.store._ids import hash_token, new_hold_id, new_ulid
from arbstr.store._journal import read_account, read_deposit, read_hold, read_open_holds
from arbstr.store._store import Durability, Store, add_agent, read_tokens
from arbstr.store._values import (
    AccountChange,
    AccountRow,
    AgentRow,
    AttemptRow,
    AuditEntry,
    Change,
    CheckReport,
    HoldChange,
    HoldRenewal,
    HoldRow,
    HoldState,
    Ledger,
    NewAgent,
    Posting,
    ReceiptOnly,
    ReceiptRow,
    TokenRow,
)

__all__ = [
    "AccountChange",
    "AccountRow",
    "AgentRow",
    "AttemptRow",
    "AuditEntry",
    "Change",
    "CheckReport",
    "DuplicateKey",
    "Durability",
    "HoldChange",
    "HoldRenewal",
    "HoldRow",
    "HoldState",
    "Ledger",
    "NewAgent",
    "Posting",
    "ReceiptOnly",
    "ReceiptRow",
    "Refused",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoreInUse",
    "StoreTooNew",
    "StoreUnavailable",
    "TokenRow",
    "Unwritable",
    "VersionConflict",
    "add_agent",
    "hash_token",
    "new_hold_id",
    "new_ulid",
    "read_account",
    "read_deposit",
    "read_hold",
    "read_open_holds",
    "read_tokens",
]
