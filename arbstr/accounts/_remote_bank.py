"""A bank in another process: holds are made and ended over HTTP, and what is owed to it is on our own disk.

Before a provider is called: the vault has granted the hold, and that is written down here with its id (M6). Before
anyone is told of a charge: receipt and charge are written down here in one transaction; from then on the vault is told
until it has heard (``Settlements``). A process that dies leaves its holds on disk, and the next one ends them by what
was consumed (M7). Tokens are never written: the id of a hold is enough to end it.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

import trio
from attrs import define, evolve

from actors import ActorDeadError, InboxFull, SystemNotRunning, TrioActorRef
from arbstr.accounts._bank import Asked, Holder, Told
from arbstr.accounts._messages import Ended, Extend, Held, Release, Renew, Reserve, Settle
from arbstr.accounts._payment_messages import RequestApproval
from arbstr.accounts._settlements import Backlog, KeepAlive, Owe, Search, Settlements, released
from arbstr.accounts._vault_client import MAX_TEXT, CannotExtend, VaultClient
from arbstr.errors import (
    ArbstrError,
    AuthenticationFailed,
    BillingRefused,
    LedgerUnavailable,
    NotAnswered,
    SettlementsWaiting,
)
from arbstr.secrets import Secret
from arbstr.store import (
    AttemptRow,
    KeepRemoteHold,
    Ledger,
    ReceiptRow,
    RemoteHoldRow,
    RemoteHolds,
    RemoteHoldState,
    StoreError,
    StoreUnavailable,
    hash_token,
)

logger = logging.getLogger(__name__)

DISK_S = 10.0
SIGN_OF_LIFE_S = 60.0
"""So often the vault hears that a request lives, or three times within its lease if that is less."""
MAX_PROVEN = 10_000
PROVEN_S = 3_600.0
"""So long a token that has bought something is known here."""
BACKPRESSURE_RETRY_S = 5.0
PSEUDONYM_DIGITS = 24


@define(eq=False)
class _Holding:
    """The hold of a live request."""

    holder: Holder
    asked: Reserve
    amount_msat: int
    row: RemoteHoldRow | None = None
    """None: asked for, and not answered."""
    signed_s: float = 0.0
    """When the vault last heard of it, on Trio's clock."""
    sign_every_s: float = SIGN_OF_LIFE_S
    ownerless: bool = False


@define
class _Proof:
    agent_id: str
    until_s: float


