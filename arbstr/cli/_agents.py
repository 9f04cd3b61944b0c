"""``arbstr agents``: register agents, give them money, list them. One line with tabs in a pipe, words on a terminal."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING
from uuid import uuid4

from arbstr.cli._books import open_books, read_agents
from arbstr.cli._errors import Refused
from arbstr.cli._output import note, on_terminal, print_table
from arbstr.units import format_sats

if TYPE_CHECKING:
    from arbstr.store import AccountRow

MAX_NAME = 100
_AMOUNTS = ("AVAILABLE", "HELD", "SPENT", "DEPOSITED", "DEBT")


def add(arguments: Namespace) -> int:
    """Print id, name and token: the only time that the token is shown. A deposit comes after, so it cannot lose it."""
    name = arguments.name.strip()
    if not name or not name.isprintable() or len(name) > MAX_NAME:
        raise Refused(f"{arguments.name!r} is not a name; write 1 to {MAX_NAME} visible characters")
    with open_books(arguments) as (books, path):
        agent = books.add_agent_now(name)
        if on_terminal():
            print(f"Agent:    {agent.agent_id} ({agent.name})\nToken:    {agent.token}\nDatabase: {path.resolve()}")
            print("The token is not shown again. Send it as: Authorization: Bearer <token>", flush=True)
        else:
            print(f"{agent.agent_id}\t{agent.name}\t{agent.token}", flush=True)
        if arguments.deposit is not None:
            account = books.deposit_now(agent.agent_id, arguments.deposit, f"agents-add-{agent.agent_id}")
            note(_deposited(arguments.deposit, account))
    return 0


def deposit(arguments: Namespace) -> int:
    """Book an amount; the same ``--key`` books it once (M5)."""
    key = arguments.key or f"agents-deposit-{uuid4()}"
    with open_books(arguments) as (books, _):
        account = books.deposit_now(arguments.agent, arguments.amount, key)
    if on_terminal():
        print(_deposited(arguments.amount, account))
    else:
        print(f"{account.agent_id}\t{arguments.amount}\t{account.available_msat}")
    return 0


def _deposited(amount_msat: int, account: AccountRow) -> str:
    available = format_sats(account.available_msat)
    return f"Deposited {format_sats(amount_msat)} sats; {account.agent_id} has {available} sats available."


def list_agents(arguments: Namespace) -> int:
    """All agents with their balances in sats."""
    agents = read_agents(arguments)
    rows = [
        (
            agent.agent_id,
            agent.name,
            format_sats(agent.available_msat),
            format_sats(agent.held_msat),
            format_sats(agent.spent_msat),
            format_sats(agent.deposited_msat),
            format_sats(agent.debt_msat),
        )
        for agent in agents
    ]
    print_table(("ID", "NAME", *_AMOUNTS), rows, numbers=frozenset(_AMOUNTS))
    if not agents:
        note("No agents yet. Add one: arbstr agents add NAME --deposit SATS")
    return 0
