"""One JSON document from a host that may do anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from arbstr.market import FetchFailed, get_json
from arbstr.market._fetch import decode
from arbstr.secrets import Secret
from tests.market.rig import World, never, ok, refused

URL = "https://host.example/v1/models"


async def get(answer: Any, **more: Any) -> Any:
    return await get_json(World({URL: answer}), URL, **{"timeout_s": 5.0, "max_bytes": 1_000, **more})


class Dripping(httpx.AsyncByteStream):
    """A body in pieces with a pause before each, and what became of it."""

    def __init__(self, pieces: list[bytes], pause_s: float = 0.0, fault: Exception | None = None) -> None:
        self.pieces, self.pause_s, self.fault = pieces, pause_s, fault
        self.given = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await trio.sleep(self.pause_s)
            self.given += 1
            yield piece
        if self.fault is not None:
            raise self.fault

    async def aclose(self) -> None:
        self.closed = True


def dripping(body: Dripping, **headers: str) -> Any:
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=body, headers=headers)

    return answer


async def test_numbers_keep_their_digits_when_read() -> None:
    assert await get(ok('{"a": 0.10, "b": 1e-7, "c": 3, "d": 12345678901234567890.5}')) == {
        "a": Decimal("0.10"),
        "b": Decimal("0.0000001"),
        "c": 3,
        "d": Decimal("12345678901234567890.5"),
    }


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e99999999999999999999", "9" * 41])
async def test_only_the_number_is_lost_when_it_is_none(text: str) -> None:
    found = await get(ok(f'{{"a": {text}, "b": 1}}'))

    assert found["a"].is_nan()
    assert found["b"] == 1


async def test_bearer_and_query_are_sent_when_given() -> None:
    world = World({URL: ok({})})
    await get_json(world, URL, timeout_s=1, max_bytes=9, bearer=Secret("sk-1"), query={"a": "x y&z"})
    (request,) = world.asked

    assert request.headers["authorization"] == "Bearer sk-1"
    assert dict(request.url.params) == {"a": "x y&z"}
    assert request.headers["accept-encoding"] == "identity"


async def test_no_bearer_is_sent_when_there_is_none() -> None:
    world = World({URL: ok({})})
    await get_json(world, URL, timeout_s=1, max_bytes=9)

    assert "authorization" not in world.asked[0].headers


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param(ok({}, 500), "status 500", id="status"),
        pytest.param(ok({}, 302), "status 302", id="redirect"),
        pytest.param(ok("[1"), "not JSON", id="cut"),
        pytest.param(ok(b"\xff\xfe"), "not JSON", id="not utf-8"),
        pytest.param(ok("[" * 900), "not JSON", id="deep"),
        pytest.param(ok(b"x" * 1_001), "larger than 1,000 bytes", id="huge"),
        pytest.param(refused, "cannot be reached", id="refused"),
        pytest.param(
            httpx.Response(200, content=b"{}", headers={"content-encoding": "br"}), "content encoding", id="encoded"
        ),
    ],
)
async def test_it_fails_with_a_sentence_when_the_answer_is_unusable(answer: Any, problem: str) -> None:
    with pytest.raises(FetchFailed, match=problem) as failed:
        await get(answer)

    assert "host.example" not in str(failed.value)
    assert "sk-secret" not in str(failed.value)


async def test_it_fails_when_the_address_is_no_url() -> None:
    with pytest.raises(FetchFailed, match="not a URL"):
        await get_json(World(), "http://host:port/", timeout_s=1, max_bytes=9)


async def test_deep_nesting_is_a_failure_and_not_an_end_when_it_is_long(autojump_clock: Any) -> None:
    with pytest.raises(FetchFailed):
        await get(ok("[" * 200_000), max_bytes=1 << 20)


async def test_it_gives_up_in_time_when_the_host_is_silent(autojump_clock: Any) -> None:
    begun = trio.current_time()
    with pytest.raises(FetchFailed, match="within 5 s"):
        await get(never)

    assert trio.current_time() - begun == pytest.approx(5)


async def test_it_gives_up_in_time_when_the_body_drips(autojump_clock: Any) -> None:
    body = Dripping([b" "] * 100, pause_s=1.0)
    begun = trio.current_time()
    with pytest.raises(FetchFailed, match="within 5 s"):
        await get(dripping(body))

    assert trio.current_time() - begun == pytest.approx(5)
    assert body.closed


async def test_reading_stops_when_the_bound_is_reached() -> None:
    body = Dripping([b"x" * 400] * 1_000)
    with pytest.raises(FetchFailed, match="larger"):
        await get(dripping(body))

    assert (body.given, body.closed) == (3, True)


async def test_it_fails_when_the_body_breaks_off() -> None:
    body = Dripping([b"{"], fault=httpx.ReadError("peer at 10.0.0.1 went away"))
    with pytest.raises(FetchFailed, match=r"ReadError") as failed:
        await get(dripping(body))

    assert "10.0.0.1" not in str(failed.value)
    assert body.closed


async def test_the_connection_is_let_go_when_cancelled(autojump_clock: Any) -> None:
    body = Dripping([b" "] * 100, pause_s=1.0)
    with trio.move_on_after(2.5) as scope:
        await get(dripping(body))

    assert scope.cancelled_caught
    assert body.closed


@given(st.binary(max_size=200))
def test_anything_is_a_document_or_a_failure_when_decoded(body: bytes) -> None:
    with suppress(FetchFailed):
        decode(body)
