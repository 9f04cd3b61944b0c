"""Many requests at once for too little money, at the started program: nothing is overspent, and everybody hears why."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from arbstr.accounts import deposit_now
from arbstr.store import NewAgent, Store
from tests.live.program import Household, Program, mock_provider

SAT = 1_000
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}

Outcome = tuple[int, str | None]
"""Status, and the reason of a refusal."""


def one_sat_each(pace: str) -> str:
    """A provider whose requests cost 1 sat, whatever they are."""
    return mock_provider("one", pace, rates=("0", "0"), base_fee="1")


def rich(household: Household, count: int, msat: int) -> list[NewAgent]:
    agents = []
    with Store.open(household.path / "books.db") as store:
        for number in range(count):
            agents.append(store.add_agent_now(f"agent {number}"))
            deposit_now(store, agents[-1].agent_id, msat, f"first:{number}")
    return agents


def ask(program: Program, asked: Iterable[tuple[str, bool]]) -> list[Outcome]:
    """Requests one after the other on one connection; each with its token, and whether it is a stream."""
    outcomes: list[Outcome] = []
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=120)
    for token, stream in asked:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps({**BODY, "stream": stream}), headers)
        answer = connection.getresponse()
        body = answer.read()
        outcomes.append((answer.status, None if answer.status == 200 else refusal(answer, body)))
    connection.close()
    return outcomes


def refusal(answer: http.client.HTTPResponse, body: bytes) -> str:
    if answer.status == 429:
        assert int(answer.headers["retry-after"]) >= 1
    reason: str = json.loads(body)["error"]["reason"]
    return reason


def all_at_once(program: Program, of_each: list[list[tuple[str, bool]]]) -> Counter[Outcome]:
    """So many connections at the same time."""
    with ThreadPoolExecutor(len(of_each)) as pool:
        return Counter(outcome for told in pool.map(lambda asked: ask(program, asked), of_each) for outcome in told)


def spent(household: Household) -> dict[str, int]:
    """By agent, from books that are right and in which nothing is held."""
    report = household.check()
    assert report.open_holds == 0
    with Store.open(household.path / "books.db") as store:
        agents = store.agents_now()
    assert all(agent.held_msat == agent.debt_msat == 0 <= agent.available_msat for agent in agents)
    return {agent.agent_id: agent.spent_msat for agent in agents}


def test_money_for_ten_pays_for_ten_when_a_thousand_ask_at_once(household: Household) -> None:
    household.write_config(one_sat_each("ttft_ms=200&tokens_per_s=1000"))
    (agent,) = rich(household, 1, 10 * SAT)
    with household.serve() as program:
        told = all_at_once(program, [[(agent.token, number % 2 == 0)] for number in range(1_000)])
        assert program.stop() == 0
    assert told == {(200, None): 10, (402, "insufficient_balance"): 990}
    assert spent(household) == {agent.agent_id: 10 * SAT}


def test_a_hundred_agents_with_a_hundred_requests_each_spend_what_they_have(household: Household) -> None:
    household.write_config(one_sat_each("ttft_ms=20&tokens_per_s=1000"))
    agents = rich(household, 100, 10 * SAT)
    with household.serve() as program:
        # All begin with the same agent and go on to the next, so that it is a crowd that each of them meets.
        asked = [[(agent.token, number % 4 == 0) for agent in agents] for number in range(100)]
        told = all_at_once(program, asked)
        assert program.stop() == 0
    assert told == {(200, None): 1_000, (402, "insufficient_balance"): 9_000}
    assert spent(household) == {agent.agent_id: 10 * SAT for agent in agents}


def test_budgets_of_one_agent_spend_no_more_than_each_may_and_the_agent_has(household: Household) -> None:
    household.write_config(one_sat_each("ttft_ms=20&tokens_per_s=1000"))
    (agent,) = rich(household, 1, 20 * SAT)
    with household.serve() as program:
        with program.client(agent.token) as client:
            path = f"/agents/{agent.agent_id}/budgets"
            wishes: list[dict[str, Any]] = [{"amount_msat": 6 * SAT, "max_holds": 1}]
            wishes += [{"amount_msat": 6 * SAT} for _ in range(4)]
            minted = [client.post(path, json=wish).json() for wish in wishes]
            tokens = [one["token"] for one in minted]
            asked = [[(token, number % 2 == 0) for token in tokens] for number in range(60)]
            told = all_at_once(program, asked)
            budgets = client.get(path, params={"status": "all"}).json()["budgets"]
        assert program.stop() == 0
    assert told[200, None] == 20
    assert set(told) == {
        (200, None),
        (402, "insufficient_balance"),
        (402, "budget_exhausted"),
        (429, "too_many_holds"),
    }
    assert all(0 <= one["spent_msat"] <= one["amount_msat"] and one["held_msat"] == 0 for one in budgets)
    assert sum(one["spent_msat"] for one in budgets) == 20 * SAT
    assert spent(household) == {agent.agent_id: 20 * SAT}
