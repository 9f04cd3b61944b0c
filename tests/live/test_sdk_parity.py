"""The official SDK sees the same through the program as it sees from the provider itself, but for what is added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.live.program import Household, Program
from tests.live.scripted import ERRORS, KEY, ScriptedServer

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
LOOK_UP: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ADDED = {"arbstr_provider", "arbstr"}
"""Members of ours in an answer and in its usage."""


class City(BaseModel):
    city: str
    people: int


Both = tuple[openai.OpenAI, openai.OpenAI]


@pytest.fixture(scope="module")
def both(scripted: ScriptedServer, proxied: Program) -> Iterator[Both]:
    """The provider itself, and the program in front of it."""
    with (
        openai.OpenAI(base_url=scripted.url, api_key=KEY, max_retries=0) as direct,
        openai.OpenAI(base_url=f"{proxied.address}/v1", api_key=proxied.token, max_retries=0) as through,
    ):
        yield direct, through


def plain(value: Any) -> Any:
    """What was parsed, as dicts, without what we add."""
    if isinstance(value, BaseModel):
        value = value.model_dump(warnings=False)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if key not in ADDED}
    return [plain(one) for one in value] if isinstance(value, list) else value


def same(both: Both, ask: Callable[[openai.OpenAI], Any]) -> Any:
    """Ask both; gives the answer that came through the program, which must be that of the provider."""
    direct, through = (ask(client) for client in both)
    assert type(through) is type(direct)
    assert plain(through) == plain(direct)
    return through


ASKED: dict[str, Callable[[openai.OpenAI], Any]] = {
    "chat": lambda client: client.chat.completions.create(model="m", messages=HELLO),
    "tools": lambda client: client.chat.completions.create(model="m", messages=HELLO, tools=[LOOK_UP]),
    "stream": lambda client: list(client.chat.completions.create(model="m", messages=HELLO, stream=True)),
    "stream with usage": lambda client: list(
        client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options={"include_usage": True})
    ),
    "stream of tools": lambda client: list(
        client.chat.completions.create(model="m", messages=HELLO, tools=[LOOK_UP], stream=True)
    ),
    "completion": lambda client: client.completions.create(model="m", prompt="once", max_tokens=5),
    "completions": lambda client: client.completions.create(model="m", prompt=["a", "b"], n=1),
    "completion of tokens": lambda client: client.completions.create(model="m", prompt=[1, 2, 3]),
    "stream of a completion": lambda client: list(client.completions.create(model="m", prompt="once", stream=True)),
    "embedding": lambda client: client.embeddings.create(model="m", input="hello"),
    "embeddings": lambda client: client.embeddings.create(model="m", input=["a", "b"], encoding_format="float"),
    "embeddings of tokens": lambda client: client.embeddings.create(model="m", input=[[1, 2], [3]], dimensions=2),
}


@pytest.mark.parametrize("what", ASKED)
def test_the_answer_is_the_providers_own(both: Both, what: str) -> None:
    same(both, ASKED[what])


def test_structured_output_is_parsed(both: Both) -> None:
    answer = same(both, lambda client: client.chat.completions.parse(model="m", messages=HELLO, response_format=City))
    assert answer.choices[0].message.parsed == City(city="Köln", people=1085664)


def test_tools_are_parsed_and_put_together_from_a_stream(both: Both) -> None:
    def ask(client: openai.OpenAI) -> Any:
        with client.chat.completions.stream(model="m", messages=HELLO, tools=[LOOK_UP]) as stream:
            for _ in stream:
                pass
            return stream.get_final_completion()

    [call] = same(both, ask).choices[0].message.tool_calls
    assert call.function.parsed_arguments == {"city": "Köln"}


def test_the_vector_is_decoded_as_the_provider_meant_it(both: Both) -> None:
    answer = same(both, ASKED["embedding"])
    assert answer.data[0].embedding == [0.5, -0.25]


# What goes wrong


def failure(client: openai.OpenAI, model: str) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=HELLO)
    return caught.value


@pytest.mark.parametrize("model", [name for name, (status, _) in ERRORS.items() if status != 429])
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_the_providers_own_when_the_request_is_at_fault(both: Both, model: str, stream: bool) -> None:
    errors = []
    for client in both:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model=model, messages=HELLO, stream=stream)
        errors.append(caught.value)
    direct, through = errors
    assert type(through) is type(direct)
    assert through.body == direct.body
    assert (through.code, through.param, through.type) == (direct.code, direct.param, direct.type)
    assert through.request_id


def test_a_wrong_key_is_an_authentication_error(both: Both) -> None:
    for client in both:
        error = failure(client.with_options(api_key="sk-wrong"), "m")
        assert (type(error), error.code) == (openai.AuthenticationError, "invalid_api_key")


def test_an_unknown_model_is_not_found(both: Both) -> None:
    for client in both:
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("nope/nope")
        assert caught.value.code == "model_not_found"


def test_models_are_retrieved_and_listed(both: Both) -> None:
    for client in both:
        assert client.models.retrieve("m").id == "m"
        assert [model.id for model in client.models.list()] == ["m", *ERRORS]


def test_an_empty_account_is_a_402(scripted: ScriptedServer, household: Household) -> None:
    household.write_config(scripted.provider(output_rate="1000"))
    token = household.add_agent("poor", "1")
    asked = len(scripted.seen)
    with household.serve() as program:
        with openai.OpenAI(base_url=f"{program.address}/v1", api_key=token, max_retries=0) as client:
            error = failure(client, "m")
        program.stop()
    assert (error.status_code, error.type) == (402, "billing_error")
    assert len(scripted.seen) == asked


def test_too_many_requests_are_limited_and_the_sdk_comes_back(scripted: ScriptedServer, household: Household) -> None:
    household.write_config(scripted.provider(), server="rate_limit_rps = 1")
    token = household.add_agent("eager", "1000000")
    with household.serve() as program:
        with openai.OpenAI(base_url=f"{program.address}/v1", api_key=token, max_retries=0) as client:
            with pytest.raises(openai.RateLimitError) as caught:
                [client.models.list() for _ in range(5)]
            headers = caught.value.response.headers
            assert (headers["x-ratelimit-limit-requests"], headers["retry-after"]) == ("1", "1")
            assert client.with_options(max_retries=5).models.list().data
        program.stop()


# What is added


def test_what_was_bought_is_on_record_with_its_costs(both: Both, proxied: Program) -> None:
    raw = both[1].embeddings.with_raw_response.create(model="m", input=["a", "b"])
    request_id = raw.headers["x-arbstr-request-id"]
    with proxied.client() as http:
        receipt = http.get(f"/v1/requests/{request_id}").json()
        listed = http.get("/v1/requests", params={"per_page": 1}).json()["data"][0]
        stats = http.get("/v1/stats", params={"group_by": "provider"}).json()
    assert (receipt["endpoint"], receipt["tokens"]["input"], receipt["tokens"]["output"]) == ("embeddings", 8, 0)
    assert receipt["cost"]["msat"] == 40 == int(raw.headers["x-arbstr-cost-msat"])
    assert [one["outcome"] for one in receipt["attempts"]] == ["success"]
    assert listed["request_id"] == request_id
    assert stats["providers"]["scripted"]["counts"]["success"] > 0
    with proxied.client("boss") as http:
        assert http.get("/providers").json()["providers"][0]["breaker"]["state"] == "closed"
        assert http.get("/metrics").status_code == 200
        assert http.post("/v1/chat/completions", json={"model": "m", "messages": HELLO}).status_code == 403


def test_a_quote_is_near_what_is_paid(both: Both, proxied: Program) -> None:
    body = {"model": "m", "messages": HELLO, "max_tokens": 20}
    with proxied.client() as http:
        quote = http.post("/v1/cost", json=body).json()
        paid = int(http.post("/v1/chat/completions", json=body).headers["x-arbstr-cost-msat"])
    assert quote["provider"] == "scripted"
    assert 0 < paid <= quote["bound_msat"]


def test_a_rate_limit_is_one_with_the_time_to_come_back(both: Both) -> None:
    # The last of this file: afterwards the provider is left alone for as long as it says.
    direct, through = (failure(client, "limited") for client in both)
    assert type(through) is type(direct) is openai.RateLimitError
    assert int(through.response.headers["retry-after"]) >= 1
