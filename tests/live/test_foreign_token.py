"""Every route of the program, asked for an agent's things with another's token: nothing of them is told or changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define

from arbstr.edge._vault_routes import VAULT_ROUTES
from tests.live.program import Household, Program, mock_provider

ADMIN = "operator-token-of-at-least-thirty-two-characters"
INTERNAL = "internal-token-of-at-least-thirty-two-characters"
TOLD_TO_ALL = {"/v1/models", "/v1/models/{model}", "/v1/cost", "/providers", "/health", "/ready", "/openapi.json"}
"""What these answer is the same for everybody."""
OF_THE_ASKER = {"/v1/stats", "/v1/requests", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"}
"""Whoever asks is told of their own, and pays for it."""


@define
class Victim:
    """An agent of which there is something to be found everywhere."""

    id: str
    token: str
    ids: dict[str, str]
    """What may stand in a path, by the name of the parameter."""
    marks: list[str]
    """What nobody else may read."""


@define
class World:
    household: Household
    program: Program
    victim: Victim
    thieves: dict[str, str]
    """Tokens of another agent, by kind."""

    def as_operator(self) -> httpx.Client:
        return self.program.client(ADMIN)

    def as_victim(self) -> httpx.Client:
        return self.program.client(self.victim.token)

    def state(self) -> list[Any]:
        """All that is known of the victim."""
        agent = f"/agents/{self.victim.id}"
        with self.as_operator() as operator, self.as_victim() as own:
            asked = [
                operator.get(path) for path in (agent, f"{agent}/tokens", f"/operator/audit?agent_id={self.victim.id}")
            ]
            asked += [own.get(f"{agent}/{what}") for what in ("balance", "history", "budgets?status=all")]
            asked.append(operator.get("/operator/approvals?status=all"))
        assert [one.status_code for one in asked] == [200] * len(asked)
        return [one.json() for one in asked]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    household = Household(tmp_path_factory.mktemp("foreign"))
    household.write_config(
        mock_provider("one", "ttft_ms=1&tokens_per_s=10000") + '[logging]\nlevel = "debug"\n',
        server=f'admin_token = "{ADMIN}"',
        vault=f'internal_token = "{INTERNAL}"',
    )
    with household.serve() as program:
        with program.client(ADMIN) as operator:
            victim = furnished(program, operator)
            thief = operator.post("/agents", json={"name": "thief"}).json()
            operator.post(f"/agents/{thief['agent_id']}/deposit", json={"amount_msat": 10_000_000})
            with program.client(thief["token"]) as own:
                minted = own.post(f"/agents/{thief['agent_id']}/budgets", json={"amount_msat": 1_000_000}).json()
        yield World(household, program, victim, {"agent": thief["token"], "budget": minted["token"]})


def furnished(program: Program, operator: httpx.Client) -> Victim:
    made = operator.post("/agents", json={"name": "victim-of-all", "metadata": {"plan": "secret-plan"}}).json()
    agent, token = f"/agents/{made['agent_id']}", made["token"]
    policy = {"max_transaction_msat": 5_000_000, "daily_limit_msat": 90_000_000, "approval_timeout_ms": 3_600_000}
    good(operator.patch(f"/operator{agent}/policy", json=policy))
    good(operator.post(f"{agent}/deposit", json={"amount_msat": 77_123_457}))
    wish = {"asset": "BTC_simulated", "destination_type": "internal", "destination": "secret-destination"}
    with program.client(token) as own:
        paid = good(own.post(f"{agent}/pay", json={**wish, "amount_msat": 1_234_567, "purpose": "secret-purpose"}))
        good(own.post(f"{agent}/pay", json={**wish, "amount_msat": 6_543_211, "purpose": "secret-question"}))
        budget = good(own.post(f"{agent}/budgets", json={"amount_msat": 3_333_331, "name": "secret-budget"}))
        chat = {"model": "m", "messages": [{"role": "user", "content": "secret-prompt"}], "max_tokens": 5}
        answer = own.post("/v1/chat/completions", json=chat, headers={"x-request-id": "secret-request"})
        good(answer)
        reserve = {
            "agent_token": token,
            "amount_msats": 1_111_117,
            "correlation_id": "secret-correlation",
            "model": "m",
        }
        held = good(operator.post("/internal/reserve", json=reserve, headers={"x-internal-token": INTERNAL}))
        balance = good(own.get(f"{agent}/balance"))["balance_msat"]
    (question,) = good(operator.get("/operator/approvals"))["approvals"]
    (named, *_) = good(operator.get(f"{agent}/tokens"))["tokens"]
    request_id = answer.headers["x-arbstr-request-id"]
    ids = {
        "agent": made["agent_id"],
        "approval": question["id"],
        "approval_id": question["id"],
        "tx_id": paid["transaction_id"],
        "token_id": named["token_id"],
        "budget_id": budget["budget_id"],
        "request_id": request_id,
        "reservation_id": held["reservation_id"],
    }
    words = ("all", "plan", "destination", "purpose", "question", "budget", "prompt", "correlation", "request")
    marks = ["victim-of-all", *(f"secret-{word}" for word in words[1:]), str(balance), "77123457", "1234567", "6543211"]
    marks += ["3333331", "1111117", token, budget["token"], *ids.values()]
    return Victim(made["agent_id"], token, ids, marks)


def good(answer: httpx.Response) -> Any:
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def routes() -> list[tuple[str, str]]:
    """Of the vault; those of the proxy are read from its document."""
    return [(route.method, route.path) for route in VAULT_ROUTES]


def filled(path: str, ids: dict[str, str]) -> str:
    """With the victim's ids in the places of the parameters."""
    if path.startswith("/operator/approvals/"):
        path = path.replace("{id}", ids["approval"])
    elif path.startswith("/operator/events/"):
        path = path.replace("{id}", "evt_00000000000000000000000000")
    path = path.replace("{id}", ids["agent"]).replace("{model}", "m")
    return re.sub(r"{(\w+)}", lambda found: ids[found[1]], path)


