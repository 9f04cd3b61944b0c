"""Where the verbs meet the books: the database, or the arbstr that runs on it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from attrs import evolve, frozen

from arbstr.cli._errors import Refused, store_errors
from arbstr.cli._output import note
from arbstr.cli._running import Running, running_on
from arbstr.config import DatabaseConfig, load_database

if TYPE_CHECKING:
    from arbstr.cli._times import Period
    from arbstr.store import AgentRow, Connection, NewAgent, RequestFilter, Store
    from arbstr.units import Msat

T = TypeVar("T")


@frozen
class Credit:
    """An account after a deposit."""

    agent_id: str
    available_msat: int


class Books(Protocol):
    """What the verbs ask for. Each call is durable when it returns."""

    @property
    def path(self) -> Path:
        """Of the database."""
        ...

    def add(self, name: str) -> NewAgent:
        """Register an agent. Raises Refused for a name that is none."""
        ...

    def deposit(self, agent: str, amount_msat: Msat, key: str) -> Credit:
        """Credit an agent by id or name; the same key counts once. Raises Refused for an unknown agent."""
        ...


class StoredBooks:
    """Of a database that is ours as long as it is open."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self.path = path

    def add(self, name: str) -> NewAgent:
        return self._store.add_agent_now(name)

    def deposit(self, agent: str, amount_msat: Msat, key: str) -> Credit:
        from arbstr.accounts import deposit_now, find_agent
        from arbstr.store import StoreError, derived_hold_id

        agent_id = find_agent(self._store, agent)
        transaction_id = derived_hold_id("deposit", agent_id, key)  # as over HTTP, so that it counts once by either way
        try:
            account = deposit_now(self._store, agent_id, amount_msat, transaction_id)
        except StoreError as error:
            raise Refused(str(error).replace(transaction_id, key)) from error
        return Credit(account.agent_id, account.available_msat)


@frozen
class LiveBooks:
    """Of a program that runs on the database."""

    running: Running
    path: Path

    def add(self, name: str) -> NewAgent:
        from arbstr.store import NewAgent

        agent_id, token = self.running.add_agent(name)
        return NewAgent(agent_id, name, token)

    def deposit(self, agent: str, amount_msat: Msat, key: str) -> Credit:
        agent_id = _agent_named(self.path, agent)
        return Credit(agent_id, self.running.deposit(agent_id, amount_msat, key))


@contextmanager
def open_books(arguments: Namespace) -> Iterator[Books]:
    """The ledger of the configured database, for writing; where an arbstr runs on it, through that.

    Raises Refused for all that is refused, and when the accounts are in another process.
    """
    from arbstr.store import Store, holder_of

    database = _configured_database(arguments)
    _, vault = load_database(arguments.config)
    if vault is not None and vault.url is not None:
        raise Refused(
            f"[vault] url in {arguments.config} names a vault in another process, and the accounts are there: use its "
            "API, or this command with its configuration"
        )
    pid = holder_of(database.path)
    if pid is not None:
        yield LiveBooks(running_on(arguments, database.path, pid), database.path)
        return
    with store_errors(), Store.open(database.path, durability=database.durability) as store:
        yield StoredBooks(store, database.path)


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
    """Of the agent that ``--agent`` names. Raises Refused."""
    from arbstr.store import Store, find_agent_id

    database, _ = load_database(arguments.config)
    given: str = arguments.agent
    with store_errors():
        known = Store.read_from(database.path, lambda db: find_agent_id(db, given))
    if known == given:  # also another vault's agent, of which there are receipts
        return given
    return _agent_named(database.path, given)


def _agent_named(database: Path, given: str) -> str:
    """The id of the agent with this id, or with a name that only one has. Raises Refused."""
    from arbstr.store import Store

    with store_errors():
        agents = Store.read_agents(database)
    matches = [given] if any(agent.agent_id == given for agent in agents) else []
    matches = matches or [agent.agent_id for agent in agents if agent.name == given]
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
