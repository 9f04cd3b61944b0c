"""Cases 26 to 40: what goes to the provider, and what comes back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from uuid import UUID

import pytest

from tests.contract.client import Answer
from tests.contract.program import P, Start, World, chat_body, member
from tests.contract.upstream import answer as raw_answer
from tests.contract.upstream import chat, completion, json_answer, redirect

PROVIDERS = [
    P("wire", api_key="${CONTRACT_A}-${CONTRACT_B}"),
    P("literal", models=["literal"], api_key="$CONTRACT_A"),
    P("keyless", models=["keyless"]),
    P("tiny", 1, 1, models=["tiny"]),
    P("slash", models=["slash"], suffix="/"),
    P("moved", models=["moved"]),
]


@pytest.fixture(scope="module")
def wire(start: Start) -> Iterator[World]:
    with start(PROVIDERS, CONTRACT_A="sk-one", CONTRACT_B="two") as world:
        yield world


@pytest.fixture
def world(wire: World) -> World:
    for one in PROVIDERS:
        wire.backend(one.name).forget()
    return wire


def assert_refused(answer: Answer, status: int) -> None:
    """In OpenAI's shape, with a request id."""
    assert answer.status == status
    assert answer.error["message"]
    UUID(answer.request_id)


def test_answer_names_its_provider_and_keeps_the_rest_when_the_upstream_says_created(world: World) -> None:
    world.backend("wire").replies(chat("well", (3, 4), status=201, system_fingerprint="fp"))
    answer = world.chat()
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json
    assert body.pop("arbstr_provider") == "wire"
    assert body == completion("well", (3, 4), system_fingerprint="fp")


def test_cost_is_told_when_usage_is(world: World) -> None:
    answer = world.chat()
    assert answer.headers["x-arbstr-cost-sats"] == "0.35"
    assert answer.headers["x-arbstr-cost-msat"] == "350"
    assert world.entry(answer.request_id)["cost"]["sats"] == pytest.approx(0.35)


def test_cost_is_rounded_up_to_one_msat_when_it_is_less(world: World) -> None:
    answer = world.chat(model="tiny")
    assert answer.headers["x-arbstr-cost-sats"] == "0.00"
    assert answer.headers["x-arbstr-cost-msat"] == "1"
    assert world.entry(answer.request_id)["cost"]["sats"] == pytest.approx(0.001)


def test_cost_is_estimated_when_the_answer_has_no_usage(world: World) -> None:
    world.backend("wire").replies(chat("several words of an answer", usage=None))
    answer = world.chat()
    assert answer.status == 200
    assert int(answer.headers["x-arbstr-cost-msat"]) > 0
    entry = world.entry(answer.request_id)
    assert entry["success"] is True
    assert entry["tokens"]["output"] > 0
    assert member(entry, "estimated") is True


def test_own_rates_decide_when_the_provider_reports_a_cost(world: World) -> None:
    body = completion()
    body["usage"] = {**dict(body["usage"]), "total_cost": 3.5}  # type: ignore[call-overload]  # it is an object
    world.backend("wire").replies(json_answer(body))
    answer = world.chat()
    assert answer.headers["x-arbstr-cost-sats"] == "0.35"
    reported = member(world.entry(answer.request_id), "provider_cost_sats", "provider_sats", "provider_cost_msat")
    assert reported in (3.5, 3500)


def test_body_is_passed_on_when_it_is_json_but_no_object(world: World) -> None:
    world.backend("wire").replies(raw_answer(b"[1,2]"))
    answer = world.chat()
    assert (answer.status, answer.json) == (200, [1, 2])


def test_provider_sees_its_own_key_and_the_request_id_and_nothing_of_the_client(world: World) -> None:
    theirs = {"authorization": "Bearer client-secret", "x-custom": "mine", "openai-organization": "org-1"}
    answer = world.chat(headers={**theirs, "user-agent": "client/1.0"})
    (seen,) = world.backend("wire").calls()
    assert seen.headers["idempotency-key"] == answer.request_id
    assert seen.headers["authorization"] == "Bearer sk-one-two"
    assert seen.headers["content-type"] == "application/json"
    assert not {"x-custom", "openai-organization"} & set(seen.headers)
    assert "client" not in json.dumps(seen.headers)


def test_dollar_without_braces_is_literal_when_it_stands_in_a_key(world: World) -> None:
    world.chat(model="literal")
    assert world.backend("literal").calls()[0].headers["authorization"] == "Bearer $CONTRACT_A"


def test_no_authorization_is_sent_when_the_provider_has_no_key(world: World) -> None:
    world.chat(model="keyless", headers={"authorization": "Bearer client-secret"})
    assert "authorization" not in world.backend("keyless").calls()[0].headers


