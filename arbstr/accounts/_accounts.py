"""Who holds which token, and the way to each agent's account actor."""

from __future__ import annotations

import logging

import trio

from actors import ActorDeadError, ActorSystem, InboxFull, TrioActorRef
from arbstr.accounts._actor import AgentAccountActor
from arbstr.accounts._messages import Sweep
from arbstr.errors import ArbstrError, InvalidRequest, LedgerUnavailable
from arbstr.store import NewAgent, Store, StoreError, StoreUnavailable, TokenRow, add_agent, hash_token

logger = logging.getLogger(__name__)

AccountRef = TrioActorRef[AgentAccountActor]

DISK_DEADLINE_S = 10.0
"""For a change that somebody waits for; a commit takes milliseconds, a locked file five seconds to give up."""


class Accounts:
    """The agents of one store. Lives on the Trio thread; account actors start when they are first needed."""

    def __init__(self, system: ActorSystem, store: Store, tokens: list[TokenRow], *, hold_lease_s: float) -> None:
        self._system = system
        self._store = store
        self._by_hash = {row.token_hash: row for row in tokens}
        self._refs: dict[str, AccountRef] = {}
        self._hold_lease_s = hold_lease_s

    def holder_of(self, token: str) -> TokenRow | None:
        """Whose bearer token this is. Looked up by its SHA-256, so the time taken says nothing about any token."""
        return self._by_hash.get(hash_token(token))

    def ref(self, agent_id: str) -> AccountRef:
        """The account actor of an agent, started or replaced if need be; it reads its state from the journal."""
        ref = self._refs.get(agent_id)
        if ref is None or not ref.is_alive():
            ref = self._system.start(AgentAccountActor, agent_id, self._store, self._hold_lease_s)
            self._refs[agent_id] = ref
        return ref

    def sweep(self) -> None:
        """Have every account that was ever used look for holds without an owner; one whose actor died is replaced."""
        for agent_id in self._refs:
            try:
                self.ref(agent_id).tell(Sweep())
            except (InboxFull, ActorDeadError) as error:  # it is swept the next time
                logger.warning("account %s was not swept: %s", agent_id, error)

    async def add(self, name: str) -> NewAgent:
        """Register an agent; its token is in the answer and nowhere else. Durable when this returns.

        Raises InvalidRequest for a name that is none, LedgerUnavailable. If that, or a cancellation, comes late, there
        may be an agent without money whose token nobody knows.
        """
        arrived = trio.Event()
        box: list[tuple[NewAgent | None, StoreError | None]] = []

        def done(agent: NewAgent | None, error: StoreError | None) -> None:
            box.append((agent, error))
            arrived.set()

        try:
            self._store.call(lambda db: add_agent(db, name), done)
        except StoreUnavailable as error:
            raise _not_added(error) from error
        with trio.move_on_after(DISK_DEADLINE_S):
            await arrived.wait()
        agent, failure = box[0] if box else (None, StoreUnavailable("the disk did not answer in time"))
        if agent is None:
            raise _not_added(failure)
        row = TokenRow(agent.agent_id, agent.name, hash_token(agent.token))
        self._by_hash[row.token_hash] = row
        return agent


def _not_added(error: StoreError | None) -> ArbstrError:
    if isinstance(error, StoreUnavailable):
        return LedgerUnavailable(f"the agent was not added: {error}", retry_after_s=1)
    return InvalidRequest(f"the agent was not added: {error}", param="name")
