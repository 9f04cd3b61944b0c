"""Changes of the vault made by hand, each on top of the one before: the ledgers must not need the rules to be right."""

from typing import Any

from attrs import define, evolve, field

from arbstr.store import (
    AccountChange,
    AccountRow,
    AgentAdded,
    Also,
    AuditEntry,
    BearerRow,
    HoldChange,
    HoldRow,
    HoldState,
    LedgerAccount,
    PolicyRow,
    Posting,
    ReceiptRow,
)


def added(agent_id: str, token_hash: str | None = None) -> AgentAdded:
    token = BearerRow(f"tk_{agent_id}", token_hash or f"hash of {agent_id}", agent_id, "first")
    policy = PolicyRow(agent_id, 1, 0, 0, set_by_operator=False)
    return AgentAdded(agent_id, f"name of {agent_id}", token, policy, 3, '{"team": "a"}')


def receipt(request_id: str, cost_msat: int = 0) -> ReceiptRow:
    return ReceiptRow(
        request_id=request_id,
        agent_id=None,
        correlation_id=None,
        hold_id=None,
        started_ns=1,
        duration_us=2,
        model="m",
        provider="p",
        policy=None,
        stream=False,
        outcome="ok",
        http_status=200,
        error=None,
        prompt_tokens=1,
        completion_tokens=2,
        estimated=False,
        expected_msat=3,
        cost_msat=cost_msat,
        saved_median_msat=None,
        saved_dearest_msat=None,
    )


@define
class Maker:
    """Of one agent. ``made`` forgets nothing: take a copy of ``account`` to decide on something old."""

    account: AccountRow
    holds: dict[str, HoldRow] = field(factory=dict)

    @classmethod
    def of(cls, agent_id: str) -> "Maker":
        return cls(AccountRow(agent_id))

    def change(self, key: str, kind: str, moved: dict[str, int] | None = None, **more: Any) -> AccountChange:
        moved = moved or {}
        before = self.account
        received = moved.get("deposited", 0) - moved.get("withdrawn", 0)
        after = evolve(
            before,
            version=before.version + 1,
            **{f"{name}_msat": getattr(before, f"{name}_msat") + amount for name, amount in moved.items()},
        )
        self.account = after
        amounts = {
            LedgerAccount.WORLD: -received,
            LedgerAccount.AVAILABLE: moved.get("available", 0),
            LedgerAccount.HELD: moved.get("held", 0),
            LedgerAccount.SPENT: moved.get("spent", 0),
        }
        postings = tuple([Posting(account, amount) for account, amount in amounts.items() if amount])
        return AccountChange(
            key, kind, 7, before, after, postings, AuditEntry(kind.upper(), {"key": key, "n": after.version}), **more
        )

    def deposit(self, key: str, amount: int) -> AccountChange:
        return self.change(f"deposit:{key}", "deposit", {"available": amount, "deposited": amount})

    def reserve(self, key: str, amount: int, also: tuple[Also, ...] = (), **changes: Any) -> AccountChange:
        hold = HoldRow(f"tx_{key}", key, self.account.agent_id, amount, HoldState.OPEN, "m", "p", 1, 2)
        self.holds[key] = hold = evolve(hold, **changes)
        return self.change(f"reserve:{key}", "reserve", {"available": -amount, "held": amount}, hold=hold, also=also)

    def end(self, key: str, charge: int, at_ns: int = 9, also: tuple[Also, ...] = ()) -> AccountChange:
        """Settle with a receipt, or without one when it was no request; a charge of 0 releases."""
        hold = self.holds[key]
        held = hold.amount_msat
        spent = "withdrawn" if hold.kind == "withdrawal" else "spent"
        state = HoldState.SETTLED if charge else HoldState.RELEASED
        return self.change(
            f"end:{key}",
            "settle" if charge else "release",
            {"available": held - charge, "held": -held, spent: charge},
            hold=HoldChange(hold.hold_id, held, held, state, "p", 2, 0, charge, at_ns),
            receipt=receipt(key, charge) if hold.kind == "request" else None,
            also=also,
        )

    def note(self, key: str, *also: Also) -> AccountChange:
        """Rows beside the account, and no money."""
        return self.change(key, "note", also=also)