def test_body_arrives_byte_for_byte_when_it_has_members_that_nobody_knows(world: World) -> None:
    body = (
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"hello there, you","name":null}],'
        b'"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"seed":12345678901234567890,'
        b'"metadata":null,"stop":null, "temperature": 1}'
    )
    assert world.post("/v1/chat/completions", body).status == 200
    assert world.backend("wire").calls()[0].body == body


def test_request_id_is_ours_and_the_clients_is_the_correlation_id_when_it_sends_one(world: World) -> None:
    answer = world.chat(headers={"x-arbstr-request-id": "mine"})
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", answer.request_id)
    assert answer.headers["x-arbstr-correlation-id"] == "mine"
    assert member(world.entry(answer.request_id), "correlation_id") == "mine"
    assert world.backend("wire").calls()[0].headers["x-request-id"] == "mine"


def test_upstream_path_has_one_slash_when_the_url_ends_with_one(world: World) -> None:
    assert world.chat(model="slash").status == 200
    assert [seen.path for seen in world.backend("slash").requests] == ["/chat/completions"]


def test_body_is_refused_as_json_when_a_required_member_is_missing(world: World) -> None:
    answer = world.post("/v1/chat/completions", {"model": "gpt-4o"})
    assert_refused(answer, 422)
    assert "messages" in answer.error["message"]


@pytest.mark.parametrize("body", [b"{bad", b""])
def test_body_is_refused_as_json_when_it_is_not_json(world: World, body: bytes) -> None:
    assert_refused(world.post("/v1/chat/completions", body), 400)


def test_body_is_refused_as_json_when_no_content_type_is_sent(world: World) -> None:
    assert_refused(world.send("POST", "/v1/chat/completions", body=json.dumps(chat_body()).encode()), 415)


def body_of(size: int) -> bytes:
    empty = json.dumps(chat_body("")).encode()
    return json.dumps(chat_body("x" * (size - len(empty)))).encode()


def test_body_above_two_mebibytes_is_taken_when_nothing_is_configured(world: World) -> None:
    assert world.post("/v1/chat/completions", body_of(2_097_153)).status == 200
    assert len(world.backend("wire").calls()[0].body) == 2_097_153


def test_body_is_refused_as_json_when_it_is_one_byte_above_the_configured_limit(start: Start) -> None:
    with start([P("limited")], tables={"server": {"max_body_bytes": 2_097_152}}) as world:
        assert_refused(world.post("/v1/chat/completions", body_of(2_097_153)), 413)
        assert world.post("/v1/chat/completions", body_of(2_097_152)).status == 200


def test_content_is_forwarded_as_it_is_when_it_is_null_or_absent(world: World) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "hello there, you"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]
    assert world.chat(messages=messages).status == 200
    assert world.backend("wire").calls()[0].json["messages"] == messages


@pytest.mark.parametrize(
    "members", [{"max_tokens": -1}, {"max_tokens": 1.5}, {"max_tokens": "5"}, {"stream": "yes"}], ids=str
)
def test_member_is_refused_and_named_when_what_we_read_has_the_wrong_type(
    world: World, members: dict[str, object]
) -> None:
    answer = world.chat(**members)  # type: ignore[arg-type]  # members of the body
    assert_refused(answer, 422)
    assert next(iter(members)) in answer.error["message"]
    assert world.backend("wire").requests == []


@pytest.mark.parametrize("members", [{"stop": 5}, {"user": 7}], ids=str)
def test_member_is_the_providers_to_judge_when_we_do_not_read_it(world: World, members: dict[str, object]) -> None:
    assert world.chat(**members).status == 200  # type: ignore[arg-type]  # members of the body
    assert world.backend("wire").calls()[0].json.items() >= members.items()


def test_answer_is_plain_when_stream_is_null(world: World) -> None:
    answer = world.chat(stream=None)
    assert answer.status == 200
    assert answer.json["object"] == "chat.completion"


def test_method_is_refused_and_the_right_one_named_when_it_is_wrong(world: World) -> None:
    answer = world.get("/v1/chat/completions")
    assert_refused(answer, 405)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/nope", "/health/", "/v1/chat/completions/"])
def test_path_is_not_found_when_it_is_unknown_or_ends_with_a_slash(world: World, path: str) -> None:
    assert_refused(world.get(path), 404)


def test_redirect_is_followed_when_the_provider_sends_one(world: World) -> None:
    world.backend("moved").replies(redirect(f"{world.backend('wire').url}/chat/completions"))
    answer = world.chat(model="moved")
    assert (answer.status, answer.provider) == (200, "moved")
    assert len(world.backend("wire").calls()) == 1
