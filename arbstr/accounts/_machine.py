"""The life of a payment: which state follows which, what each step does to the money, and what a crash leaves.

::

    (new) ─► DENIED
      │ ──► PENDING_APPROVAL ─► HELD, FAILED          holds money
      └───► HELD ─► SENDING, FAILED                   holds money; the wallet has not been asked
                    SENDING ─► SENDING (other rail), UNKNOWN, SUCCEEDED, FAILED
                    UNKNOWN ─► SUCCEEDED, FAILED

SENDING is on disk before the wallet is asked. From there only the wallet's own word leads to an end: a payment that may
have been sent keeps its hold, for as long as it takes. Pure; clocks, disks and wallets are elsewhere.
"""

from __future__ import annotations

from enum import Enum, auto

from attrs import frozen

from arbstr.store import PaymentState
from arbstr.wallets import Result, WalletState

S = PaymentState


class Money(Enum):
    """What a step does to the hold of the payment."""

    NONE = auto()
    HOLD = auto()
    """Amount and fee limit are set aside."""
    CHARGE = auto()
    """The hold ends by amount and fee; the rest goes back."""
    RELEASE = auto()
    """The hold ends and all of it goes back."""


class Needs(Enum):
    """Whose word a step takes."""

    DECISION = auto()
    """Ours: a policy, a human, a deadline of an approval."""
    WALLET = auto()
    """The wallet's definite answer about this very key."""
    DOUBT = auto()
    """That the wallet has not given one."""


@frozen
class Step:
    money: Money
    needs: Needs


_TABLE: dict[tuple[PaymentState | None, PaymentState], Step] = {
    (None, S.DENIED): Step(Money.NONE, Needs.DECISION),
    (None, S.PENDING_APPROVAL): Step(Money.HOLD, Needs.DECISION),
    (None, S.HELD): Step(Money.HOLD, Needs.DECISION),
    (S.PENDING_APPROVAL, S.HELD): Step(Money.NONE, Needs.DECISION),
    (S.PENDING_APPROVAL, S.FAILED): Step(Money.RELEASE, Needs.DECISION),
    (S.HELD, S.SENDING): Step(Money.NONE, Needs.DECISION),
    (S.HELD, S.FAILED): Step(Money.RELEASE, Needs.DECISION),
    (S.SENDING, S.SENDING): Step(Money.NONE, Needs.WALLET),  # it failed on its first rail and goes to the other one
    (S.SENDING, S.UNKNOWN): Step(Money.NONE, Needs.DOUBT),
    (S.SENDING, S.SUCCEEDED): Step(Money.CHARGE, Needs.WALLET),
    (S.SENDING, S.FAILED): Step(Money.RELEASE, Needs.WALLET),
    (S.UNKNOWN, S.SUCCEEDED): Step(Money.CHARGE, Needs.WALLET),
    (S.UNKNOWN, S.FAILED): Step(Money.RELEASE, Needs.WALLET),
}

FINAL = frozenset({S.DENIED, S.SUCCEEDED, S.FAILED})
HOLDING = frozenset({S.PENDING_APPROVAL, S.HELD, S.SENDING, S.UNKNOWN})
MAY_BE_SENT = frozenset({S.SENDING, S.UNKNOWN})


def step(before: PaymentState | None, after: PaymentState) -> Step | None:
    """What the way from one state to another does; None when there is no such way. ``before`` None: a new payment."""
    return _TABLE.get((before, after))


class AfterCrash(Enum):
    """What has to be done about a payment whose driver is gone."""

    NOTHING = auto()
    WAIT = auto()
    """A human decides, or the approval expires."""
    RELEASE = auto()
    """The wallet was never asked."""
    LOOK_UP = auto()
    """Only the wallet knows."""


AFTER_CRASH: dict[PaymentState, AfterCrash] = {
    S.DENIED: AfterCrash.NOTHING,
    S.PENDING_APPROVAL: AfterCrash.WAIT,
    S.HELD: AfterCrash.RELEASE,
    S.SENDING: AfterCrash.LOOK_UP,
    S.UNKNOWN: AfterCrash.LOOK_UP,
    S.SUCCEEDED: AfterCrash.NOTHING,
    S.FAILED: AfterCrash.NOTHING,
}


@frozen
class Next:
    """Where a wallet's answer leads: to a state, and where that is SENDING again, on which rail."""

    state: PaymentState
    rail: str | None = None


def after_answer(before: PaymentState, answer: Result | None, fallback: str | None) -> Next | None:
    """Where the wallet's answer leads from SENDING or UNKNOWN; None: stay, and ask again later.

    ``answer`` None: there was none, in time or at all. ``fallback``: the rail to try if this rail's first answer is a
    definite failure. What was ever in doubt is not tried elsewhere: nobody expects it to be paid so late.
    """
    state = WalletState.UNKNOWN if answer is None else answer.state
    if state is WalletState.SUCCEEDED:
        return Next(S.SUCCEEDED)
    if state is WalletState.FAILED:
        return Next(S.SENDING, fallback) if fallback and before is S.SENDING else Next(S.FAILED)
    return Next(S.UNKNOWN) if before is S.SENDING else None
