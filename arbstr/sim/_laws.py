"""M1 to M10 (docs/money.md) as functions: each looks at the books and at the facts, and says what is wrong.

Those of requests are here, those of the vault in ``_vault_laws``; the tables at the end have all of them. ``COMMIT``
after every change that was committed, ``CALL`` when a provider is called, ``ORDER`` when a wallet is, ``TOLD`` when a
client gets something, ``BEGUN`` when a process has recovered, ``REST`` whenever nothing can run, ``END`` when all is
over. What they remember of earlier changes is in ``Memory``. A law yields what is broken, in words.
"""

from __future__ import annotations

from collections.abc import Callable

from arbstr.sim import _vault_laws as vault
from arbstr.sim._facts import Asked, Call
from arbstr.sim._scene import Scene, Wrong
from arbstr.store import AccountChange, AgentAdded, ApprovalStatus, Change, HoldChange, HoldRenewal, HoldRow, HoldState


def m1_amounts_are_whole(scene: Scene, change: Change) -> Wrong:
    """Integers of msat, and postings that sum to nothing."""
    if isinstance(change, AccountChange):
        after = change.after
        amounts = (
            after.available_msat,
            after.held_msat,
            after.spent_msat,
            after.deposited_msat,
            after.withdrawn_msat,
            after.debt_msat,
            *[posting.amount_msat for posting in change.postings],
        )
        if any(type(amount) is not int for amount in amounts):
            yield f"M1: an amount of {change.key} is no integer: {amounts}"
        if sum(posting.amount_msat for posting in change.postings):
            yield f"M1: the postings of {change.key} do not sum to nothing"


def m1_a_cost_is_the_price_of_its_tokens(scene: Scene, change: Change) -> Wrong:
    """Rounded up once, by the price that the request was begun with: a change of price never reaches a running hold."""
    if not isinstance(change, AccountChange) or change.kind != "settle" or change.receipt is None:
        return
    receipt = change.receipt
    asked = scene.facts.asked.get(receipt.request_id)
    if asked is None or asked.direct or receipt.prompt_tokens is None or receipt.completion_tokens is None:
        return
    calls = [call for call in asked.calls if call.provider == receipt.provider]
    if not calls:
        yield f"M6: {receipt.request_id} pays {receipt.provider}, which was never called"
        return
    tokens = (receipt.prompt_tokens, receipt.completion_tokens, receipt.cached_tokens or 0)
    fair = {price.cost_msat(*tokens) for price in scene.facts.prices_of(asked, calls[-1])}
    if isinstance(change.hold, HoldChange) and change.hold.charged_msat not in fair:
        charged = change.hold.charged_msat
        yield f"M1: {receipt.request_id} is charged {charged} msat for {tokens} tokens, which cost {sorted(fair)}"
    claims = calls[-1].claims
    if not receipt.estimated and claims is not None and receipt.outcome == "ok":
        counted = min(claims[1], asked.limit) if asked.limit is not None else claims[1]
        if receipt.completion_tokens != counted or receipt.prompt_tokens > claims[0]:
            yield f"M1: {receipt.request_id} is charged {tokens} tokens where {claims} were claimed"


def m2_balances_add_up(scene: Scene, agent_id: str) -> Wrong:
    """available + held + spent = deposited - withdrawn, none negative, held = open holds; charges = what was paid."""
    books = scene.books
    account = books.accounts[agent_id]
    held = charged = 0
    for hold in books.holds.values():
        if hold.agent_id == agent_id:
            if hold.state is HoldState.OPEN:
                held += hold.amount_msat
            charged += hold.charged_msat or 0
    received = account.deposited_msat - account.withdrawn_msat
    balances = (account.available_msat, account.held_msat, account.spent_msat, account.debt_msat)
    if min(balances) < 0 or sum(balances[:3]) != received:
        yield f"M2: {agent_id} has {balances} of {received} msat"
    if held != account.held_msat:
        yield f"M2: {agent_id} holds {account.held_msat} msat, its open holds {held}"
    paid = account.spent_msat + account.debt_msat + account.withdrawn_msat
    if charged != paid:
        yield f"M2: {agent_id} has paid {paid} msat, and its holds were charged {charged}"


def m2_nothing_is_overspent(scene: Scene, agent_id: str) -> Wrong:
    """Neither spent nor held beyond what really came in, whatever the account says; each deposit came in once (M5)."""
    account, books = scene.books.accounts[agent_id], scene.books
    came_in = sum(
        amount
        for key, (whose, amount) in scene.facts.deposits.items()
        if whose == agent_id and f"deposit:{key}" in books.transactions
    )
    if account.deposited_msat != came_in:
        yield f"M5: {agent_id} was credited {account.deposited_msat} msat of deposits of {came_in}"
    if account.spent_msat + account.held_msat + account.withdrawn_msat > came_in:
        yield f"M2: {agent_id} has spent and held more than the {came_in} msat that came in"


