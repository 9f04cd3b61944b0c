"""The vault's own laws: limits and budgets, payments and wallets, approvals, tokens, what the operator is told.

Each is recomputed from the rows that are committed and from facts that the process cannot touch; none asks the code
that it judges. A payment's states, an approval's and an alert's are followed in ``Memory``.
"""

from __future__ import annotations

import trio

from arbstr.sim._facts import Facts, Wish
from arbstr.sim._scene import Scene, Wrong
from arbstr.store import (
    DAY_NS,
    AccountChange,
    ApprovalRow,
    ApprovalStatus,
    Change,
    EventProgress,
    EventRow,
    EventState,
    HoldChange,
    HoldRow,
    HoldState,
    MemoryBooks,
    PaymentRow,
    PaymentState,
    PolicyRow,
    hash_token,
)
from arbstr.wallets import PaymentOrder, WalletState

S = PaymentState
NS_PER_MS = 1_000_000
ENDED = frozenset((S.DENIED, S.SUCCEEDED, S.FAILED))
NOT_ASKED = frozenset((S.PENDING_APPROVAL, S.HELD))
ASKED = frozenset((S.SENDING, S.UNKNOWN))
FEE_MSAT = 1_000
"""Where a policy says nothing of it."""
COOLDOWN_MS = 3_600_000
"""Of alerts, where a policy says nothing."""
ON_TIME_S = 1.5
"""An approval expires to the second, and then it has to reach the disk."""
LOOK_S = 10.0
"""Whoever watches approvals may learn so late that the clock has jumped."""


# Limits


def policy_in_force(books: MemoryBooks, agent_id: str, now_ns: int) -> PolicyRow | None:
    """The newest version whose time has come, or had when it was made."""
    found = [row for row in books.policies[agent_id] if row.effective_ns <= max(now_ns, row.created_ns)]
    return max(found, key=lambda row: row.version, default=None)


def day_msat(scene: Scene, agent_id: str) -> int:
    """Charged in the last 24 hours, by the clock at its furthest, and held."""
    spent = 0
    for hold in scene.books.holds.values():
        if hold.agent_id == agent_id:
            if hold.state is HoldState.OPEN:
                spent += hold.amount_msat
            elif (hold.ended_ns or 0) > scene.facts.latest_ns - DAY_NS:
                spent += hold.charged_msat or 0
    return spent


def _open_holds(scene: Scene, agent_id: str) -> list[HoldRow]:
    holds = scene.books.holds.values()
    return [hold for hold in holds if hold.agent_id == agent_id and hold.state is HoldState.OPEN]


def _growing(scene: Scene, change: Change) -> HoldRow | None:
    """The hold that this change makes or makes larger, as it is now."""
    if isinstance(change, AccountChange) and change.hold is not None:
        hold = change.hold
        if isinstance(hold, HoldRow) or hold.amount_msat > hold.before_msat:
            return scene.books.holds[hold.hold_id]
    return None


def is_late(scene: Scene, change: Change) -> bool:
    """It sets nothing aside: a core has used what had been given back meanwhile, and is charged for it."""
    hold = change.hold if isinstance(change, AccountChange) else None
    asked = scene.facts.asked.get(hold.key) if isinstance(hold, HoldRow) else None
    return isinstance(hold, HoldRow) and asked is not None and asked.is_late and not hold.amount_msat


def limits_are_kept(scene: Scene, change: Change) -> Wrong:
    """Nothing is held that the policy in force does not allow: not more at once, not more in a day, not so many."""
    hold = _growing(scene, change)
    if hold is None or not isinstance(change, AccountChange) or is_late(scene, change):
        return
    books, agent_id = scene.books, hold.agent_id
    policy = policy_in_force(books, agent_id, change.at_ns)
    if books.agents[agent_id].frozen_ns is not None:
        yield f"limits: {change.key} holds money of an agent that is frozen"
    if policy is None or not policy.set_by_operator:
        if hold.kind != "request":
            yield f"limits: {change.key} is to leave an agent whose policy nobody has set"
        return
    if policy.max_transaction_msat == 0 == policy.daily_limit_msat:
        yield f"limits: {change.key} holds money of an agent that may do nothing"
    yield from _amount_is_allowed(scene, hold, policy)
    day = day_msat(scene, agent_id)
    if policy.daily_limit_msat is not None and day > policy.daily_limit_msat:
        yield f"limits: {change.key} makes it {day} msat in a day of {policy.daily_limit_msat}"
    if isinstance(change.hold, HoldRow) and hold.kind == "request":
        if policy.models and hold.model not in policy.models:
            yield f"limits: {change.key} is for {hold.model}, and {policy.models} are allowed"
        if policy.max_holds is not None and len(_open_holds(scene, agent_id)) > policy.max_holds:
            yield f"limits: {change.key} is one more open hold than {policy.max_holds}"


