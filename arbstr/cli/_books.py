"""Where the ``agents`` verbs meet the ledger, so that a database in use can be reached another way later."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from arbstr.cli._errors import store_errors
from arbstr.cli._output import note
from arbstr.config import DatabaseConfig, load_database

if TYPE_CHECKING:
    from arbstr.store import AccountRow, AgentRow, NewAgent, Store
    from arbstr.units import Msat


class Books:
    """What the verbs ask of an opened store. Each call is durable when it returns."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self.path = path

    def add(self, name: str) -> NewAgent:
        """Register an agent. Raises StoreError for a name that is none."""
        return self._store.add_agent_now(name)

    def deposit(self, agent: str, amount_msat: Msat, key: str) -> AccountRow:
        """Credit an agent by id or name; the same key counts once. Raises StoreError for an unknown agent."""
        from arbstr.accounts import deposit_now

        return deposit_now(self._store, agent, amount_msat, key)


@contextmanager
def open_books(arguments: Namespace) -> Iterator[Books]:
    """The ledger of the configured database, for writing. Raises Refused for all that the store refuses."""
    from arbstr.store import Store

    database = _configured_database(arguments)
    with store_errors(), Store.open(database.path, durability=database.durability) as store:
        yield Books(store, database.path)


def read_agents(arguments: Namespace) -> Sequence[AgentRow]:
    """All agents; works while an arbstr runs."""
    from arbstr.store import Store

    database = _configured_database(arguments)
    with store_errors():
        return Store.read_agents(database.path)


def _configured_database(arguments: Namespace) -> DatabaseConfig:
    """``[database]`` of the file; says so when the file leaves accounts switched off."""
    database, vault = load_database(arguments.config)
    if vault is None:
        note(f"Note: {arguments.config} has no [vault], so `arbstr serve` does not use these accounts yet.")
    return database
