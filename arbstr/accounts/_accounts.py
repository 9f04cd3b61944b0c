"""Who holds which token, and the way to each agent's account actor."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any

import trio

from actors import ActorDeadError, ActorSystem, AskTimeout, InboxFull, SystemNotRunning, TrioActorRef
from arbstr.accounts._actor import IDLE_S, AgentAccountActor
from arbstr.accounts._bank import Asked, Holder, Told
from arbstr.accounts._messages import Sweep
from arbstr.errors import ArbstrError, InvalidRequest, LedgerUnavailable, NotAnswered
from arbstr.store import (
    BearerRow,
    Ledger,
    NewAgent,
    StoreError,
    StoreUnavailable,
    TokenRow,
    hash_token,
    new_agent,
)

logger = logging.getLogger(__name__)

AccountRef = TrioActorRef[AgentAccountActor]

DISK_DEADLINE_S = 10.0
"""For a change that somebody waits for; a commit takes milliseconds, a locked file five seconds to give up."""


_UNANSWERED = (ActorDeadError, AskTimeout, InboxFull, SystemNotRunning)
"""What an ask can come to when it gets no answer."""


class Accounts:
    """The agents of one ledger: a ``Bank`` in this process. Lives on the Trio thread.

    Account actors start when they are first needed, and end when nobody has needed them for ``idle_s``. So ask for a
    ``ref`` each time and use it at once: one that is kept across a wait may be dead. A message that is sent to a fresh
    one is handled.
    """

    def __init__(
        self,
        system: ActorSystem,
        ledger: Ledger,
        tokens: list[TokenRow],
        *,
        hold_lease_s: float,
        idle_s: float = IDLE_S,
    ) -> None:
        self._system = system
        self._ledger = ledger
        self._by_hash: dict[str, TokenRow] = {}
        self._expiring: list[tuple[int, str]] = []
        self._refs: dict[str, AccountRef] = {}
        self._hold_lease_s = hold_lease_s
        self._idle_s = idle_s
        for row in tokens:
            self._learn(row)

    # Tokens

    def holder_of(self, token: str) -> Holder | None:
        """Whose bearer token this is; None when nobody's, or it has been revoked or has expired.

        Looked up by its SHA-256, so the time taken says nothing about any token.
        """
        row = self._by_hash.get(hash_token(token))
        if row is None or (row.expires_ns is not None and row.expires_ns <= time.time_ns()):
            return None
        return Holder(row.agent_id, row.name, row.budget_id)

    def tokens_changed(self, name: str, rows: tuple[BearerRow, ...]) -> None:
        """These are on disk, so they count from now on; told by the account of the agent ``name``."""
        for row in rows:
            if row.revoked_ns is not None:
                self._by_hash.pop(row.token_hash, None)
            else:
                self._learn(TokenRow(row.agent_id, name, row.token_hash, row.token_id, row.budget_id, row.expires_ns))

    def _learn(self, row: TokenRow) -> None:
        self._by_hash[row.token_hash] = row
        if row.expires_ns is not None:
            heapq.heappush(self._expiring, (row.expires_ns, row.token_hash))

    def _forget_expired(self) -> None:
        now_ns = time.time_ns()
        while self._expiring and self._expiring[0][0] <= now_ns:
            _, token_hash = heapq.heappop(self._expiring)
            row = self._by_hash.get(token_hash)
            if row is not None and row.expires_ns is not None and row.expires_ns <= now_ns:
                del self._by_hash[token_hash]

    # Account actors

    def ref(self, agent_id: str) -> AccountRef:
        """The account actor of an agent, started or replaced if need be; it reads its state from the journal."""
        ref = self._refs.get(agent_id)
        if ref is None or not ref.is_alive():
            ref = self._system.start(
                AgentAccountActor, agent_id, self._ledger, self._hold_lease_s, self._idle_s, registry=self
            )
            self._refs[agent_id] = ref
        return ref

    async def ask(self, agent_id: str, message: Any, *, timeout_s: float = DISK_DEADLINE_S) -> Any:
        """What the account of an agent answers to ``message``, one of ``_messages``.

        Raises what the account refuses with, NotFound for an agent that there is not, and NotAnswered when no answer
        came: then it may have been done all the same.
        """
        try:
            return await self.ref(agent_id).request(message, timeout_s=timeout_s)
        except _UNANSWERED as error:
            raise NotAnswered(f"the account did not answer: {error}", retry_after_s=1) from error

    def request(self, holder: Holder, message: Asked) -> Coroutine[Any, Any, Any]:
        return self.ask(holder.agent_id, message)

    def tell(self, holder: Holder, message: Told) -> None:
        try:
            self.ref(holder.agent_id).tell(message)
        except _UNANSWERED as error:
            raise NotAnswered(f"the account was not reached: {error}", retry_after_s=1) from error

    def retired(self, agent_id: str, ref: TrioActorRef[Any]) -> None:
        """An account actor that has nothing to do is about to end."""
        if self._refs.get(agent_id) is ref:
            del self._refs[agent_id]

    @property
    def active(self) -> int:
        """Account actors that have not ended for want of anything to do."""
        return len(self._refs)

    def sweep(self) -> None:
        """Have every account in use look for holds without an owner, and end if it is not used any more.

        One whose actor died is replaced.
        """
        self._forget_expired()
        for agent_id in list(self._refs):
            try:
                self.ref(agent_id).tell(Sweep())
            except (InboxFull, ActorDeadError) as error:  # it is swept the next time
                logger.warning("account %s was not swept: %s", agent_id, error)

    # Agents

    async def add(self, name: str, metadata: Mapping[str, object] | None = None) -> NewAgent:
        """Register an agent; its token is in the answer and nowhere else. Durable when this returns.

        Raises InvalidRequest for a name that is none, LedgerUnavailable. If that, or a cancellation, comes late, there
        may be an agent without money whose token nobody knows.
        """
        arrived = trio.Event()
        failures: list[StoreError | None] = []

        def done(_: object, error: StoreError | None) -> None:
            failures.append(error)
            arrived.set()

        try:
            agent, change = new_agent(name, metadata)
            self._ledger.submit(change, done)
        except StoreError as error:
            raise _not_added(error) from error
        with trio.move_on_after(DISK_DEADLINE_S):
            await arrived.wait()
        failure = failures[0] if failures else StoreUnavailable("the disk did not answer in time")
        if failure is not None:
            raise _not_added(failure)
        self.tokens_changed(agent.name, (change.token,))
        return agent


def _not_added(error: StoreError) -> ArbstrError:
    if isinstance(error, StoreUnavailable):
        return LedgerUnavailable(f"the agent was not added: {error}", retry_after_s=1)
    return InvalidRequest(f"the agent was not added: {error}", param="name")
