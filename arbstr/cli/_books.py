"""Where the verbs meet the database, so that one in use can be reached another way later."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attrs import evolve

from arbstr.cli._errors import Refused, store_errors
from arbstr.cli._output import note
from arbstr.config import DatabaseConfig, load_database

if TYPE_CHECKING:
    from arbstr.cli._times import Period
    from arbstr.store import AccountRow, AgentRow, Connection, NewAgent, RequestFilter, Store
    from arbstr.units import Msat

T = TypeVar("T")


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
    """The ledger of the configured database, for writing. Raises Refused for all that the store refuses, and when the
    accounts are in another process."""
    from arbstr.store import Store

    database = _configured_database(arguments)
    _, vault = load_database(arguments.config)
    if vault is not None and vault.url is not None:
        raise Refused(
            f"[vault] url in {arguments.config} names a vault in another process, and the accounts are there: use its "
            "API, or this command with its configuration"
        )
    with store_errors(), Store.open(database.path, durability=database.durability) as store:
        yield Books(store, database.path)


def read_agents(arguments: Namespace) -> Sequence[AgentRow]:
    """All agents; works while an arbstr runs."""
    from arbstr.store import Store

    database = _configured_database(arguments)
    with store_errors():
        return Store.read_agents(database.path)


def read_receipts(arguments: Namespace, query: Callable[[Connection], T]) -> T:
    """Run a query on one snapshot of the configured database; works while an arbstr runs. Raises Refused."""
    from arbstr.store import Store

    database, _ = load_database(arguments.config)
    with store_errors():
        return Store.read_from(database.path, query)


def filter_of(arguments: Namespace, period: Period | None = None) -> RequestFilter:
    """What ``--agent``, ``--model`` and ``--failed`` leave of a period, or of all time. Raises Refused."""
    from arbstr.store import RequestFilter

    wanted = RequestFilter() if period is None else RequestFilter(period.since_ns, period.until_ns)
    return evolve(
        wanted,
        agent_id=None if arguments.agent is None else _agent_id(arguments),
        model=getattr(arguments, "model", None),
        success=False if getattr(arguments, "failed", False) else None,
    )


def _agent_id(arguments: Namespace) -> str:
    """Of the agent that ``--agent`` names, by its id or by a name that only one has. Raises Refused."""
    from arbstr.store import Store, find_agent_id

    database, _ = load_database(arguments.config)
    given: str = arguments.agent
    with store_errors():
        agents = Store.read_agents(database.path)
        known = Store.read_from(database.path, lambda db: find_agent_id(db, given))
    if known == given:  # also another vault's agent, of which there are receipts
        return given
    matches = [agent.agent_id for agent in agents if agent.name == given]
    if not matches:
        raise Refused(f"there is no agent {given!r}; `arbstr agents list` shows those there are")
    if len(matches) > 1:
        raise Refused(f"{len(matches)} agents are named {given!r}; use an id: {', '.join(matches)}")
    return matches[0]


def database_path(arguments: Namespace) -> Path:
    """Of the configured database, whether or not there is one."""
    database, _ = load_database(arguments.config)
    return database.path


def _configured_database(arguments: Namespace) -> DatabaseConfig:
    """``[database]`` of the file; says so when the file leaves accounts switched off."""
    database, vault = load_database(arguments.config)
    if vault is None:
        note(f"Note: {arguments.config} has no [vault], so `arbstr serve` does not use these accounts yet.")
    return database
