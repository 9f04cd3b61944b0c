"""A full audit of the books: everything that must hold, recomputed from the rows."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator

from arbstr.store._journal import GENESIS, audit_hash
from arbstr.store._values import AgentRow, CheckReport, Ledger

MAX_LINES = 10
"""Problems told of one kind; the first few name the place, thousands would bury it."""

_AGENTS = (
    "SELECT agent_id, name, created_ns, available_msat, held_msat, spent_msat, deposited_msat, withdrawn_msat, "
    "debt_msat FROM agents JOIN accounts USING (agent_id) ORDER BY agent_id"
)

Totals = defaultdict[str, int]
"""By agent; an agent without rows has 0."""


def read_agents(db: sqlite3.Connection) -> list[AgentRow]:
    """All agents with their balances, by id."""
    return [AgentRow(*row) for row in db.execute(_AGENTS)]


def check_books(db: sqlite3.Connection) -> CheckReport:
    """Check M2, M3, M4 and M8 over the whole database, in a fixed number of statements."""
    agents = tuple(read_agents(db))
    problems = [
        *_damage(db),
        *_unbalanced_transactions(db),
        *_agent_problems(db, agents),
        *_hold_problems(db),
        *_audit_problems(db),
    ]
    (open_holds,) = db.execute("SELECT count(*) FROM holds WHERE state = 'open'").fetchone()
    (receipts_msat,) = db.execute(
        "SELECT coalesce(sum(cost_msat), 0) FROM receipts WHERE agent_id IS NOT NULL"
    ).fetchone()
    spent, debt = sum(a.spent_msat for a in agents), sum(a.debt_msat for a in agents)
    return CheckReport(agents, open_holds, receipts_msat, spent, debt, tuple(problems))


def _damage(db: sqlite3.Connection) -> Iterator[str]:
    """What SQLite itself finds: broken pages, rows that refer to nothing."""
    for (text,) in db.execute(f"PRAGMA quick_check({MAX_LINES})"):
        if text != "ok":
            yield f"database: {text}"
    for table, row, parent, _ in db.execute("PRAGMA foreign_key_check").fetchmany(MAX_LINES):
        yield f"{table} row {row} refers to no row of {parent}"


def _unbalanced_transactions(db: sqlite3.Connection) -> Iterator[str]:
    # One without postings moved nothing: a hold of 0 msat for a free model.
    rows = db.execute(
        "SELECT t.key, sum(p.amount_msat) FROM postings p JOIN transactions t ON t.id = p.transaction_id "
        "GROUP BY p.transaction_id HAVING sum(p.amount_msat) != 0 LIMIT ?",
        (MAX_LINES,),
    )
    for key, total in rows:
        yield f"transaction {key} does not balance: its postings sum to {total} msat"


def _agent_problems(db: sqlite3.Connection, agents: tuple[AgentRow, ...]) -> Iterator[str]:
    """Balances of each agent against journal, holds and receipts."""
    journal: defaultdict[str, Totals] = defaultdict(lambda: defaultdict(int))
    for agent_id, ledger, total in db.execute(
        "SELECT agent_id, ledger, sum(amount_msat) FROM postings GROUP BY agent_id, ledger"
    ):
        journal[agent_id][ledger] = total
    held = _totals(db, "SELECT agent_id, sum(amount_msat) FROM holds WHERE state = 'open' GROUP BY agent_id")
    charged = _totals(db, "SELECT agent_id, sum(charged_msat) FROM holds GROUP BY agent_id")
    receipts = _totals(db, "SELECT agent_id, sum(cost_msat) FROM receipts WHERE agent_id IS NOT NULL GROUP BY agent_id")
    known = {agent.agent_id for agent in agents}
    for agent_id in sorted({*journal, *held, *charged, *receipts} - known):
        yield f"{agent_id}: there is no such account, but there are rows of it"
    for agent in agents:
        ledgers, agent_id = journal[agent.agent_id], agent.agent_id
        owed = agent.spent_msat + agent.debt_msat
        received = agent.deposited_msat - agent.withdrawn_msat
        balances = agent.available_msat + agent.held_msat + agent.spent_msat
        for what, found, expected in (
            ("available + held + spent", balances, received),
            ("received in the journal", -ledgers[Ledger.WORLD], received),
            ("available in the journal", ledgers[Ledger.AVAILABLE], agent.available_msat),
            ("held in the journal", ledgers[Ledger.HELD], agent.held_msat),
            ("spent in the journal", ledgers[Ledger.SPENT], agent.spent_msat),
            ("debt in the journal", -ledgers[Ledger.DEBT], agent.debt_msat),
            ("arrears in the journal", ledgers[Ledger.ARREARS], agent.debt_msat),
            ("the sum of open holds", held[agent_id], agent.held_msat),
            ("the sum charged by holds", charged[agent_id], owed),
            ("the sum of receipts", receipts[agent_id], owed),
        ):
            if found != expected:
                yield f"{agent_id}: {what} is {found} msat, expected {expected}"
        for what in ("available", "held", "spent", "deposited", "withdrawn", "debt"):
            if getattr(agent, f"{what}_msat") < 0:
                yield f"{agent_id}: {what} is negative"


def _totals(db: sqlite3.Connection, query: str) -> Totals:
    return defaultdict(int, {agent_id: total for agent_id, total in db.execute(query) if total is not None})


def _hold_problems(db: sqlite3.Connection) -> Iterator[str]:
    """A hold was made once, and ended once or not yet (M3)."""
    rows = db.execute(
        "SELECT hold_id, state, charged_msat FROM holds WHERE (state = 'open') IS NOT (ended_ns IS NULL) "
        "OR (state = 'open') IS NOT (charged_msat IS NULL) OR (state = 'released' AND charged_msat != 0) LIMIT ?",
        (MAX_LINES,),
    )
    for hold_id, state, charged in rows:
        yield f"hold {hold_id} is {state} with a charge of {charged}"
    ((made, ended),) = db.execute("SELECT count(*), coalesce(sum(state != 'open'), 0) FROM holds")
    kinds = _totals(db, "SELECT kind, count(*) FROM transactions GROUP BY kind")
    ends = kinds["settle"] + kinds["release"] + kinds["resolve"]
    if kinds["reserve"] != made:
        yield f"the journal has {kinds['reserve']} reservations, but there are {made} holds"
    if ends != ended:
        yield f"the journal has {ends} ends of holds, but {ended} holds have ended"


def _audit_problems(db: sqlite3.Connection) -> Iterator[str]:
    """The chain is whole, and long enough for all that is in the journal (M8)."""
    previous, last, of_transactions = GENESIS, 0, 0
    rows = db.execute(
        "SELECT sequence, at_ns, agent_id, action, details, previous_hash, hash FROM audit ORDER BY sequence"
    )
    for sequence, at_ns, agent_id, action, details, claimed, digest in rows:
        if sequence != last + 1:
            yield f"audit row {last + 1} is missing"
            return
        if claimed != previous or audit_hash(previous, sequence, at_ns, agent_id, action, details) != digest:
            yield f"audit row {sequence} does not follow from the row before it"
            return
        previous, last = digest, sequence
        of_transactions += action != "AGENT_REGISTERED"
    (transactions,) = db.execute("SELECT count(*) FROM transactions").fetchone()
    if of_transactions < transactions:
        yield f"the audit log tells of {of_transactions} of {transactions} transactions: its end is missing"
