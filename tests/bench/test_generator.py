"""The load generator and the answerer, on which every measurement stands: they must see what really happened."""

import json

import pytest
from attrs import evolve

from bench.generator import LoadFigures, LoadSpec, Shot, ShotFigures, read_figures, read_spec, request_bytes, spec_text
from bench.http1 import RequestReader, ResponseReader
from bench.programs import exchange
from tests.bench.conftest import Rig

SPEC = LoadSpec("127.0.0.1", 80, "m", (Shot("plain"), Shot("stream", True)), token="t", headers={"x-a": "b"})


def test_a_spec_is_the_same_when_it_has_been_through_a_command_line() -> None:
    assert read_spec(spec_text(SPEC)) == evolve(SPEC, shots=list(SPEC.shots))


def test_a_request_carries_token_headers_and_instructions_when_written() -> None:
    reader = RequestReader()
    reader.feed(request_bytes(SPEC, Shot("s", True, 7, instructions="gap_us=5")))
    body = json.loads(reader.take_body())

    assert reader.complete
    assert (reader.headers["authorization"], reader.headers["x-a"]) == ("Bearer t", "b")
    assert (body["max_tokens"], body["stream"]) == (7, True)
    assert body["messages"][0]["content"].startswith("gap_us=5 ")
    assert len(body["messages"][0]["content"]) == 1_000


def test_figures_count_what_failed_and_not_what_hung_up_by_itself() -> None:
    figures = LoadFigures(
        {"a": ShotFigures(6, {"ok": 3, "http 500": 2, "left": 1}), "b": ShotFigures(1, {"http 500": 1})}, 1.0, 0.1, 0
    )

    assert (figures.begun, figures.failed, figures.failures) == (7, 3, {"http 500": 3})


CHAT, FLAKY = "/v1/chat/completions", "/flaky/v1/chat/completions"


async def load(rig: Rig, shot: Shot, path: str = CHAT, requests: int = 6) -> ShotFigures:
    spec = evolve(rig.direct.spec, shots=(shot,), path=path, requests=requests, connections=3)
    sample = await rig.bench.load(rig.direct, spec)
    return sample.figures.shots[shot.name]


@pytest.mark.parametrize(
    ("shot", "path", "outcome"),
    [
        pytest.param(Shot("x"), CHAT, "ok", id="plain"),
        pytest.param(Shot("x", True, 30), CHAT, "ok", id="stream at once"),
        pytest.param(Shot("x", True, 3, instructions="gap_us=1000"), CHAT, "ok", id="stream"),
        pytest.param(Shot("x", instructions="flaky=fail"), CHAT, "ok", id="steady"),
        pytest.param(Shot("x", instructions="flaky=fail"), FLAKY, "http 500", id="failing"),
        pytest.param(
            Shot("x", True, 6, instructions="flaky=cut gap_us=1000"),
            "/flaky/v1/chat/completions",
            "connection",
            id="cut",
        ),
        pytest.param(Shot("x", True, 6, instructions="flaky=cut"), FLAKY, "connection", id="cut"),
        pytest.param(Shot("x", leave="sent"), CHAT, "left", id="leaves"),
        pytest.param(Shot("x", True, 500, instructions="gap_us=10000", leave="first"), CHAT, "left", id="mid"),
    ],
)
async def test_each_request_ends_as_it_was_told_to_when_asked_for_that(
    rig: Rig, shot: Shot, path: str, outcome: str
) -> None:
    figures = await load(rig, shot, path)

    assert (figures.begun, figures.outcomes) == (6, {outcome: 6})
    assert len(figures.total_s) == (6 if outcome == "ok" else 0)
    assert len(figures.ttft_s) == (6 if outcome == "ok" and shot.stream else 0)


async def test_nothing_recurses_or_hangs_when_nobody_listens(rig: Rig) -> None:
    spec = evolve(rig.direct.spec, shots=(Shot("x"),), requests=3_000, connections=2, port=1)

    sample = await rig.bench.load(rig.direct, spec)

    assert sample.figures.failures == {"connection": 3_000}


async def test_a_stream_holds_as_many_events_as_tokens_when_it_is_told_usage(rig: Rig) -> None:
    reader: ResponseReader = await exchange(rig.direct.spec, request_bytes(rig.direct.spec, Shot("x", True, 25)))

    events = [line[6:] for line in reader.take_body().split(b"\n\n") if line]
    assert events[-1] == b"[DONE]"
    payloads = [json.loads(event) for event in events[:-1]]
    words = [choice["delta"].get("content") for each in payloads for choice in each["choices"]]
    assert len([word for word in words if word]) == 25
    assert payloads[-1]["usage"]["completion_tokens"] == 25


async def test_a_cost_counts_once_when_it_is_told_at_the_end_of_a_stream() -> None:
    printed = json.dumps({"shots": {"a": {"begun": 1, "outcomes": {"ok": 1}}}, "wall_s": 1, "cpu_s": 0, "told_msat": 5})

    assert read_figures(printed).told_msat == 5
