"""Audits of the books: all that must hold, recomputed from the rows; and as much of it as a start has time for."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator

from attrs import frozen

from arbstr.store._journal import GENESIS, REMOTE, audit_hash
from arbstr.store._values import AgentRow, CheckReport, LedgerAccount

MAX_LINES = 10
"""Problems told of one kind; the first few name the place, thousands would bury it."""

QUICK_ROWS = 20_000
"""Checked at a start; of a journal this long it takes about a tenth of a second."""
VAULT_VERSION = 3
"""Of the schema: since then there are payments."""
REMOTE_VERSION = 4
"""Since then there are holds at another vault."""

_AGENTS = (
    "SELECT agent_id, name, created_ns, available_msat, held_msat, spent_msat, deposited_msat, withdrawn_msat, "
    "debt_msat FROM agents JOIN accounts USING (agent_id) ORDER BY agent_id"
)

_OURS = f"agent_id IS NOT NULL AND cost_msat > 0 AND coalesce(hold_id, '') NOT GLOB '{REMOTE}*'"
"""Receipts that an account of ours was charged for; those of another vault's agents are in its books."""

Totals = defaultdict[str, int]
"""By agent; an agent without rows has 0."""


def read_agents(db: sqlite3.Connection) -> list[AgentRow]:
    """All agents with their balances, by id."""
    return [AgentRow(*row) for row in db.execute(_AGENTS)]


def check_books(db: sqlite3.Connection) -> CheckReport:
    """Check M2, M3, M4 and M8 over the whole database, in a fixed number of statements.

    A database of an earlier version is checked by the rules of its version.
    """
    agents = tuple(read_agents(db))
    (version,) = db.execute("PRAGMA user_version").fetchone()
    has_vault = version >= VAULT_VERSION
    problems = [
        *_damage(db),
        *_unbalanced_transactions(db),
        *_agent_problems(db, agents, "kind = 'request'" if has_vault else "1"),
        *_hold_problems(db),
        *(_vault_problems(db) if has_vault else ()),
        *(_remote_problems(db) if version >= REMOTE_VERSION else ()),
        *_audit_problems(db),
    ]
    (open_holds,) = db.execute("SELECT count(*) FROM holds WHERE state = 'open'").fetchone()
    (receipts_msat,) = db.execute(f"SELECT coalesce(sum(cost_msat), 0) FROM receipts WHERE {_OURS}").fetchone()  # noqa: S608 - ours
    spent, debt = sum(a.spent_msat for a in agents), sum(a.debt_msat for a in agents)
    return CheckReport(agents, open_holds, receipts_msat, spent, debt, tuple(problems))


def _damage(db: sqlite3.Connection) -> Iterator[str]:
    """What SQLite itself finds: broken pages, rows that refer to nothing."""
    for (text,) in db.execute(f"PRAGMA quick_check({MAX_LINES})"):
        if text != "ok":
            yield f"database: {text}"
    for table, row, parent, _ in db.execute("PRAGMA foreign_key_check").fetchmany(MAX_LINES):
        yield f"{table} row {row} refers to no row of {parent}"


def _unbalanced_transactions(db: sqlite3.Connection, after: int = 0) -> Iterator[str]:
    # One without postings moved nothing: a hold of 0 msat for a free model.
    rows = db.execute(
        "SELECT t.key, sum(p.amount_msat) FROM postings p JOIN transactions t ON t.id = p.transaction_id "
        "WHERE p.transaction_id > ? GROUP BY p.transaction_id HAVING sum(p.amount_msat) != 0 LIMIT ?",
        (after, MAX_LINES),
    )
    for key, total in rows:
        yield f"transaction {key} does not balance: its postings sum to {total} msat"


