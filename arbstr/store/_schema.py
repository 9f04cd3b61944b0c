"""Tables, and how a database of an earlier version becomes one of this version.

Money is INTEGER msat, time INTEGER nanoseconds UTC. What must never change is refused by triggers; what must always
hold for a row is a CHECK, so that a wrong decision cannot be committed even by a wrong program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlite_utils import Migrations

if TYPE_CHECKING:
    from sqlite_utils import Database

migrations = Migrations("arbstr")

_FIRST = """
CREATE TABLE agents (
    agent_id    TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    token_hash  TEXT NOT NULL UNIQUE,
    created_ns  INTEGER NOT NULL
) STRICT;

CREATE TABLE accounts (
    agent_id        TEXT PRIMARY KEY REFERENCES agents (agent_id),
    version         INTEGER NOT NULL,
    available_msat  INTEGER NOT NULL CHECK (available_msat >= 0),
    held_msat       INTEGER NOT NULL CHECK (held_msat >= 0),
    spent_msat      INTEGER NOT NULL CHECK (spent_msat >= 0),
    deposited_msat  INTEGER NOT NULL CHECK (deposited_msat >= 0),
    withdrawn_msat  INTEGER NOT NULL CHECK (withdrawn_msat >= 0),
    debt_msat       INTEGER NOT NULL CHECK (debt_msat >= 0),
    CHECK (available_msat + held_msat + spent_msat = deposited_msat - withdrawn_msat)
) STRICT;

CREATE TABLE transactions (
    id        INTEGER PRIMARY KEY,
    key       TEXT NOT NULL UNIQUE,
    kind      TEXT NOT NULL,
    agent_id  TEXT NOT NULL,
    at_ns     INTEGER NOT NULL
) STRICT;

CREATE TABLE postings (
    transaction_id  INTEGER NOT NULL REFERENCES transactions (id),
    agent_id        TEXT NOT NULL,
    ledger          TEXT NOT NULL,
    amount_msat     INTEGER NOT NULL,
    PRIMARY KEY (transaction_id, ledger)
) STRICT, WITHOUT ROWID;

CREATE TABLE holds (
    hold_id         TEXT PRIMARY KEY,
    key             TEXT NOT NULL UNIQUE,
    agent_id        TEXT NOT NULL REFERENCES agents (agent_id),
    amount_msat     INTEGER NOT NULL CHECK (amount_msat >= 0),
    state           TEXT NOT NULL CHECK (state IN ('open', 'settled', 'released')),
    model           TEXT NOT NULL,
    provider        TEXT NOT NULL,
    created_ns      INTEGER NOT NULL,
    lease_ns        INTEGER NOT NULL,
    extensions      INTEGER NOT NULL,
    evidence_msat   INTEGER NOT NULL CHECK (evidence_msat >= 0),
    charged_msat    INTEGER,
    ended_ns        INTEGER,
    correlation_id  TEXT
) STRICT;
CREATE INDEX holds_open ON holds (agent_id) WHERE state = 'open';

CREATE TABLE receipts (
    request_id          TEXT PRIMARY KEY,
    agent_id            TEXT,
    correlation_id      TEXT,
    hold_id             TEXT,
    started_ns          INTEGER NOT NULL,
    duration_us         INTEGER NOT NULL,
    model               TEXT NOT NULL,
    provider            TEXT,
    policy              TEXT,
    stream              INTEGER NOT NULL,
    outcome             TEXT NOT NULL,
    http_status         INTEGER NOT NULL,
    error               TEXT,
    prompt_tokens       INTEGER,
    completion_tokens   INTEGER,
    estimated           INTEGER NOT NULL,
    expected_msat       INTEGER,
    cost_msat           INTEGER NOT NULL CHECK (cost_msat >= 0),
    saved_median_msat   INTEGER,
    saved_dearest_msat  INTEGER,
    selection           TEXT NOT NULL
) STRICT;
CREATE INDEX receipts_started ON receipts (started_ns);
CREATE INDEX receipts_agent ON receipts (agent_id, started_ns);

CREATE TABLE attempts (
    request_id   TEXT NOT NULL REFERENCES receipts (request_id),
    position     INTEGER NOT NULL,
    provider     TEXT NOT NULL,
    started_ns   INTEGER NOT NULL,
    duration_us  INTEGER NOT NULL,
    ttfb_us      INTEGER,
    http_status  INTEGER,
    outcome      TEXT NOT NULL,
    error        TEXT,
    PRIMARY KEY (request_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    sequence       INTEGER PRIMARY KEY,
    at_ns          INTEGER NOT NULL,
    agent_id       TEXT NOT NULL,
    action         TEXT NOT NULL,
    details        TEXT NOT NULL,
    previous_hash  BLOB NOT NULL,
    hash           BLOB NOT NULL
) STRICT;
CREATE INDEX audit_agent ON audit (agent_id, sequence);
"""

_APPEND_ONLY = ("transactions", "postings", "receipts", "attempts", "audit")


def _refuse_changes(table: str) -> str:
    return "".join(
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;\n"
        for verb in ("UPDATE", "DELETE")
    )


def _statements(script: str) -> list[str]:
    """Split a script at the semicolons that end statements; one inside a trigger body ends with ``END;``."""
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        text = current.strip()
        if text.endswith("END;") or (text.endswith(";") and "CREATE TRIGGER" not in text):
            statements.append(text)
            current = ""
    return statements


@migrations()
def m0001_first_books(db: Database) -> None:
    """Agents, accounts, journal, holds, receipts and the audit log."""
    for statement in _statements(_FIRST + "".join(map(_refuse_changes, _APPEND_ONLY))):
        db.execute(statement)


_SECOND = """
ALTER TABLE receipts ADD COLUMN endpoint TEXT NOT NULL DEFAULT 'chat/completions';
ALTER TABLE receipts ADD COLUMN tier TEXT;
ALTER TABLE receipts ADD COLUMN complexity_score REAL;
ALTER TABLE receipts ADD COLUMN policy_header TEXT;
ALTER TABLE receipts ADD COLUMN cached_tokens INTEGER;
ALTER TABLE receipts ADD COLUMN upstream_model TEXT;
ALTER TABLE receipts ADD COLUMN latency_us INTEGER;
ALTER TABLE receipts ADD COLUMN error_status INTEGER;
ALTER TABLE receipts ADD COLUMN provider_cost_msat INTEGER;
CREATE INDEX receipts_model ON receipts (model COLLATE NOCASE, started_ns);
CREATE INDEX receipts_provider ON receipts (provider COLLATE NOCASE, started_ns);
CREATE INDEX receipts_failed ON receipts (started_ns) WHERE outcome != 'ok';
"""


@migrations()
def m0002_receipts_to_be_searched(db: Database) -> None:
    """What was asked for and how hard it was, on the receipt; indexes by model, by provider and of the failures.

    No row is rewritten, so this takes as long as the indexes do. The three of them add 2 µs to the 20 of a receipt.
    """
    for statement in _statements(_SECOND):
        db.execute(statement)


SCHEMA_VERSION = 2
"""Number of migrations; kept in the file as ``PRAGMA user_version``."""