def m2_receipts_say_what_was_charged(scene: Scene, agent_id: str) -> Wrong:
    books = scene.books
    receipts = sum(receipt.cost_msat for receipt in books.receipts.values() if receipt.agent_id == agent_id)
    charged = sum(
        hold.charged_msat or 0 for hold in books.holds.values() if hold.agent_id == agent_id and hold.kind == "request"
    )
    if receipts != charged:
        yield f"M2: the receipts of {agent_id} come to {receipts} msat, the charges to {charged}"


def m3_a_hold_ends_once(scene: Scene, change: Change) -> Wrong:
    if not isinstance(change, AccountChange) or not isinstance(change.hold, HoldChange):
        return
    hold, ended = change.hold, scene.memory.ended
    if hold.hold_id in ended:
        yield f"M3: hold {hold.hold_id} has ended with {ended[hold.hold_id]} msat and is changed by {change.key}"
    if hold.state is not HoldState.OPEN:
        ended[hold.hold_id] = hold.charged_msat or 0


def m3_an_end_stays(scene: Scene) -> Wrong:
    for hold_id, charged_msat in scene.memory.ended.items():
        hold = scene.books.holds.get(hold_id)
        if hold is None or hold.state is HoldState.OPEN or (hold.charged_msat or 0) != charged_msat:
            yield f"M3: hold {hold_id} had ended with {charged_msat} msat, and now it is {hold}"


def m4_a_charge_is_paid_or_owed(scene: Scene, change: Change) -> Wrong:
    """All of it: what neither hold nor balance covers is a debt."""
    if isinstance(change, AccountChange) and isinstance(change.hold, HoldChange):
        before, after = change.before, change.after
        paid = after.spent_msat - before.spent_msat + after.withdrawn_msat - before.withdrawn_msat
        owed = after.debt_msat - before.debt_msat
        charged = change.hold.charged_msat or 0
        if paid + owed != charged:
            yield f"M4: {change.key} charges {charged} msat, of which {paid} are paid and {owed} owed"
        if owed and after.available_msat:
            yield f"M4: {change.key} leaves a debt of {owed} msat beside {after.available_msat} available"


def m4_a_debt_blocks(scene: Scene, change: Change) -> Wrong:
    """Every further hold, also one of nothing."""
    if not isinstance(change, AccountChange) or not change.before.debt_msat or vault.is_late(scene, change):
        return
    if isinstance(change.hold, HoldRow) or change.after.held_msat > change.before.held_msat:
        yield f"M4: {change.key} holds money beside a debt of {change.before.debt_msat} msat"


def m5_a_key_holds_once(scene: Scene, change: Change) -> Wrong:
    """And only a key that somebody named."""
    if not isinstance(change, AccountChange) or not isinstance(change.hold, HoldRow) or change.hold.kind != "request":
        return
    asked = scene.facts.asked.get(change.hold.key)
    if asked is None or asked.agent_id != change.after.agent_id:
        yield f"M5: {change.key} holds under the key {change.hold.key!r}, which that agent never named"
    same = [hold for hold in scene.books.holds.values() if hold.key == change.hold.key]
    if len(same) != 1:
        yield f"M5: the key {change.hold.key} holds {len(same)} times"


def m6_the_hold_is_on_disk_before_the_call(scene: Scene, asked: Asked, call: Call) -> Wrong:
    """Open, and for as much as the answer may cost by the limit that the client gave. Without a ledger no hold, and
    without a hold no call: this is M10 as well."""
    hold_id = scene.books.hold_ids.get(asked.hold_key)
    hold = scene.books.holds.get(hold_id or "")
    if hold is None or hold.state is not HoldState.OPEN:
        yield f"M6, M10: {call.provider} is called for {asked.key}, for which nothing is held on disk ({hold})"
    elif asked.limit is not None and hold.amount_msat < scene.facts.least_cost_msat(asked, call, asked.limit):
        yield f"M6: {call.provider} is called for {asked.key} with no more than {hold.amount_msat} msat held"


def m6_nobody_is_asked_again_after_an_answer(scene: Scene, asked: Asked, call: Call) -> Wrong:
    """Whoever has answered with 2xx may have billed it."""
    for other in asked.calls:
        answered = other.answered is not None and 200 <= other.answered < 300
        if other is not call and other.provider == call.provider and answered:
            yield f"M6: {call.provider} is called again for {asked.key}, which it has answered already"


