"""The official OpenAI SDK against the started program."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.live.program import Household, Program, RecordingServer, mock_provider

HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def sdk(market: Program) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{market.address}/v1", api_key=market.token, max_retries=0) as client:
        yield client


def sdk_for(program: Program, token: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{program.address}/v1", api_key=token, max_retries=0)


def test_plain_answer_says_who_answered_and_what_it_cost(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert raw.headers["x-arbstr-provider"].startswith("mock-")
    assert int(raw.headers["x-arbstr-cost-msat"]) > 0
    assert int(raw.headers["x-arbstr-saved-msat"]) > 0
    assert raw.headers["x-arbstr-request-id"]


def test_stream_ends_with_a_finish_reason_and_shows_no_usage_when_none_was_asked_for(sdk: openai.OpenAI) -> None:
    chunks = list(sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_carries_usage_with_its_cost_when_asked_for(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 0
    cost = last.usage.model_extra["arbstr"]  # type: ignore[index]  # an extra member, as the SDK keeps those
    assert cost["cost_msat"] > 0
    assert cost["provider"].startswith("mock-")


def test_models_are_listed(sdk: openai.OpenAI) -> None:
    models = {model.id: model for model in sdk.models.list()}
    assert "gpt-4o-mini" in models
    assert models["gpt-4o-mini"].created > 0


def test_unknown_model_is_a_bad_request_that_names_it(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="no-such-model", messages=HELLO)
    assert "No providers available" in caught.value.message
    assert "no-such-model" in caught.value.message
    assert caught.value.param == "model"


def test_wrong_key_is_an_authentication_error(market: Program) -> None:
    with sdk_for(market, "vtk_WRONG") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert caught.value.code == "invalid_api_key"


def test_tools_and_images_arrive_at_the_provider_unchanged(household: Household, upstream: RecordingServer) -> None:
    household.write_config(upstream.provider())
    token = household.add_agent("a", "1000000")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    parts = [
        {"type": "text", "text": "what is this? é"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    with household.serve() as program, sdk_for(program, token) as client:
        client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": parts}],  # type: ignore[misc, list-item]  # parts as plain dicts
            tools=tools,  # type: ignore[arg-type]  # as above
            max_tokens=50,
            seed=12345678901234567890,
        )
        program.stop()
    headers, body = upstream.seen[0]
    sent = json.loads(body)
    assert sent["tools"] == tools
    assert sent["messages"][0]["content"] == parts
    assert sent["seed"] == 12345678901234567890
    assert headers["authorization"] == "Bearer sk-upstream-secret"
    assert token not in str(headers)
    household.check()


def test_client_timeout_is_settled_and_nothing_stays_held(household: Household) -> None:
    household.write_config(mock_provider("sleepy", "hang=1"))
    token = household.add_agent("a", "1000")
    with household.serve() as program:
        with sdk_for(program, token) as client, pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.5).chat.completions.create(model="m", messages=HELLO)
        assert program.stop() == 0
    report = household.check()
    assert report.open_holds == 0
    assert report.spent_msat == 0


def test_provider_timeout_is_a_gateway_timeout(household: Household) -> None:
    household.write_config(mock_provider("sleepy", "hang=1") + "first_byte_timeout_s = 0.3\n")
    token = household.add_agent("a", "1000")
    with household.serve() as program:
        with sdk_for(program, token) as client, pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="m", messages=HELLO)
        assert caught.value.status_code == 504
        program.stop()
    assert household.check().open_holds == 0


def test_cut_stream_raises_in_the_sdk_and_has_no_done(household: Household) -> None:
    household.write_config(mock_provider("cutter", "cut=1"))
    token = household.add_agent("a", "1000")
    with household.serve() as program:
        with sdk_for(program, token) as client:
            stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
            with pytest.raises(openai.APIError, match="cutter"):
                list(stream)
        with program.client(token) as raw:
            body = {"model": "m", "messages": HELLO, "stream": True}
            text = raw.post("/v1/chat/completions", json=body).text
        program.stop()
    assert "[DONE]" not in text
    assert '"error"' in text.splitlines()[-2]
    report = household.check()
    assert report.open_holds == 0
    assert report.spent_msat > 0, "what arrived was delivered, and is paid for"


def test_refused_budget_is_a_402_with_the_reason(household: Household) -> None:
    household.write_config(mock_provider("dear", rates=("1000", "1000")))
    token = household.add_agent("a", "1")
    with household.serve() as program:
        with sdk_for(program, token) as client, pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="m", messages=HELLO)
        program.stop()
    assert caught.value.status_code == 402
    assert caught.value.type == "billing_error"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["reason"] == "insufficient_balance"


def test_another_provider_answers_when_the_cheapest_fails(household: Household) -> None:
    household.write_config(mock_provider("broken", "fail=1") + mock_provider("steady", rates=("2", "2")))
    token = household.add_agent("a", "1000")
    with household.serve() as program:
        with program.client(token) as raw:
            for stream in (False, True):
                answer: httpx.Response = raw.post(
                    "/v1/chat/completions", json={"model": "m", "messages": HELLO, "stream": stream}
                )
                assert answer.status_code == 200
                assert answer.headers["x-arbstr-provider"] == "steady"
                assert answer.headers["x-arbstr-retries"] == "1/broken"
        program.stop()
    household.check()
