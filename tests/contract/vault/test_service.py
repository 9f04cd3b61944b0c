"""Cases 1 to 13: what answers, who may ask, and what the program does not start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.client import Answer
from tests.contract.program import run, started, toml
from tests.contract.vault.treasury import (
    ADMIN,
    INTERNAL,
    Vault,
    assert_invalid,
    assert_refused,
    at_once,
    instant_ms,
    ok,
    payment,
    tables,
    treasury,
)


def assert_no_route(answer: Answer, method: str, url: str) -> None:
    expected = {"message": f"Route {method}:{url} not found", "error": "Not Found", "statusCode": 404}
    assert (answer.status, answer.json) == (404, expected)


def assert_not_admin(answer: Answer) -> None:
    assert_refused(answer, 401, "unauthorized", "Invalid admin token")


def assert_not_agent(answer: Answer) -> None:
    assert_refused(answer, 401, "unauthorized", "Invalid agent token")


def test_program_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    """Leaving the block is telling it; then it must still be there, and end with 0."""
    with treasury(tmp_path) as vault:
        assert vault.register().balance() == 0
        assert vault.call("GET", "/health").status == 200


def test_health_is_told_to_anybody_with_the_time(vault: Vault) -> None:
    answer = vault.call("GET", "/health")
    assert (answer.status, answer.json["status"]) == (200, "ok")
    assert instant_ms(answer.json["timestamp"]) > 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/operator/nope"),
        ("GET", "/agents/ag_x/nope"),
        ("GET", "/internal/reserve"),
        ("DELETE", "/agents"),
        ("OPTIONS", "/agents"),
        ("GET", "/operator/dashboard/"),
        ("GET", "/operator/nope?a=b"),
    ],
)
def test_route_is_not_found_when_path_or_method_is_unknown(vault: Vault, method: str, path: str) -> None:
    assert_no_route(vault.call(method, path), method, path)


def test_path_beside_the_vaults_needs_a_bearer_even_to_be_unknown(vault: Vault) -> None:
    assert vault.call("GET", "/nope").status == 401
    assert vault.operate("GET", "/nope").status == 404


def test_empty_id_is_invalid_when_the_list_is_asked_for_with_a_slash(vault: Vault) -> None:
    assert_invalid(vault.operate("GET", "/agents/"), 'params/id Invalid string: must start with "ag_"')


def test_head_is_answered_when_get_is(vault: Vault) -> None:
    answer = vault.operate("HEAD", "/agents")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("body", [b'{"name":"bot"}', b"{not json"])
@pytest.mark.parametrize("authorization", [None, f"bearer {ADMIN}", f"Basic {ADMIN}", f"Bearer {ADMIN}x", "Bearer "])
def test_operators_routes_need_the_admin_token_before_the_body_is_looked_at(
    vault: Vault, authorization: str | None, body: bytes
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    assert_not_admin(vault.call("POST", "/agents", body, headers=headers))


def test_agents_routes_refuse_the_admin_token(vault: Vault) -> None:
    agent = vault.register()
    assert_not_agent(vault.operate("GET", f"/agents/{agent.id}/balance"))


def test_operators_routes_refuse_an_agents_token(vault: Vault) -> None:
    agent = vault.register()
    path = f"/agents/{agent.id}/deposit"
    assert_not_admin(vault.call("POST", path, {"amount_msat": 1}, bearer=agent.token))
    assert_not_admin(vault.call("GET", "/operator/dashboard", bearer=agent.token))
    assert agent.balance() == 0


def test_agent_is_refused_when_it_asks_about_another(vault: Vault) -> None:
    one, other = vault.agent(), vault.agent(50_000, 50_000, 50_000)
    for answer in (
        vault.call("GET", f"/agents/{other.id}/balance", bearer=one.token),
        vault.call("GET", f"/agents/{other.id}/history", bearer=one.token),
        vault.call("POST", f"/agents/{other.id}/pay", payment(1), bearer=one.token),
        vault.call("POST", f"/agents/{other.id}/pay", b"{not json", bearer=one.token),
        vault.call("GET", "/agents/foo/balance", bearer=one.token),
    ):
        assert_refused(answer, 403, "forbidden", "Cannot access another agent's resources")
    assert other.balance() == 50_000


@pytest.mark.parametrize("token", ["vtk_01ARZ3NDEKTSV4RRFFQ69G5FAV", "vtk_", "nope", INTERNAL])
def test_agents_routes_refuse_a_token_that_nobody_has(vault: Vault, token: str) -> None:
    assert_not_agent(vault.call("GET", f"/agents/{vault.register().id}/balance", bearer=token))


@pytest.mark.parametrize("verb", ["reserve", "settle", "release"])
@pytest.mark.parametrize("token", [None, "wrong", ADMIN, INTERNAL + "x"])
def test_internal_routes_need_their_token_before_the_body_is_looked_at(
    vault: Vault, verb: str, token: str | None
) -> None:
    for body in (b"{}", b"{not json"):
        answer = vault.internal(verb, body, token=token)
        assert_refused(answer, 401, "unauthorized", "Invalid internal token")


def test_internal_routes_do_not_exist_when_no_internal_token_is_configured(tmp_path: Path) -> None:
    with treasury(tmp_path, internal_token=None) as vault:
        for verb in ("reserve", "settle", "release"):
            assert_no_route(vault.internal(verb, {}), "POST", f"/internal/{verb}")


def serve(directory: Path, **written: object) -> int:
    """The exit code of a program that must end by itself."""
    config = directory / "config.toml"
    known = {"server": {"listen": "127.0.0.1:0"}, "database": {"path": str(directory / "vault.db")}}
    config.write_text(toml({**known, **written}))
    config.chmod(0o600)
    return run("serve", "-c", str(config), cwd=directory).returncode


@pytest.mark.parametrize("token", ["", "x" * 31])
def test_program_does_not_start_when_the_internal_token_is_empty_or_short(tmp_path: Path, token: str) -> None:
    assert serve(tmp_path, vault=tables(internal_token=token)["vault"]) == 1


@pytest.mark.parametrize(
    "wallet",
    [
        {"wallet": "lightning"},
        {"wallet": "auto"},
        {"wallet": "cashu", "mint_url": "http://127.0.0.1:9"},
    ],
)
def test_program_does_not_start_when_its_wallet_cannot_be_had(tmp_path: Path, wallet: dict[str, object]) -> None:
    assert serve(tmp_path, vault=tables(**wallet)["vault"]) == 1


@pytest.mark.parametrize("token", [None, ADMIN[:31]])
def test_operators_routes_do_not_exist_when_the_admin_token_is_missing_or_short(
    tmp_path: Path, token: str | None
) -> None:
    server = {} if token is None else {"admin_token": token}
    with started(tmp_path, tables={"server": server, "vault": {"internal_token": INTERNAL}}) as world:
        vault = Vault(world.program, world.config)
        for bearer in (None, "None", ADMIN, ADMIN[:31]):
            assert_no_route(vault.call("POST", "/agents", {"name": "bot"}, bearer=bearer), "POST", "/agents")
            dashboard = vault.call("GET", "/operator/dashboard", bearer=bearer)
            assert_no_route(dashboard, "GET", "/operator/dashboard")


def test_callers_without_a_token_are_slowed_when_requests_are_limited(tmp_path: Path) -> None:
    with treasury(tmp_path, server={"rate_limit_rps": 2}) as vault:
        guesses = [vault.call("GET", "/agents", bearer=f"guess-{number}").status for number in range(30)]
        health = [vault.call("GET", "/health").status for _ in range(30)]
    assert guesses[0] == 401
    assert 429 in guesses
    assert health == [200] * 30


def test_many_are_answered_at_the_same_time(vault: Vault) -> None:
    agents = at_once(8, lambda _: vault.agent(1_000))
    assert at_once(8, lambda number: agents[number].balance()) == [1_000] * 8
    listed = {one["id"] for one in ok(vault.operate("GET", "/agents?limit=100"))["agents"]}
    assert {agent.id for agent in agents} <= listed
