"""Balances below their floor: whether it is time to say so, and the change that says it (contract: vault, section 14).

Pure. Asked after every end of a hold, whatever it was for: requests are how most agents run dry.
"""

from __future__ import annotations

from attrs import evolve

from arbstr.accounts._events import NS_PER_MS, new_event
from arbstr.store import AccountChange, AccountRow, AlertSent, AuditEntry, PolicyRow

DEFAULT_COOLDOWN_MS = 3_600_000


def is_below_floor(account: AccountRow, policy: PolicyRow) -> bool:
    """Open holds count as spent, a debt too. A floor of 0 is none."""
    return account.available_msat - account.debt_msat < (policy.alert_floor_msat or 0)


def is_alert_due(account: AccountRow, policy: PolicyRow, last_alert_ns: int | None, now_ns: int) -> bool:
    """Below the floor, and as long since the last alert as the policy wants, to the nanosecond."""
    if not is_below_floor(account, policy):
        return False
    cooldown_ms = DEFAULT_COOLDOWN_MS if policy.alert_cooldown_ms is None else policy.alert_cooldown_ms
    return last_alert_ns is None or now_ns - last_alert_ns >= cooldown_ms * NS_PER_MS


def balance_alert(account: AccountRow, policy: PolicyRow, now_ns: int, *, events: bool = True) -> AccountChange:
    """The alert as a change of its own, behind the one that caused it: audit row, event, and when it was raised.

    Lost when the process dies between the two; then the next end of a hold finds the same balance and raises it.
    """
    told = {"balance_msat": account.available_msat - account.debt_msat, "alert_floor_msat": policy.alert_floor_msat}
    event = (new_event("balance_alert", account.agent_id, now_ns, **told),) if events else ()
    return AccountChange(
        key=f"alert:{account.agent_id}:{account.version}",
        kind="alert",
        at_ns=now_ns,
        before=account,
        after=evolve(account, version=account.version + 1),
        postings=(),
        audit=AuditEntry("BALANCE_ALERT", told),
        also=(AlertSent(account.agent_id, now_ns), *event),
    )
