"""How an account decides what its operator asks: policy, freeze, budgets and tokens. Handlers of the account actor."""

from __future__ import annotations

import time
from collections.abc import Mapping

from attrs import asdict, evolve

from arbstr.accounts._books import Books, Desk, Handler, Job
from arbstr.accounts._budgets import lives
from arbstr.accounts._messages import (
    AccountView,
    Describe,
    Freeze,
    IssuedToken,
    IssueToken,
    MintBudget,
    MintedBudget,
    RevokeBudget,
    RevokeToken,
    RotateToken,
    SetPolicy,
    Unfreeze,
)
from arbstr.accounts._policy import agent_frozen
from arbstr.accounts._rules import MAX_MSAT
from arbstr.errors import BillingRefused, NotFound
from arbstr.store import (
    AccountChange,
    Also,
    AuditEntry,
    BearerRow,
    BudgetRow,
    Frozen,
    PolicyRow,
    hash_token,
    new_agent_token,
    new_budget_id,
    new_token_id,
    new_ulid,
)
from arbstr.units import format_sats

MAX_BUDGETS = 10_000
MAX_TOKENS = 10_000
MAX_POLICIES = 1_000
"""Of one agent at once: budgets and tokens that have not ended, and versions of a policy that are still to count."""
MAX_NAME = 100
MAX_MODELS = 1_000
NS = 1_000_000_000

_LIMITS = (
    "max_transaction_msat",
    "daily_limit_msat",
    "max_fee_msat",
    "approval_timeout_ms",
    "alert_floor_msat",
    "alert_cooldown_ms",
    "max_holds",
)
_FIELDS = frozenset(_LIMITS) | {"models"}


def _change(
    desk: Desk, kind: str, now_ns: int, also: tuple[Also, ...], action: str, details: dict[str, object]
) -> AccountChange:
    """Rows that move no money. A key of its own: what they are decided on is the account's version."""
    account = desk.books.account
    return AccountChange(
        key=f"{kind}:{new_ulid()}",
        kind=kind,
        at_ns=now_ns,
        before=account,
        after=evolve(account, version=account.version + 1),
        postings=(),
        audit=AuditEntry(action, details),
        also=also,
    )


# Policy


def _set_policy(desk: Desk, job: Job, message: SetPolicy) -> None:
    books, now = desk.books, time.time_ns()
    if len(books.policies) > MAX_POLICIES:
        _drop_past(books, now)
    if len(books.policies) > MAX_POLICIES:
        raise _too_many("versions of the policy that are still to count", MAX_POLICIES)
    row = _next_policy(desk, message, now)
    details = {name: value for name, value in asdict(row).items() if name not in ("agent_id", "set_by_operator")}
    change = _change(desk, "policy", now, (row,), "POLICY_UPDATED", details)
    desk.commit(change, job, change.key, row)


def _next_policy(desk: Desk, message: SetPolicy, now_ns: int) -> PolicyRow:
    latest = desk.books.policies[-1] if desk.books.policies else None
    unknown = message.keep - _FIELDS
    if unknown:
        raise ValueError(f"a policy has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(_FIELDS))}")
    values = {name: getattr(latest if latest and name in message.keep else message, name) for name in _FIELDS}
    for name in _LIMITS:
        if values[name] is not None and not 0 <= values[name] <= MAX_MSAT:
            raise ValueError(f"{name} must be between 0 and {MAX_MSAT}, got {values[name]}")
    _check_models(values["models"])
    return PolicyRow(
        agent_id=desk.agent_id,
        version=(latest.version if latest else 0) + 1,
        set_by_operator=True,
        effective_ns=max(now_ns, message.effective_ns or 0),
        created_ns=now_ns,
        **values,
    )


def _drop_past(books: Books, now_ns: int) -> None:
    counts = books.policy(now_ns)
    if counts is not None:
        books.policies = tuple([row for row in books.policies if row.version >= counts.version])


# Freeze


def _freeze(desk: Desk, job: Job, message: Freeze) -> None:
    now = time.time_ns()  # also when it is frozen by now: whoever asks hears when that is on disk
    since = desk.books.frozen_ns or now
    change = _change(desk, "freeze", now, (Frozen(desk.agent_id, since),), "AGENT_FROZEN", {"reason": message.reason})
    view = evolve(_view(desk, now), account=change.after, frozen_ns=since)
    desk.commit(change, job, change.key, view)


def _unfreeze(desk: Desk, job: Job, _: Unfreeze) -> None:
    now = time.time_ns()
    change = _change(desk, "freeze", now, (Frozen(desk.agent_id, None),), "AGENT_UNFROZEN", {})
    view = evolve(_view(desk, now), account=change.after, frozen_ns=None)
    desk.commit(change, job, change.key, view)