def _agent_problems(db: sqlite3.Connection, agents: tuple[AgentRow, ...], of_requests: str) -> Iterator[str]:
    """Balances of each agent against journal, holds and receipts; ``of_requests`` says which holds have receipts."""
    journal: defaultdict[str, Totals] = defaultdict(lambda: defaultdict(int))
    for agent_id, ledger, total in db.execute(
        "SELECT agent_id, ledger, sum(amount_msat) FROM postings GROUP BY agent_id, ledger"
    ):
        journal[agent_id][ledger] = total
    held = _totals(db, "SELECT agent_id, sum(amount_msat) FROM holds WHERE state = 'open' GROUP BY agent_id")
    charged = _totals(db, "SELECT agent_id, sum(charged_msat) FROM holds GROUP BY agent_id")
    bought = _totals(db, f"SELECT agent_id, sum(charged_msat) FROM holds WHERE {of_requests} GROUP BY agent_id")  # noqa: S608 - ours
    receipts = _totals(db, f"SELECT agent_id, sum(cost_msat) FROM receipts WHERE {_OURS} GROUP BY agent_id")  # noqa: S608 - ours
    known = {agent.agent_id for agent in agents}
    for agent_id in sorted({*journal, *held, *charged, *receipts} - known):
        yield f"{agent_id}: there is no such account, but there are rows of it"
    for agent in agents:
        ledgers, agent_id = journal[agent.agent_id], agent.agent_id
        paid = agent.spent_msat + agent.debt_msat + agent.withdrawn_msat
        received = agent.deposited_msat - agent.withdrawn_msat
        balances = agent.available_msat + agent.held_msat + agent.spent_msat
        for what, found, expected in (
            ("available + held + spent", balances, received),
            ("received in the journal", -ledgers[LedgerAccount.WORLD], received),
            ("available in the journal", ledgers[LedgerAccount.AVAILABLE], agent.available_msat),
            ("held in the journal", ledgers[LedgerAccount.HELD], agent.held_msat),
            ("spent in the journal", ledgers[LedgerAccount.SPENT], agent.spent_msat),
            ("debt in the journal", -ledgers[LedgerAccount.DEBT], agent.debt_msat),
            ("arrears in the journal", ledgers[LedgerAccount.ARREARS], agent.debt_msat),
            ("the sum of open holds", held[agent_id], agent.held_msat),
            ("the sum charged by holds", charged[agent_id], paid),
            ("the sum of receipts", receipts[agent_id], bought[agent_id]),
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


_OPEN_PAYMENTS = "p.state IN ('pending_approval', 'held', 'sending', 'unknown')"
_WRONG_PAYMENTS = f"""
    SELECT p.transaction_id, p.state, p.amount_msat, p.fee_msat, h.state, h.amount_msat, h.charged_msat
    FROM payments p LEFT JOIN holds h ON h.key = p.transaction_id
    WHERE (h.key IS NOT NULL AND (h.agent_id != p.agent_id OR h.kind != p.kind)) OR CASE
        WHEN {_OPEN_PAYMENTS} THEN h.state IS NOT 'open' OR h.amount_msat < p.amount_msat
        WHEN p.state = 'succeeded' THEN h.charged_msat IS NOT p.amount_msat + coalesce(p.fee_msat, 0)
        ELSE coalesce(h.state, 'released') != 'released' END
    LIMIT ?"""  # noqa: S608 - a constant of ours
_WRONG_APPROVALS = f"""
    SELECT a.approval_id, a.status, coalesce(h.state, 'missing'), coalesce(p.state, 'missing')
    FROM approvals a LEFT JOIN holds h ON h.key = a.transaction_id AND h.agent_id = a.agent_id
        LEFT JOIN payments p ON p.transaction_id = a.transaction_id
    WHERE (a.status = 'pending' OR (a.status = 'approved' AND a.kind = 'request'))
        AND (h.state IS NOT 'open' OR h.amount_msat < a.amount_msat
            OR (a.kind != 'request' AND p.state IS NOT 'pending_approval'))
    UNION ALL
    SELECT p.transaction_id, 'pending', 'unknown', p.state FROM payments p
    WHERE {_OPEN_PAYMENTS} AND p.state = 'pending_approval'
        AND NOT EXISTS (SELECT 1 FROM approvals a WHERE a.transaction_id = p.transaction_id AND a.status = 'pending')
    LIMIT ?"""  # noqa: S608 - constants of ours
_WRONG_BUDGETS = """
    SELECT b.budget_id, b.spent_msat, coalesce(sum(h.charged_msat), 0)
    FROM budgets b LEFT JOIN (SELECT budget_id, agent_id, charged_msat FROM holds WHERE budget_id IS NOT NULL) h
        USING (budget_id)
    GROUP BY b.budget_id
    HAVING b.spent_msat != coalesce(sum(h.charged_msat), 0) OR coalesce(max(h.agent_id != b.agent_id), 0) LIMIT ?"""


def _vault_problems(db: sqlite3.Connection) -> Iterator[str]:
    """Payments, approvals and budgets against holds; policies without a gap."""

    def found(statement: str) -> sqlite3.Cursor:
        return db.execute(statement, (MAX_LINES,))

    for transaction_id, state, amount, fee, hold, held, charged in found(_WRONG_PAYMENTS):
        yield (
            f"payment {transaction_id} of {amount} msat and a fee of {fee} is {state}, "
            f"but its hold of {held} msat is {hold} with a charge of {charged}"
        )
    for hold_id, kind in found(
        "SELECT hold_id, kind FROM holds WHERE kind != 'request' "
        "AND NOT EXISTS (SELECT 1 FROM payments WHERE transaction_id = holds.key) LIMIT ?"
    ):
        yield f"hold {hold_id} is of a {kind} that there is not"
    for approval_id, status, hold, payment in found(_WRONG_APPROVALS):
        yield f"approval {approval_id} is {status}, but its hold is {hold} and its payment {payment}"
    for budget_id, spent, charged in found(_WRONG_BUDGETS):
        yield f"budget {budget_id} has spent {spent} msat, but its agent's holds were charged {charged} for it"
    for token_id, budget_id in found(
        "SELECT token_id, budget_id FROM tokens t JOIN budgets b USING (budget_id) "
        "WHERE t.agent_id != b.agent_id LIMIT ?"
    ):
        yield f"token {token_id} spends from budget {budget_id}, which is another agent's"
    for agent_id, versions, first, last in found(
        "SELECT agent_id, count(version), min(version), max(version) FROM agents LEFT JOIN policies USING (agent_id) "
        "GROUP BY agent_id HAVING min(version) IS NOT 1 OR max(version) IS NOT count(version) LIMIT ?"
    ):
        yield f"{agent_id}: its policy has {versions} versions from {first} to {last}"


def _remote_problems(db: sqlite3.Connection) -> Iterator[str]:
    """What another vault is to be told was bought: receipt and charge were written together."""
    rows = db.execute(
        "SELECT h.reservation_id, h.charge_msat, r.cost_msat FROM remote_holds h "
        "LEFT JOIN receipts r ON r.hold_id = ?1 || h.reservation_id "
        "AND r.request_id IN (h.key, h.key || ':' || ?1 || h.reservation_id) "
        "WHERE h.charge_msat > 0 AND r.cost_msat IS NOT h.charge_msat LIMIT ?2",
        (REMOTE, MAX_LINES),
    )
    for reservation_id, charge, cost in rows:
        yield f"reservation {reservation_id} at another vault is to be charged {charge} msat, its receipt says {cost}"


@frozen
class ChainReport:
    """How far the audit log's hash chain holds."""

    rows: int
    """That follow from each other."""
    broken_sequence: int | None = None
    """Of the first row that does not follow, or is missing."""
    problem: str | None = None
    of_transactions: int = 0
    """Rows that tell of a transaction."""


def verify_chain(db: sqlite3.Connection, after: int = 0) -> ChainReport:
    """Walk the audit log from its beginning, or from the row that follows ``after``, which is then taken as right."""
    previous, last, of_transactions = GENESIS, after, 0
    if after:
        found = db.execute("SELECT hash FROM audit WHERE sequence = ?", (after,)).fetchone()
        if found is None:
            return ChainReport(0, after, f"audit row {after} is missing")
        (previous,) = found
    rows = db.execute(
        "SELECT sequence, at_ns, agent_id, action, details, previous_hash, hash FROM audit WHERE sequence > ? "
        "ORDER BY sequence",
        (after,),
    )
    for sequence, at_ns, agent_id, action, details, claimed, digest in rows:
        if sequence != last + 1:
            return ChainReport(last - after, last + 1, f"audit row {last + 1} is missing", of_transactions)
        if claimed != previous or audit_hash(previous, sequence, at_ns, agent_id, action, details) != digest:
            wrong = f"audit row {sequence} does not follow from the row before it"
            return ChainReport(last - after, sequence, wrong, of_transactions)
        previous, last = digest, sequence
        of_transactions += action != "AGENT_REGISTERED"
    return ChainReport(last - after, of_transactions=of_transactions)


def _audit_problems(db: sqlite3.Connection) -> Iterator[str]:
    """The chain is whole, and long enough for all that is in the journal (M8)."""
    chain = verify_chain(db)
    if chain.problem is not None:
        yield chain.problem
        return
    (transactions,) = db.execute("SELECT count(*) FROM transactions").fetchone()
    if chain.of_transactions < transactions:
        yield f"the audit log tells of {chain.of_transactions} of {transactions} transactions: its end is missing"


@frozen
class QuickReport:
    """What a start found. ``complete`` when the journal is short enough that all of it was added up."""

    complete: bool
    problems: tuple[str, ...]


def quick_check(db: sqlite3.Connection, limit: int = QUICK_ROWS) -> QuickReport:
    """What can be checked in a bounded time, whatever the size of the database: a start should not wait for more.

    Always: each account's ``held`` is the sum of its open holds, the last ``limit`` transactions balance, the last
    ``limit`` audit rows follow from each other, and there are enough of them for the journal. A journal of up to
    ``limit`` transactions is compared with the balances too. What is older is left to ``check_books``.
    """
    (last_transaction,) = db.execute("SELECT coalesce(max(id), 0) FROM transactions").fetchone()
    (last_audit,) = db.execute("SELECT coalesce(max(sequence), 0) FROM audit").fetchone()
    complete = last_transaction <= limit
    problems = [
        *_unbalanced_transactions(db, after=max(0, last_transaction - limit)),
        *_holds_not_held(db),
        *(_balances_not_in_journal(db) if complete else ()),
    ]
    chain = verify_chain(db, after=max(0, last_audit - limit))
    if chain.problem is not None:
        problems.append(chain.problem)
    if last_audit < last_transaction:
        problems.append(f"the audit log has {last_audit} rows for {last_transaction} transactions: its end is missing")
    return QuickReport(complete, tuple(problems))


def _holds_not_held(db: sqlite3.Connection) -> Iterator[str]:
    rows = db.execute(
        "SELECT agent_id, held_msat, coalesce(total, 0) FROM accounts LEFT JOIN "
        "(SELECT agent_id, sum(amount_msat) AS total FROM holds WHERE state = 'open' GROUP BY agent_id) "
        "USING (agent_id) WHERE held_msat != coalesce(total, 0) LIMIT ?",
        (MAX_LINES,),
    )
    for agent_id, held, total in rows:
        yield f"{agent_id}: the sum of open holds is {total} msat, expected {held}"


def _balances_not_in_journal(db: sqlite3.Connection) -> Iterator[str]:
    rows = db.execute(
        "SELECT agent_id, available, held, spent, -world FROM accounts LEFT JOIN (SELECT agent_id, "
        "sum(amount_msat) FILTER (WHERE ledger = 'available') AS available, "
        "sum(amount_msat) FILTER (WHERE ledger = 'held') AS held, "
        "sum(amount_msat) FILTER (WHERE ledger = 'spent') AS spent, "
        "sum(amount_msat) FILTER (WHERE ledger = 'world') AS world FROM postings GROUP BY agent_id) USING (agent_id) "
        "WHERE coalesce(available, 0) != available_msat OR coalesce(held, 0) != held_msat "
        "OR coalesce(spent, 0) != spent_msat OR -coalesce(world, 0) != deposited_msat - withdrawn_msat LIMIT ?",
        (MAX_LINES,),
    )
    for agent_id, available, held, spent, received in rows:
        yield (
            f"{agent_id}: the journal has {available} msat available, {held} held, {spent} spent and {received} "
            "received, which is not what the account says"
        )
