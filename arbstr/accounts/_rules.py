"""What an operation does to an account: pure functions from balances to balances, with the postings that say so.

Each keeps M2 (``available + held + spent = deposited - withdrawn``, nothing negative) and returns postings that sum to
zero. Nothing here knows of clocks, disks or actors.
"""

from __future__ import annotations

from attrs import frozen

from arbstr.errors import BillingRefused
from arbstr.store import AccountRow, LedgerAccount, Posting
from arbstr.units import MSAT_PER_SAT, format_sats

MAX_MSAT = 21_000_000 * 100_000_000 * MSAT_PER_SAT
"""All the bitcoin there will be: what is above is a mistake or a lie; a sum of four still fits an INTEGER column."""


@frozen
class Move:
    """The account after an operation, and the journal entries of it."""

    after: AccountRow
    postings: tuple[Posting, ...]


_MOVED = (
    LedgerAccount.WORLD,
    LedgerAccount.AVAILABLE,
    LedgerAccount.HELD,
    LedgerAccount.SPENT,
    LedgerAccount.DEBT,
    LedgerAccount.ARREARS,
)


def _moved(
    account: AccountRow,
    *,
    available: int = 0,
    held: int = 0,
    spent: int = 0,
    deposited: int = 0,
    withdrawn: int = 0,
    debt: int = 0,
) -> Move:
    """Apply differences in msat. What the agent's own accounts gain, the world or its arrears lose."""
    after = AccountRow(
        account.agent_id,
        account.version + 1,
        account.available_msat + available,
        account.held_msat + held,
        account.spent_msat + spent,
        account.deposited_msat + deposited,
        account.withdrawn_msat + withdrawn,
        account.debt_msat + debt,
    )
    amounts = zip(_MOVED, (withdrawn - deposited, available, held, spent, -debt, debt), strict=True)
    return Move(after, tuple([Posting(ledger, amount) for ledger, amount in amounts if amount]))


def deposit(account: AccountRow, amount_msat: int) -> Move:
    """Credit ``amount_msat``; a debt is paid off first. Raises ValueError when it is not positive or absurd."""
    if amount_msat <= 0:
        raise ValueError(f"a deposit must be positive, got {amount_msat} msat")
    if account.deposited_msat + amount_msat > MAX_MSAT:
        raise ValueError(f"an account cannot receive more than {MAX_MSAT} msat in all, got {amount_msat} msat more")
    paid = min(account.debt_msat, amount_msat)
    return _moved(account, deposited=amount_msat, available=amount_msat - paid, spent=paid, debt=-paid)


def reserve(account: AccountRow, amount_msat: int) -> Move:
    """Set ``amount_msat`` aside. Raises BillingRefused (402) when it is not there or a debt is open."""
    if amount_msat < 0:
        raise ValueError(f"a hold must not be negative, got {amount_msat} msat")
    if account.debt_msat > 0:
        raise BillingRefused(
            f"Insufficient balance: a debt of {format_sats(account.debt_msat)} sats is open; deposit more than that",
            reason="outstanding_debt",
            details={"debt_msat": account.debt_msat, "available_msat": account.available_msat},
        )
    if amount_msat > account.available_msat:
        raise BillingRefused(
            f"Insufficient balance: this request may cost up to {format_sats(amount_msat)} sats and "
            f"{format_sats(account.available_msat)} sats are available; deposit more, or lower max_tokens",
            reason="insufficient_balance",
            details={"available_msat": account.available_msat, "requested_msat": amount_msat},
        )
    return _moved(account, available=-amount_msat, held=amount_msat)


def owe(account: AccountRow, amount_msat: int, owed_msat: int) -> Move:
    """A hold of nothing, for ``owed_msat`` that have been used already; it can be made whatever the balance.

    Raises ValueError when something is to be set aside, or the charge could not be made afterwards.
    """
    if amount_msat:
        raise ValueError(f"nothing can be set aside for what has been used already, got {amount_msat} msat")
    _check_charge(owed_msat)
    return _moved(account)


def _check_charge(charge_msat: int) -> None:
    if not 0 <= charge_msat <= MAX_MSAT:
        raise ValueError(f"a charge must be between 0 and {MAX_MSAT} msat, got {charge_msat} msat")


def settle(account: AccountRow, held_msat: int, charge_msat: int) -> Move:
    """End a hold of ``held_msat`` by charging ``charge_msat``; the rest goes back.

    A charge above the hold takes the rest from ``available``; what is not there becomes debt (M4). A charge of 0 is a
    release. Raises ValueError for a charge that is negative or absurd.
    """
    _check_charge(charge_msat)
    from_hold = min(charge_msat, held_msat)
    above = charge_msat - from_hold
    from_available = min(above, account.available_msat)
    return _moved(
        account,
        available=held_msat - from_hold - from_available,
        held=-held_msat,
        spent=from_hold + from_available,
        debt=above - from_available,
    )


def withdraw(account: AccountRow, held_msat: int, amount_msat: int, fee_msat: int) -> Move:
    """End a hold of ``held_msat`` by sending ``amount_msat`` of it back to its owner; only the fee is spent.

    A fee above what is left of the hold is taken as in ``settle`` (M4). Raises ValueError for an amount that is not
    positive or above the hold, and for an absurd fee.
    """
    if not 0 < amount_msat <= held_msat:
        raise ValueError(f"a withdrawal must be between 1 and the {held_msat} msat held for it, got {amount_msat} msat")
    if not 0 <= fee_msat <= MAX_MSAT:
        raise ValueError(f"a fee must be between 0 and {MAX_MSAT} msat, got {fee_msat} msat")
    left = held_msat - amount_msat
    from_hold = min(fee_msat, left)
    above = fee_msat - from_hold
    from_available = min(above, account.available_msat)
    return _moved(
        account,
        available=left - from_hold - from_available,
        held=-held_msat,
        spent=from_hold + from_available,
        withdrawn=amount_msat,
        debt=above - from_available,
    )
