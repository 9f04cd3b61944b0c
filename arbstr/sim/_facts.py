"""What the outside knows for sure, whatever the process says: who asked, who was called, what clients were told.

It survives every crash, like the world does, and the laws compare the books with it.
"""

from __future__ import annotations

from typing import Literal

from attrs import define, field, frozen

from arbstr.store import PaymentState
from arbstr.units import Price
from arbstr.wallets import SimulatedBook


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
    """One request, or one hold made directly or for another core. Its key is the key of the hold (M5)."""

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
    remote: bool = False
    """It was made over the vault's API by another core: without a sign of life it is given back, and not before."""
    sign_of_life_ns: int = 0
    """Of the wall clock, when the vault last said yes to it."""
    token: Token | None = None
    """What it was asked with; None: its agent is sure of itself."""
    late: Asked | None = None
    """Of another core: what it is charged by when it settles after its lease has run out."""
    is_late: bool = False
    approval_id: str | None = None
    """What it holds under, where a human had to be asked about it."""

    @property
    def hold_key(self) -> str:
        return self.approval_id or self.key


@frozen(eq=False)
class Token:
    """As it was shown to whoever asked for it."""

    text: str
    agent_id: str
    token_id: str
    budget_id: str | None = None


@define(eq=False)
class Wish:
    """Money that an agent wants to leave. Its destination is nobody else's, so that its payment is known by it."""

    destination: str
    agent_id: str
    kind: Literal["payment", "withdrawal"]
    amount_msat: int
    key: str | None
    invoice: tuple[int | None, int] | None = None
    """What the destination asks for, and until when (ns of the wall clock)."""
    times: int = 0
    """It was said."""
    told: dict[str, PaymentState] = field(factory=dict)
    """What somebody was told of it: by transaction id."""


@define(eq=False)
class Facts:
    asked: dict[str, Asked] = field(factory=dict)
    deposits: dict[str, tuple[str, int]] = field(factory=dict)
    """Whose and how much, by key, of all that were ever asked for."""
    promised_ends: dict[str, int] = field(factory=dict)
    """What somebody was told that a hold has cost, by key."""
    promised_deposits: set[str] = field(factory=set)
    promised_holds: dict[str, int] = field(factory=dict)
    """What another core was told that is held for it, by key."""
    cores: dict[str, Asked] = field(factory=dict)
    """What cores of ours have asked for, by the id of the request there."""
    core_costs: dict[str, int] = field(factory=dict)
    """What their clients were told, and what their receipts say in the end."""
    core_receipts: dict[str, int] = field(factory=dict)
    prices: dict[str, list[Span]] = field(factory=dict)
    """By provider."""
    latest_ns: int = 0
    """The wall clock at its furthest."""
    clock_jumped_s: float = float("-inf")
    """When it last did."""
    disk_suffered: bool = False
    """In the life of the process that lives, not everything could be written."""
    # Payments, by those who ask for them and those who make them
    wishes: dict[str, Wish] = field(factory=dict)
    """By destination."""
    wallets: dict[str, SimulatedBook] = field(factory=dict)
    """By rail."""
    orders: set[tuple[str, str]] = field(factory=set)
    """That left a process for a wallet: rail and payment."""
    # Humans
    verdicts: dict[str, set[tuple[str, str]]] = field(factory=dict)
    """What was said about an approval: verdict and who."""
    decided: dict[str, list[str]] = field(factory=dict)
    """Who was told that it was they who decided."""
    tokens: list[Token] = field(factory=list)
    revoked: set[str] = field(factory=set)
    """Tokens whose end was acknowledged."""
    done: dict[tuple[str, str], int] = field(factory=dict)
    """How often somebody was told that an action on an agent is done: so many audit rows there must be."""
    # The operator's webhook
    heard: dict[str, str] = field(factory=dict)
    """The bodies of events that it has taken, by id."""

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
