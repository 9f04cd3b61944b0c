"""Deliberate defects between a core and a vault in two processes."""

from __future__ import annotations

from typing import Any

from arbstr.accounts import Release, RemoteBank, Settlements, VaultClient
from arbstr.accounts import _settlements as settlements
from arbstr.edge import AccountsVault
from arbstr.edge import _vault_services as services
from arbstr.store import KeepRemoteHold
from tests.simulation.mutations import Mutation, Patch


def forget_what_is_owed_at_a_restart(patch: Patch) -> None:
    patch.setattr(Settlements, "_load", lambda self, state: None)


def tell_a_client_before_it_is_written(patch: Patch) -> None:
    """What a request has cost; the disk takes it later."""
    original = RemoteBank._write

    async def write(self: Any, change: KeepRemoteHold) -> None:
        if change.receipt is None:
            await original(self, change)
        else:
            self._ledger.submit(change)

    patch.setattr(RemoteBank, "_write", write)


def give_up_what_was_not_heard(patch: Patch) -> None:
    """After the first attempt."""

    def forget(self: Any, hold: Any, why: str, *, down: bool) -> None:
        self._failures = 0
        self._owed.pop(hold.reservation_id, None)
        self._submit(settlements.DropRemoteHold(hold.reservation_id))

    patch.setattr(Settlements, "_try_again", forget)


def reserve_by_another_key_each_time(patch: Patch) -> None:
    numbers = iter(range(10**9))
    original = VaultClient._post

    async def post(self: Any, path: str, body: Any) -> Any:
        if path == "reserve":
            body = {**body, "correlation_id": f"{body['correlation_id']}.{next(numbers)}"}
        return await original(self, path, body)

    patch.setattr(VaultClient, "_post", post)


def leave_it_at_what_a_lease_has_ended(patch: Patch) -> None:
    """It was given back, so it is not charged any more."""

    async def late(self: Any, hold: Any, *_: Any) -> Any:
        raise services._ended(hold, "released")

    patch.setattr(AccountsVault, "_settle_late", late)


def take_a_release_after_the_lease_for_a_repeat(patch: Patch) -> None:
    """Of our own: it leaves no trace, and what comes next is charged."""

    async def release(self: Any, reservation_id: str, reason: str) -> None:
        hold = await self._reservation(reservation_id)
        await self.accounts.ask(hold.agent_id, Release(hold.key, reason, None))

    patch.setattr(AccountsVault, "release", release)


OF_TWO_PROCESSES: tuple[Mutation, ...] = (
    forget_what_is_owed_at_a_restart,
    tell_a_client_before_it_is_written,
    give_up_what_was_not_heard,
    reserve_by_another_key_each_time,
    leave_it_at_what_a_lease_has_ended,
    take_a_release_after_the_lease_for_a_repeat,
)
