"""``arbstr agents``: register agents, give them money, list them. One line with tabs in a pipe, words on a terminal."""

from __future__ import annotations

from argparse import Namespace
from uuid import uuid4

from arbstr.cli._books import Credit, open_books, read_agents
from arbstr.cli._output import note, on_terminal, print_table
from arbstr.units import format_sats

_AMOUNTS = ("AVAILABLE", "HELD", "SPENT", "DEPOSITED", "DEBT")


def add(arguments: Namespace) -> int:
    """Print id, name and token: the only time that the token is shown. A deposit comes after, so it cannot lose it."""
    with open_books(arguments) as books:
        agent = books.add(arguments.name)
        if on_terminal():
            print(
                f"Agent:    {agent.agent_id} ({agent.name})\nToken:    {agent.token}\nDatabase: {books.path.resolve()}"
            )
            print("The token is not shown again. Send it as: Authorization: Bearer <token>", flush=True)
        else:
            print(f"{agent.agent_id}\t{agent.name}\t{agent.token}", flush=True)
        if arguments.deposit is not None:
            credit = books.deposit(agent.agent_id, arguments.deposit, agent.agent_id)
            note(_deposited(arguments.deposit, credit))
    return 0


def deposit(arguments: Namespace) -> int:
    """Book an amount; the same ``--key`` books it once (M5)."""
    key = arguments.key or str(uuid4())
    with open_books(arguments) as books:
        credit = books.deposit(arguments.agent, arguments.amount, key)
    if on_terminal():
        print(_deposited(arguments.amount, credit))
    else:
        print(f"{credit.agent_id}\t{arguments.amount}\t{credit.available_msat}")
    return 0


def _deposited(amount_msat: int, credit: Credit) -> str:
    available = format_sats(credit.available_msat)
    return f"Deposited {format_sats(amount_msat)} sats; {credit.agent_id} has {available} sats available."


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