def _amount_is_allowed(scene: Scene, hold: HoldRow, policy: PolicyRow) -> Wrong:
    """Or a human was asked."""
    payment = scene.books.payments.get(hold.key)
    amount_msat = hold.amount_msat if payment is None else payment.amount_msat
    limit = policy.max_transaction_msat
    asked = any(row.transaction_id == hold.key for row in scene.books.approvals.values())
    if limit is not None and amount_msat > limit and not asked:
        yield f"limits: {hold.key} is {amount_msat} msat where one transaction may be {limit}"


def budgets_are_kept(scene: Scene, change: Change) -> Wrong:
    """Whoever has a budget's token holds from that budget, as long as it lives and not beyond it."""
    hold = _growing(scene, change)
    if hold is None or not isinstance(change, AccountChange) or hold.kind != "request" or is_late(scene, change):
        return
    asked = scene.facts.asked.get(hold.key)
    if asked is not None and asked.token is not None and asked.token.budget_id != hold.budget_id:
        yield f"budgets: {hold.key} was asked for with a token of {asked.token.budget_id} and holds of {hold.budget_id}"
    if hold.budget_id is None:
        return
    budget = scene.books.budgets[hold.budget_id]
    holds = [each for each in _open_holds(scene, hold.agent_id) if each.budget_id == hold.budget_id]
    held = sum(each.amount_msat for each in holds)
    if budget.revoked_ns is not None or (budget.expires_ns is not None and budget.expires_ns <= change.at_ns):
        yield f"budgets: {change.key} holds of {budget.budget_id}, which has ended"
    if budget.spent_msat + held > budget.amount_msat:
        yield f"budgets: of {budget.amount_msat} msat {budget.spent_msat} are spent and {held} held ({change.key})"
    if isinstance(change.hold, HoldRow):
        if budget.models and hold.model not in budget.models:
            yield f"budgets: {change.key} is for {hold.model}, and {budget.models} are allowed"
        if budget.max_holds is not None and len(holds) > budget.max_holds:
            yield f"budgets: {change.key} is one more open hold than {budget.max_holds}"


def budgets_say_what_was_charged(scene: Scene) -> Wrong:
    charged: dict[str, int] = {}
    for hold in scene.books.holds.values():
        if hold.budget_id is not None:
            charged[hold.budget_id] = charged.get(hold.budget_id, 0) + (hold.charged_msat or 0)
    for budget in scene.books.budgets.values():
        if budget.spent_msat != charged.get(budget.budget_id, 0):
            came_to = charged.get(budget.budget_id, 0)
            yield f"budgets: {budget.budget_id} has spent {budget.spent_msat} msat, its holds were charged {came_to}"


# Payments


def _payment_of(change: Change) -> PaymentRow | None:
    if not isinstance(change, AccountChange):
        return None
    return next((row for row in change.also if isinstance(row, PaymentRow)), None)