# Budgets


def _mint_budget(desk: Desk, job: Job, message: MintBudget) -> None:
    books, now = desk.books, time.time_ns()
    _check_name(message.name)
    _check_models(message.models)
    _check_expiry(message.expires_ns, now)
    if not 0 < message.amount_msat <= MAX_MSAT:
        raise ValueError(f"a budget must be between 1 and {MAX_MSAT} msat, got {message.amount_msat} msat")
    if message.max_holds is not None and not 0 <= message.max_holds <= MAX_MSAT:
        raise ValueError(f"max_holds must not be negative, got {message.max_holds}")
    if books.frozen_ns is not None:
        raise agent_frozen()
    available = books.account.available_msat
    if message.amount_msat > available:
        raise BillingRefused(
            f"Insufficient balance: the budget is to be {format_sats(message.amount_msat)} sats and the agent has "
            f"{format_sats(available)} sats available; make it smaller, or deposit more",
            reason="insufficient_balance",
            details={"available_msat": available, "requested_msat": message.amount_msat},
        )
    _make_room(books, now)
    budget = BudgetRow(
        budget_id=new_budget_id(),
        agent_id=desk.agent_id,
        name=message.name,
        amount_msat=message.amount_msat,
        models=message.models,
        max_holds=message.max_holds,
        expires_ns=message.expires_ns,
        created_ns=now,
    )
    issued = _new_token(desk, message.name, budget.budget_id, message.expires_ns, now)
    details: dict[str, object] = {
        "budget_id": budget.budget_id,
        "name": budget.name,
        "amount_msat": budget.amount_msat,
        "models": list(budget.models),
        "max_holds": budget.max_holds,
        "expires_ns": budget.expires_ns,
        "token_id": issued.row.token_id,
    }
    change = _change(desk, "budget", now, (budget, issued.row), "BUDGET_MINTED", details)
    desk.commit(change, job, change.key, MintedBudget(budget, issued))


def _make_room(books: Books, now_ns: int) -> None:
    """Forget what has ended and is only in memory because nobody has read the books since. Raises BillingRefused."""
    if len(books.budgets) >= MAX_BUDGETS:
        books.budgets = {
            row.budget_id: row
            for row in books.budgets.values()
            if lives(row, now_ns) or books.budget_use(row.budget_id)[1]
        }
        if len(books.budgets) >= MAX_BUDGETS:
            raise _too_many("budgets", MAX_BUDGETS)
    if len(books.tokens) >= MAX_TOKENS:
        books.tokens = {row.token_id: row for row in books.tokens.values() if _lives(row, now_ns)}
        if len(books.tokens) >= MAX_TOKENS:
            raise _too_many("tokens", MAX_TOKENS)


def _revoke_budget(desk: Desk, job: Job, message: RevokeBudget) -> None:
    books, now = desk.books, time.time_ns()
    budget = books.budgets.get(message.budget_id)
    if budget is None:
        raise NotFound(f"the agent has no budget {message.budget_id}, or it has ended")
    revoked = evolve(budget, revoked_ns=budget.revoked_ns or now)
    tokens = tuple([evolve(row, revoked_ns=now) for row in books.tokens.values() if row.budget_id == message.budget_id])
    details: dict[str, object] = {"budget_id": message.budget_id, "spent_msat": budget.spent_msat}
    change = _change(desk, "budget", now, (revoked, *tokens), "BUDGET_REVOKED", details)
    desk.commit(change, job, change.key, revoked)


# Tokens


def _issue_token(desk: Desk, job: Job, message: IssueToken) -> None:
    books, now = desk.books, time.time_ns()
    _check_name(message.name, or_none=True)
    _check_expiry(message.expires_ns, now)
    expires_ns = message.expires_ns
    if message.budget_id is not None:
        budget = books.budgets.get(message.budget_id)
        if budget is None or not lives(budget, now):
            raise NotFound(f"the agent has no budget {message.budget_id}, or it has ended")
        ends = [at for at in (expires_ns, budget.expires_ns) if at is not None]
        expires_ns = min(ends) if ends else None
    _make_room(books, now)
    issued = _new_token(desk, message.name, message.budget_id, expires_ns, now)
    change = _change(desk, "token", now, (issued.row,), "TOKEN_ISSUED", _of_token(issued.row))
    desk.commit(change, job, change.key, issued)


