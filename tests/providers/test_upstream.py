"""The way out: what is sent, what comes back, and what each way of breaking is called."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import httpx
import pytest
import trio

import arbstr
from arbstr.providers import (
    DiscoveredModel,
    Http1Transport,
    PooledTransport,
    UndecodableModels,
    Upstream,
    UpstreamAnswer,
    UpstreamFailure,
    build_transport,
)
from arbstr.providers._upstream import retry_after_s
from arbstr.secrets import Secret
from arbstr.wire import Endpoint
from tests.providers.conftest import CancelAtStep

KEY = "sk-very-secret-0123456789"
BODY = b'{"model":"m","messages":[]}'
MakeConfig = Callable[..., Any]


async def call(upstream: Upstream, *, stream: bool = False, **more: Any) -> UpstreamAnswer:
    return await upstream.send(
        Endpoint.CHAT, BODY, stream=stream, request_id="req-1", **{"correlation_id": None, "traceparent": None} | more
    )


async def failure_of(upstream: Upstream, *, stream: bool = True, limit: int = 1 << 20) -> UpstreamFailure:
    """Make a call and read it all; the failure that this ends in."""
    with pytest.raises(UpstreamFailure) as caught:
        async with await call(upstream, stream=stream) as answer:
            await answer.read(limit)
    return caught.value


async def collect(answer: UpstreamAnswer, into: list[bytes]) -> None:
    """Keeps what came before the answer broke."""
    async for chunk in answer.chunks():
        into.append(chunk)  # noqa: PERF401  # a comprehension would lose what came before the break


@pytest.fixture(params=["own", "httpcore"])
def any_transport(request: Any, make_config: MakeConfig) -> MakeConfig:
    """Configurations for each transport in turn. Offering HTTP/2 means httpx's; without TLS it speaks HTTP/1.1."""
    return partial(make_config, http2=request.param == "httpcore")


def connections_of(upstream: Upstream) -> tuple[int, int]:
    """What is left in the pool: connections, and how many of them are idle."""
    transport = upstream._transport
    if isinstance(transport, Http1Transport):
        return transport.connections, transport.idle_connections
    connections = pool_of(upstream).connections
    return len(connections), sum(connection.is_idle() for connection in connections)


def pool_of(upstream: Upstream) -> Any:
    assert isinstance(upstream._transport, PooledTransport)
    return upstream._transport._pool


# -- over a real socket


async def test_sends_exactly_the_agreed_request_when_plain(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.answer(b"{}", "content-type: application/json")

    server.script = script
    async with (
        Upstream(any_transport(url=server.url + "//", api_key=Secret(KEY))) as upstream,
        await call(upstream, correlation_id="corr-7", traceparent="00-ab-cd-01") as answer,
    ):
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert await answer.read(100) == b"{}"
    [request] = server.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.body == BODY
    assert {name.lower(): value for name, value in request.headers} == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": f"arbstr/{arbstr.__version__}",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "authorization": f"Bearer {KEY}",
        "content-length": str(len(BODY)),
        "idempotency-key": "req-1",
        "x-request-id": "corr-7",
        "traceparent": "00-ab-cd-01",
    }


async def test_leaves_out_what_is_not_there_when_it_has_no_key_and_no_ids(
    server: Any, any_transport: MakeConfig
) -> None:
    async def script(exchange: Any) -> None:
        await exchange.chunked(b"data: [DONE]\n\n")

    server.script = script
    async with Upstream(any_transport(url=server.url)) as upstream, await call(upstream, stream=True) as answer:
        assert [chunk async for chunk in answer.chunks()] == [b"data: [DONE]\n\n"]
    [request] = server.requests
    assert request.header("accept") == "text/event-stream"
    for absent in ("authorization", "x-request-id", "traceparent", "cookie", "connection"):
        assert request.header(absent) is None