def bodies(world: World) -> dict[str, Any]:
    """One that every route with a body would take, if it were the right one who asks."""
    ids = world.victim.ids
    return {
        "amount_msat": 1,
        "amount_msats": 1,
        "actual_msats": 1,
        "agent_token": "",
        "asset": "BTC_simulated",
        "correlation_id": "theft",
        "daily_limit_msat": 1,
        "destination": "thief",
        "destination_type": "internal",
        "input": "hi",
        "latency_ms": 1,
        "max_tokens": 1,
        "max_transaction_msat": 1,
        "messages": [{"role": "user", "content": "hi"}],
        "model": "m",
        "name": "thief",
        "prompt": "hi",
        "provider": "one",
        "purpose": "theft",
        "reservation_id": ids["reservation_id"],
        "tokens_in": 1,
        "tokens_out": 1,
    }


def asked(world: World, client: httpx.Client, method: str, path: str) -> httpx.Response:
    body = None if method == "GET" else json.dumps(bodies(world))
    query = {"agent_id": world.victim.id, "agent": world.victim.id} if method == "GET" else {}
    if path in OF_THE_ASKER or path in TOLD_TO_ALL:
        query = {}
    headers = {"content-type": "application/json"} if body else {}
    return client.request(method, filled(path, world.victim.ids), params=query, content=body, headers=headers)


def told(world: World, answer: httpx.Response) -> list[str]:
    """What of the victim is in an answer, beside what the question said itself."""
    known = str(answer.request.url) + (answer.request.content.decode() if answer.request.content else "")
    whole = answer.text + json.dumps(dict(answer.headers))
    return [mark for mark in world.victim.marks if mark in whole and mark not in known]


def documented(client: httpx.Client) -> list[tuple[str, str]]:
    paths: dict[str, dict[str, Any]] = client.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


@pytest.mark.parametrize("kind", ["agent", "budget"])
def test_no_route_tells_or_changes_anything_of_another_agent(world: World, kind: str) -> None:
    before = world.state()
    with world.program.client(world.thieves[kind]) as thief:
        every = [*documented(thief), *routes()]
        assert len(every) > 40
        for method, path in every:
            answer = asked(world, thief, method, path)
            assert told(world, answer) == [], (method, path)
            if path not in TOLD_TO_ALL | OF_THE_ASKER:
                assert answer.status_code in (401, 403, 404), (method, path, answer.text)
    assert world.state() == before


def test_the_same_questions_tell_it_when_the_agent_and_the_operator_ask(world: World) -> None:
    """So that what is looked for can be found."""
    finds: dict[str, set[str]] = {}
    for token in (world.victim.token, ADMIN):
        with world.program.client(token) as client:
            for method, path in [*documented(client), *routes()]:
                if method == "GET":
                    finds.setdefault(path, set()).update(told(world, asked(world, client, method, path)))
    telling = {path for path, marks in finds.items() if marks}
    assert telling >= {route for method, route in routes() if method == "GET"} - {"/operator/events"}
    assert telling >= {"/v1/requests", "/v1/requests/{request_id}"}


def test_own_records_alone_are_listed(world: World) -> None:
    path = f"/v1/requests/{world.victim.ids['request_id']}"
    with world.as_victim() as own:
        assert own.get("/v1/requests").json()["total"] == 1
        assert own.get(path).status_code == 200
    with world.program.client(world.thieves["agent"]) as thief:
        assert thief.get(path).status_code == 404
        assert thief.get("/v1/stats").json()["counts"]["total"] == thief.get("/v1/requests").json()["total"]


def test_no_secret_is_in_the_log_or_in_the_database(world: World, tmp_path: Path) -> None:
    """Whatever was asked before, with the log at its most talkative."""
    secrets = [world.victim.token, ADMIN, INTERNAL, *world.thieves.values()]
    with world.program.client("vtk_01ARZ3NDEKTSV4RRFFQ69G5FAV") as nobody:
        assert nobody.get("/v1/models").status_code == 401
        assert nobody.get("/agents").status_code == 401
        broken = {"agent_token": world.victim.token, "amount_msats": "much"}
        refused = nobody.post("/internal/reserve", json=broken, headers={"x-internal-token": INTERNAL})
        assert (refused.status_code, [one for one in secrets if one in refused.text]) == (400, [])
    log = "".join(world.program.output)
    assert "POST" in log or "chat" in log, "nothing was logged"
    assert [one for one in [*secrets, "vtk_01ARZ3NDEKTSV4RRFFQ69G5FAV", "secret-prompt"] if one in log] == []
    written = b"".join(one.read_bytes() for one in world.household.path.glob("books.db*"))
    assert [one for one in secrets if one.encode() in written] == []
