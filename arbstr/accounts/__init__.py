"""Agents' accounts: one actor per agent serialises every change of its money, so nothing needs a lock.

Rules are pure (``_rules``, ``_policy``, ``_budgets``), commits are the store's, and what a dead process left behind is
resolved in ``_recovery``.
"""

from arbstr.accounts._accounts import AccountRef, Accounts
from arbstr.accounts._actor import AgentAccountActor
from arbstr.accounts._approvals import Approvals, Resolve, WaitFor, request_approval
from arbstr.accounts._bank import Bank, Holder
from arbstr.accounts._messages import (
    AccountView,
    Balance,
    Deposit,
    Describe,
    Ended,
    Extend,
    Freeze,
    Held,
    IssuedToken,
    IssueToken,
    MintBudget,
    MintedBudget,
    Release,
    Renew,
    Reserve,
    RevokeBudget,
    RevokeToken,
    RotateToken,
    SetPolicy,
    Settle,
    Sweep,
    Unfreeze,
)
from arbstr.accounts._now import deposit_now, find_agent
from arbstr.accounts._payment_messages import Decided, RequestApproval
from arbstr.accounts._payments import Execute, Payments, SendPayment
from arbstr.accounts._payments_desk import not_granted
from arbstr.accounts._policy import PaymentDecision, Verdict, check_payment, check_request
from arbstr.accounts._recovery import resolve_orphans
from arbstr.accounts._remote_bank import RemoteBank, resolve_remote_orphans
from arbstr.accounts._settlements import Backlog, Settlements
from arbstr.accounts._vault_client import VaultClient
from arbstr.accounts._webhooks import Replay, TellingLedger, Wake, Webhooks, WebhookTarget

__all__ = [
    "AccountRef",
    "AccountView",
    "Accounts",
    "AgentAccountActor",
    "Approvals",
    "Backlog",
    "Balance",
    "Bank",
    "Decided",
    "Deposit",
    "Describe",
    "Ended",
    "Execute",
    "Extend",
    "Freeze",
    "Held",
    "Holder",
    "IssueToken",
    "IssuedToken",
    "MintBudget",
    "MintedBudget",
    "PaymentDecision",
    "Payments",
    "Release",
    "RemoteBank",
    "Renew",
    "Replay",
    "RequestApproval",
    "Reserve",
    "Resolve",
    "RevokeBudget",
    "RevokeToken",
    "RotateToken",
    "SendPayment",
    "SetPolicy",
    "Settle",
    "Settlements",
    "Sweep",
    "TellingLedger",
    "Unfreeze",
    "VaultClient",
    "Verdict",
    "WaitFor",
    "Wake",
    "WebhookTarget",
    "Webhooks",
    "check_payment",
    "check_request",
    "deposit_now",
    "find_agent",
    "not_granted",
    "request_approval",
    "resolve_orphans",
    "resolve_remote_orphans",
]