def payments_are_wished_for(scene: Scene, change: Change) -> Wrong:
    """As somebody said it, and once where a key names it (M5); an invoice is paid as it asks to be."""
    payment = _payment_of(change)
    if payment is None or payment.transaction_id in scene.memory.payments:
        return
    wish = scene.facts.wishes.get(payment.destination or "")
    said = None if wish is None else (wish.agent_id, wish.kind, wish.amount_msat, wish.key)
    if wish is None or said != (payment.agent_id, payment.kind, payment.amount_msat, payment.key):
        yield f"M5: payment {payment.transaction_id} is what nobody has asked for: {said}"
        return
    rows = scene.books.payments.values()
    if payment.key is not None and sum((row.agent_id, row.key) == (wish.agent_id, wish.key) for row in rows) != 1:
        yield f"M5: the key {payment.key} names more than payment {payment.transaction_id}"
    same = [row for row in rows if row.destination == wish.destination]
    if len(same) > (1 if wish.key is not None else wish.times):
        yield f"M5: {wish.destination} was asked for {wish.times} times by {wish.key}, and is paid {len(same)} times"
    if payment.state is S.DENIED:
        return
    if payment.kind == "withdrawal" and payment.state is not S.PENDING_APPROVAL:
        yield f"approvals: withdrawal {payment.transaction_id} is {payment.state} and nobody was asked"
    yield from _invoice_is_right(wish, payment)
    policy = policy_in_force(scene.books, payment.agent_id, payment.created_ns)
    limit = policy.max_fee_msat if policy is not None else None
    if payment.fee_limit_msat != (FEE_MSAT if limit is None else limit):
        yield f"limits: the fee of {payment.transaction_id} may be {payment.fee_limit_msat} msat, allowed {limit}"


def _invoice_is_right(wish: Wish, payment: PaymentRow) -> Wrong:
    if wish.invoice is None:
        return
    amount_msat, expires_ns = wish.invoice
    if amount_msat is not None and amount_msat != payment.amount_msat:
        yield f"payments: {payment.transaction_id} is of {payment.amount_msat} msat, its invoice of {amount_msat}"
    if expires_ns <= payment.created_ns:
        yield f"payments: the invoice of {payment.transaction_id} has expired"


def payments_are_never_guessed(scene: Scene, change: Change) -> Wrong:
    """Each step is one that there is, and an end is what the wallets really did."""
    payment = _payment_of(change)
    if payment is None:
        return
    key, before = payment.transaction_id, scene.memory.payments.get(payment.transaction_id)
    scene.memory.payments[key] = payment.state
    if before in ENDED:
        yield f"payments: {key} had ended as {before}, and becomes {payment.state}"
    if payment.state in ENDED and payment.state is not S.DENIED:
        yield from _end_is_true(scene, payment, before)
    if payment.state is S.SENDING and before is S.SENDING:
        yield from _never_paid(scene, payment, "is tried elsewhere")


def _end_is_true(scene: Scene, payment: PaymentRow, before: PaymentState | None) -> Wrong:
    key = payment.transaction_id
    if payment.state is S.SUCCEEDED:
        book = scene.facts.wallets.get(payment.rail or "")
        entry = book.entries.get(key) if book is not None else None
        if before not in ASKED or entry is None or entry.behaviour.outcome is not WalletState.SUCCEEDED:
            yield f"payments: {key} was {before} and has succeeded, says the vault, and the wallet: {entry}"
        elif payment.fee_msat != entry.behaviour.fee_msat:
            yield f"payments: {key} cost {entry.behaviour.fee_msat} msat in fees, and the vault says {payment.fee_msat}"
    elif before in ASKED:
        yield from _never_paid(scene, payment, "has failed, says the vault")
    else:
        orders = [rail for rail in scene.facts.wallets if (rail, key) in scene.facts.orders]
        if orders:
            yield f"payments: {key} was never sent, says the vault, and {orders} were asked"


def _never_paid(scene: Scene, payment: PaymentRow, how: str) -> Wrong:
    """Neither now nor later: the wallet has said so, or has promised it."""
    key = payment.transaction_id
    for rail, book in scene.facts.wallets.items():
        entry = book.entries.get(key)
        if entry is None:
            if (rail, key) in scene.facts.orders and key not in book.barred:
                yield f"payments: {key} {how}, and it may be on its way to {rail}"
        elif entry.behaviour.outcome is not WalletState.FAILED or trio.current_time() < entry.over_at:
            yield f"payments: {key} {how}, and {rail} says {entry.behaviour.outcome}"


def payments_are_held_for(scene: Scene, change: Change) -> Wrong:
    """Until the end is known all of it is held; then amount and fee are charged, or nothing."""
    payment = _payment_of(change)
    if payment is not None:
        yield from _money_is_right(scene, payment)


