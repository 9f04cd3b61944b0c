"""Tables, and how a database of an earlier version becomes one of this version.

Money is INTEGER msat, time INTEGER nanoseconds UTC. What must never change is refused by triggers; what must always
hold for a row is a CHECK, so that a wrong decision cannot be committed even by a wrong program.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define

if TYPE_CHECKING:
    from sqlite_utils import Database

Step = Callable[["Database"], None]


@define
class _Migration:
    name: str
    fn: Step


class _Migrations:
    """What ``sqlite_utils.Migrations`` is, for as long as nothing is to be migrated.

    Most databases are of this version already, and that library is a third of all there is to load.
    """

    migrations_table = "_sqlite_migrations"

    def __init__(self, name: str) -> None:
        self._name = name
        self._migrations: list[_Migration] = []

    def __call__(self) -> Callable[[Step], Step]:
        def add(step: Step) -> Step:
            self._migrations.append(_Migration(step.__name__, step))
            return step

        return add

    def apply(self, connection: sqlite3.Connection) -> None:
        from sqlite_utils import Database, Migrations

        steps = Migrations(self._name)
        assert steps.migrations_table == self.migrations_table
        for each in self._migrations:
            steps(name=each.name)(each.fn)
        steps.apply(Database(connection, execute_plugins=False))


migrations = _Migrations("arbstr")

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


_THIRD = """
ALTER TABLE agents ADD COLUMN metadata TEXT;
ALTER TABLE agents ADD COLUMN frozen_ns INTEGER;

CREATE TABLE budgets (
    budget_id    TEXT PRIMARY KEY,
    agent_id     TEXT NOT NULL REFERENCES agents (agent_id),
    name         TEXT NOT NULL,
    amount_msat  INTEGER NOT NULL CHECK (amount_msat >= 0),
    spent_msat   INTEGER NOT NULL CHECK (spent_msat >= 0),
    models       TEXT NOT NULL,
    max_holds    INTEGER CHECK (max_holds >= 0),
    expires_ns   INTEGER,
    created_ns   INTEGER NOT NULL,
    revoked_ns   INTEGER
) STRICT;
CREATE INDEX budgets_live ON budgets (agent_id, coalesce(expires_ns, 9223372036854775807)) WHERE revoked_ns IS NULL;
CREATE TRIGGER budgets_spend_up BEFORE UPDATE ON budgets
    WHEN new.spent_msat < old.spent_msat OR (old.revoked_ns IS NOT NULL AND new.revoked_ns IS NULL)
    BEGIN SELECT RAISE(ABORT, 'a budget is neither spent less nor given back'); END;
CREATE TRIGGER budgets_no_delete BEFORE DELETE ON budgets BEGIN SELECT RAISE(ABORT, 'budgets are kept'); END;

CREATE TABLE tokens (
    token_id    TEXT PRIMARY KEY,
    token_hash  TEXT NOT NULL UNIQUE,
    agent_id    TEXT NOT NULL REFERENCES agents (agent_id),
    name        TEXT NOT NULL,
    budget_id   TEXT REFERENCES budgets (budget_id),
    created_ns  INTEGER NOT NULL,
    expires_ns  INTEGER,
    revoked_ns  INTEGER
) STRICT;
CREATE INDEX tokens_agent ON tokens (agent_id);
CREATE TRIGGER tokens_stay_revoked BEFORE UPDATE ON tokens
    WHEN old.revoked_ns IS NOT NULL AND new.revoked_ns IS NULL
    BEGIN SELECT RAISE(ABORT, 'a token that was revoked stays revoked'); END;
INSERT INTO tokens (token_id, token_hash, agent_id, name, created_ns)
    SELECT 'tk_' || substr(agent_id, 4), token_hash, agent_id, name, created_ns FROM agents;

