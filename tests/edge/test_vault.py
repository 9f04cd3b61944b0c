"""The vault's API, from the socket to the file: contract: vault, section 22, and what is ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from arbstr.edge import VAULT_ROUTES
from tests.edge.vault_rig import ADMIN, INT, USAGE, Caller, StartVault, Vault, open_vault

EXPECTED = "Invalid input: expected"
NULL_METADATA = b'{"name":"a","metadata":null}'


@pytest.fixture
async def serve(start: Any, tmp_path: Path) -> AsyncIterator[StartVault]:
    async with open_vault(start, tmp_path) as serve:
        yield serve


@pytest.fixture
async def vault(serve: StartVault) -> Vault:
    return await serve()


async def get(rig: Any, path: str, *lines: str) -> Any:
    return await rig.request("GET", path, *lines)


# Who is let in


@pytest.mark.parametrize("header", [None, "authorization: bearer " + ADMIN, "authorization: Bearer x", INT])
async def test_operator_is_401_before_the_body_is_looked_at(vault: Vault, header: str | None) -> None:
    reply = await Caller(vault.rig, header)("POST", "/agents", b"{not json")
    assert reply.status == 401
    assert reply.body == {"error": {"code": "unauthorized", "message": "Invalid admin token"}}
    assert "www-authenticate" not in reply.headers
    assert reply.headers["content-type"] == "application/json; charset=utf-8"


async def test_agent_routes_are_for_the_agent_itself(vault: Vault) -> None:
    one, other = await vault.agent(5), await vault.agent(7)
    path = f"/agents/{other.id}"
    for call in (
        one.call("GET", f"{path}/balance"),
        one.call("GET", f"{path}/history"),
        one.call("POST", f"{path}/pay"),
    ):
        reply = await call
        assert reply.status == 403
        assert reply.body == {"error": {"code": "forbidden", "message": "Cannot access another agent's resources"}}
    assert (await one.call("GET", "/agents/foo/balance")).status == 403
    for token in ("vtk_unknown", ADMIN, one.token[4:], one.token + "x"):
        reply = await vault.with_token(one.id, token).call("GET", f"/agents/{one.id}/balance")
        assert (reply.status, reply.message) == (401, "Invalid agent token")
    assert (await one.call("POST", f"/agents/{one.id}/deposit", {"amount_msat": 1})).message == "Invalid admin token"


@pytest.mark.parametrize("path", ["/internal/reserve", "/internal/settle", "/internal/release", "/internal/extend"])
async def test_internal_routes_need_their_own_token(vault: Vault, path: str) -> None:
    for caller in (vault.anyone, vault.admin, Caller(vault.rig, "x-internal-token: wrong")):
        reply = await caller("POST", path, {})
        assert (reply.status, reply.message) == (401, "Invalid internal token")


async def test_routes_are_not_there_when_nobody_could_use_them(serve: StartVault) -> None:
    vault = await serve(admin="short-admin-token", internal=None)
    reply = await vault.internal("POST", "/internal/reserve", {})
    message = "Route POST:/internal/reserve not found"
    assert (reply.status, reply.body) == (404, {"message": message, "error": "Not Found", "statusCode": 404})
    reply = await Caller(vault.rig, "authorization: Bearer short-admin-token")("GET", "/agents")
    assert reply.message == "Route GET:/agents not found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/agents/x/y/z?a=b"),
        ("OPTIONS", "/agents"),
        ("PATCH", "/agents/ag_1/policy"),
        ("GET", "/operator"),
        ("GET", "/operator/dashboard/"),
        ("GET", "/internal/reserve"),
        ("GET", f"/agents/{'x' * 101}"),
    ],
)
async def test_unknown_route_is_404_with_its_method_and_url(vault: Vault, method: str, path: str) -> None:
    reply = await vault.anyone(method, path)
    assert reply.status == 404
    assert reply.body == {"message": f"Route {method}:{path} not found", "error": "Not Found", "statusCode": 404}


async def test_everything_is_the_vaults_when_it_is_alone(serve: StartVault) -> None:
    vault = await serve(vault_alone=True)
    assert (await vault.anyone("GET", "/nope")).body["message"] == "Route GET:/nope not found"
    health = await vault.anyone("GET", "/health")
    assert health.body["status"] == "ok"
    assert health.body["timestamp"].endswith("Z")
    assert (await vault.anyone("GET", "/ready")).body == {"status": "ready"}


async def test_paths_of_the_proxy_are_untouched_by_the_vault(vault: Vault) -> None:
    assert (await vault.anyone("GET", "/v1/models")).body["object"] == "list"
    assert (await vault.anyone("GET", "/nope")).body["error"]["reason"] == "not_found"
    health = (await vault.anyone("GET", "/health")).body
    assert (health["status"], health["providers"], health["timestamp"][-1]) == ("ok", {}, "Z")


async def test_nobody_new_is_let_in_when_the_server_drains(vault: Vault) -> None:
    vault.rig.gate.drain()
    reply = await vault.admin("GET", "/agents")
    assert (reply.status, reply.code) == (503, "shutting_down")
    assert reply.headers["retry-after"] == "1"


# What is sent


@pytest.mark.parametrize(
    ("body", "lines", "status", "code", "message"),
    [
        (b"{", (), 400, "FST_ERR_CTP_INVALID_JSON_BODY", "Body is not valid JSON"),
        (b'{"a":{"__proto__":1}}', (), 400, "FST_ERR_CTP_INVALID_JSON_BODY", "Body is not valid JSON"),
        (b'{"name":NaN}', (), 400, "FST_ERR_CTP_INVALID_JSON_BODY", "Body is not valid JSON"),
        (b"[" * 100_000, (), 400, "FST_ERR_CTP_INVALID_JSON_BODY", "Body is not valid JSON"),
        (b"", (), 400, "FST_ERR_CTP_EMPTY_JSON_BODY", "Body cannot be empty"),
        (b"a=b", ("content-type: application/x-www-form-urlencoded",), 415, "FST_ERR_CTP_INVALID_MEDIA_TYPE", "Unsup"),
        (b"a" * 1_100_000, (), 413, "FST_ERR_CTP_BODY_TOO_LARGE", "Request body is too large"),
        (b"hi", ("content-type: text/plain",), 400, "FST_ERR_VALIDATION", f"body/ {EXPECTED} object, received string"),
        (b"{}", (), 400, "FST_ERR_VALIDATION", f"body/name {EXPECTED} string, received undefined"),
        (b"null", (), 400, "FST_ERR_VALIDATION", f"body/ {EXPECTED} object, received null"),
        (NULL_METADATA, (), 400, "FST_ERR_VALIDATION", f"body/metadata {EXPECTED} record, received null"),
    ],
)  # fmt: skip
async def test_body_that_cannot_be_used_is_told_in_the_frameworks_shape(
    vault: Vault, body: bytes, lines: tuple[str, ...], status: int, code: str, message: str
) -> None:
    reply = await vault.admin("POST", "/agents", body, *lines)
    assert (reply.status, reply.body["statusCode"], reply.body["code"]) == (status, status, code)
    assert reply.message.startswith(message)
    assert set(reply.body) == {"statusCode", "code", "error", "message"}
    phrases = {400: "Bad Request", 413: "Payload Too Large", 415: "Unsupported Media Type"}
    assert reply.body["error"] == phrases[status]


async def test_missing_body_is_null(vault: Vault) -> None:
    reply = await vault.admin("POST", "/agents")
    assert reply.message == "body/ Invalid input: expected object, received null"


async def test_params_are_told_before_the_body_and_the_body_before_the_query(vault: Vault) -> None:
    reply = await vault.admin("POST", "/agents/foo/deposit", {"amount_msat": 0})
    assert reply.message == 'params/id Invalid string: must start with "ag_"'
    assert (await vault.admin("GET", "/agents/")).message == 'params/id Invalid string: must start with "ag_"'


@pytest.mark.parametrize(
    ("query", "issue"),
    [
        ("limit=0", "limit Too small: expected number to be >=1"),
        ("limit=101", "limit Too big: expected number to be <=100"),
        ("limit=abc", "limit Invalid input: expected number, received NaN"),
        ("limit=1.5", "limit Invalid input: expected int, received number"),
        ("limit=1&limit=2", "limit Invalid input: expected number, received NaN"),
        ("cursor=a&cursor=b", "cursor Invalid input: expected string, received array"),
    ],
)
async def test_query_is_checked(vault: Vault, query: str, issue: str) -> None:
    assert (await vault.admin("GET", f"/agents?{query}")).message == f"querystring/{issue}"


# Agents


async def test_agent_is_registered_and_shown(vault: Vault) -> None:
    body = {"name": "bot", "metadata": {"k": "v"}, "extra": 1}
    made = await vault.admin("POST", "/agents", body)
    assert made.status == 201
    assert set(made.body) == {"agent_id", "token", "created_at"}
    shown = (await vault.admin("GET", f"/agents/{made.body['agent_id']}")).body
    assert shown == {
        "agent_id": made.body["agent_id"],
        "name": "bot",
        "metadata": {"k": "v"},
        "policy": {"max_transaction_msat": 0, "daily_limit_msat": 0},
        "created_at": made.body["created_at"],
    }
    assert (await vault.admin("GET", "/agents/ag_nope")).body == {
        "error": {"code": "not_found", "message": "Agent not found"}
    }


async def test_agents_are_listed_a_page_at_a_time(vault: Vault) -> None:
    ids = sorted([(await vault.agent()).id, (await vault.agent()).id])
    first = (await vault.admin("GET", "/agents?limit=1")).body
    assert [one["id"] for one in first["agents"]] == ids[:1]
    assert (first["next_cursor"], first["has_more"]) == (ids[0], True)
    last = (await vault.admin("GET", f"/agents?limit=1&cursor={ids[0]}")).body
    assert [one["id"] for one in last["agents"]] == ids[1:]
    assert (last["next_cursor"], last["has_more"]) == (None, False)


async def test_head_answers_like_get(vault: Vault) -> None:
    reply = await vault.admin("HEAD", "/agents")
    assert (reply.status, reply.body) == (200, None)


# Money comes


async def test_deposits_add_up_and_count_once_for_a_key(vault: Vault) -> None:
    agent = await vault.agent()
    path = f"/agents/{agent.id}/deposit"
    first = await vault.admin("POST", path, {"amount_msat": 100_000}, "idempotency-key: k1")
    assert first.body["balance_msat"] == 100_000
    assert first.body["transaction_id"].startswith("tx_")
    again = await vault.admin("POST", path, {"amount_msat": 100_000}, "idempotency-key: k1")
    assert again.body == first.body
    other = await vault.admin("POST", path, {"amount_msat": 1}, "idempotency-key: k1")
    assert (other.status, other.code) == (409, "conflict")
    assert (await vault.admin("POST", path, {"amount_msat": 75_000})).body["balance_msat"] == 175_000
    assert (await vault.admin("POST", path, {"amount_msat": 1}, "idempotency-key: a b")).status == 400
    assert await agent.balance() == 175_000
    assert (await vault.admin("POST", "/agents/ag_zz/deposit", {"amount_msat": 1})).message == "Agent not found"


# Policy


async def test_policy_is_replaced_by_patch_merged_by_merge_patch_and_kept_by_put(vault: Vault) -> None:
    agent = await vault.agent()
    first = (await vault.policy(agent, 10, 20, 30_000, alert_floor_msat=5)).body["policy"]
    assert first["version"] == 2
    assert (first["approval_timeout_ms"], first["max_fee_msat"]) == (30_000, None)
    path = f"/operator/agents/{agent.id}/policy"
    merged = await vault.admin(
        "PATCH", path, {"daily_limit_msat": 99, "alert_floor_msat": None}, "content-type: application/merge-patch+json"
    )
    policy = merged.body["policy"]
    assert (policy["version"], policy["max_transaction_msat"], policy["daily_limit_msat"]) == (3, 10, 99)
    assert (policy["approval_timeout_ms"], policy["alert_floor_msat"]) == (30_000, None)
    legacy = await vault.admin(
        "PUT",
        f"/agents/{agent.id}/policy",
        {"max_transaction_msat": 1, "daily_limit_msat": 2, "approval_timeout_ms": 60_000},
    )
    assert set(legacy.body["policy"]) == {"max_transaction_msat", "daily_limit_msat", "updated_at"}
    kept = (await vault.admin("GET", "/operator/dashboard")).body["agents"][0]["policy"]
    assert (kept["version"], kept["approval_timeout_ms"]) == (4, 30_000)
    replaced = (await vault.policy(agent, 10, 20)).body["policy"]
    assert (replaced["version"], replaced["approval_timeout_ms"]) == (5, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"daily_limit_msat": 1},
        {"max_transaction_msat": -1, "daily_limit_msat": 1},
        {"max_transaction_msat": 1, "daily_limit_msat": 1, "approval_timeout_ms": 29_999},
        {"max_transaction_msat": 1, "daily_limit_msat": 1, "approval_timeout_ms": 3_600_001},
        {"max_transaction_msat": 1, "daily_limit_msat": 1, "alert_cooldown_ms": 59_999},
    ],
)
async def test_policy_out_of_bounds_is_refused(vault: Vault, wrong: dict[str, int]) -> None:
    agent = await vault.agent()
    reply = await vault.admin("PATCH", f"/operator/agents/{agent.id}/policy", wrong)
    assert (reply.status, reply.body["code"]) == (400, "FST_ERR_VALIDATION")


# Payments


async def test_payment_is_settled_and_can_be_looked_up(vault: Vault) -> None:
    agent = await vault.agent(100_000, (50_000, 80_000))
    paid = (await agent.pay(10_000)).body
    assert set(paid) == {"transaction_id", "policy_decision", "mode", "status"}
    assert (paid["policy_decision"], paid["mode"], paid["status"]) == ("ALLOW", "simulated", "SETTLED")
    assert await agent.balance() == 90_000
    found = (await agent.status(paid["transaction_id"])).body
    assert (found["status"], found["amount_msat"]) == ("SETTLED", 10_000)
    assert {"created_at", "settled_at"} <= set(found)
    assert (await agent.status("tx_nope")).message == "Payment tx_nope not found"
    assert (await agent.status("c4")).status == 400
    denied = (await agent.pay(50_001)).body
    assert (denied["policy_decision"], denied["status"], denied["reason"]) == (
        "DENY",
        "FAILED",
        "exceeds_max_transaction",
    )
    assert (await agent.status(denied["transaction_id"])).body["status"] == "FAILED"


async def test_payment_is_made_once_for_a_key(vault: Vault) -> None:
    agent = await vault.agent(100_000, (50_000, 80_000))
    first = await agent.pay(10_000, "idempotency-key: one")
    assert (await agent.pay(10_000, "idempotency-key: one")).body == first.body
    assert (await agent.pay(10_001, "idempotency-key: one")).code == "conflict"
    assert await agent.balance() == 90_000


async def test_payment_is_denied_when_no_policy_was_set(vault: Vault) -> None:
    agent = await vault.agent(100_000)
    assert (await agent.pay(1_000)).body["reason"] == "deny_all_policy"


async def test_history_shows_what_happened_in_the_contracts_words(vault: Vault) -> None:
    agent = await vault.agent(100_000, (50_000, 80_000))
    paid, denied = (await agent.pay(10_000)).body, (await agent.pay(60_000)).body
    entries = await agent.history()
    assert [entry["action"] for entry in entries[:3]] == ["AGENT_REGISTERED", "DEPOSIT", "POLICY_UPDATED"]
    requests = await agent.history("?action_type=PAYMENT_REQUEST")
    assert [(one["ref_id"], one["policy_decision"], one["policy_reason"]) for one in requests] == [
        (paid["transaction_id"], "ALLOW", "policy_passed"),
        (denied["transaction_id"], "DENY", "exceeds_max_transaction"),
    ]
    (settled,) = await agent.history("?action_type=PAYMENT_SETTLED")
    assert (settled["ref_id"], settled["amount_msat"]) == (paid["transaction_id"], 10_000)
    assert await agent.history("?start_date=99999999999999") == []
    reply = await agent.call("GET", f"/agents/{agent.id}/history?action_type=APPROVAL_REQUESTED")
    assert reply.status == 400
    page = (await agent.call("GET", f"/agents/{agent.id}/history?limit=2")).body
    assert page["has_more"]
    rest = await agent.history(f"?cursor={page['next_cursor']}")
    assert [*page["entries"], *rest] == entries


# Approvals


async def test_payment_waits_for_its_approval_and_is_then_made(vault: Vault) -> None:
    agent = await vault.agent(100_000, (5_000, 100_000, 300_000))
    asked = (await agent.pay(10_000)).body
    assert set(asked) == {"transaction_id", "policy_decision", "mode", "status"}
    assert (asked["policy_decision"], asked["status"]) == ("REQUIRE_HUMAN_APPROVAL", "PENDING_APPROVAL")
    assert await agent.balance() == 90_000
    (pending,) = (await vault.admin("GET", "/operator/approvals")).body["approvals"]
    assert (pending["transaction_id"], pending["type"], pending["status"]) == (
        asked["transaction_id"],
        "payment",
        "pending",
    )
    path = f"/operator/approvals/{pending['id']}"
    assert (await vault.admin("POST", f"{path}/approve", b"", "content-type: application/json")).status == 400
    approved = await vault.admin("POST", f"{path}/approve")
    assert approved.body == {
        "approval_id": pending["id"],
        "status": "approved",
        "transaction_id": asked["transaction_id"],
        "agent_id": agent.id,
        "amount_msat": 10_000,
        "payment_status": "SETTLED",
    }
    for verb in ("approve", "deny"):
        again = await vault.admin("POST", f"{path}/{verb}")
        assert again.body == {"error": {"code": "conflict", "message": "Approval already resolved"}}
        assert again.status == 409
    assert (await vault.admin("GET", "/operator/approvals")).body == {"approvals": []}
    assert (await agent.status(asked["transaction_id"])).body["status"] == "SETTLED"
    assert await agent.balance() == 90_000


async def test_withdrawal_is_denied_by_the_operator_and_the_money_is_back(vault: Vault) -> None:
    agent = await vault.agent(100_000, (50_000, 100_000, 300_000))
    body = {"destination": "lnbc1", "amount_msat": 20_000}
    asked = await agent.call("POST", f"/agents/{agent.id}/withdrawals", body, "idempotency-key: w")
    assert asked.body["withdrawal_id"].startswith("apr_")
    assert {**asked.body, "withdrawal_id": "", "transaction_id": ""} == {
        "withdrawal_id": "",
        "transaction_id": "",
        "status": "PENDING_APPROVAL",
        "amount_msat": 20_000,
    }
    again = await agent.call("POST", f"/agents/{agent.id}/withdrawals", body, "idempotency-key: w")
    assert again.body == asked.body
    assert await agent.balance() == 80_000
    denied = await vault.admin("POST", f"/operator/approvals/{asked.body['withdrawal_id']}/deny")
    assert (denied.status, denied.body["status"]) == (200, "denied")
    assert "payment_status" not in denied.body
    assert await agent.balance() == 100_000
    listed = (await vault.admin("GET", "/operator/approvals?status=all&limit=1")).body
    assert (listed["approvals"][0]["status"], listed["has_more"]) == ("denied", False)


async def test_withdrawal_that_the_policy_denies_is_400_with_the_reason(vault: Vault) -> None:
    agent = await vault.agent(100_000, (50_000, 80_000))
    path = f"/agents/{agent.id}/withdrawals"
    await agent.pay(50_000)
    denied = await agent.call("POST", path, {"destination": "x", "amount_msat": 30_001})
    assert denied.status == 400
    assert denied.body == {
        "error": {"code": "exceeds_daily_limit", "message": "Withdrawal denied: exceeds_daily_limit"}
    }
    wrong = await agent.call("POST", path, {"amount_msat": 1})
    assert (wrong.status, wrong.body["code"]) == (400, "FST_ERR_VALIDATION")


@pytest.mark.parametrize("verb", ["approve", "deny"])
async def test_who_decided_and_why_is_kept_when_it_is_said(vault: Vault, verb: str) -> None:
    agent = await vault.agent(100_000, (5_000, 100_000, 300_000))
    await agent.pay(10_000)
    (pending,) = (await vault.admin("GET", "/operator/approvals")).body["approvals"]
    path = f"/operator/approvals/{pending['id']}/{verb}"
    assert (await vault.admin("POST", path, {"by": "ada", "reason": "as agreed"})).status == 200
    (row,) = (await vault.admin("GET", "/operator/approvals?status=all")).body["approvals"]
    assert (row["decided_by"], row["reason"]) == ("ada", "as agreed")
    action = "APPROVAL_GRANTED" if verb == "approve" else "APPROVAL_DENIED"
    (entry,) = (await vault.admin("GET", f"/operator/audit?action={action}")).body["entries"]
    assert (entry["details"]["by"], entry["details"]["reason"]) == ("ada", "as agreed")


@pytest.mark.parametrize("body", [None, {}, {"by": None, "reason": None, "more": 1}, b"[1]", b"3", b"null"])
async def test_an_operator_has_decided_when_nobody_says_who(vault: Vault, body: Any) -> None:
    agent = await vault.agent(100_000, (5_000, 100_000, 300_000))
    await agent.pay(10_000)
    (pending,) = (await vault.admin("GET", "/operator/approvals")).body["approvals"]
    assert (await vault.admin("POST", f"/operator/approvals/{pending['id']}/deny", body)).status == 200
    (row,) = (await vault.admin("GET", "/operator/approvals?status=all")).body["approvals"]
    assert (row["decided_by"], "reason" in row) == ("operator", False)


@pytest.mark.parametrize(
    ("body", "issue"),
    [
        ({"by": 5}, "body/by Invalid input: expected string, received number"),
        ({"by": ""}, "body/by Too small: expected string to have >=1 characters"),
        ({"reason": "x" * 501}, "body/reason Too big: expected string to have <=500 characters"),
    ],
)
async def test_nothing_is_decided_when_who_or_why_is_no_text(vault: Vault, body: Any, issue: str) -> None:
    reply = await vault.admin("POST", "/operator/approvals/apr_1/approve", body)
    assert (reply.status, reply.body["message"]) == (400, issue)


async def test_unknown_approval_is_404_and_one_without_the_prefix_400(vault: Vault) -> None:
    assert (await vault.admin("POST", "/operator/approvals/apr_zz/deny")).message == "Approval not found"
    assert (await vault.admin("POST", "/operator/approvals/zz/deny")).status == 400
    assert (await vault.admin("GET", "/operator/approvals?status=foo")).status == 400


# Internal billing


async def test_reservation_is_settled_for_less_than_it_held(vault: Vault) -> None:
    agent = await vault.agent(100_000)
    made = await vault.reserve(agent, 50_000, "c1")
    reservation = made.body["reservation_id"]
    assert made.body["remaining_balance_msats"] == 50_000
    assert reservation.startswith("tx_")
    assert (await agent.status(reservation)).body["status"] == "PENDING"
    settled = await vault.settle(reservation, 32_000)
    assert settled.body == {
        "settled": True,
        "refunded_msats": 18_000,
        "actual_msats": 32_000,
        "remaining_balance_msats": 68_000,
    }
    assert (await vault.settle(reservation, 32_000)).body == settled.body
    for repeat in (vault.settle(reservation, 40_000), vault.release(reservation)):
        reply = await repeat
        assert (reply.status, reply.code) == (409, "conflict")
    assert await agent.balance() == 68_000
    found = (await agent.status(reservation)).body
    assert (found["status"], found["amount_msat"], found["charged_msat"]) == ("SETTLED", 50_000, 32_000)
    assert "fee_msat" not in found
    (entry,) = await agent.history("?action_type=PAYMENT_SETTLED")
    assert (entry["ref_id"], entry["amount_msat"]) == (reservation, 32_000)
    assert USAGE.items() <= entry["metadata"].items()


async def test_same_correlation_id_is_the_same_hold_and_an_empty_one_names_nothing(vault: Vault) -> None:
    agent = await vault.agent(100_000)
    first, again = await vault.reserve(agent, 10_000, "c"), await vault.reserve(agent, 10_000, "c")
    assert again.body == first.body
    for amount in (9_999, 10_001):
        other = await vault.reserve(agent, amount, "c")
        assert (other.status, other.reason) == (409, "key_used")
    one, two = await vault.reserve(agent, 10_000), await vault.reserve(agent, 10_000)
    assert one.body["reservation_id"] != two.body["reservation_id"]
    assert await agent.balance() == 70_000
    somebody = await vault.agent(100_000)
    assert (await vault.reserve(somebody, 10_000, "c")).body["reservation_id"] != first.body["reservation_id"]
    await vault.settle(first.body["reservation_id"], 1)
    assert (await vault.reserve(agent, 10_000, "c")).status == 409


async def test_correlation_id_names_one_hold_when_many_ask_at_once(vault: Vault) -> None:
    agent = await vault.agent(100_000)
    found: set[str] = set()

    async def reserve() -> None:
        found.add((await vault.reserve(agent, 10_000, "c")).body["reservation_id"])

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(reserve)
    assert len(found) == 1
    assert await agent.balance() == 90_000


async def test_settlement_takes_nested_figures_null_tokens_and_nothing_at_all(vault: Vault) -> None:
    agent = await vault.agent(100_000)
    reservation = (await vault.reserve(agent, 10_000)).body["reservation_id"]
    nested = {**USAGE, "tokens_in": None, "tokens_out": None}
    body = {"reservation_id": reservation, "actual_msats": 0, "metadata": nested}
    settled = await vault.internal("POST", "/internal/settle", body)
    assert (settled.status, settled.body["refunded_msats"]) == (200, 10_000)
    assert (await vault.release(reservation)).reason == "already_settled"
    assert (await vault.settle(reservation, 0, metadata={"tokens_in": 9})).status == 200
    assert (await vault.settle(reservation, -1)).message == "body/actual_msats Too small: expected number to be >=0"
    missing = await vault.internal("POST", "/internal/settle", {"reservation_id": reservation, "actual_msats": 0})
    assert missing.message.count("received undefined") == 4


async def test_overrun_takes_the_rest_and_leaves_a_debt_that_blocks_the_next_hold(vault: Vault) -> None:
    agent = await vault.agent(8_001)
    reservation = (await vault.reserve(agent, 5_000)).body["reservation_id"]
    settled = await vault.settle(reservation, 100_000)
    assert settled.body == {
        "settled": True,
        "refunded_msats": 0,
        "actual_msats": 100_000,
        "remaining_balance_msats": 0,
        "debt_msats": 91_999,
    }
    assert (await vault.settle(reservation, 100_000)).body == settled.body
    assert await agent.balance() == -91_999
    refused = await vault.reserve(agent, 1)
    assert (refused.status, refused.code, refused.reason) == (402, "insufficient_balance", "outstanding_debt")
    assert (refused.body["current_balance_msats"], refused.body["debt_msats"]) == (0, 91_999)


async def test_released_reservation_gives_all_back_and_is_not_settled_afterwards(vault: Vault) -> None:
    agent = await vault.agent(100_000)
    reservation = (await vault.reserve(agent, 60_000)).body["reservation_id"]
    for _ in range(2):
        assert (await vault.release(reservation)).body == {"released": True}
    assert await agent.balance() == 100_000
    for amount in (5, 0):
        late = await vault.settle(reservation, amount)
        assert (late.status, late.code, late.reason) == (409, "conflict", "already_released")
    assert (await agent.status(reservation)).body["status"] == "FAILED"


async def test_reservation_is_refused_with_the_predecessors_body_and_a_reason(vault: Vault) -> None:
    agent = await vault.agent(100_000)
    poor = await vault.reserve(agent, 200_000)
    assert poor.status == 402
    assert poor.body == {
        "error": {
            "code": "insufficient_balance",
            "message": "Insufficient balance for reservation",
            "reason": "insufficient_balance",
        },
        "current_balance_msats": 100_000,
        "requested_msats": 200_000,
    }
    await vault.policy(agent, 50_000, 80_000, models=["m"], max_holds=1)
    for reply, reason in (
        (await vault.reserve(agent, 50_001), "exceeds_max_transaction"),
        (await vault.reserve(agent, 1, model="other"), "model_not_allowed"),
    ):
        assert (reply.status, reply.code, reply.reason) == (403, "policy_denied", reason)
        assert reply.message == f"Policy denied: {reason}"
    assert (await vault.reserve(agent, 50_000)).status == 200
    busy = await vault.reserve(agent, 1)
    assert (busy.status, busy.reason, busy.headers["retry-after"]) == (429, "too_many_holds", "1")
    unknown = vault.with_token(agent.id, "vtk_nobody")
    assert (await vault.reserve(unknown, 1)).body == {
        "error": {"code": "unauthorized", "message": "Invalid agent token"}
    }


async def test_only_what_reserve_made_can_be_ended(vault: Vault) -> None:
    agent = await vault.agent(100_000, (5_000, 100_000, 300_000))
    deposit = await vault.admin("POST", f"/agents/{agent.id}/deposit", {"amount_msat": 1})
    pending = (await agent.pay(10_000)).body["transaction_id"]
    for name in ("tx_nope", "", deposit.body["transaction_id"], pending):
        assert (await vault.release(name)).body == {"error": {"code": "not_found", "message": "Reservation not found"}}
        assert (await vault.settle(name, 1)).status == 404
    assert await agent.balance() == 90_001


async def test_reservation_can_be_extended(vault: Vault) -> None:
    agent = await vault.agent(100_000)
    reservation = (await vault.reserve(agent, 10_000)).body["reservation_id"]
    more = {"reservation_id": reservation, "amount_msats": 30_000}
    extended = await vault.internal("POST", "/internal/extend", more)
    assert extended.body == {
        "reservation_id": reservation,
        "amount_msats": 30_000,
        "remaining_balance_msats": 70_000,
    }
    assert (await vault.internal("POST", "/internal/extend", {**more, "amount_msats": 1})).body == extended.body
    too_much = await vault.internal("POST", "/internal/extend", {**more, "amount_msats": 100_001})
    assert (too_much.status, too_much.reason) == (402, "insufficient_balance")
    assert (await vault.settle(reservation, 20_000)).body["refunded_msats"] == 10_000
    ended = await vault.internal("POST", "/internal/extend", {**more, "amount_msats": 40_000})
    assert (ended.status, ended.reason) == (409, "no_open_hold")


# Ours


async def test_frozen_agent_spends_nothing_until_it_is_unfrozen(vault: Vault) -> None:
    agent = await vault.agent(100_000, (50_000, 80_000))
    frozen = await vault.admin("POST", f"/operator/agents/{agent.id}/freeze", {"reason": "odd"})
    assert (frozen.body["frozen"], frozen.body["frozen_at"][-1]) == (True, "Z")
    assert (await vault.reserve(agent, 1)).reason == "frozen"
    assert (await agent.pay(1)).body["policy_decision"] == "DENY"
    assert (await vault.admin("GET", f"/agents/{agent.id}")).body["frozen_at"] == frozen.body["frozen_at"]
    thawed = await vault.admin("POST", f"/operator/agents/{agent.id}/unfreeze")
    assert thawed.body == {"agent_id": agent.id, "frozen": False, "frozen_at": None}
    assert (await vault.reserve(agent, 1)).status == 200


async def test_token_is_rotated_and_revoked(vault: Vault) -> None:
    agent = await vault.agent(5)
    (first,) = (await vault.admin("GET", f"/agents/{agent.id}/tokens")).body["tokens"]
    assert "token" not in first
    second = await vault.admin("POST", f"/agents/{agent.id}/tokens", {"replaces": first["token_id"]})
    assert second.status == 201
    assert (await agent.call("GET", f"/agents/{agent.id}/balance")).status == 401
    renewed = vault.with_token(agent.id, second.body["token"])
    assert await renewed.balance() == 5
    third = await vault.admin("POST", f"/agents/{agent.id}/tokens")
    assert await vault.with_token(agent.id, third.body["token"]).balance() == 5
    path = f"/agents/{agent.id}/tokens/{second.body['token_id']}"
    revoked = await vault.admin("DELETE", path)
    assert revoked.body["revoked_at"] is not None
    assert (await vault.admin("DELETE", path)).status == 404
    assert (await renewed.call("GET", f"/agents/{agent.id}/balance")).status == 401


async def test_budget_is_minted_spent_and_revoked(vault: Vault) -> None:
    agent = await vault.agent(100_000)
    path = f"/agents/{agent.id}/budgets"
    wish = {"amount_msat": 10_000, "name": "night", "models": ["m"], "expires_in_s": 60, "max_holds": 2}
    minted = await agent.call("POST", path, wish)
    assert minted.status == 201
    helper = vault.with_token(agent.id, minted.body["token"])
    assert (await vault.reserve(helper, 4_000)).status == 200
    exhausted = await vault.reserve(helper, 6_001)
    assert (exhausted.status, exhausted.reason) == (402, "budget_exhausted")
    (listed,) = (await agent.call("GET", path)).body["budgets"]
    assert (listed["budget_id"], listed["held_msat"], listed["models"]) == (minted.body["budget_id"], 4_000, ["m"])
    assert "token" not in listed
    assert (await helper.call("GET", f"/agents/{agent.id}/balance")).status == 403
    revoked = await agent.call("DELETE", f"{path}/{listed['budget_id']}")
    assert revoked.body["revoked_at"] is not None
    assert (await vault.reserve(helper, 1)).status == 401
    assert (await agent.call("GET", path)).body["budgets"] == []
    assert len((await agent.call("GET", f"{path}?status=all")).body["budgets"]) == 1


async def test_dashboard_tells_use_floor_and_order(vault: Vault) -> None:
    rich = await vault.agent(100_000, (80_000, 80_000), name="b")
    await vault.agent(20_000, name="A")
    await vault.policy(rich, 80_000, 80_000, alert_floor_msat=95_000)
    await rich.pay(10_000)
    board = (await vault.admin("GET", "/operator/dashboard")).body
    assert [one["name"] for one in board["agents"]] == ["A", "b"]
    assert (board["total_agents"], board["total_pending_approvals"]) == (2, 0)
    idle, used = board["agents"]
    assert (idle["last_payment_at"], idle["balance_below_floor"], idle["daily_utilization_pct"]) == (None, False, 0)
    assert (used["daily_spend_msat"], used["daily_utilization_pct"], used["balance_below_floor"]) == (10_000, 13, True)
    assert used["last_payment_at"].endswith("Z")
    ordered = (await vault.admin("GET", "/operator/dashboard?sort_by=balance&sort_order=desc")).body["agents"]
    assert [one["name"] for one in ordered] == ["b", "A"]
    assert (await vault.admin("GET", "/operator/dashboard?sort_by=created")).status == 400


async def test_events_are_listed_and_replayed_only_where_somebody_is_told(vault: Vault) -> None:
    agent = await vault.agent(100_000, (5_000, 100_000, 300_000))
    await agent.pay(10_000)
    (event,) = (await vault.admin("GET", "/operator/events?state=pending")).body["events"]
    assert (event["event"], event["body"]["agent_id"]) == ("approval_required", agent.id)
    assert (await vault.admin("GET", "/operator/events")).body["events"] == []
    replayed = await vault.admin("POST", f"/operator/events/{event['id']}/replay")
    assert (replayed.status, replayed.code) == (409, "conflict")


async def test_audit_is_paged_and_narrowed(vault: Vault) -> None:
    one, other = await vault.agent(5), await vault.agent(6)
    page = (await vault.admin("GET", "/operator/audit?limit=3")).body
    assert [row["action"] for row in page["entries"]] == ["AGENT_REGISTERED", "DEPOSIT", "AGENT_REGISTERED"]
    rest = (await vault.admin("GET", f"/operator/audit?cursor={page['next_cursor']}")).body
    assert [row["agent_id"] for row in rest["entries"]] == [other.id]
    mine = (await vault.admin("GET", f"/operator/audit?agent_id={one.id}&action=DEPOSIT")).body
    assert [row["details"]["amount_msat"] for row in mine["entries"]] == [5]


async def test_no_token_is_ever_told_again(vault: Vault) -> None:
    agent = await vault.agent(100_000, (5_000, 100_000, 300_000))
    await agent.pay(10_000)
    paths = ["/agents", f"/agents/{agent.id}", f"/agents/{agent.id}/tokens", "/operator/dashboard", "/operator/audit"]
    for path in [*paths, "/operator/approvals", "/operator/events?state=all"]:
        assert agent.token[4:] not in json.dumps((await vault.admin("GET", path)).body)
    assert agent.token[4:] not in json.dumps(await agent.history())


async def test_no_route_shows_an_agent_anything_of_another(vault: Vault) -> None:
    agent, other = await vault.agent(5, name="one"), await vault.agent(50_000, name="other")
    minted = (await other.call("POST", f"/agents/{other.id}/budgets", {"amount_msat": 1_000})).body
    helper = vault.with_token(other.id, minted["token"])
    for route in VAULT_ROUTES:
        for caller, owner in ((other, agent), (helper, other)):
            path = route.path.replace("{id}", owner.id).replace("{", "").replace("}", "")
            reply = await caller.call(route.method, path)
            assert reply.status == (403 if route.auth == "agent" else 401), route
            assert set(reply.body) == {"error"}, route


async def test_every_route_refuses_who_may_not_use_it(vault: Vault) -> None:
    agent = await vault.agent(5)
    wrong = {"admin": agent.call, "agent": vault.admin, "internal": vault.admin}
    for route in VAULT_ROUTES:
        path = route.path.replace("{id}", agent.id).replace("{", "").replace("}", "")
        for caller in (vault.anyone, wrong[route.auth]):
            reply = await caller(route.method, path, b"{" if route.method != "GET" else None)
            assert (reply.status, reply.code) == (401, "unauthorized"), route