def _money_is_right(scene: Scene, payment: PaymentRow) -> Wrong:
    key, hold = payment.transaction_id, scene.books.holds.get(scene.books.hold_ids.get(payment.transaction_id, ""))
    match payment.state:
        case S.DENIED:
            right = hold is None
        case S.SUCCEEDED:
            whole_msat = payment.amount_msat + (payment.fee_msat or 0)
            right = hold is not None and (hold.state, hold.charged_msat) == (HoldState.SETTLED, whole_msat)
        case S.FAILED:
            right = hold is not None and (hold.state, hold.charged_msat) == (HoldState.RELEASED, 0)
        case _:
            whole_msat = payment.amount_msat + payment.fee_limit_msat
            right = hold is not None and (hold.state, hold.amount_msat) == (HoldState.OPEN, whole_msat)
    if not right:
        yield f"payments: {key} of {payment.amount_msat} msat is {payment.state}, and its hold is {hold}"


def a_withdrawal_is_no_spending(scene: Scene, change: Change) -> Wrong:
    """It goes to whom it belongs to; only the fee is spent."""
    payment = _payment_of(change)
    if payment is not None and isinstance(change, AccountChange) and payment.state is S.SUCCEEDED:
        left = change.after.withdrawn_msat - change.before.withdrawn_msat
        if left != (payment.amount_msat if payment.kind == "withdrawal" else 0):
            yield f"payments: {payment.kind} {payment.transaction_id} withdraws {left} msat"


def m6_the_payment_is_on_disk_before_the_wallet_is_asked(scene: Scene, rail: str, order: PaymentOrder) -> Wrong:
    """As one that is being sent there, with its money held; and no wallet is asked for the same twice."""
    key, facts = order.key, scene.facts
    payment = scene.books.payments.get(key)
    hold = scene.books.holds.get(scene.books.hold_ids.get(key, ""))
    if (rail, key) in facts.orders:
        yield f"payments: {rail} is asked again to pay {key}"
    facts.orders.add((rail, key))
    if payment is None or (payment.state, payment.rail) != (S.SENDING, rail):
        yield f"M6: {rail} is asked to pay {key}, and on disk it is {payment}"
        return
    if (order.amount_msat, order.destination) != (payment.amount_msat, payment.destination):
        yield f"M6: {rail} is asked to pay {order}, and on disk it is {payment}"
    if hold is None or hold.state is not HoldState.OPEN or hold.amount_msat < order.amount_msat + order.fee_limit_msat:
        yield f"M6: {rail} is asked to pay {order}, and what is held is {hold}"


def nothing_is_paid_twice(scene: Scene) -> Wrong:
    """Nor without a payment that says so: whatever happened meanwhile."""
    paid = [key for book in scene.facts.wallets.values() for key in book.paid]
    if len(set(paid)) != len(paid):
        yield f"payments: paid more than once: {sorted(key for key in set(paid) if paid.count(key) > 1)}"
    for key in paid:
        payment = scene.books.payments.get(key)
        if payment is None or payment.state not in (*ASKED, S.SUCCEEDED):
            yield f"payments: {key} was paid, and on disk it is {payment.state if payment else None}"


def payments_are_where_their_money_is(scene: Scene) -> Wrong:
    for payment in scene.books.payments.values():
        yield from _money_is_right(scene, payment)


def m6_what_payers_are_told_is_true(scene: Scene) -> Wrong:
    """One payment for a key, and an end that was told is one."""
    for wish in scene.facts.wishes.values():
        if wish.key is not None and len(wish.told) > 1:
            yield f"M5: the key {wish.key} was answered with {len(wish.told)} payments"
        for key, state in wish.told.items():
            payment = scene.books.payments.get(key)
            if payment is None or (state in ENDED and payment.state is not state):
                yield f"M6: {wish.destination} was said to be {state}, and on disk it is {payment}"


def never_known(facts: Facts, payment: PaymentRow) -> bool:
    """The wallet will never say what became of it."""
    for book in facts.wallets.values():
        entry = book.entries.get(payment.transaction_id)
        if entry is not None and entry.behaviour.outcome is WalletState.UNKNOWN:
            return True
    return False


