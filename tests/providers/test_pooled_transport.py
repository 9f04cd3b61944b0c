"""What only httpx's transport does here: HTTP/2, and a proxy on the way."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
from attrs import define, field
from hypercorn.config import Config
from hypercorn.trio import serve

from arbstr.providers import PooledTransport, Upstream, UpstreamAnswer
from arbstr.secrets import Secret
from arbstr.wire import Endpoint

BODY = b'{"model":"m"}'
MakeConfig = Callable[..., Any]


@define(eq=False)
class Http2Server:
    """A Hypercorn that speaks HTTP/2: streams events without end, and notes who has left."""

    url: str = ""
    left: trio.Event = field(factory=trio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        while (await receive()).get("more_body"):
            pass
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"x-version", scope["http_version"].encode())]}
        )
        message = {"type": "http.response.body", "body": b"data: x\n\n", "more_body": True}
        await send(message)
        if b"stream" in scope["query_string"]:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
        await send({**message, "body": b"", "more_body": False})

    async def _live(self, receive: Any, send: Any) -> None:
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def http2_server(authority: trustme.CA, tmp_path: Path, nursery: trio.Nursery) -> Http2Server:
    config = Config()
    config.bind, config.alpn_protocols, config.loglevel = ["127.0.0.1:0"], ["h2"], "ERROR"
    for name in ("certfile", "keyfile"):
        setattr(config, name, str(tmp_path / name))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certfile")
    certificate.private_key_pem.write_to_path(tmp_path / "keyfile")
    server = Http2Server()
    [server.url] = await nursery.start(partial(serve, server, config))
    return server


@pytest.fixture
def upstream_to(http2_server: Http2Server, authority: trustme.CA, make_config: MakeConfig) -> Callable[[str], Upstream]:
    def make(query: str) -> Upstream:
        transport = PooledTransport(max_connections=3, tls=True, http2=True)
        transport._pool._ssl_context = context = ssl.create_default_context()
        authority.configure_trust(context)
        upstream = Upstream(make_config(url=http2_server.url, idle_timeout_s=5), transport)
        upstream._urls = {key: httpx.URL(f"{http2_server.url}/?{query}") for key in Endpoint}
        return upstream

    return make


async def call(upstream: Upstream) -> UpstreamAnswer:
    return await upstream.send(Endpoint.CHAT, BODY, stream=True, request_id="req-1")


async def test_answers_come_over_one_connection_when_it_is_http2(upstream_to: Callable[[str], Upstream]) -> None:
    async with upstream_to("plain") as upstream:
        for _ in range(3):
            async with await call(upstream) as answer:
                assert await answer.read(100) == b"data: x\n\n"
        [connection] = upstream._transport._pool.connections  # type: ignore[attr-defined]
        assert "HTTP/2, IDLE, Request Count: 3" in repr(connection)


@pytest.mark.parametrize("taken", [0, 1])
async def test_server_is_told_when_an_answer_over_http2_is_closed_early(
    taken: int, upstream_to: Callable[[str], Upstream], http2_server: Http2Server
) -> None:
    async with upstream_to("stream") as upstream:
        answer = await call(upstream)
        for _ in range(taken):
            assert await answer.next_chunk() == b"data: x\n\n"
        await answer.aclose()
        with trio.fail_after(5):
            await http2_server.left.wait()
        [connection] = upstream._transport._pool.connections  # type: ignore[attr-defined]
        assert connection.is_idle()


async def test_server_is_told_when_the_reader_of_an_answer_over_http2_is_cancelled(
    upstream_to: Callable[[str], Upstream], http2_server: Http2Server
) -> None:
    async with upstream_to("stream") as upstream:
        with trio.CancelScope() as scope:
            async with await call(upstream) as answer:
                async for _ in answer.chunks():
                    scope.cancel()
        with trio.fail_after(5):
            await http2_server.left.wait()


async def test_request_goes_through_the_proxy_when_there_is_one(server: Any, make_config: MakeConfig) -> None:
    async def script(exchange: Any) -> None:
        await exchange.answer(b"{}")

    server.script = script
    config = make_config(
        url="http://provider.example/v1",
        proxy=Secret(f"http://me:pass@127.0.0.1:{server.port}"),
        api_key=Secret("sk-1"),
    )
    async with Upstream(config) as upstream, await call(upstream) as answer:
        assert await answer.read(100) == b"{}"
    [request] = server.requests
    assert request.line == "POST http://provider.example/v1/chat/completions HTTP/1.1"
    assert request.header("host") == "provider.example"
    assert request.header("proxy-authorization") == f"Basic {base64.b64encode(b'me:pass').decode()}"