CREATE TABLE policies (
    agent_id              TEXT NOT NULL REFERENCES agents (agent_id),
    version               INTEGER NOT NULL CHECK (version >= 1),
    max_transaction_msat  INTEGER CHECK (max_transaction_msat >= 0),
    daily_limit_msat      INTEGER CHECK (daily_limit_msat >= 0),
    max_fee_msat          INTEGER CHECK (max_fee_msat >= 0),
    approval_timeout_ms   INTEGER CHECK (approval_timeout_ms >= 0),
    alert_floor_msat      INTEGER CHECK (alert_floor_msat >= 0),
    alert_cooldown_ms     INTEGER CHECK (alert_cooldown_ms >= 0),
    models                TEXT NOT NULL,
    max_holds             INTEGER CHECK (max_holds >= 0),
    set_by_operator       INTEGER NOT NULL,
    effective_ns          INTEGER NOT NULL,
    created_ns            INTEGER NOT NULL,
    PRIMARY KEY (agent_id, version)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER policies_in_order BEFORE INSERT ON policies
    WHEN new.version > 1 + coalesce((SELECT max(version) FROM policies WHERE agent_id = new.agent_id), 0)
    BEGIN SELECT RAISE(ABORT, 'versions of a policy leave no gap'); END;
INSERT INTO policies (agent_id, version, max_transaction_msat, daily_limit_msat, models, set_by_operator, effective_ns,
    created_ns) SELECT agent_id, 1, 0, 0, '[]', 0, created_ns, created_ns FROM agents;

CREATE TABLE approvals (
    approval_id     TEXT PRIMARY KEY,
    agent_id        TEXT NOT NULL REFERENCES agents (agent_id),
    kind            TEXT NOT NULL CHECK (kind IN ('payment', 'withdrawal', 'request')),
    transaction_id  TEXT NOT NULL,
    amount_msat     INTEGER NOT NULL CHECK (amount_msat >= 0),
    destination     TEXT,
    status          TEXT NOT NULL CHECK (status IN ('pending', 'approved', 'denied', 'timed_out', 'used')),
    created_ns      INTEGER NOT NULL,
    expires_ns      INTEGER NOT NULL,
    resolved_ns     INTEGER,
    decided_by      TEXT,
    reason          TEXT,
    CHECK ((status = 'pending') = (resolved_ns IS NULL))
) STRICT;
CREATE INDEX approvals_pending ON approvals (agent_id) WHERE status = 'pending';
CREATE INDEX approvals_granted ON approvals (agent_id) WHERE status = 'approved' AND kind = 'request';
CREATE INDEX approvals_transaction ON approvals (transaction_id);
CREATE TRIGGER approvals_decided_once BEFORE UPDATE ON approvals
    WHEN old.status != 'pending' AND new.status != old.status AND NOT
        (old.status = 'approved' AND old.kind = 'request' AND new.status IN ('used', 'timed_out'))
    BEGIN SELECT RAISE(ABORT, 'an approval is decided once'); END;

CREATE TABLE payments (
    transaction_id    TEXT PRIMARY KEY,
    agent_id          TEXT NOT NULL REFERENCES agents (agent_id),
    kind              TEXT NOT NULL CHECK (kind IN ('payment', 'withdrawal')),
    amount_msat       INTEGER NOT NULL CHECK (amount_msat >= 0),
    state             TEXT NOT NULL CHECK (state IN
        ('denied', 'pending_approval', 'held', 'sending', 'unknown', 'succeeded', 'failed')),
    created_ns        INTEGER NOT NULL,
    updated_ns        INTEGER NOT NULL,
    key               TEXT,
    fee_limit_msat    INTEGER NOT NULL CHECK (fee_limit_msat >= 0),
    fee_msat          INTEGER CHECK (fee_msat >= 0),
    asset             TEXT,
    purpose           TEXT,
    destination_type  TEXT,
    destination       TEXT,
    preferred_rail    TEXT,
    first_rail        TEXT,
    rail              TEXT,
    decision          TEXT,
    reason            TEXT,
    payment_hash      TEXT,
    preimage          TEXT,
    error             TEXT,
    approval_id       TEXT,
    settled_ns        INTEGER,
    fingerprint       TEXT NOT NULL,
    UNIQUE (agent_id, key)
) STRICT;
CREATE INDEX payments_unfinished ON payments (agent_id)
    WHERE state IN ('pending_approval', 'held', 'sending', 'unknown');
CREATE TRIGGER payments_end_once BEFORE UPDATE ON payments
    WHEN old.amount_msat != new.amount_msat OR old.kind != new.kind OR old.key IS NOT new.key
        OR (old.state IN ('denied', 'succeeded', 'failed')
            AND (new.state != old.state OR new.fee_msat IS NOT old.fee_msat))
    BEGIN SELECT RAISE(ABORT, 'a payment ends once, and stays what it is'); END;
CREATE TRIGGER payments_no_delete BEFORE DELETE ON payments BEGIN SELECT RAISE(ABORT, 'payments are kept'); END;

CREATE TABLE outbox (
    event_id    TEXT PRIMARY KEY,
    event       TEXT NOT NULL,
    agent_id    TEXT NOT NULL REFERENCES agents (agent_id),
    body        TEXT NOT NULL,
    created_ns  INTEGER NOT NULL,
    due_ns      INTEGER NOT NULL,
    attempts    INTEGER NOT NULL CHECK (attempts >= 0),
    state       TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
    last_error  TEXT,
    ended_ns    INTEGER
) STRICT;
CREATE INDEX outbox_due ON outbox (due_ns) WHERE state = 'pending';
CREATE INDEX outbox_dead ON outbox (event_id) WHERE state = 'dead';
CREATE TRIGGER outbox_same_body BEFORE UPDATE ON outbox
    WHEN new.body != old.body OR new.event != old.event
    BEGIN SELECT RAISE(ABORT, 'an event stays what it is'); END;

CREATE TABLE alerts (
    agent_id  TEXT PRIMARY KEY REFERENCES agents (agent_id),
    at_ns     INTEGER NOT NULL
) STRICT;

ALTER TABLE holds ADD COLUMN kind TEXT NOT NULL DEFAULT 'request' CHECK (kind IN ('request', 'payment', 'withdrawal'));
ALTER TABLE holds ADD COLUMN budget_id TEXT REFERENCES budgets (budget_id);
CREATE INDEX holds_charged ON holds (agent_id, ended_ns, charged_msat) WHERE charged_msat > 0;
"""


@migrations()
def m0003_the_vault(db: Database) -> None:
    """Tokens, budgets, policies, approvals, payments and the outbox.

    The tokens of agents become rows of their own, and every agent has the first version of a policy.
    """
    for statement in _statements(_THIRD + _refuse_changes("policies")):
        db.execute(statement)


_FOURTH = """
CREATE TABLE remote_holds (
    reservation_id  TEXT PRIMARY KEY,
    key             TEXT NOT NULL,
    agent_id        TEXT NOT NULL,
    amount_msat     INTEGER NOT NULL CHECK (amount_msat >= 0),
    model           TEXT NOT NULL,
    provider        TEXT NOT NULL,
    created_ns      INTEGER NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('open', 'ending', 'dead')),
    evidence_msat   INTEGER NOT NULL CHECK (evidence_msat >= 0),
    charge_msat     INTEGER CHECK (charge_msat >= 0),
    tokens_in       INTEGER,
    tokens_out      INTEGER,
    latency_ms      INTEGER NOT NULL,
    reason          TEXT NOT NULL,
    attempts        INTEGER NOT NULL CHECK (attempts >= 0),
    last_error      TEXT,
    correlation_id  TEXT,
    CHECK ((state = 'open') = (charge_msat IS NULL))
) STRICT, WITHOUT ROWID;
CREATE TRIGGER remote_holds_end_once BEFORE UPDATE ON remote_holds
    WHEN old.key != new.key OR (old.state != 'open' AND new.charge_msat IS NOT old.charge_msat)
    BEGIN SELECT RAISE(ABORT, 'a hold ends once, with one amount'); END;
CREATE TRIGGER remote_holds_no_delete BEFORE DELETE ON remote_holds WHEN old.state = 'open'
    BEGIN SELECT RAISE(ABORT, 'a hold is not forgotten before it has ended'); END;
"""


@migrations()
def m0004_holds_at_another_vault(db: Database) -> None:
    """What a vault in another process holds for us, and is to be told of."""
    for statement in _statements(_FOURTH):
        db.execute(statement)


SCHEMA_VERSION = 4
"""Number of migrations; kept in the file as ``PRAGMA user_version``."""


def migrate(connection: sqlite3.Connection, version: int = SCHEMA_VERSION) -> None:
    """Bring a database, or an empty file, up to this version."""
    migrations.apply(connection)
    connection.execute(f"PRAGMA user_version = {version}")


@functools.cache
def _empty() -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db)
        return db.serialize()


def create_in_memory() -> sqlite3.Connection:
    """A new empty database of this version, in autocommit."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.deserialize(_empty())
    db.execute("PRAGMA foreign_keys = ON")
    return db