def payments_end(scene: Scene) -> Wrong:
    """All those of which a wallet ever says what it did."""
    for payment in scene.books.payments.values():
        if payment.state not in ENDED and not never_known(scene.facts, payment):
            yield f"payments: {payment.transaction_id} is {payment.state} at the end"


# Approvals


def _approval_of(change: Change) -> ApprovalRow | None:
    if not isinstance(change, AccountChange):
        return None
    return next((row for row in change.also if isinstance(row, ApprovalRow)), None)


def an_approval_is_decided_once(scene: Scene, change: Change) -> Wrong:
    """By somebody who said so, before it has expired; or it has expired."""
    approval = _approval_of(change)
    if approval is None or not isinstance(change, AccountChange):
        return
    key, before = approval.approval_id, scene.memory.approvals.get(approval.approval_id)
    scene.memory.approvals[key] = approval.status
    later = (ApprovalStatus.USED, ApprovalStatus.TIMED_OUT)  # what was granted to a request is taken, or nobody came
    comes = approval.kind == "request" and before is ApprovalStatus.APPROVED and approval.status in later
    withdrawn = approval.kind == "request" and (approval.decided_by, approval.reason) == ("requester", "withdrawn")
    if before not in (None, ApprovalStatus.PENDING) and not comes:
        yield f"approvals: {key} was {before}, and becomes {approval.status}"
    expired, said = change.at_ns >= approval.expires_ns, scene.facts.verdicts.get(key, set())
    match approval.status:
        case ApprovalStatus.APPROVED:
            if expired or ("approve", approval.decided_by) not in said:
                late = "late" if expired else "in time"
                yield f"approvals: {key} is approved by {approval.decided_by}, {late}, and {sorted(said)} was said"
            yield from _may_be_granted(scene, approval, change.at_ns)
        case ApprovalStatus.DENIED:
            refused = approval.decided_by == "policy" and any(verdict == "approve" for verdict, _ in said)
            if not withdrawn and (expired or not (refused or ("deny", approval.decided_by) in said)):
                yield f"approvals: {key} is denied by {approval.decided_by}, and {sorted(said)} was said"
        case ApprovalStatus.TIMED_OUT:
            if not expired and not withdrawn:
                early_ns = approval.expires_ns - change.at_ns
                yield f"approvals: {key} expires {early_ns} ns before its time"
    if approval.status in (ApprovalStatus.DENIED, ApprovalStatus.TIMED_OUT):
        hold = change.hold
        if not isinstance(hold, HoldChange) or (hold.state, hold.charged_msat) != (HoldState.RELEASED, 0):
            yield f"approvals: {key} is {approval.status}, and what was held becomes {hold}"


def _may_be_granted(scene: Scene, approval: ApprovalRow, now_ns: int) -> Wrong:
    """At the moment when it is, by all but the limit of one transaction."""
    books, agent_id, key = scene.books, approval.agent_id, approval.approval_id
    policy, account = policy_in_force(books, agent_id, now_ns), books.accounts[agent_id]
    if books.agents[agent_id].frozen_ns is not None:
        yield f"approvals: {key} is granted to an agent that is frozen"
    if policy is None or policy.max_transaction_msat == 0 == policy.daily_limit_msat:
        yield f"approvals: {key} is granted to an agent that may do nothing"
        return
    day = day_msat(scene, agent_id)
    if policy.daily_limit_msat is not None and day > policy.daily_limit_msat:
        yield f"approvals: {key} is granted, and makes it {day} msat in a day of {policy.daily_limit_msat}"
    if account.debt_msat:
        yield f"approvals: {key} is granted beside a debt of {account.debt_msat} msat"


def one_decider_is_told_so(scene: Scene) -> Wrong:
    for key, names in scene.facts.decided.items():
        if len(names) > 1:
            yield f"approvals: {names} were all told that they have decided {key}"
        if scene.memory.approvals.get(key) in (None, ApprovalStatus.PENDING):
            yield f"M6: {names} were told that they have decided {key}, and on disk it waits"


def approvals_expire_on_time(scene: Scene, now_ns: int, grace_s: float) -> Wrong:
    """To the second, whenever somebody lives who could see to it and a disk that takes it."""
    for approval in scene.books.approvals.values():
        late_ns = now_ns - approval.expires_ns
        if approval.is_open and late_ns > grace_s * 1e9:
            yield f"approvals: {approval.approval_id} is {approval.status} {late_ns / 1e9:.3f} s after it has expired"


