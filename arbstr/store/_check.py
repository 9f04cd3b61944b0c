"""A full audit of the books: everything that must hold, recomputed from the rows."""

from __future__ import annotations

import sqlite3

from arbstr.store._journal import GENESIS, audit_hash
from arbstr.store._values import AgentRow, CheckReport, Ledger

_AGENTS = (
    "SELECT agent_id, name, created_ns, available_msat, held_msat, spent_msat, deposited_msat, withdrawn_msat, "
    "debt_msat FROM agents JOIN accounts USING (agent_id) ORDER BY agent_id"
)


def read_agents(db: sqlite3.Connection) -> list[AgentRow]:
    """All agents with their balances, by id."""
    return [AgentRow(*row) for row in db.execute(_AGENTS)]


def check_books(db: sqlite3.Connection) -> CheckReport:
    """Check M2, M3, M4 and M8 over the whole database. Reads every row once."""
    agents = tuple(read_agents(db))
    problems = [
        *_unbalanced_transactions(db),
        *(problem for agent in agents for problem in _agent_problems(db, agent)),
        *_audit_problems(db),
    ]
    (open_holds,) = db.execute("SELECT count(*) FROM holds WHERE state = 'open'").fetchone()
    (receipts_msat,) = db.execute(
        "SELECT coalesce(sum(cost_msat), 0) FROM receipts WHERE agent_id IS NOT NULL"
    ).fetchone()
    spent, debt = sum(a.spent_msat for a in agents), sum(a.debt_msat for a in agents)
    return CheckReport(agents, open_holds, receipts_msat, spent, debt, tuple(problems))


def _unbalanced_transactions(db: sqlite3.Connection) -> list[str]:
    rows = db.execute(
        "SELECT t.key, sum(p.amount_msat) FROM transactions t LEFT JOIN postings p ON p.transaction_id = t.id "
        "GROUP BY t.id HAVING sum(p.amount_msat) IS NOT 0 LIMIT 10"
    )
    return [f"transaction {key} does not balance: its postings sum to {total} msat" for key, total in rows]


def _agent_problems(db: sqlite3.Connection, agent: AgentRow) -> list[str]:
    def problem(what: str, found: int, expected: int) -> list[str]:
        return [] if found == expected else [f"{agent.agent_id}: {what} is {found} msat, expected {expected}"]

    journal: dict[str, int] = dict(
        db.execute(
            "SELECT ledger, sum(amount_msat) FROM postings WHERE agent_id = ? GROUP BY ledger", (agent.agent_id,)
        )
    )
    (held,) = db.execute(
        "SELECT coalesce(sum(amount_msat), 0) FROM holds WHERE agent_id = ? AND state = 'open'", (agent.agent_id,)
    ).fetchone()
    (charged,) = db.execute(
        "SELECT coalesce(sum(charged_msat), 0) FROM holds WHERE agent_id = ?", (agent.agent_id,)
    ).fetchone()
    (receipts,) = db.execute(
        "SELECT coalesce(sum(cost_msat), 0) FROM receipts WHERE agent_id = ?", (agent.agent_id,)
    ).fetchone()
    return [
        *problem(
            "available + held + spent",
            agent.available_msat + agent.held_msat + agent.spent_msat,
            agent.deposited_msat - agent.withdrawn_msat,
        ),
        *problem("available in the journal", journal.get(Ledger.AVAILABLE, 0), agent.available_msat),
        *problem("held in the journal", journal.get(Ledger.HELD, 0), agent.held_msat),
        *problem("spent in the journal", journal.get(Ledger.SPENT, 0), agent.spent_msat),
        *problem("debt in the journal", -journal.get(Ledger.DEBT, 0), agent.debt_msat),
        *problem("the sum of open holds", held, agent.held_msat),
        *problem("the sum charged by holds", charged, agent.spent_msat + agent.debt_msat),
        *problem("the sum of receipts", receipts, agent.spent_msat + agent.debt_msat),
        *([f"{agent.agent_id}: available is negative"] if agent.available_msat < 0 else []),
    ]


def _audit_problems(db: sqlite3.Connection) -> list[str]:
    previous, expected = GENESIS, 1
    rows = db.execute(
        "SELECT sequence, at_ns, agent_id, action, details, previous_hash, hash FROM audit ORDER BY sequence"
    )
    for sequence, at_ns, agent_id, action, details, claimed, digest in rows:
        if sequence != expected:
            return [f"audit row {expected} is missing"]
        if claimed != previous or audit_hash(previous, sequence, at_ns, agent_id, action, details) != digest:
            return [f"audit row {sequence} does not follow from the row before it"]
        previous, expected = digest, sequence + 1
    return []
