"""What does the front end cost by itself? CPU per request with an application that answers at once.

    python -m bench.front [--requests N]

Both implementations of HTTP/1.1 in turn, at 1 and 32 kept connections, and a stream of 100 chunks. The client is a
process of its own, so that the CPU time of this one is the server's; the best of three rounds counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import selectors
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import trio

from arbstr.config import ServerConfig
from arbstr.edge import Gate, addresses_of, open_listeners, serve

ROUNDS = 3
CHUNKS = 100
BODY = b'{"hello":"you"}'
TYPE = (b"content-type", b"application/json")
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8080\r\ncontent-type: application/json\r\n"
    b"authorization: Bearer 0123456789\r\naccept: */*\r\naccept-encoding: gzip\r\nuser-agent: bench/1\r\n"
    b"content-length: 300\r\n\r\n" + b"x" * 300
)

Message = MutableMapping[str, Any]


class Application:
    """Reads the body and answers, whole or in chunks."""

    def __init__(self, chunks: int) -> None:
        self.gate = Gate()
        self._chunks = chunks

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        while (await receive()).get("more_body"):
            pass
        length = [] if self._chunks else [(b"content-length", b"%d" % len(BODY))]
        await send({"type": "http.response.start", "status": 200, "headers": [TYPE, *length]})
        for _ in range(self._chunks):
            await send({"type": "http.response.body", "body": b"data: " + b"x" * 150 + b"\n\n", "more_body": True})
            await trio.lowlevel.checkpoint()
        await send({"type": "http.response.body", "body": b"" if self._chunks else BODY})


def ask(port: int, connections: int, requests: int, end: bytes) -> None:
    """The client: so many requests, one after the other on each connection; an answer is over when it has ``end``."""
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        one = socket.create_connection(("127.0.0.1", port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.send(REQUEST)
        selector.register(one, selectors.EVENT_READ)
    sent, done = connections, 0
    while done < requests:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(65_536)
            if not data:
                raise SystemExit("the server has closed a connection")
            if not data.endswith(end):
                continue
            done += 1
            if sent < requests:
                key.fileobj.send(REQUEST)
                sent += 1


async def measure(http1: str, connections: int, requests: int, chunks: int) -> float:
    """Microseconds of CPU per request."""
    config = ServerConfig(listen="127.0.0.1:0", http1=http1)  # type: ignore[arg-type]
    listeners = await open_listeners(config.listen)
    port = int(addresses_of(listeners)[0].rpartition(":")[2])
    end = b"0\r\n\r\n" if chunks else BODY
    times = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(Application(chunks), config, listeners=listeners))  # type: ignore[arg-type]
        for number in (max(requests // 10, connections), *[requests] * ROUNDS):
            client = multiprocessing.get_context("spawn").Process(target=ask, args=(port, connections, number, end))
            client.start()
            began = time.process_time()
            await trio.to_thread.run_sync(client.join)
            times.append((time.process_time() - began) / number * 1e6)
            if client.exitcode:
                raise SystemExit("the client failed")
        nursery.cancel_scope.cancel()
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4_000, help="per round")
    requests = parser.parse_args().requests
    for http1 in ("llhttp", "h11"):
        for connections, chunks in ((1, 0), (32, 0), (16, CHUNKS)):
            cost = trio.run(measure, http1, connections, requests // 20 if chunks else requests, chunks)
            what = f"stream, per chunk: {cost / chunks:.1f}" if chunks else f"plain answer: {cost:.0f}"
            print(f"{http1:7}{connections:3} connections, {what} µs")


if __name__ == "__main__":
    main()
