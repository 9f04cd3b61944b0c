"""What a law looks at: the books, the facts, and what it remembers of what was committed before."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field, frozen

from arbstr.sim._facts import Facts
from arbstr.store import ApprovalStatus, MemoryBooks, PaymentState


@define(eq=False)
class Memory:
    """What the laws have seen committed; a crash must not change it."""

    ended: dict[str, int] = field(factory=dict)
    """Charges, by hold id."""
    changes: int = 0
    """That have an audit row."""
    last_digest: bytes | None = None
    transactions: int = 0
    lease_ns: int = 0
    reservation_lease_ns: int = 0
    payments: dict[str, PaymentState] = field(factory=dict)
    approvals: dict[str, ApprovalStatus] = field(factory=dict)
    alerts: dict[str, int] = field(factory=dict)
    """When each agent's balance alert was last raised."""
    due_alerts: list[tuple[str, int]] = field(factory=list)
    """Agents whose balance fell below its floor, and when; for the moment of rest that follows."""


@frozen(eq=False)
class Scene:
    books: MemoryBooks
    facts: Facts
    memory: Memory


Wrong = Iterator[str]