def approvals_end(scene: Scene) -> Wrong:
    for approval in scene.books.approvals.values():
        if approval.is_open:
            yield f"approvals: {approval.approval_id} is {approval.status} at the end"


# Tokens


def tokens_count_as_long_as_they_live(
    scene: Scene, text: str, holder: tuple[str, str | None] | None, now_ns: int
) -> Wrong:
    """Whoever presents one is known by the rows on disk; ``holder`` is who the process takes them for. One that has
    expired may come back when the clock does, or not."""
    row = scene.books.tokens.get(scene.books.hashes.get(hash_token(text), ""))
    lives = row is not None and row.revoked_ns is None and (row.expires_ns is None or row.expires_ns > now_ns)
    expected = (row.agent_id, row.budget_id) if row is not None and lives else None
    expired = row is not None and row.expires_ns is not None and row.expires_ns <= scene.facts.latest_ns
    if holder != expected and not (holder is None and expired):
        yield f"tokens: {row} is taken for {holder}, and it is {expected}"
    if holder is not None and text in scene.facts.revoked and not expired:
        yield f"tokens: the token of {holder} was revoked, and is taken"


# What is acknowledged


def m6_what_was_done_is_audited(scene: Scene) -> Wrong:
    """Policies, freezes, budgets and tokens: as often as somebody was told so, the audit log says so."""
    if not scene.facts.done:
        return
    found: dict[tuple[str, str], int] = {}
    for row in scene.books.audit.values():
        found[row.agent_id, row.action] = found.get((row.agent_id, row.action), 0) + 1
    for (agent_id, action), times in scene.facts.done.items():
        if found.get((agent_id, action), 0) < times:
            yield f"M6: {action} of {agent_id} was acknowledged {times} times, and {found} are on disk"


def m6_what_cores_were_told_is_held(scene: Scene) -> Wrong:
    for key, amount_msat in scene.facts.promised_holds.items():
        hold = scene.books.holds.get(scene.books.hold_ids.get(key, ""))
        if hold is None or (hold.state is HoldState.OPEN and hold.amount_msat < amount_msat):
            yield f"M6: a core was told that {key} holds {amount_msat} msat, and it is {hold}"


# What the operator is told

_OF_PAYMENTS = {S.SUCCEEDED: ("payment_settled",), S.FAILED: ("payment_failed", "approval_denied", "approval_timeout")}


def events_are_written_with_what_they_tell(scene: Scene, change: Change) -> Wrong:
    """Ends of payments, and questions and answers of approvals: in the same transaction, so that none is lost."""
    if not isinstance(change, AccountChange):
        return
    names = {row.event for row in change.also if isinstance(row, EventRow)}
    payment, approval = _payment_of(change), _approval_of(change)
    if payment is not None and payment.state in _OF_PAYMENTS and not names & set(_OF_PAYMENTS[payment.state]):
        yield f"events: {payment.transaction_id} is {payment.state}, and the operator is told {sorted(names)}"
    asks = approval is not None and approval.status is ApprovalStatus.PENDING
    if approval is not None and asks and not names & {"approval_required", "withdrawal_requested"}:
        yield f"events: {approval.approval_id} waits, and the operator is told {sorted(names)}"


def an_event_is_told_as_it_is_on_disk(scene: Scene, event_id: str, body: str) -> Wrong:
    """The same each time, and never before it is committed (M6)."""
    event = scene.books.outbox.get(event_id)
    if event is None or event.body != body:
        yield f"events: {event_id} is told as {body}, and on disk it is {event}"


def an_event_is_told_before_it_counts_as_told(scene: Scene, change: Change) -> Wrong:
    delivered = isinstance(change, EventProgress) and change.event.state is EventState.DELIVERED
    if isinstance(change, EventProgress) and delivered and change.event.event_id not in scene.facts.heard:
        yield f"events: {change.event.event_id} counts as delivered, and nobody has taken it"


def every_event_is_told(scene: Scene) -> Wrong:
    for event in scene.books.outbox.values():
        if event.event_id not in scene.facts.heard:
            yield f"events: {event.event_id} ({event.event}) is {event.state} and was never taken by the webhook"


