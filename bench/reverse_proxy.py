"""What does passing through cost, with nothing else done? Hypercorn on Trio in front, httpx behind, bytes as they come.

Run as ``python -m bench.reverse_proxy --upstream URL``. The yardstick of the bench: no accounts, no prices, no
retries, no logs.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import httpx
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

CONNECTIONS = 4_096
DROPPED = frozenset({b"connection", b"transfer-encoding", b"keep-alive", b"host"})
"""Headers that belong to one hop."""


class PassThrough:
    """An ASGI application that sends each request on and the answer back."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._pass(scope, receive, send)

    async def _pass(self, scope: Any, receive: Any, send: Any) -> None:
        request = self._client.build_request(
            scope["method"], scope["path"], headers=_kept(scope["headers"]), content=await _body(receive)
        )
        answer = await self._client.send(request, stream=True)
        try:
            headers = _kept((name.lower(), value) for name, value in answer.headers.raw)
            await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
            async for data in answer.aiter_raw():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            with trio.CancelScope(shield=True):
                await answer.aclose()


def _kept(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name not in DROPPED]


async def _body(receive: Any) -> bytes:
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def proxy(upstream: str, port: int) -> None:
    """Listen on that port of 127.0.0.1, a free one for 0, and say which."""
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with (
        httpx.AsyncClient(base_url=upstream, limits=limits, timeout=60.0) as client,
        trio.open_nursery() as tasks,
    ):
        binds = await tasks.start(partial(serve, PassThrough(client), config))
        print(f"listening on {binds[0]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reverse_proxy", description=__doc__)
    parser.add_argument("--upstream", required=True, help="where to send requests, http://HOST:PORT")
    parser.add_argument("--port", type=int, default=0, help="where to listen; 0: a free one")
    arguments = parser.parse_args()
    trio.run(proxy, arguments.upstream, arguments.port)


if __name__ == "__main__":
    main()
