"""Where the ``agents`` verbs meet the ledger, so that a database in use can be reached another way later."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from arbstr.cli._errors import store_errors
from arbstr.cli._output import note
from arbstr.config import DatabaseConfig, load_database

if TYPE_CHECKING:
    from arbstr.store import AccountRow, AgentRow, NewAgent


class Books(Protocol):
    """What the verbs ask of an opened store."""

    def add_agent_now(self, name: str) -> NewAgent: ...

    def deposit_now(self, agent: str, amount_msat: int, key: str) -> AccountRow: ...


@contextmanager
def open_books(arguments: Namespace) -> Iterator[tuple[Books, Path]]:
    """The ledger of the configured database, for writing, and where it is. Raises Refused when it cannot be had."""
    from arbstr.store import Store

    database = configured_database(arguments)
    with store_errors(database.path), Store.open(database.path, durability=database.durability) as store:
        yield cast(Books, store), database.path


def read_agents(arguments: Namespace) -> Sequence[AgentRow]:
    """All agents; works while an arbstr runs."""
    from arbstr.store import Store

    database = configured_database(arguments)
    with store_errors(database.path):
        return Store.read_agents(database.path)


def configured_database(arguments: Namespace) -> DatabaseConfig:
    """``[database]`` of the file; says so when the file leaves accounts switched off."""
    database, vault = load_database(arguments.config)
    if vault is None:
        note(f"Note: {arguments.config} has no [vault], so `arbstr serve` does not use these accounts yet.")
    return database
