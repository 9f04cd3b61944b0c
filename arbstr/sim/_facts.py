"""What the outside knows for sure, whatever the process says: who asked, who was called, what clients were told.

It survives every crash, like the world does, and the laws compare the books with it.
"""

from __future__ import annotations

from attrs import define, field

from arbstr.units import Price


@define(eq=False)
class Span:
    """A price, and for how long it may have been chosen by. ``to_s`` None: still."""

    price: Price | None
    from_s: float
    to_s: float | None = None


@define(eq=False)
class Call:
    """A request that has reached a provider. ``answered`` is the status of its answer, None: none yet."""

    provider: str
    at_s: float
    answered: int | None = None
    claims: tuple[int, int] | None = None


@define(eq=False)
class Asked:
    """One request, or one hold made directly. Its key is the key of the hold (M5)."""

    key: str
    agent_id: str
    at_s: float
    process: int
    """Which one it was handed to, from 1 on."""
    stream: bool = False
    limit: int | None = None
    direct: bool = False
    calls: list[Call] = field(factory=list)
    pieces: int = 0
    """Of text that its client has got."""
    text_bytes: int = 0
    answered: bool = False
    """Its client has got a whole plain answer."""
    renewed: list[tuple[int, int]] = field(factory=list)
    """When its lease was last renewed (ns of the wall clock), and how many pieces its client had then."""
    crashed: bool = False
    """The process, or the account's actor, died before it was through with it."""


@define(eq=False)
class Facts:
    asked: dict[str, Asked] = field(factory=dict)
    deposits: dict[str, tuple[str, int]] = field(factory=dict)
    """Whose and how much, by key, of all that were ever asked for."""
    promised_ends: dict[str, int] = field(factory=dict)
    """What somebody was told that a hold has cost, by key."""
    promised_deposits: set[str] = field(factory=set)
    prices: dict[str, list[Span]] = field(factory=dict)
    """By provider."""

    def prices_of(self, asked: Asked, call: Call) -> list[Price]:
        """Those by which this request may have chosen the provider."""
        return [
            span.price
            for span in self.prices[call.provider]
            if span.price is not None and span.from_s <= call.at_s and (span.to_s is None or span.to_s >= asked.at_s)
        ]

    def least_cost_msat(self, asked: Asked, call: Call, tokens: int) -> int:
        """Of so many completion tokens and no prompt, by the kindest of those prices."""
        return min((price.cost_msat(0, tokens) for price in self.prices_of(asked, call)), default=0)