@pytest.mark.parametrize("bad", ["a\r\nx-evil: 1", "ümlaut", "", " lead", "x" * 600])
async def test_leaves_out_a_client_id_when_it_cannot_be_a_header(
    bad: str, make_config: MakeConfig, transport_giving: Any
) -> None:
    transport = transport_giving()
    async with (
        Upstream(make_config(), transport) as upstream,
        await call(upstream, correlation_id=bad, traceparent=bad),
    ):
        pass
    assert "x-request-id" not in transport.requests[0].headers
    assert "traceparent" not in transport.requests[0].headers


async def test_keeps_the_query_when_the_url_has_one(make_config: MakeConfig, transport_giving: Any) -> None:
    transport = transport_giving()
    async with Upstream(make_config(url="mock://alpha?seed=3"), transport) as upstream, await call(upstream):
        pass
    assert str(transport.requests[0].url) == "mock://alpha/chat/completions?seed=3"


async def test_gives_chunks_as_they_come_when_streaming(server: Any, any_transport: MakeConfig) -> None:
    more = trio.Event()

    async def script(exchange: Any) -> None:
        await exchange.chunked(b"data: 1\n\n", end=False)
        await more.wait()
        await exchange.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    server.script = script
    async with Upstream(any_transport(url=server.url)) as upstream, await call(upstream, stream=True) as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"data: 1\n\n"
        more.set()
        assert await anext(chunks) == b"data: 2\n\n"
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


async def test_uses_the_connection_again_when_the_body_was_read_to_its_end(
    server: Any, any_transport: MakeConfig
) -> None:
    async def script(exchange: Any) -> None:
        await exchange.chunked(b"one", b"two")

    server.script = script
    async with Upstream(any_transport(url=server.url)) as upstream:
        for _ in range(3):
            async with await call(upstream) as answer:
                assert await answer.read(100) == b"onetwo"
    assert (server.accepted, len(server.requests)) == (1, 3)


@pytest.mark.parametrize("read_first", [False, True])
async def test_closes_the_connection_when_the_answer_is_closed_early(
    read_first: bool, server: Any, any_transport: MakeConfig
) -> None:
    async def script(exchange: Any) -> None:
        await exchange.chunked(*[b"data: x\n\n"] * 50, end=False)
        await exchange.until_the_client_leaves()

    server.script = script
    async with Upstream(any_transport(url=server.url)) as upstream:
        answer = await call(upstream, stream=True)
        chunks = answer.chunks()
        if read_first:
            await anext(chunks)
        await answer.aclose()
        await answer.aclose()
        await server.until_open(0)
        assert connections_of(upstream) == (0, 0)
        with pytest.raises(UpstreamFailure, match="closed before its end"):
            await anext(chunks)


async def test_ends_again_when_read_beyond_its_end(make_config: MakeConfig, transport_giving: Any) -> None:
    async with Upstream(make_config(), transport_giving(b"x")) as upstream, await call(upstream) as answer:
        assert [chunk async for chunk in answer.chunks()] == [b"x"]
        assert [chunk async for chunk in answer.chunks()] == []


