"""What an account actor is asked. Amounts in msat. A hold is named by ``key``, the request id it was made for (M5)."""

from __future__ import annotations

from attrs import frozen

from actors import TrioActorRef
from arbstr.store import ReceiptRow


@frozen
class Reserve:
    """Set an upper bound aside, durably. Answer: ``Held``, or BillingRefused (402), LedgerUnavailable (503)."""

    key: str
    amount_msat: int
    model: str
    provider: str
    correlation_id: str | None = None
    owner: TrioActorRef | None = None  # type: ignore[type-arg]  # any actor: only its being alive is asked
    """Whose life keeps the hold: it is not taken for lost while this actor lives."""


@frozen
class Extend:
    """Raise an open hold to ``to_msat`` in all. Same answers as ``Reserve``; a hold that is larger already stays."""

    key: str
    to_msat: int
    provider: str


@frozen
class Renew:
    """Lengthen the lease and record what has been consumed so far. A tell."""

    key: str
    evidence_msat: int


@frozen
class Settle:
    """End the hold by charging ``charge_msat``. Answer: ``Ended``, once it is on disk.

    A repeat with the same amount is answered like the first; with another, BillingRefused (409) (M3). A release is a
    charge of 0. A hold that is not there, or is another agent's, is BillingRefused (404).
    """

    key: str
    charge_msat: int
    receipt: ReceiptRow


@frozen
class Release:
    """End the hold without a charge. Answer: ``Ended``; also for a key that never held anything: the receipt is filed.

    Sent as a tell by an asker that was cancelled before it learned whether its ``Reserve`` went through.
    """

    key: str
    reason: str
    receipt: ReceiptRow | None


@frozen
class Deposit:
    """Credit the account. Answer: ``AccountRow`` once on disk.

    A repeat with the same ``key`` changes nothing; with another amount or for another agent, BillingRefused (409).
    """

    key: str
    amount_msat: int


@frozen
class Balance:
    """Answer: ``AccountRow`` as decided, which may be a commit ahead of the disk."""


@frozen
class Sweep:
    """Resolve holds whose lease has run out and whose owner is gone (M7). A tell."""


@frozen
class Held:
    key: str
    amount_msat: int
    available_msat: int


@frozen
class Ended:
    """A hold's end. ``charged_msat`` is 0 for a release; ``debt_msat`` is what could not be covered."""

    key: str
    charged_msat: int
    available_msat: int
    debt_msat: int
    recorded: bool = True
    """False when there was no hold to end and the receipt could not be filed."""