def alerts_keep_their_cooldown(scene: Scene, change: Change) -> Wrong:
    """Whatever process raises them; and there is one when there must be, or its process died."""
    memory = scene.memory
    if not isinstance(change, AccountChange):
        return
    agent_id, account = change.after.agent_id, change.after
    policy = policy_in_force(scene.books, agent_id, change.at_ns)
    floor = policy.alert_floor_msat if policy is not None else None
    cooldown_ms = policy.alert_cooldown_ms if policy is not None else None
    cooldown_ns = (COOLDOWN_MS if cooldown_ms is None else cooldown_ms) * NS_PER_MS
    last_ns = memory.alerts.get(agent_id)
    due = last_ns is None or change.at_ns - last_ns >= cooldown_ns
    below = bool(floor) and account.available_msat - account.debt_msat < (floor or 0)
    if change.kind == "alert":
        memory.alerts[agent_id] = change.at_ns
        if not (due and below):
            last = "never" if last_ns is None else f"{(change.at_ns - last_ns) / 1e9} s ago"
            yield f"alerts: raised for {account} with a floor of {floor}, and last {last} of {cooldown_ms} ms"
    elif (
        due and below and isinstance(change.hold, HoldChange) and change.hold.charged_msat and change.kind != "resolve"
    ):
        memory.due_alerts.append((agent_id, change.at_ns))


def alerts_are_raised(scene: Scene) -> Wrong:
    """By the process that lived on."""
    due, scene.memory.due_alerts = scene.memory.due_alerts, []
    for agent_id, at_ns in due:
        if scene.memory.alerts.get(agent_id, -1) < at_ns:
            yield f"alerts: the balance of {agent_id} fell below its floor, and nobody says so"


# Leases of other cores


def m7_a_reservation_lives_as_long_as_its_lease(scene: Scene, change: Change) -> Wrong:
    """Whatever restarts meanwhile: its core may be alive and well."""
    if not isinstance(change, AccountChange) or change.kind != "resolve" or change.hold is None:
        return
    hold = scene.books.holds[change.hold.hold_id]
    asked = scene.facts.asked.get(hold.key)
    if asked is not None and asked.remote:
        left_ns = asked.sign_of_life_ns + scene.memory.reservation_lease_ns - change.at_ns
        if asked.sign_of_life_ns and left_ns > 0:
            yield f"M7: {hold.key} is given back {left_ns / 1e9:.3f} s before its lease has run out"


def cores_are_charged_what_they_say(scene: Scene) -> Wrong:
    """The vault's charges and a core's receipts, each in books of their own, come to the same: whichever died when."""
    books, facts = scene.books, scene.facts
    for key, asked in facts.cores.items():
        names = (asked.key, asked.late.key if asked.late is not None else "")
        holds = [books.holds[books.hold_ids[name]] for name in names if name in books.hold_ids]
        charged, cost = sum(hold.charged_msat or 0 for hold in holds), facts.core_receipts.get(key, 0)
        if charged != cost:
            yield f"M3: {key} cost {cost} msat, says its core, and the vault has charged {charged}: {holds}"
        told = facts.core_costs.get(key, cost)
        if told != cost:
            yield f"M6: the client of {key} was told {told} msat, and its receipt says {cost}"


COMMIT = (
    limits_are_kept,
    budgets_are_kept,
    payments_are_wished_for,
    payments_are_never_guessed,
    payments_are_held_for,
    a_withdrawal_is_no_spending,
    an_approval_is_decided_once,
    events_are_written_with_what_they_tell,
    an_event_is_told_before_it_counts_as_told,
    alerts_keep_their_cooldown,
    m7_a_reservation_lives_as_long_as_its_lease,
)
REST = (
    nothing_is_paid_twice,
    payments_are_where_their_money_is,
    m6_what_payers_are_told_is_true,
    one_decider_is_told_so,
    m6_what_was_done_is_audited,
    m6_what_cores_were_told_is_held,
)
END = (
    payments_end,
    approvals_end,
    every_event_is_told,
    budgets_say_what_was_charged,
    cores_are_charged_what_they_say,
)