async def test_closes_the_connection_when_the_reader_is_cancelled(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.chunked(b"data: x\n\n", end=False)
        await exchange.until_the_client_leaves()

    server.script = script
    async with Upstream(any_transport(url=server.url)) as upstream:
        with trio.CancelScope() as scope:
            async with await call(upstream, stream=True) as answer:
                async for _ in answer.chunks():
                    scope.cancel()
        assert scope.cancelled_caught
        await server.until_open(0)
        assert connections_of(upstream) == (0, 0)


async def test_closes_the_connection_when_cancelled_while_waiting_for_headers(
    server: Any, any_transport: MakeConfig
) -> None:
    asked = trio.Event()

    async def script(exchange: Any) -> None:
        asked.set()
        await exchange.until_the_client_leaves()

    server.script = script
    async with Upstream(any_transport(url=server.url)) as upstream, trio.open_nursery() as nursery:
        nursery.start_soon(call, upstream)
        await asked.wait()
        nursery.cancel_scope.cancel()
    await server.until_open(0)
    assert connections_of(upstream) == (0, 0)


async def cancel_at_every_step(make_upstream: Callable[[], Upstream]) -> int:
    """Cancel a request at each of its steps in turn, each time with a new pool. The number of steps it has."""
    step, finished = 0, False
    while not finished:
        step += 1
        async with make_upstream() as upstream:
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(scope, step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    async with await call(upstream) as answer:
                        await answer.read(100)
                    finished = instrument.left > 0
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            connections, idle = connections_of(upstream)
            assert connections == idle, f"leak at step {step}"
            assert upstream.in_flight == 0
            # There is room for one connection only: a place that leaked would block this for ever.
            with trio.fail_after(2):
                async with await call(upstream) as answer:
                    assert await answer.read(100) == b"{}"
    return step


async def test_leaves_nothing_in_the_pool_when_cancelled_at_any_step(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.answer(b"{}")

    server.script = script
    assert await cancel_at_every_step(lambda: Upstream(any_transport(url=server.url, max_concurrent=1))) > 4


class LateConnection:
    """A network for httpcore whose connections, as TLS does, end their setup with a step that cannot be cancelled."""

    def __init__(self) -> None:
        self.open = 0

    async def connect_tcp(self, **_: object) -> LateConnection:
        self.open += 1
        await trio.lowlevel.cancel_shielded_checkpoint()
        return self

    async def write(self, data: bytes, timeout: float | None = None) -> None:
        await trio.lowlevel.checkpoint()

    async def read(self, most: int, timeout: float | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

    async def aclose(self) -> None:
        self.open -= 1

    def get_extra_info(self, name: str) -> None:
        return None


async def test_leaves_nothing_in_the_pool_of_httpcore_when_cancelled_between_connecting_and_sending(
    make_config: MakeConfig,
) -> None:
    network = LateConnection()

    def make_upstream() -> Upstream:
        upstream = Upstream(make_config(url="http://provider.example", max_concurrent=1, http2=True))
        pool_of(upstream)._network_backend = network
        return upstream

    assert await cancel_at_every_step(make_upstream) > 5
    assert network.open == 0


async def scripted_failure(server: Any, config: Any, script: Any) -> UpstreamFailure:
    server.script = script
    async with Upstream(config) as upstream:
        failure = await failure_of(upstream)
        connections, idle = connections_of(upstream)
        assert connections == idle
    return failure


async def test_is_a_reset_when_the_stream_is_cut_in_the_middle(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.chunked(b"data: x\n\n", end=False)
        exchange.stream.socket.close()

    assert (await scripted_failure(server, any_transport(url=server.url), script)).kind == "reset"


async def test_is_a_reset_when_the_body_is_shorter_than_announced(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.answer(b"half", length=8)
        exchange.stream.socket.close()

    assert (await scripted_failure(server, any_transport(url=server.url), script)).kind == "reset"


async def test_never_takes_the_rest_for_an_answer_when_the_body_is_longer_than_announced(
    server: Any, any_transport: MakeConfig
) -> None:
    async def script(exchange: Any) -> None:
        await exchange.answer(b"12345678", length=4)

    server.script = script
    async with Upstream(any_transport(url=server.url)) as upstream:
        async with await call(upstream) as answer:
            assert await answer.read(100) == b"1234"
        with suppress(UpstreamFailure):  # httpcore takes the rest for the beginning of the next answer, and refuses it
            async with await call(upstream) as answer:
                assert await answer.read(100) == b"1234"
        async with await call(upstream) as answer:
            assert await answer.read(100) == b"1234"


async def test_is_a_reset_when_the_connection_is_reset_before_headers(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        exchange.reset()

    assert (await scripted_failure(server, any_transport(url=server.url), script)).kind == "reset"


async def test_is_a_reset_when_the_connection_is_reset_in_the_middle(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.chunked(b"data: x\n\n", end=False)
        exchange.reset()

    assert (await scripted_failure(server, any_transport(url=server.url), script)).kind == "reset"


async def test_is_a_reset_when_the_answer_is_not_http(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    assert (await scripted_failure(server, any_transport(url=server.url), script)).kind == "reset"


async def test_is_an_encoding_failure_when_the_body_is_compressed(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.answer(b"\x1f\x8b", "content-encoding: gzip")

    failure = await scripted_failure(server, any_transport(url=server.url), script)
    assert failure.kind == "encoding"
    assert "encoding" in failure.detail


async def test_is_a_first_byte_timeout_when_headers_only_trickle(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-le")
        await exchange.until_the_client_leaves()

    config = any_transport(url=server.url, first_byte_timeout_s=0.1)
    assert (await scripted_failure(server, config, script)).kind == "first_byte_timeout"


async def test_is_an_idle_timeout_when_the_provider_falls_silent(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.chunked(b"data: x\n\n", end=False)
        await exchange.until_the_client_leaves()

    config = any_transport(url=server.url, idle_timeout_s=0.1)
    assert (await scripted_failure(server, config, script)).kind == "idle_timeout"


async def test_is_a_connect_failure_when_nobody_listens(make_config: MakeConfig) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    async with Upstream(make_config(url=f"http://127.0.0.1:{port}/v1")) as upstream:
        failure = await failure_of(upstream)
    assert failure.kind == "connect"
    assert str(port) not in str(failure)


async def test_passes_any_status_when_the_provider_answers(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.answer(b'{"error":{}}', "retry-after: 7", status="429 Too Many Requests")

    server.script = script
    async with Upstream(any_transport(url=server.url)) as upstream, await call(upstream) as answer:
        assert (answer.status, answer.retry_after_s) == (429, 7.0)
        assert await answer.read(100) == b'{"error":{}}'


# -- redirects


def redirecting(*statuses: int, then: bytes = b"{}", to: str = "elsewhere", read_body: bytes = b"moved") -> Any:
    """A script that redirects once for each status, then answers."""
    left = list(statuses)

    async def script(exchange: Any) -> None:
        if left:
            await exchange.answer(read_body, f"location: {to}", status=f"{left.pop(0)} Over There")
        else:
            await exchange.answer(then)

    return script


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_sends_the_same_again_when_the_provider_redirects(
    status: int, server: Any, any_transport: MakeConfig
) -> None:
    server.script = redirecting(status, to="/v2/chat/completions?a=b")
    config = any_transport(url=server.url, api_key=Secret(KEY))
    async with Upstream(config) as upstream, await call(upstream) as answer:
        assert (answer.status, await answer.read(100)) == (200, b"{}")
    first, second = server.requests
    assert second.line == "POST /v2/chat/completions?a=b HTTP/1.1"
    assert (second.headers, second.body) == (first.headers, BODY)
    assert server.accepted == 1, "the connection is used again"


async def test_follows_a_relative_and_an_absolute_location_when_redirected(
    server: Any, any_transport: MakeConfig
) -> None:
    async def script(exchange: Any) -> None:
        match len(server.requests):
            case 1:
                await exchange.answer(b"", "location: next", status="307 Temporary Redirect")
            case 2:
                await exchange.answer(b"", f"location: {server.url}/last#part", status="308 Permanent Redirect")
            case _:
                await exchange.answer(b"{}")

    server.script = script
    async with Upstream(any_transport(url=server.url)) as upstream, await call(upstream) as answer:
        assert answer.status == 200
    assert [request.line.split()[1] for request in server.requests] == [
        "/v1/chat/completions",
        "/v1/chat/next",
        "/v1/last",
    ]


async def test_fails_when_the_provider_redirects_too_often(server: Any, any_transport: MakeConfig) -> None:
    server.script = redirecting(*[307] * 4)
    async with Upstream(any_transport(url=server.url)) as upstream:
        assert (await failure_of(upstream)).kind == "redirect"
        assert upstream.in_flight == 0
        async with await call(upstream) as answer:
            assert answer.status == 200
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/v1/chat/completions",
        "http://127.0.0.1:1/v1/chat/completions",
        "https://127.0.0.1:{port}/v1/chat/completions",
        "//evil.example/v1",
        "http://127.0.0.1:{port}.evil.example/",
        "http://user:pass@evil.example:{port}/",
        "http://[/",
        "ftp://127.0.0.1:{port}/",
        "mailto:x@example.org",
    ],
)
async def test_never_goes_to_another_address_when_redirected(
    location: str, server: Any, any_transport: MakeConfig
) -> None:
    server.script = redirecting(307, to=location.format(port=server.port))
    async with Upstream(any_transport(url=server.url, api_key=Secret(KEY))) as upstream:
        failure = await failure_of(upstream)
        assert upstream.in_flight == 0
    assert failure.kind == "redirect"
    for secret in (KEY, str(server.port), "evil", "127.0.0"):
        assert secret not in "".join(traceback.format_exception(failure))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [300, 303, 304, 305])
async def test_passes_a_redirect_on_when_it_is_none_for_a_post(
    status: int, server: Any, any_transport: MakeConfig
) -> None:
    server.script = redirecting(status, read_body=b"" if status == 304 else b"moved")
    async with Upstream(any_transport(url=server.url)) as upstream, await call(upstream) as answer:
        assert answer.status == status
    assert len(server.requests) == 1


async def test_passes_a_redirect_on_when_it_does_not_say_where_to(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.answer(b"where?", status="307 Temporary Redirect")

    server.script = script
    async with Upstream(any_transport(url=server.url)) as upstream, await call(upstream) as answer:
        assert (answer.status, await answer.read(100)) == (307, b"where?")


async def test_follows_when_the_body_of_the_redirect_is_too_large_to_be_read(
    server: Any, any_transport: MakeConfig
) -> None:
    server.script = redirecting(307, read_body=b"x" * 100_000)
    async with Upstream(any_transport(url=server.url)) as upstream, await call(upstream) as answer:
        assert await answer.read(100) == b"{}"
    assert server.accepted == 2


async def test_leaves_nothing_in_the_pool_when_cancelled_at_any_step_of_a_redirect(
    server: Any, any_transport: MakeConfig
) -> None:
    async def script(exchange: Any) -> None:
        if exchange.request.line.startswith("POST /v1/chat"):
            await exchange.answer(b"moved", "location: /here", status="307 Temporary Redirect")
        else:
            await exchange.answer(b"{}")

    server.script = script
    assert await cancel_at_every_step(lambda: Upstream(any_transport(url=server.url, max_concurrent=1))) > 5


async def test_bounds_all_redirects_together_by_the_first_byte_time(
    make_config: MakeConfig,
    transport_giving: Any,
    transport_answering: Any,
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow = [transport_giving(4.0, b"moved", status=307, headers={"location": "again"}).answer for _ in range(3)]
    config = make_config(url="http://provider.example/v1", first_byte_timeout_s=7)
    async with Upstream(config, transport_answering(list(slow))) as upstream:
        assert (await failure_of(upstream)).kind == "first_byte_timeout"
        assert upstream.in_flight == 0
    assert trio.current_time() == pytest.approx(7)
    assert [response.stream.closed for response in slow] == [1, 1, 0]


# -- the list of models


async def test_asks_for_the_models_with_the_key(server: Any, any_transport: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.answer(b'{"data":[{"id":"a","context_length":8192},{"id":"b"}]}')

    server.script = script
    async with Upstream(any_transport(url=server.url + "/", api_key=Secret(KEY))) as upstream:
        assert await upstream.models() == (DiscoveredModel("a", 8_192), DiscoveredModel("b"))
        assert upstream.in_flight == 0
    [request] = server.requests
    assert request.line == "GET /v1/models HTTP/1.1"
    assert {name.lower(): value for name, value in request.headers} == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": f"arbstr/{arbstr.__version__}",
        "accept": "application/json",
        "accept-encoding": "identity",
        "authorization": f"Bearer {KEY}",
    }


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_follows_a_redirect_when_it_asks_for_the_models(
    status: int, server: Any, any_transport: MakeConfig
) -> None:
    server.script = redirecting(status, then=b'{"data":[]}', to="/v1/models/")
    async with Upstream(any_transport(url=server.url)) as upstream:
        assert await upstream.models() == ()
    assert [request.line for request in server.requests] == ["GET /v1/models HTTP/1.1", "GET /v1/models/ HTTP/1.1"]


@pytest.mark.parametrize("status", [204, 401, 404, 503])
async def test_has_no_models_when_the_answer_is_not_200(
    status: int, make_config: MakeConfig, transport_giving: Any
) -> None:
    async with Upstream(make_config(), transport_giving(b'{"data":[]}', status=status)) as upstream:
        with pytest.raises(UpstreamFailure, match=str(status)) as caught:
            await upstream.models()
        assert upstream.in_flight == 0
    assert caught.value.kind == "status"


async def test_has_no_models_when_the_body_is_none_of_a_list(make_config: MakeConfig, transport_giving: Any) -> None:
    async with Upstream(make_config(), transport_giving(b"<html>")) as upstream:
        with pytest.raises(UndecodableModels):
            await upstream.models()
        assert upstream.in_flight == 0


@pytest.mark.parametrize("parts", [(...,), (6.0, b"[", 6.0, b"]")])
async def test_waits_for_the_models_only_so_long_when_the_provider_is_slow(
    parts: Any, make_config: MakeConfig, transport_giving: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with Upstream(make_config(), transport_giving(*parts)) as upstream:
        with pytest.raises(UpstreamFailure) as caught:
            await upstream.models()
    assert caught.value.kind == "total_timeout"
    assert trio.current_time() == pytest.approx(10)


async def test_refuses_a_list_of_models_when_it_is_too_large(make_config: MakeConfig, transport_giving: Any) -> None:
    async with Upstream(make_config(), transport_giving(*[b"x" * (1 << 20)] * 9)) as upstream:
        with pytest.raises(UpstreamFailure) as caught:
            await upstream.models()
    assert caught.value.kind == "too_large"


# -- its end


async def test_closes_at_once_when_retired_with_nothing_in_flight(
    make_config: MakeConfig, transport_giving: Any
) -> None:
    transport = transport_giving()
    upstream = Upstream(make_config(), transport)
    await upstream.retire()
    assert (transport.closed, upstream.closed) == (True, True)
    with pytest.raises(UpstreamFailure) as caught:
        await call(upstream)
    assert caught.value.kind == "connect"
    assert transport.requests == []


async def test_closes_with_the_last_answer_when_retired_before(make_config: MakeConfig, transport_giving: Any) -> None:
    transport = transport_giving(b"x")
    upstream = Upstream(make_config(), transport)
    first = await call(upstream)
    await upstream.retire()
    async with await call(upstream) as second:
        assert upstream.in_flight == 2
        assert await second.read(1) == b"x"
    await second.aclose()
    assert (transport.closed, upstream.in_flight) == (False, 1)
    await first.aclose()
    assert (transport.closed, upstream.in_flight) == (True, 0)


@pytest.mark.parametrize("answer", [httpx.ConnectError("no"), ...])
async def test_closes_with_the_last_call_when_it_comes_to_nothing(
    answer: Any, make_config: MakeConfig, transport_answering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    transport = transport_answering(answer)
    upstream = Upstream(make_config(first_byte_timeout_s=5), transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(failure_of, upstream)
        await trio.testing.wait_all_tasks_blocked()
        await upstream.retire()
    assert transport.closed
    assert upstream.in_flight == 0


async def test_closes_when_the_last_call_is_cancelled_after_it_was_retired(
    make_config: MakeConfig, transport_answering: Any
) -> None:
    transport = transport_answering(...)
    upstream = Upstream(make_config(), transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, upstream)
        await trio.testing.wait_all_tasks_blocked()
        await upstream.retire()
        assert not transport.closed
        nursery.cancel_scope.cancel()
    assert transport.closed


async def test_is_closed_once_when_closed_at_once_and_let_go_later(
    make_config: MakeConfig, transport_giving: Any
) -> None:
    transport = transport_giving(b"x")
    closed = 0

    async def aclose() -> None:
        nonlocal closed
        closed += 1

    transport.aclose = aclose
    upstream = Upstream(make_config(), transport)
    answer = await call(upstream)
    await upstream.retire()
    await upstream.aclose()
    await answer.aclose()
    assert (closed, upstream.in_flight) == (1, 0)


# -- over a scripted transport, in virtual time


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError(f"no way to http://x/{KEY}"), "connect"),
        (httpx.UnsupportedProtocol(KEY), "connect"),
        (httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'"), "connect"),
        (httpx.ConnectTimeout(KEY), "connect_timeout"),
        (httpx.PoolTimeout(KEY), "connect_timeout"),
        (httpx.ReadTimeout(KEY), "first_byte_timeout"),
        (httpx.RemoteProtocolError(KEY), "reset"),
        (httpx.ReadError(KEY), "reset"),
        (httpx.WriteError(KEY), "reset"),
        (trio.BrokenResourceError(KEY), "reset"),
        (OSError(KEY), "reset"),
    ],
)
async def test_names_the_kind_and_hides_the_text_when_a_call_fails(
    error: Exception, kind: str, make_config: MakeConfig, transport_answering: Any
) -> None:
    async with Upstream(make_config(api_key=Secret(KEY)), transport_answering(error)) as upstream:
        failure = await failure_of(upstream)
    assert failure.kind == kind
    assert type(error).__name__ in failure.detail
    assert KEY not in "".join(traceback.format_exception(failure))


@pytest.mark.parametrize(
    ("error", "kind"),
    [(httpx.ReadTimeout(KEY), "idle_timeout"), (httpx.ReadError(KEY), "reset"), (OSError(KEY), "reset")],
)
async def test_names_the_kind_and_hides_the_text_when_a_body_fails(
    error: Exception, kind: str, make_config: MakeConfig, transport_giving: Any
) -> None:
    transport = transport_giving(b"data", error)
    async with Upstream(make_config(), transport) as upstream:
        failure = await failure_of(upstream)
    assert failure.kind == kind
    assert KEY not in "".join(traceback.format_exception(failure))
    assert transport.answer.stream.closed == 1


async def test_waits_for_the_first_byte_only_so_long_when_the_provider_hangs(
    make_config: MakeConfig, transport_answering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with Upstream(make_config(first_byte_timeout_s=7), transport_answering(...)) as upstream:
        assert (await failure_of(upstream)).kind == "first_byte_timeout"
    assert trio.current_time() == pytest.approx(7)


async def test_starts_the_idle_time_anew_when_a_chunk_comes(
    make_config: MakeConfig, transport_giving: Any, autojump_clock: trio.testing.MockClock
) -> None:
    transport = transport_giving(4.0, b"a", 4.0, b"", 1.0, b"b", ...)
    async with Upstream(make_config(idle_timeout_s=5), transport) as upstream:
        answer = await call(upstream)
        seen: list[bytes] = []
        with pytest.raises(UpstreamFailure) as caught:
            await collect(answer, seen)
    assert seen == [b"a", b"b"]
    assert caught.value.kind == "idle_timeout"
    assert trio.current_time() == pytest.approx(14)
    assert transport.answer.stream.closed == 1


@pytest.mark.parametrize("parts", [(6.0, b"a", 6.0, b"b"), (b"a", ...)])
async def test_ends_by_the_total_time_when_there_is_one(
    parts: Any, make_config: MakeConfig, transport_giving: Any, autojump_clock: trio.testing.MockClock
) -> None:
    config = make_config(total_timeout_s=10, idle_timeout_s=60, first_byte_timeout_s=60)
    async with Upstream(config, transport_giving(*parts)) as upstream:
        assert (await failure_of(upstream)).kind == "total_timeout"
    assert trio.current_time() == pytest.approx(10)


async def test_ends_by_the_total_time_when_it_is_shorter_than_the_first_byte_time(
    make_config: MakeConfig, transport_answering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with Upstream(make_config(total_timeout_s=3), transport_answering(...)) as upstream:
        assert (await failure_of(upstream)).kind == "total_timeout"
    assert trio.current_time() == pytest.approx(3)


async def test_reads_a_body_when_it_has_exactly_the_allowed_size(
    make_config: MakeConfig, transport_giving: Any
) -> None:
    async with Upstream(make_config(), transport_giving(b"12", b"34")) as upstream, await call(upstream) as answer:
        assert await answer.read(4) == b"1234"


@pytest.mark.parametrize("headers", [{}, {"content-length": "4"}])
async def test_refuses_a_body_when_it_is_larger_than_allowed(
    headers: dict[str, str], make_config: MakeConfig, transport_giving: Any
) -> None:
    transport = transport_giving(b"12", b"34", ..., headers=headers)
    async with Upstream(make_config(), transport) as upstream:
        assert (await failure_of(upstream, limit=3)).kind == "too_large"
    assert transport.answer.stream.closed == 1


async def test_gives_up_closing_when_the_transport_does_not_finish(
    make_config: MakeConfig, transport_giving: Any, autojump_clock: trio.testing.MockClock
) -> None:
    transport = transport_giving(b"x")

    async def stuck() -> None:
        await trio.sleep_forever()

    transport.answer.stream.aclose = stuck
    async with Upstream(make_config(), transport) as upstream:
        await (await call(upstream)).aclose()
    assert trio.current_time() == pytest.approx(2)


async def test_closes_the_answer_when_cancelled_while_closing(make_config: MakeConfig, transport_giving: Any) -> None:
    transport = transport_giving(b"x")
    async with Upstream(make_config(), transport) as upstream:
        answer = await call(upstream)
        with trio.CancelScope() as scope:
            scope.cancel()
            await answer.aclose()
    assert transport.answer.stream.closed == 1
    assert transport.closed


@pytest.mark.parametrize(
    ("milliseconds", "value", "expected"),
    [
        (None, None, None),
        (None, "7", 7.0),
        (None, " 1.5 ", 1.5),
        ("250", "7", 0.25),
        ("soon", "7", 7.0),
        (None, "soon", None),
        (None, "-5", None),
        (None, "nan", None),
        (None, "Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (None, "Thu, 99 Foo 1970", None),
        (None, "Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        (None, "9" * 400, None),
    ],
)
def test_reads_retry_after_when_it_is_usable(
    milliseconds: str | None, value: str | None, expected: float | None
) -> None:
    assert retry_after_s(milliseconds, value) == expected


def test_reads_retry_after_when_it_is_a_date_to_come() -> None:
    seconds = retry_after_s(None, "Fri, 31 Dec 2100 23:59:59 GMT")
    assert seconds is not None
    assert seconds > 1e8


@pytest.mark.parametrize("url", ["https://provider.example/v1", "http://provider.example/v1"])
async def test_transport_is_our_own_and_bounded_by_the_configuration_when_built_for_http(
    url: str, make_config: MakeConfig
) -> None:
    transport = build_transport(make_config(url=url, max_concurrent=5))
    assert isinstance(transport, Http1Transport)
    assert transport.max_connections == 5
    await transport.aclose()


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"http2": True}, "AsyncConnectionPool"),
        ({"proxy": Secret("http://user:pass@proxy.example:3128")}, "AsyncHTTPProxy"),
        ({"proxy": Secret("https://proxy.example"), "http2": True}, "AsyncHTTPProxy"),
    ],
)
async def test_transport_is_the_one_of_httpx_when_http2_or_a_proxy_is_asked_for(
    fields: dict[str, Any], kind: str, make_config: MakeConfig
) -> None:
    transport = build_transport(make_config(url="https://provider.example/v1", max_concurrent=5, **fields))
    assert isinstance(transport, PooledTransport)
    assert type(transport._pool).__name__ == kind
    assert transport._pool._max_connections == 5
    assert transport._pool._http2 is fields.get("http2", False)
    await transport.aclose()
