"""Deposits from the command line and at start-up."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arbstr.accounts import deposit_now
from arbstr.accounts._now import find_agent
from arbstr.store import Store, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "books.db", durability="process") as store:
        yield store
    assert Store.check(tmp_path / "books.db").problems == ()


def test_a_deposit_is_on_disk_when_it_returns(store: Store) -> None:
    agent = store.add_agent_now("ada")
    assert deposit_now(store, "ada", 500, "k").available_msat == 500
    assert deposit_now(store, agent.agent_id, 70, "k2").available_msat == 570
    assert Store.read_agents(store.path)[0].available_msat == 570


def test_a_deposit_counts_once_when_it_is_repeated(store: Store) -> None:
    store.add_agent_now("ada")
    first = deposit_now(store, "ada", 500, "k")
    assert deposit_now(store, "ada", 500, "k") == first
    deposit_now(store, "ada", 1, "k2")
    assert deposit_now(store, "ada", 500, "k").available_msat == 501


def test_a_key_is_refused_when_it_was_used_for_something_else(store: Store) -> None:
    """Whoever sees no error believes that the money has arrived."""
    ada, bob = store.add_agent_now("ada"), store.add_agent_now("bob")
    deposit_now(store, ada.agent_id, 500, "k")
    with pytest.raises(StoreError, match="used before, for 500 msat"):
        deposit_now(store, bob.agent_id, 500, "k")
    with pytest.raises(StoreError, match="use another key"):
        deposit_now(store, ada.agent_id, 501, "k")
    balances = {row.agent_id: row.available_msat for row in store.agents_now()}
    assert balances == {ada.agent_id: 500, bob.agent_id: 0}


def test_an_agent_is_found_by_id_before_name_and_refused_when_ambiguous(store: Store) -> None:
    ada = store.add_agent_now("ada")
    named_like_an_id = store.add_agent_now(ada.agent_id)
    assert find_agent(store, ada.agent_id) == ada.agent_id
    assert find_agent(store, "ada") == ada.agent_id
    twin = store.add_agent_now("ada")
    with pytest.raises(StoreError, match="2 agents are named 'ada'") as refusal:
        deposit_now(store, "ada", 1, "k")
    assert ada.agent_id in str(refusal.value)
    assert twin.agent_id in str(refusal.value)
    with pytest.raises(StoreError, match="there is no agent 'eve'"):
        find_agent(store, "eve")
    assert named_like_an_id.agent_id != ada.agent_id


@pytest.mark.parametrize("amount", [0, -5, 10**30])
def test_an_absurd_amount_is_refused(store: Store, amount: int) -> None:
    store.add_agent_now("ada")
    with pytest.raises(ValueError, match="msat"):
        deposit_now(store, "ada", amount, "k")