def _rotate_token(desk: Desk, job: Job, message: RotateToken) -> None:
    books, now = desk.books, time.time_ns()
    old = _live_token(books, message.token_id, now)
    if not 0 <= message.grace_s <= 366 * 86_400:
        raise ValueError(f"grace_s must be between 0 and a year, got {message.grace_s}")
    _make_room(books, now)
    issued = _new_token(desk, old.name, old.budget_id, old.expires_ns, now)
    if message.grace_s:
        until = now + int(message.grace_s * NS)
        ended = evolve(old, expires_ns=until if old.expires_ns is None else min(until, old.expires_ns))
    else:
        ended = evolve(old, revoked_ns=now)
    details = {**_of_token(issued.row), "instead_of": old.token_id, "grace_s": message.grace_s}
    change = _change(desk, "token", now, (issued.row, ended), "TOKEN_ROTATED", details)
    desk.commit(change, job, change.key, issued)


def _revoke_token(desk: Desk, job: Job, message: RevokeToken) -> None:
    now = time.time_ns()
    revoked = evolve(_live_token(desk.books, message.token_id, now), revoked_ns=now)
    change = _change(desk, "token", now, (revoked,), "TOKEN_REVOKED", _of_token(revoked))
    desk.commit(change, job, change.key, revoked)


def _new_token(desk: Desk, name: str, budget_id: str | None, expires_ns: int | None, now_ns: int) -> IssuedToken:
    token = new_agent_token()
    row = BearerRow(new_token_id(), hash_token(token), desk.agent_id, name, budget_id, now_ns, expires_ns)
    return IssuedToken(row, token)


def _live_token(books: Books, token_id: str, now_ns: int) -> BearerRow:
    row = books.tokens.get(token_id)
    if row is None or not _lives(row, now_ns):
        raise NotFound(f"the agent has no token {token_id}, or it has ended")
    return row


def _lives(row: BearerRow, now_ns: int) -> bool:
    return row.expires_ns is None or row.expires_ns > now_ns


def _of_token(row: BearerRow) -> dict[str, object]:
    return {"token_id": row.token_id, "name": row.name, "budget_id": row.budget_id, "expires_ns": row.expires_ns}


# Looking


def _describe(desk: Desk, job: Job, _: Describe) -> None:
    job.reply.set(_view(desk, time.time_ns()))


def _view(desk: Desk, now_ns: int) -> AccountView:
    books = desk.books
    policy = books.policy(now_ns)
    return AccountView(
        account=books.account,
        name=books.name,
        day_spend_msat=books.day_spend_msat(now_ns),
        policy=policy,
        coming_policies=tuple([row for row in books.policies if policy is None or row.version > policy.version]),
        frozen_ns=books.frozen_ns,
        holds=tuple([hold.row for hold in books.holds.values()]),
        budgets=tuple(
            [row for row in books.budgets.values() if lives(row, now_ns) or books.budget_use(row.budget_id)[1]]
        ),
        tokens=tuple([row for row in books.tokens.values() if _lives(row, now_ns)]),
        payments=tuple(books.payments.values()),
        approvals=tuple(books.approvals.values()),
    )


# What is absurd


def _check_name(name: str, *, or_none: bool = False) -> None:
    if (not name and not or_none) or len(name) > MAX_NAME or (name and not name.isprintable()):
        raise ValueError(f"a name has 1 to {MAX_NAME} printable characters, got {name!r}")


def _check_models(models: tuple[str, ...]) -> None:
    if len(models) > MAX_MODELS or not all(isinstance(model, str) and model for model in models):
        raise ValueError(f"models are up to {MAX_MODELS} names, got {models!r:.200}")


def _check_expiry(expires_ns: int | None, now_ns: int) -> None:
    if expires_ns is not None and not now_ns < expires_ns < 1 << 63:
        raise ValueError(f"expires_ns must be in the future, got {expires_ns}")


def _too_many(what: str, limit: int) -> BillingRefused:
    return BillingRefused(
        f"the agent has {limit} {what}, and may have no more; revoke some",
        status=429,
        reason=f"too_many_{what.split()[0]}",
    )


HANDLERS: Mapping[type, Handler] = {
    SetPolicy: _set_policy,
    Freeze: _freeze,
    Unfreeze: _unfreeze,
    MintBudget: _mint_budget,
    RevokeBudget: _revoke_budget,
    IssueToken: _issue_token,
    RotateToken: _rotate_token,
    RevokeToken: _revoke_token,
    Describe: _describe,
}

NOTHING_UNHEARD: frozenset[type] = frozenset({MintBudget, IssueToken, RotateToken, Describe})
"""A token that nobody was told is of no use, and one that was replaced by it is missed."""
