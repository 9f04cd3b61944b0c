"""Is every millisatoshi accounted for? The store's own audit after the load, beside what the clients were told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from attrs import frozen


class Row(Protocol):
    """What is read of ``arbstr.store.AgentRow``; all in msat."""

    @property
    def name(self) -> str: ...
    @property
    def available_msat(self) -> int: ...
    @property
    def held_msat(self) -> int: ...
    @property
    def spent_msat(self) -> int: ...
    @property
    def deposited_msat(self) -> int: ...
    @property
    def withdrawn_msat(self) -> int: ...
    @property
    def debt_msat(self) -> int: ...


class Audit(Protocol):
    """What is read of ``arbstr.store.CheckReport``."""

    @property
    def agents(self) -> Sequence[Row]: ...
    @property
    def open_holds(self) -> int: ...
    @property
    def receipts_msat(self) -> int: ...
    @property
    def spent_msat(self) -> int: ...
    @property
    def problems(self) -> Iterable[str]: ...


@frozen
class MoneyReport:
    """The books after a run, in msat. ``untold_msat`` is what was charged without the client having been told: broken
    streams, clients that were gone, failed attempts that cost something."""

    deposited_msat: int
    spent_msat: int
    debt_msat: int
    receipts_msat: int
    told_msat: int
    open_holds: int
    problems: tuple[str, ...]

    @property
    def charged_msat(self) -> int:
        return self.spent_msat + self.debt_msat

    @property
    def untold_msat(self) -> int:
        return self.charged_msat - self.told_msat

    @property
    def clean(self) -> bool:
        return not self.problems


def check(database: Path, told_msat: int) -> MoneyReport:
    """Audit a database that no program has open, and compare with the sum of the costs that clients were told."""
    from arbstr.store import Store

    return judge(Store.check(database), told_msat)


def judge(audit: Audit, told_msat: int) -> MoneyReport:
    """Turn the store's findings into a report. What the store checks inside (every attempt in a receipt, journal
    postings that sum to zero) comes with its ``problems``; what can be seen from outside is computed again here."""
    spent = sum(row.spent_msat for row in audit.agents)
    debt = sum(row.debt_msat for row in audit.agents)
    problems = [*audit.problems, *(problem for row in audit.agents for problem in _unbalanced(row))]
    if audit.open_holds:
        problems.append(f"{audit.open_holds} holds are still open")
    if audit.spent_msat != spent:
        problems.append(f"the audit says {audit.spent_msat} msat spent, the agents' accounts say {spent}")
    if spent + debt != audit.receipts_msat:
        problems.append(f"accounts were charged {spent + debt} msat, receipts say {audit.receipts_msat}")
    if told_msat > spent + debt:
        problems.append(f"clients were told of {told_msat} msat, only {spent + debt} were charged")
    return MoneyReport(
        deposited_msat=sum(row.deposited_msat for row in audit.agents),
        spent_msat=spent,
        debt_msat=debt,
        receipts_msat=audit.receipts_msat,
        told_msat=told_msat,
        open_holds=audit.open_holds,
        problems=tuple(problems),
    )


def _unbalanced(row: Row) -> Iterable[str]:
    left, right = row.available_msat + row.held_msat + row.spent_msat, row.deposited_msat - row.withdrawn_msat
    if left != right:
        yield f"{row.name}: available + held + spent is {left} msat, deposited - withdrawn is {right}"
    if row.available_msat < 0:
        yield f"{row.name}: {row.available_msat} msat available"
    if row.held_msat:
        yield f"{row.name}: {row.held_msat} msat still held"
