"""What an account is asked about payments, withdrawals and approvals. Amounts in msat, times in ns UTC.

All answers come when they are on disk. LedgerUnavailable (503): nothing has happened, ask again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from attrs import frozen

from arbstr.store import ApprovalRow, PaymentRow, PaymentState


@frozen
class Draft:
    """What somebody wants paid, as it was asked for; ``rail`` is where it would be paid, by our choice."""

    amount_msat: int
    destination: str
    rail: str
    asset: str | None = None
    purpose: str | None = None
    destination_type: str | None = None
    preferred_rail: str | None = None

    def fingerprint(self, kind: str) -> str:
        """Of what the caller said: two requests with the same one ask for the same."""
        said = (kind, self.amount_msat, self.destination, self.asset, self.purpose)
        more = (self.destination_type, self.preferred_rail)
        return hashlib.sha256(json.dumps([*said, *more]).encode()).hexdigest()


@frozen
class Pay:
    """Decide about a payment and set its money aside. Answer: PaymentRow: DENIED, PENDING_APPROVAL or HELD.

    A repeat of ``key`` with the same draft is answered with that payment as it is by now, under its own id; with
    another draft it is BillingRefused (409 ``idempotency_key_reused``). ``transaction_id`` is a new one. BillingRefused
    (429 ``too_many_approvals``) when a human would have to be asked about too much at once.
    """

    transaction_id: str
    draft: Draft
    key: str | None = None
    looked_up: bool = False
    """The key is known to be new: set by the account itself."""


@frozen
class Withdraw:
    """Like ``Pay``, but a human always decides: the answer is DENIED or PENDING_APPROVAL."""

    transaction_id: str
    draft: Draft
    key: str | None = None
    looked_up: bool = False


@frozen
class MovePayment:
    """Take a payment from one state to another. Answer: PaymentRow in the new state; the same for a repeat.

    BillingRefused: 404; 409 ``payment_moved`` when it is in neither state, or there is no way between them.
    """

    transaction_id: str
    before: PaymentState
    after: PaymentState
    rail: str | None = None
    """Where SENDING goes to."""
    fee_msat: int = 0
    payment_hash: str | None = None
    preimage: str | None = None
    error: str | None = None
    recovery: bool = False
    """Found out after its driver had ended."""


@frozen
class RequestApproval:
    """Have a human decide about a request to a model that exceeds its agent's limit. Answer: ApprovalRow.

    ``approval_id`` is a new one. ``amount_msat`` is held under it at once; when it is approved, ``Reserve`` with the
    approval's id takes that. A repeat is answered with the first approval. BillingRefused as for ``Reserve``, also
    where no approval timeout is set, and 429 (``too_many_approvals``).
    """

    approval_id: str
    amount_msat: int
    model: str
    provider: str
    correlation_id: str | None = None
    budget_id: str | None = None
    request_id: str | None = None
    """Of the request that asks, for the audit log."""


@frozen
class Decide:
    """Resolve an approval, once. Answer: Decided, whose status may differ from what was asked for.

    What has expired times out; a grant whose re-check fails (policy, freeze, day, debt) is a denial with its reason.
    What was granted to a request times out as well when nobody comes for it. NotFound; BillingRefused (409
    ``approval_resolved``, ``not_expired``).
    """

    approval_id: str
    verdict: Literal["approve", "deny", "expire"]
    by: str
    why: str | None = None


@frozen
class Decided:
    approval: ApprovalRow
    payment: PaymentRow | None = None
    """None for an approval of a request."""
