"""Who holds which token, and the way to each agent's account actor."""

from __future__ import annotations

import trio

from actors import ActorSystem, TrioActorRef
from arbstr.accounts._actor import AgentAccountActor
from arbstr.accounts._messages import Sweep
from arbstr.errors import LedgerUnavailable
from arbstr.store import NewAgent, Store, StoreError, TokenRow, add_agent, hash_token

AccountRef = TrioActorRef[AgentAccountActor]


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
        """Have every running account look for holds without an owner."""
        for ref in self._refs.values():
            if ref.is_alive():
                ref.tell(Sweep())

    async def add(self, name: str) -> NewAgent:
        """Register an agent; its token is in the answer and nowhere else. Durable when this returns."""
        arrived = trio.Event()
        box: list[NewAgent | StoreError] = []

        def done(agent: NewAgent | None, error: StoreError | None) -> None:
            box.append(error if agent is None else agent)  # type: ignore[arg-type]  # one of the two is there
            arrived.set()

        self._store.call(lambda db: add_agent(db, name), done)
        await arrived.wait()
        agent = box[0]
        if isinstance(agent, StoreError):
            raise LedgerUnavailable(f"the agent was not added: {agent}")
        self._by_hash[hash_token(agent.token)] = TokenRow(agent.agent_id, agent.name, hash_token(agent.token))
        return agent