class RemoteBank:
    """A ``Bank`` by way of a vault's HTTP API. Lives on the Trio thread.

    Whose a token is, only the vault knows, and it says so when something is reserved with it: from then on the token is
    known here, for a while. An agent that the vault does not name (the predecessor's) goes by a pseudonym made of its
    token's hash. No more is bought while ``pending_threshold`` ends wait to be told.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: VaultClient,
        settlements: TrioActorRef[Settlements],
        backlog: Backlog,
        *,
        pending_threshold: int,
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._settlements = settlements
        self.backlog = backlog
        self._pending_threshold = pending_threshold
        self._holdings: dict[str, _Holding] = {}
        self._proven: OrderedDict[str, _Proof] = OrderedDict()

    # Tokens

    def holder_of(self, token: str) -> Holder | None:
        if not 0 < len(token) <= MAX_TEXT or not token.isprintable():
            return None
        digest = hash_token(token)
        proof = self._proven.get(digest)
        if proof is not None and proof.until_s > trio.current_time():
            return Holder(proof.agent_id, proof.agent_id, token=Secret(token))
        name = f"tok_{digest[:PSEUDONYM_DIGITS]}"
        return Holder(name, name, token=Secret(token), proven=False)

    def _prove(self, token: Secret, agent_id: str) -> None:
        digest = hash_token(token.reveal())
        self._proven[digest] = _Proof(agent_id, trio.current_time() + PROVEN_S)
        self._proven.move_to_end(digest)
        if len(self._proven) > MAX_PROVEN:
            self._proven.popitem(last=False)

    # Bank

    def request(self, holder: Holder, message: Asked) -> Coroutine[Any, Any, Any]:
        match message:
            case Reserve():
                return self._reserve(holder, message)
            case Extend():
                return self._extend(message)
            case RequestApproval():
                raise TypeError("a vault in another process asks no human about requests")
            case _:
                return self._end(message)

    def tell(self, holder: Holder, message: Told) -> None:
        holding = self._holdings.get(message.key)
        if holding is None:
            return
        if isinstance(message, Renew):
            self._renew(holding, message)
            return
        del self._holdings[message.key]
        if holding.row is None:
            self._search(holding)
        else:
            self._send(Owe(_ended(holding.row, message), message.receipt))

    def sweep(self) -> None:
        """End the holds of requests that are gone without a word; called every few seconds, acts at the second time."""
        for key, holding in list(self._holdings.items()):
            owner = holding.asked.owner
            if owner is None or owner.is_alive():
                continue
            if not holding.ownerless:
                holding.ownerless = True
                continue
            del self._holdings[key]
            if holding.row is None:
                self._search(holding)
            else:
                self._send(Owe(*resolve_lost(holding.row, "its request is gone")))

    def open_holds(self) -> tuple[int, int, float]:
        """How many are open, what they hold, and since when the oldest is, in seconds."""
        rows = [one.row for one in self._holdings.values() if one.row is not None]
        oldest_ns = min((row.created_ns for row in rows), default=None)
        age_s = 0.0 if oldest_ns is None else max(0.0, (time.time_ns() - oldest_ns) / 1e9)
        return len(rows), sum(row.amount_msat for row in rows), age_s

    # Reserving

    async def _reserve(self, holder: Holder, message: Reserve) -> Held:
        if message.approval_id is not None:
            raise BillingRefused(
                "the accounts are in another process, where no human is asked about requests; send it without approval",
                status=404,
                reason="approval_not_found",
            )
        waiting = self.backlog.waiting + self.backlog.searched
        if waiting >= self._pending_threshold:
            raise SettlementsWaiting(
                f"{waiting} settlements wait for the accounts, which do not take them at present; try again later",
                retry_after_s=BACKPRESSURE_RETRY_S,
            )
        # 0 cannot be reserved, and without reserving nobody would know whether the token is anybody's.
        holding = _Holding(holder, message, max(1, message.amount_msat))
        self._holdings[message.key] = holding
        try:
            await self._hold(holding)
        except NotAnswered:
            raise  # it may be there: whoever asked ends it
        except ArbstrError as error:
            del self._holdings[message.key]
            if isinstance(error, AuthenticationFailed) and holder.token is not None:
                self._proven.pop(hash_token(holder.token.reveal()), None)
            raise
        return Held(message.key, holding.amount_msat, 0)

    async def _hold(self, holding: _Holding) -> None:
        """Have it granted, and write that down. What is granted and cannot be written down is given back."""
        row = await self._granted(holding, holding.amount_msat)
        holding.row = row  # from here on its end finds it
        try:
            await self._write(KeepRemoteHold(row))
        except StoreError as error:
            self._send(Owe(released(row, "it could not be written down")))
            raise LedgerUnavailable(f"nothing can be written, so nothing can be spent: {error}") from error

    async def _granted(self, holding: _Holding, amount_msat: int) -> RemoteHoldRow:
        holder, asked = holding.holder, holding.asked
        assert holder.token is not None, "a remote bank gives out the token with the holder"
        granted = await self._client.reserve(holder.token, amount_msat, asked.key, asked.model)
        agent_id = granted.agent_id or _pseudonym(holder.token)
        self._prove(holder.token, agent_id)
        holding.signed_s = trio.current_time()
        if granted.lease_s is not None:
            holding.sign_every_s = min(SIGN_OF_LIFE_S, granted.lease_s / 3)
        return RemoteHoldRow(
            reservation_id=granted.reservation_id,
            key=asked.key,
            agent_id=agent_id,
            amount_msat=amount_msat,
            model=asked.model,
            provider=asked.provider,
            created_ns=time.time_ns(),
            correlation_id=asked.correlation_id,
        )

    async def _extend(self, message: Extend) -> Held:
        holding = self._holdings.get(message.key)
        if holding is None or holding.row is None:
            raise BillingRefused(f"there is no open hold {message.key}", status=409, reason="no_open_hold")
        if message.to_msat > holding.amount_msat:
            try:
                await self._client.extend(holding.row.reservation_id, message.to_msat)
                holding.signed_s = trio.current_time()
            except CannotExtend:
                await self._swap(holding, message.to_msat)
            holding.amount_msat = message.to_msat
            holding.row = evolve(holding.row, amount_msat=message.to_msat, provider=message.provider)
        return Held(message.key, holding.amount_msat, 0)

    async def _swap(self, holding: _Holding, to_msat: int) -> None:
        """For a vault whose holds cannot grow: make a larger one, then give the former back. Both must be covered."""
        former = holding.row
        assert former is not None
        row = evolve(await self._granted(holding, to_msat), evidence_msat=former.evidence_msat)
        try:
            await self._write(KeepRemoteHold(row))
        except StoreError as error:
            self._send(Owe(released(row, "it could not be written down")))
            raise LedgerUnavailable(f"nothing can be written, so nothing can be spent: {error}") from error
        except trio.Cancelled:
            self._send(Owe(released(row, "its request has ended")))
            raise
        holding.row = row
        self._send(Owe(released(former, "a larger hold has taken its place")))

    # While it is open

    def _renew(self, holding: _Holding, message: Renew) -> None:
        if holding.row is None:
            return
        if message.evidence_msat > holding.row.evidence_msat:
            holding.row = evolve(holding.row, evidence_msat=message.evidence_msat)
            try:
                self._ledger.submit(KeepRemoteHold(holding.row))
            except StoreUnavailable as error:
                logger.warning("hold %s keeps its old evidence: %s", message.key, error)
        now = trio.current_time()
        if now - holding.signed_s >= holding.sign_every_s:
            holding.signed_s = now
            self._send(KeepAlive(holding.row.reservation_id, holding.row.amount_msat))

    # Ending

    async def _end(self, message: Settle | Release) -> Ended:
        """Written down when this returns. Raises NotAnswered when it is not, or not yet: it is to be told again."""
        holding = self._holdings.get(message.key)
        if holding is None or holding.row is None:
            if holding is not None:
                del self._holdings[message.key]
                self._search(holding)
            if isinstance(message, Settle):  # nothing is bought without a hold
                raise BillingRefused(f"there is no hold {message.key}", status=404, reason="no_open_hold")
            return Ended(message.key, 0, 0, 0, recorded=False)
        row = _ended(holding.row, message)
        try:
            await self._write(KeepRemoteHold(row, message.receipt))
        except StoreError as error:
            raise NotAnswered(f"the end of the hold is not written yet: {error}", retry_after_s=1) from error
        self._holdings.pop(message.key, None)
        self._send(Owe(row, written=True))
        return Ended(message.key, row.charge_msat or 0, 0, 0)

    def _search(self, holding: _Holding) -> None:
        holder, asked = holding.holder, holding.asked
        assert holder.token is not None
        self._send(Search(holder.token, asked.key, holding.amount_msat, asked.model, holder.agent_id))

    def _send(self, message: Owe | Search | KeepAlive) -> None:
        """What is written is told by the next start, what is not is resolved by it."""
        try:
            self._settlements.tell(message)
        except (ActorDeadError, InboxFull, SystemNotRunning) as error:
            logger.error("%s has to wait for the next start: %s", type(message).__name__, error)

    async def _write(self, change: KeepRemoteHold) -> None:
        """Returns when it is on disk. Raises StoreError; when cancelled, it may be written all the same."""
        arrived, failures = trio.Event(), list[StoreError | None]()

        def done(_: object, error: StoreError | None) -> None:
            failures.append(error)
            arrived.set()

        self._ledger.submit(change, done)
        with trio.move_on_after(DISK_S):
            await arrived.wait()
        failure = failures[0] if failures else StoreUnavailable("the disk did not answer in time")
        if failure is not None:
            raise failure


def _pseudonym(token: Secret) -> str:
    return f"tok_{hash_token(token.reveal())[:PSEUDONYM_DIGITS]}"


def _ended(hold: RemoteHoldRow, message: Settle | Release) -> RemoteHoldRow:
    """A charge of 0 is a release: the predecessor's vault settles nothing for nothing."""
    receipt = message.receipt
    charge_msat = message.charge_msat if isinstance(message, Settle) else 0
    reason = message.reason if isinstance(message, Release) else "" if charge_msat else "it cost nothing"
    return evolve(
        hold,
        state=RemoteHoldState.ENDING,
        charge_msat=charge_msat,
        reason=reason,
        provider=(receipt.provider if receipt is not None else None) or hold.provider,
        tokens_in=None if receipt is None else receipt.prompt_tokens,
        tokens_out=None if receipt is None else receipt.completion_tokens,
        latency_ms=0 if receipt is None else receipt.duration_us // 1_000,
    )


