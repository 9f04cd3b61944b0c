"""Requests above their agent's limit, from the official SDK and the terminal: 202, waiting, coming back, restart."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from attrs import define

from tests.live.program import Household, Program, arbstr, mock_provider

ADMIN = "an-admin-token-of-more-than-32-characters"
HELLO = [{"role": "user", "content": "hello there"}]
BODY = {"model": "m", "messages": HELLO}
LIMITS = {"max_transaction_msat": 1_000, "daily_limit_msat": 10_000_000, "approval_timeout_ms": 60_000}
"""Below what a request without a limit of its own may cost here: 4096 completion tokens at 1 sat per 1,000."""


@define
class Office:
    """A running program with one agent, and its operator."""

    household: Household
    program: Program
    agent_id: str
    token: str

    @property
    def admin(self) -> httpx.Client:
        return self.program.client(ADMIN)

    def limit(self, **limits: Any) -> None:
        with self.admin as http:
            answer = http.patch(f"/operator/agents/{self.agent_id}/policy", json={**LIMITS, **limits})
        assert answer.status_code == 200, answer.text

    def chat(self, **headers: str) -> httpx.Response:
        with self.program.client(self.token) as http:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return http.post("/v1/chat/completions", json=BODY, headers=named)

    def look(self, approval_id: str) -> dict[str, Any]:
        with self.program.client(self.token) as http:
            found: dict[str, Any] = http.get(f"/v1/approvals/{approval_id}").json()
        return found

    def sdk(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.program.address}/v1", api_key=self.token, max_retries=0)

    def arbstr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return arbstr(*arguments, cwd=self.household.path)

    def pending(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.arbstr("approvals", "--json").stdout)
        return found

    @contextmanager
    def deciding(self, verdict: str, why: str) -> Iterator[list[subprocess.CompletedProcess[str]]]:
        """At the terminal, as soon as there is something to decide; gives what came of it."""
        results: list[subprocess.CompletedProcess[str]] = []

        def decide() -> None:
            deadline = time.monotonic() + 20
            while not (waiting := self.pending()) and time.monotonic() < deadline:
                time.sleep(0.05)
            results.append(self.arbstr("approvals", verdict, waiting[0]["id"], "--why", why, "--by", "ada"))

        human = threading.Thread(target=decide)
        human.start()
        yield results
        human.join()
        assert results[0].returncode == 0, results[0].stderr


@pytest.fixture
def home(household: Household) -> Household:
    household.write_config(mock_provider("a"), server=f'admin_token = "{ADMIN}"')
    household.add_agent("rich", "1000")
    return household


@contextmanager
def office_of(home: Household) -> Iterator[Office]:
    with home.serve() as program:
        [agent] = home.check().agents
        office = Office(home, program, agent.agent_id, home.token)
        office.limit()
        yield office


@pytest.fixture
def office(home: Household) -> Iterator[Office]:
    with office_of(home) as office:
        yield office
        assert office.program.stop() == 0
    home.check()


def test_an_sdk_that_waits_gets_its_answer_when_a_human_allows_it(office: Office) -> None:
    with office.deciding("grant", "go ahead") as results, office.sdk() as sdk:
        raw = sdk.chat.completions.with_raw_response.create(
            model="m", messages=HELLO, extra_headers={"prefer": "wait=30"}
        )
    assert raw.http_response.status_code == 200
    assert raw.parse().choices[0].message.content
    approval_id, status, money = results[0].stdout.strip().split("\t")
    assert (status, money) == ("approved", "HELD")
    assert office.look(approval_id)["status"] == "used"
    assert office.household.check().open_holds == 0


def test_an_sdk_that_waits_streams_when_a_human_allows_it(office: Office) -> None:
    with office.deciding("grant", "go ahead"), office.sdk() as sdk:
        chunks = list(
            sdk.chat.completions.create(model="m", messages=HELLO, stream=True, extra_headers={"prefer": "wait=30"})
        )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_an_sdk_that_waits_raises_with_the_reason_when_a_human_denies_it(office: Office) -> None:
    with (
        office.deciding("deny", "too dear today") as results,
        office.sdk() as sdk,
        pytest.raises(openai.PermissionDeniedError, match="too dear today") as denied,
    ):
        sdk.chat.completions.create(model="m", messages=HELLO, extra_headers={"prefer": "wait=30"})
    assert denied.value.body["reason"] == "approval_denied"  # type: ignore[index]  # a dict
    assert results[0].stdout.split("\t")[1].strip() == "denied"
    assert office.household.check().open_holds == 0


def test_an_sdk_that_does_not_wait_can_tell_a_202_from_an_answer_and_come_back(office: Office) -> None:
    with office.sdk() as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        assert raw.http_response.status_code == 202
        assert raw.headers["x-should-retry"] == "false"
        put_off = raw.parse()
        assert (put_off.object, put_off.choices) == ("approval", None)  # what it makes of it
        approval_id = raw.headers["x-arbstr-approval"]
        assert put_off.id == approval_id
        assert office.arbstr("approvals", "grant", approval_id, "--why", "fine").returncode == 0
        answer = sdk.chat.completions.create(
            model="m", messages=HELLO, extra_headers={"x-arbstr-approval": approval_id}
        )
        assert answer.choices[0].message.content
        with pytest.raises(openai.PermissionDeniedError) as used:
            sdk.chat.completions.create(model="m", messages=HELLO, extra_headers={"x-arbstr-approval": approval_id})
    assert used.value.body["reason"] == "approval_used"  # type: ignore[index]


def test_an_sdk_gets_an_empty_stream_when_it_is_put_off(office: Office) -> None:
    with office.sdk() as sdk:
        assert list(sdk.chat.completions.create(model="m", messages=HELLO, stream=True)) == []
    assert len(office.pending()) == 1


def test_the_answer_is_202_with_a_place_to_look(office: Office) -> None:
    answer = office.chat()
    body = answer.json()
    assert answer.status_code == 202
    assert (body["object"], body["status"]) == ("approval", "pending_approval")
    assert answer.headers["location"] == body["poll_url"] == f"/v1/approvals/{body['id']}"
    assert answer.headers["retry-after"] == "5"
    found = office.look(body["id"])
    assert {name: found[name] for name in ("id", "status", "model", "amount_msat", "expires_at", "poll_url")} == {
        name: body[name] for name in ("id", "status", "model", "amount_msat", "expires_at", "poll_url")
    }
    assert office.household.check().agents[0].held_msat == body["amount_msat"]


def test_nobody_else_sees_or_uses_an_approval(office: Office) -> None:
    approval_id = office.chat().json()["id"]
    added = office.arbstr("agents", "add", "other", "--deposit", "1000")
    assert added.returncode == 0, added.stderr
    other = added.stdout.strip().split("\t")[2]
    assert office.arbstr("approvals", "grant", approval_id, "--why", "fine").returncode == 0
    with office.program.client(other) as http:
        assert http.get(f"/v1/approvals/{approval_id}").status_code == 404
        headers = {"x-arbstr-approval": approval_id}
        answer = http.post("/v1/chat/completions", json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (404, "approval_not_found")
    with office.admin as http:
        assert http.get(f"/v1/approvals/{approval_id}").json()["status"] == "approved"


def test_a_question_is_withdrawn_when_its_client_leaves(office: Office) -> None:
    with office.program.client(office.token, timeout_s=0.5) as http, pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json=BODY, headers={"prefer": "wait=30"})
    deadline = time.monotonic() + 10
    while office.household.check().open_holds and time.monotonic() < deadline:
        time.sleep(0.05)
    [row] = json.loads(office.arbstr("approvals", "--all", "--json").stdout)
    assert (row["status"], row["by"], row["why"]) == ("denied", "requester", "withdrawn")
    late = office.arbstr("approvals", "grant", row["id"], "--why", "late")
    assert (late.returncode, late.stderr) == (1, "Error: Approval already resolved\n")


def test_those_who_wait_hear_where_to_look_when_the_program_stops(home: Household) -> None:
    with office_of(home) as office:
        answers: list[httpx.Response] = []
        asker = threading.Thread(target=lambda: answers.append(office.chat(prefer="wait=60")))
        asker.start()
        while not office.pending():
            time.sleep(0.02)
        assert office.program.stop() == 0
        asker.join()
    assert answers[0].status_code == 202
    approval_id = answers[0].json()["id"]
    with office_of(home) as office:
        assert office.arbstr("approvals", "grant", approval_id, "--why", "fine").returncode == 0
        assert office.chat(x_arbstr_approval=approval_id).status_code == 200
    home.check()


def test_what_was_granted_is_there_when_the_program_was_killed(home: Household) -> None:
    with office_of(home) as office:
        approval_id = office.chat().json()["id"]
        office.program.process.send_signal(signal.SIGKILL)
        office.program.process.wait()
    with office_of(home) as office:
        assert office.look(approval_id)["status"] == "pending_approval"
        assert office.arbstr("approvals", "grant", approval_id, "--why", "fine").returncode == 0
        office.program.process.send_signal(signal.SIGKILL)
        office.program.process.wait()
    assert home.check().open_holds == 1
    with office_of(home) as office:
        assert office.look(approval_id)["status"] == "approved"
        assert office.chat(x_arbstr_approval=approval_id).status_code == 200
        assert office.chat(x_arbstr_approval=approval_id).status_code == 403
        assert office.program.stop() == 0
    assert home.check().open_holds == 0


def test_who_decided_and_why_is_in_the_audit_log(office: Office) -> None:
    approval_id = office.chat().json()["id"]
    office.arbstr("approvals", "grant", approval_id, "--why", "worth it", "--by", "ada")
    office.chat(x_arbstr_approval=approval_id)
    with office.admin as http:
        entries = http.get("/operator/audit?limit=100").json()["entries"]
    told = {one["action"]: one["details"] for one in entries if one["action"].startswith("APPROVAL_")}
    assert list(told) == ["APPROVAL_REQUESTED", "APPROVAL_GRANTED", "APPROVAL_USED"]
    assert told["APPROVAL_GRANTED"]["by"] == "ada"
    assert told["APPROVAL_GRANTED"]["reason"] == "worth it"
    assert {one["approval_id"] for one in told.values()} == {approval_id}
    with office.program.client(office.token) as http:
        history = http.get(f"/agents/{office.agent_id}/history?action_type=PAYMENT_SETTLED").json()["entries"]
    assert history[0]["ref_id"] == "tx_" + approval_id.removeprefix("apr_")
    assert history[0]["metadata"]["provider"] == "a"
    assert history[0]["metadata"]["tokens_out"] > 0


# The terminal


def test_the_user_who_is_logged_in_has_decided_when_nobody_is_named(office: Office) -> None:
    approval_id = office.chat().json()["id"]
    assert office.arbstr("approvals", "deny", approval_id, "--why", "no").stdout == f"{approval_id}\tdenied\n"
    [row] = json.loads(office.arbstr("approvals", "--all", "--json").stdout)
    assert row["by"]
    assert row["by"] != "operator"
    assert row["why"] == "no"


def test_a_grant_says_why_it_was_a_denial_when_the_policy_has_changed(office: Office) -> None:
    approval_id = office.chat().json()["id"]
    office.limit(daily_limit_msat=1)
    done = office.arbstr("approvals", "grant", approval_id, "--why", "fine")
    assert done.returncode == 1
    assert done.stderr == f"Error: {approval_id} was not granted but denied: exceeds_daily_limit\n"


def test_agents_are_added_and_paid_through_the_program_that_runs(office: Office) -> None:
    added = office.arbstr("agents", "add", "new", "--deposit", "5")
    assert added.returncode == 0, added.stderr
    agent_id, name, token = added.stdout.strip().split("\t")
    assert (name, added.stderr) == ("new", f"Deposited 5 sats; {agent_id} has 5 sats available.\n")
    for _ in range(2):
        paid = office.arbstr("agents", "deposit", "new", "7msat", "--key", "k")
        assert paid.stdout == f"{agent_id}\t7\t5007\n"
    assert office.arbstr("agents", "deposit", "nobody", "1").returncode == 1
    with office.program.client(token) as http:
        assert http.get(f"/agents/{agent_id}/balance").json()["balance_msat"] == 5_007
    assert office.program.stop() == 0
    again = office.arbstr("agents", "deposit", "new", "7msat", "--key", "k")
    assert again.stdout == f"{agent_id}\t7\t5007\n"  # booked once, whoever booked it


@pytest.mark.parametrize(
    ("token", "words"),
    [("", "set [server] admin_token"), ('admin_token = "another-token-of-more-than-32-characters!"', "does not know")],
)
def test_the_terminal_says_what_it_lacks_when_the_program_would_not_listen_to_it(
    office: Office, token: str, words: str
) -> None:
    config = office.household.path / "config.toml"
    config.write_text(config.read_text().replace(f'admin_token = "{ADMIN}"', token))
    for arguments in (("agents", "add", "new"), ("approvals", "deny", "apr_1", "--why", "no")):
        done = office.arbstr(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr


def test_nothing_is_decided_when_no_program_runs(home: Household) -> None:
    done = arbstr("approvals", "grant", "apr_1", "--why", "fine", cwd=home.path)
    assert done.returncode == 1
    assert "start one with: arbstr serve" in done.stderr
