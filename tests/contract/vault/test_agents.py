"""Cases 14 to 27: registration, lists, deposits and balances."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.vault.treasury import (
    AGENT_ID,
    LARGEST,
    TOKEN,
    TRANSACTION_ID,
    Vault,
    assert_includes,
    assert_invalid,
    assert_refused,
    at_once,
    instant_ms,
    ok,
    treasury,
)

NOT_AN_AGENT = 'params/id Invalid string: must start with "ag_"'


def test_agent_gets_id_and_token_when_it_is_registered(vault: Vault) -> None:
    answer = vault.operate("POST", "/agents", {"name": "bot", "metadata": {"k": "v"}, "extra": 1})
    assert answer.status == 201
    body = ok(answer)
    assert set(body) == {"agent_id", "token", "created_at"}
    assert AGENT_ID.fullmatch(body["agent_id"])
    assert TOKEN.fullmatch(body["token"])
    assert instant_ms(body["created_at"])
    known = ok(vault.operate("GET", f"/agents/{body['agent_id']}"))
    assert_includes(known, {"agent_id": body["agent_id"], "name": "bot", "metadata": {"k": "v"}})
    assert known["created_at"] == body["created_at"]


def test_name_is_not_unique(vault: Vault) -> None:
    assert vault.register("twin").id != vault.register("twin").id


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "body/name Invalid input: expected string, received undefined"),
        ({"name": None}, "body/name Invalid input: expected string, received null"),
        ({"name": ""}, "body/name Too small: expected string to have >=1 characters"),
        ({"name": "x" * 101}, "body/name Too big: expected string to have <=100 characters"),
        ({"name": "\U0001f916" * 51}, "body/name Too big: expected string to have <=100 characters"),
        ({"name": "x", "metadata": None}, "body/metadata Invalid input: expected record, received null"),
        (
            {"name": 5, "metadata": {"a": 1}},
            "body/name Invalid input: expected string, received number, "
            "body/metadata/a Invalid input: expected string, received number",
        ),
        ([], "body/ Invalid input: expected object, received array"),
    ],
)
def test_registration_is_refused_with_every_issue_when_its_body_is_wrong(
    vault: Vault, body: object, message: str
) -> None:
    assert_invalid(vault.operate("POST", "/agents", body), message)


EMPTY = (400, "FST_ERR_CTP_EMPTY_JSON_BODY", "Body cannot be empty when content-type is set to 'application/json'")
NOT_JSON = (
    400,
    "FST_ERR_CTP_INVALID_JSON_BODY",
    "Body is not valid JSON but content-type is set to 'application/json'",
)
MEDIA_TYPE = (415, "FST_ERR_CTP_INVALID_MEDIA_TYPE", "Unsupported Media Type")
TOO_LARGE = (413, "FST_ERR_CTP_BODY_TOO_LARGE", "Request body is too large")
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
PHRASES = {400: "Bad Request", 413: "Payload Too Large", 415: "Unsupported Media Type"}


@pytest.mark.parametrize(
    ("content_type", "body", "result"),
    [
        (JSON, b"", EMPTY),
        (JSON, b"{not json", NOT_JSON),
        (JSON, b'{"name":"x","__proto__":{}}', NOT_JSON),
        (FORM, b"name=x", MEDIA_TYPE),
        (JSON, b'{"name":"' + b"x" * 1_100_000 + b'"}', TOO_LARGE),
        ("text/plain", b"x", (400, "FST_ERR_VALIDATION", "body/ Invalid input: expected object, received string")),
    ],
)
def test_body_is_refused_when_it_cannot_be_read(
    vault: Vault, content_type: str, body: bytes, result: tuple[int, str, str]
) -> None:
    status, code, message = result
    answer = vault.operate("POST", "/agents", body, headers={"content-type": content_type})
    expected = {"statusCode": status, "code": code, "error": PHRASES[status], "message": message}
    assert (answer.status, answer.json) == (status, expected)


def test_body_is_missing_when_neither_it_nor_its_type_is_sent(vault: Vault) -> None:
    assert_invalid(vault.operate("POST", "/agents"), "body/ Invalid input: expected object, received null")


def test_list_goes_on_behind_the_cursor_when_it_is_longer_than_the_limit(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        ids = sorted(vault.register().id for _ in range(2))
        first = ok(vault.operate("GET", "/agents?limit=1"))
        second = ok(vault.operate("GET", f"/agents?limit=1&cursor={first['next_cursor']}"))
        behind = ok(vault.operate("GET", "/agents?cursor=zz"))
        whole = ok(vault.operate("GET", "/agents"))
    assert ([one["id"] for one in first["agents"]], first["next_cursor"], first["has_more"]) == (ids[:1], ids[0], True)
    assert ([one["id"] for one in second["agents"]], second["next_cursor"], second["has_more"]) == (
        ids[1:],
        None,
        False,
    )
    assert behind == {"agents": [], "next_cursor": None, "has_more": False}
    assert [one["id"] for one in whole["agents"]] == ids
    assert all(set(one) == {"id", "name", "metadata", "created_at"} for one in whole["agents"])
    assert whole["agents"][0]["metadata"] is None


@pytest.mark.parametrize(
    ("limit", "issue"),
    [
        ("0", "Too small: expected number to be >=1"),
        ("101", "Too big: expected number to be <=100"),
        ("abc", "Invalid input: expected number, received NaN"),
        ("1.5", "Invalid input: expected int, received number"),
    ],
)
def test_limit_of_a_list_is_refused_when_it_is_no_number_in_bounds(vault: Vault, limit: str, issue: str) -> None:
    assert_invalid(vault.operate("GET", f"/agents?limit={limit}"), f"querystring/limit {issue}")


def test_agent_is_not_found_when_nobody_has_its_id(vault: Vault) -> None:
    assert_refused(vault.operate("GET", "/agents/ag_nope"), 404, "not_found", "Agent not found")
    assert_invalid(vault.operate("GET", "/agents/foo"), NOT_AN_AGENT)


def test_new_agent_may_pay_nothing(vault: Vault) -> None:
    known = ok(vault.operate("GET", f"/agents/{vault.register().id}"))
    assert known["policy"] == {"max_transaction_msat": 0, "daily_limit_msat": 0}
    assert known["metadata"] is None


def test_token_is_shown_and_logged_nowhere_when_it_was_given_out(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:
        agent = vault.agent(100_000, 50_000, 100_000)
        answers = [
            agent.pay(1_000),
            agent.pay(90_000),
            agent.withdraw(1_000),
            agent.reserve(1_000),
            agent.reserve(10**9),
            agent.call("GET", "balance"),
            agent.call("GET", "history"),
            vault.operate("GET", "/agents?limit=100"),
            vault.operate("GET", f"/agents/{agent.id}"),
            vault.operate("GET", "/operator/dashboard"),
            vault.operate("GET", "/operator/approvals?status=all"),
            vault.internal("reserve", {"agent_token": agent.token, "amount_msats": agent.token}),
            vault.internal("reserve", f'{{"agent_token": "{agent.token}'.encode()),
            vault.call("GET", f"/agents/{agent.token}/balance", bearer=agent.token),
        ]
    assert [answer.status for answer in answers[-3:]] == [400, 400, 403]
    assert not [answer for answer in answers if agent.token in answer.body.decode()]
    assert agent.token not in "".join(vault.program.output)


def test_agent_is_registered_whole_or_not_at_all_when_the_program_is_killed(tmp_path: Path) -> None:
    with treasury(tmp_path) as vault:

        def register(number: int) -> str | None:
            try:
                made = ok(vault.operate("POST", "/agents", {"name": f"agent {number}"}))
            except (OSError, ValueError):  # not answered, or not to the end
                return None
            if number == 5:
                vault.program.kill()
            return str(made["agent_id"])

        told = set(filter(None, at_once(10, register)))
    with treasury(tmp_path) as vault:
        there = {one["id"] for one in ok(vault.operate("GET", "/agents?limit=100"))["agents"]}
        policies = [ok(vault.operate("GET", f"/agents/{agent}"))["policy"] for agent in there]
    assert told
    assert told <= there
    assert policies == [{"max_transaction_msat": 0, "daily_limit_msat": 0}] * len(there)


# Deposits


def test_deposits_add_up(vault: Vault) -> None:
    agent = vault.register()
    first = ok(agent.deposit(100_000))
    assert TRANSACTION_ID.fullmatch(first.pop("transaction_id"))
    assert first == {"agent_id": agent.id, "amount_msat": 100_000, "balance_msat": 100_000}
    assert ok(agent.deposit(75_000))["balance_msat"] == 175_000
    assert agent.balance() == 175_000
    assert agent.actions().count("DEPOSIT") == 2


@pytest.mark.parametrize(
    ("amount", "issue"),
    [
        (0, "Too small: expected number to be >0"),
        (-5, "Too small: expected number to be >0"),
        (1.5, "Invalid input: expected int, received number"),
        ("5", "Invalid input: expected number, received string"),
        (LARGEST + 1, "Too big: expected int to be <=9007199254740991"),
    ],
)
def test_deposit_is_refused_when_its_amount_is_no_positive_whole_number(
    vault: Vault, amount: object, issue: str
) -> None:
    agent = vault.register()
    assert_invalid(agent.deposit(amount), f"body/amount_msat {issue}")
    assert agent.balance() == 0


def test_deposit_is_whole_when_its_amount_is_written_with_a_point(vault: Vault) -> None:
    agent = vault.register()
    answer = vault.operate("POST", f"/agents/{agent.id}/deposit", b'{"amount_msat": 1.0}')
    assert_includes(ok(answer), {"amount_msat": 1, "balance_msat": 1})


def test_deposit_is_refused_when_there_is_no_such_agent(vault: Vault) -> None:
    answer = vault.operate("POST", "/agents/ag_zz/deposit", {"amount_msat": 1})
    assert_refused(answer, 404, "not_found", "Agent not found")


def test_balance_is_nothing_when_nothing_was_deposited(vault: Vault) -> None:
    agent = vault.register()
    expected = {"agent_id": agent.id, "balance_msat": 0, "asset": "BTC_simulated"}
    assert_includes(ok(agent.call("GET", "balance")), expected)


def test_no_millisatoshi_is_lost_when_deposits_go_beyond_what_a_float_can_say(vault: Vault) -> None:
    agent = vault.register()
    taken = [answer for answer in (agent.deposit(LARGEST) for _ in range(3)) if answer.status == 200]
    assert taken
    assert agent.balance() == len(taken) * LARGEST
