"""What answers behind every program under measurement without being the limit? One epoll loop, answers made beforehand.

Run as ``python -m bench.answerer``. An OpenAI-compatible endpoint that does what the prompt says, so that every program
passes the instructions on whether it knows them or not: ``gap_us=N`` is the time between two events of a stream (0: all
in one write), and under a path that starts with ``/flaky`` ``flaky=fail`` answers 500 and ``flaky=cut`` breaks a stream
off in the middle. Answers have exactly ``max_tokens`` tokens, one event each. ``bench.upstream`` reads requests
properly; this one looks for the few words that it needs.
"""

from __future__ import annotations

import argparse
import heapq
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache

import httptools

from bench.upstream import STREAM_HEAD, Call, chunk, last_events, plain_answer, token_event

RECEIVE_BYTES = 256 * 1024
MAX_REQUEST_BYTES = 32 * 1024 * 1024
MAX_TOKENS = 100_000
WORDS = ("the ", "cheap", "est ", "qual", "ified ", "answer ", "and ", "no ", "msat ", "lost ")
PROMPT_TOKENS = 250
"""What every answer says that its prompt had."""

_STREAM = re.compile(rb'"stream"\s*:\s*true')
_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
_TOKENS = re.compile(rb'"max_(?:completion_)?tokens"\s*:\s*(\d+)')
_GAP = re.compile(rb"gap_us=(\d+)")
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')

_REFUSAL = b'{"error":{"message":"told to fail","type":"server_error"}}'
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_REFUSAL),
    _REFUSAL,
)


def _call(body: bytes) -> Call:
    tokens, model = _TOKENS.search(body), _MODEL.search(body)
    return Call(
        model=model[1].decode() if model else "",
        prompt_tokens=PROMPT_TOKENS,
        completion_tokens=min(int(tokens[1]), MAX_TOKENS) if tokens else 16,
        stream=_STREAM.search(body) is not None,
        include_usage=_USAGE.search(body) is not None,
    )


@lru_cache(maxsize=64)
def _plain(call: Call) -> bytes:
    return plain_answer(call)


@lru_cache(maxsize=64)
def _events(call: Call) -> tuple[list[bytes], bytes]:
    """The events of the tokens, and the end of the stream. Not one word all along: some gateways take that for a model
    that has run wild, and break off."""
    tokens = [chunk(token_event(call, word)) for word in WORDS]
    return [tokens[n % len(WORDS)] for n in range(call.completion_tokens)], chunk(last_events(call)) + b"0\r\n\r\n"


class _Connection:
    """One peer: request after request, one at a time. A callback object of httptools."""

    def __init__(self, loop: _Loop, sock: socket.socket) -> None:
        self.loop, self.sock = loop, sock
        self.parser = httptools.HttpRequestParser(self)
        self.body = bytearray()
        self.path = b""
        self.requests = 0
        self.unsent = b""
        self.open = True
        self.events: Iterator[bytes] = iter(())
        self.end, self.gap_s, self.due = b"", 0.0, 0.0

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_body(self, data: bytes) -> None:
        self.body += data
        if len(self.body) > MAX_REQUEST_BYTES:
            raise ValueError(f"a body over {MAX_REQUEST_BYTES} bytes")

    def on_message_complete(self) -> None:
        self.requests += 1

    def readable(self) -> None:
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        with suppress(httptools.HttpParserError):
            self.parser.feed_data(data)
            if self.requests:
                self._answer()
            return
        self.close()

    def _answer(self) -> None:
        body, path = bytes(self.body), self.path
        self.body.clear()
        self.path, self.requests = b"", 0
        call = _call(body)
        flaky = path.startswith(b"/flaky")
        if flaky and b"flaky=fail" in body:
            self.send(FAILURE)
        elif call.stream:
            self._begin_stream(call, body, cut=flaky and b"flaky=cut" in body)
        else:
            self.send(_plain(call))

    def _begin_stream(self, call: Call, body: bytes, *, cut: bool) -> None:
        gap = _GAP.search(body)
        self.gap_s = int(gap[1]) / 1_000_000 if gap else 0.0
        events, self.end = _events(call)
        if cut:
            events, self.end = events[: len(events) // 2], b""
        if not self.gap_s:
            self.send(STREAM_HEAD + b"".join(events) + self.end)
            if cut:
                self.close()
            return
        self.send(STREAM_HEAD)
        self.events = iter(events)
        self.due = time.perf_counter() + self.gap_s
        self.loop.later(self)

    def next_event(self) -> None:
        """Called when one is due, and once more for the end."""
        event = next(self.events, None)
        if event is None:
            self.send(self.end)
            if not self.end:
                self.close()
            return
        self.send(event)
        self.due += self.gap_s
        if self.open:
            self.loop.later(self)

    def send(self, data: bytes) -> None:
        if self.unsent:
            self.unsent += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self.unsent = data[sent:]
            self.loop.watch(self, writable=True)

    def writable(self) -> None:
        data, self.unsent = self.unsent, b""
        self.send(data)
        if not self.unsent and self.open:
            self.loop.watch(self, writable=False)

    def close(self) -> None:
        if self.open:
            self.open = False
            self.loop.forget(self)
            self.sock.close()


class _Loop:
    """Sockets that are ready, and events that are due."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.poll = select.epoll()
        self.poll.register(listener.fileno(), select.EPOLLIN)
        self.connections: dict[int, _Connection] = {}
        self.timers: list[tuple[float, int, _Connection]] = []
        self.count = 0

    def later(self, connection: _Connection) -> None:
        self.count += 1
        heapq.heappush(self.timers, (connection.due, self.count, connection))

    def watch(self, connection: _Connection, *, writable: bool) -> None:
        wanted = select.EPOLLIN | select.EPOLLOUT if writable else select.EPOLLIN
        self.poll.modify(connection.sock.fileno(), wanted)

    def forget(self, connection: _Connection) -> None:
        number = connection.sock.fileno()
        self.poll.unregister(number)
        del self.connections[number]

    def run(self) -> None:
        while True:
            self._once()

    def _once(self) -> None:
        wait_s = max(0.0, self.timers[0][0] - time.perf_counter()) if self.timers else -1
        for number, event in self.poll.poll(wait_s):
            connection = self.connections.get(number)
            if connection is None:
                self._accept()
                continue
            if event & select.EPOLLOUT:
                connection.writable()
            if connection.open and event & ~select.EPOLLOUT:
                connection.readable()
        now = time.perf_counter()
        while self.timers and self.timers[0][0] <= now:
            connection = heapq.heappop(self.timers)[2]
            if connection.open:
                connection.next_event()

    def _accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections[sock.fileno()] = _Connection(self, sock)
        self.poll.register(sock.fileno(), select.EPOLLIN)


def serve(port: int) -> None:
    """Listen on 127.0.0.1 and say where; for ever."""
    with socket.create_server(("127.0.0.1", port), backlog=4_096) as listener:
        listener.setblocking(False)
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        _Loop(listener).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.answerer", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    serve(parser.parse_args().port)


if __name__ == "__main__":
    main()
