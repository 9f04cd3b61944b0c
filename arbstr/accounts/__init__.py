"""Agents' accounts: one actor per agent serialises every change of its money, so nothing needs a lock.

Rules are pure (``_rules``), commits are the store's, and what a dead process left behind is resolved in ``_recovery``.
"""

from arbstr.accounts._accounts import AccountRef, Accounts
from arbstr.accounts._actor import AgentAccountActor
from arbstr.accounts._messages import (
    Balance,
    Deposit,
    Ended,
    Extend,
    Held,
    Release,
    Renew,
    Reserve,
    Settle,
    Sweep,
)
from arbstr.accounts._now import deposit_now
from arbstr.accounts._recovery import resolve_orphans

__all__ = [
    "AccountRef",
    "Accounts",
    "AgentAccountActor",
    "Balance",
    "Deposit",
    "Ended",
    "Extend",
    "Held",
    "Release",
    "Renew",
    "Reserve",
    "Settle",
    "Sweep",
    "deposit_now",
    "resolve_orphans",
]