def m6_what_is_told_is_on_disk(scene: Scene, asked: Asked) -> Wrong:
    """Whoever was told what it cost may rely on it, now and after every crash."""
    promised = scene.facts.promised_ends.get(asked.key)
    if promised is not None:
        hold = scene.books.holds.get(scene.books.hold_ids.get(asked.hold_key, ""))
        if hold is not None and hold.state is HoldState.RELEASED and asked.late is not None:
            hold = scene.books.holds.get(scene.books.hold_ids.get(asked.late.key, ""), hold)
        if hold is None or hold.state is HoldState.OPEN or hold.charged_msat != promised:
            yield f"M6: the end of {asked.key} with {promised} msat was acknowledged, and on disk it is {hold}"


def m6_what_has_passed_is_held(scene: Scene, asked: Asked) -> Wrong:
    """A stream is never ahead of its hold: the hold is a cap."""
    if not asked.stream or not asked.calls or not asked.pieces:
        return
    tokens = max(asked.pieces, -(-asked.text_bytes // 4))
    if asked.limit is not None:
        tokens = min(tokens, asked.limit)
    least = scene.facts.least_cost_msat(asked, asked.calls[-1], tokens)
    hold = scene.books.holds.get(scene.books.hold_ids.get(asked.hold_key, ""))
    cap = 0 if hold is None else max(hold.amount_msat, hold.charged_msat or 0)
    if least > cap:
        yield f"M6: {asked.key} has got text worth {least} msat and {cap} msat are held for it"


def m6_no_promise_is_lost(scene: Scene) -> Wrong:
    for key in scene.facts.promised_ends:
        yield from m6_what_is_told_is_on_disk(scene, scene.facts.asked[key])
    for key in sorted(scene.facts.promised_deposits):
        if f"deposit:{key}" not in scene.books.transactions:
            yield f"M6: the deposit {key} was acknowledged, and it is not on disk"


def m7_evidence_is_what_has_passed(scene: Scene, change: Change) -> Wrong:
    """A renewal says what its client had got when it was sent; a later one never says less."""
    if not isinstance(change, HoldRenewal):
        return
    hold = scene.books.holds.get(change.hold_id)
    asked = scene.facts.asked.get(hold.key) if hold is not None else None
    if hold is None or asked is None or not asked.calls or hold.state is not HoldState.OPEN:
        return
    pieces = dict(asked.renewed).get(change.lease_ns - scene.memory.lease_ns, 0)
    call = asked.calls[-1]
    tokens = min([pieces, *([] if asked.limit is None else [asked.limit]), *(call.claims or ())[1:]])
    least = scene.facts.least_cost_msat(asked, call, tokens) if pieces else 0
    if hold.evidence_msat < least:
        yield f"M7: {pieces} pieces of {asked.key} had passed, and the evidence is {hold.evidence_msat} msat"


def m7_lost_holds_are_charged_the_evidence(scene: Scene, change: Change) -> Wrong:
    """And audited as such; and while its process lives no request loses its hold. Evidence that the disk has refused
    may be in the account's memory."""
    if not isinstance(change, AccountChange) or change.kind != "resolve" or not isinstance(change.hold, HoldChange):
        return
    hold = scene.books.holds[change.hold.hold_id]
    unwritten = scene.facts.disk_suffered and (change.hold.charged_msat or 0) > hold.evidence_msat
    if change.hold.charged_msat != hold.evidence_msat and not unwritten:
        charged = change.hold.charged_msat
        yield f"M7: the lost hold {hold.key} is charged {charged} msat on evidence of {hold.evidence_msat}"
    if change.audit.action != "HOLD_RESOLVED":
        yield f"M7: the lost hold {hold.key} is ended without saying so in the audit log"
    asked = scene.facts.asked.get(hold.key)
    if asked is None:
        yield f"M7: {hold.key} was nobody's request, and is taken for lost"
    elif not asked.crashed and not asked.direct:
        yield f"M7: the hold of {hold.key} was forgotten by its request and its process lives"


def m7_no_orphan_outlives_recovery(scene: Scene) -> Wrong:
    """Of a request of an earlier process. What another core holds lives on with it."""
    for hold in scene.books.holds.values():
        asked = scene.facts.asked.get(hold.key)
        approval = scene.books.approvals.get(hold.key)
        lives = (asked is not None and asked.remote) or (approval is not None and approval.is_open)
        if hold.state is HoldState.OPEN and hold.kind == "request" and not lives:
            yield f"M7: hold {hold.key} is still open"


def m8_one_audit_row_for_a_change(scene: Scene, change: Change) -> Wrong:
    """In one transaction with it, chained to the row before."""
    memory, audit = scene.memory, scene.books.audit
    if isinstance(change, AccountChange | AgentAdded):
        memory.changes += 1
        if len(audit) != memory.changes:
            yield f"M8: {memory.changes} changes have {len(audit)} audit rows"
            return
        last = audit[len(audit)]
        if memory.last_digest is not None and last.previous != memory.last_digest:
            yield f"M8: audit row {len(audit)} is not chained to the one before it"
        memory.last_digest = last.digest
    memory.transactions = len(scene.books.transactions)


def m8_nothing_committed_is_lost(scene: Scene) -> Wrong:
    found, expected = len(scene.books.transactions), scene.memory.transactions
    if found != expected or len(scene.books.audit) != scene.memory.changes:
        yield f"M8: {expected} transactions were committed, and {found} are there"


def m9_what_has_no_price_is_not_bought(scene: Scene, asked: Asked, call: Call) -> Wrong:
    if not scene.facts.prices_of(asked, call):
        yield f"M9: {call.provider} is called for {asked.key}, and nobody knows its price"


def delivered_is_charged(scene: Scene) -> Wrong:
    """Whoever got text of a provider, from a process that lived, pays for it (unless the provider asks nothing)."""
    for asked in scene.facts.asked.values():
        got = asked.answered or asked.pieces > 0
        if asked.crashed or asked.direct or not got:
            continue
        receipt = scene.books.receipts.get(asked.key)
        call = asked.calls[-1]
        claimed = call.claims[1] if call.claims is not None else 1
        least = scene.facts.least_cost_msat(asked, call, min(1, claimed, 1 if asked.limit is None else asked.limit))
        if receipt is None or receipt.cost_msat < least:
            cost = None if receipt is None else receipt.cost_msat
            yield f"M6: {asked.key} got an answer worth {least} msat or more, and its receipt says {cost}"


def every_hold_has_its_receipt(scene: Scene) -> Wrong:
    """One; none only where another core has given it back, which says no more of it, or nobody came for it."""
    for hold in scene.books.holds.values():
        if hold.kind == "request":
            receipts = [one for one in scene.books.receipts.values() if one.hold_id == hold.hold_id]
            if not receipts and scene.facts.asked[hold.key].remote and not hold.charged_msat:
                continue
            approval = scene.books.approvals.get(hold.key)
            if approval is not None and approval.status is not ApprovalStatus.USED and not hold.charged_msat:
                continue  # nobody has come for it
            if len(receipts) != 1 or receipts[0].cost_msat != hold.charged_msat:
                yield f"M2: hold {hold.key} has {len(receipts)} receipts of its charge of {hold.charged_msat} msat"


COMMIT: tuple[Callable[[Scene, Change], Wrong], ...] = (
    m1_amounts_are_whole,
    m1_a_cost_is_the_price_of_its_tokens,
    m3_a_hold_ends_once,
    m4_a_charge_is_paid_or_owed,
    m4_a_debt_blocks,
    m5_a_key_holds_once,
    m7_evidence_is_what_has_passed,
    m7_lost_holds_are_charged_the_evidence,
    m8_one_audit_row_for_a_change,
    *vault.COMMIT,
)
ACCOUNT: tuple[Callable[[Scene, str], Wrong], ...] = (m2_balances_add_up, m2_nothing_is_overspent)
"""Of the account that a change was about, and of all of them at rest."""
CALL: tuple[Callable[[Scene, Asked, Call], Wrong], ...] = (
    m6_the_hold_is_on_disk_before_the_call,
    m6_nobody_is_asked_again_after_an_answer,
    m9_what_has_no_price_is_not_bought,
)
ORDER = (vault.m6_the_payment_is_on_disk_before_the_wallet_is_asked,)
"""When a process asks a wallet."""
TOLD: tuple[Callable[[Scene, Asked], Wrong], ...] = (m6_what_is_told_is_on_disk, m6_what_has_passed_is_held)
REST: tuple[Callable[[Scene], Wrong], ...] = (
    m3_an_end_stays,
    m6_no_promise_is_lost,
    m8_nothing_committed_is_lost,
    *vault.REST,
)
BEGUN: tuple[Callable[[Scene], Wrong], ...] = (*REST, m7_no_orphan_outlives_recovery)
END: tuple[Callable[[Scene], Wrong], ...] = (
    *BEGUN,
    delivered_is_charged,
    every_hold_has_its_receipt,
    *vault.END,
)
END_OF_ACCOUNT: tuple[Callable[[Scene, str], Wrong], ...] = (*ACCOUNT, m2_receipts_say_what_was_charged)