def resolve_lost(hold: RemoteHoldRow, why: str) -> tuple[RemoteHoldRow, ReceiptRow]:
    """The end of a hold whose request will never come back (M7): what was consumed, else a release."""
    duration_us = max(0, (time.time_ns() - hold.created_ns) // 1_000)
    ended = evolve(
        hold,
        state=RemoteHoldState.ENDING,
        charge_msat=hold.evidence_msat,
        reason="" if hold.evidence_msat else why,
        latency_ms=duration_us // 1_000,
    )
    receipt = ReceiptRow(
        request_id=hold.key,
        agent_id=hold.agent_id,
        correlation_id=hold.correlation_id,
        hold_id=None,
        started_ns=hold.created_ns,
        duration_us=duration_us,
        model=hold.model,
        provider=hold.provider,
        policy=None,
        stream=False,
        outcome="crashed",
        http_status=0,
        error=why,
        prompt_tokens=None,
        completion_tokens=None,
        estimated=True,
        expected_msat=None,
        cost_msat=hold.evidence_msat,
        saved_median_msat=None,
        saved_dearest_msat=None,
        attempts=(AttemptRow(hold.provider, hold.created_ns, duration_us, None, None, "unknown", why),),
    )
    return ended, receipt


def resolve_remote_orphans(ledger: Ledger) -> int:
    """End every hold that an earlier process left at the vault; for start-up. They are told once ``Settlements`` runs.

    Of a request with two of them - it was about to swap a small one for a large one - only the newer is charged.
    Returns how many were ended. Blocks until that is on disk; raises StoreError.
    """
    holds = ledger.ask_now(RemoteHolds(RemoteHoldState.OPEN))
    newest = {hold.key: hold.reservation_id for hold in holds}
    for hold in holds:
        why = "the process that held it ended"
        if newest[hold.key] == hold.reservation_id:
            ended, receipt = resolve_lost(hold, why)
            ledger.commit_now(KeepRemoteHold(ended, receipt))
        else:
            ledger.commit_now(KeepRemoteHold(released(hold, why)))
    if holds:
        logger.warning("ended %d holds at the vault, of a process that left them open", len(holds))
    return len(holds)
