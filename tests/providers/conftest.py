"""A scripted HTTP/1.1 server on loopback, a scripted transport, and configurations."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import trio
from attrs import define, field, frozen

from arbstr.config import ProviderConfig
from arbstr.units import Price


@pytest.fixture(scope="session")
def make_config() -> Callable[..., ProviderConfig]:
    """A provider's configuration; any field can be given."""

    def make(name: str = "alpha", **fields: Any) -> ProviderConfig:
        return ProviderConfig(**{"name": name, "url": f"mock://{name}", "price": Price.of(1, 2), **fields})

    return make


@frozen
class Received:
    """One request as it came over the wire."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) < 2, f"{name} was sent {len(found)} times"
        return found[0] if found else None


@define(eq=False)
class Exchange:
    """The server's side of one request."""

    stream: trio.SocketStream
    request: Received

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body) if length is None else length}", *headers]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def chunked(self, *chunks: bytes, end: bool = True) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for chunk in chunks:
            await self.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if end:
            await self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    async def until_the_client_leaves(self) -> None:
        try:
            while await self.stream.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            pass


@define(eq=False)
class ScriptedServer:
    """Answers every request by ``script(exchange)``; who closes a connection is the script, or else the client."""

    port: int
    script: Callable[[Exchange], Awaitable[None]] | None = None
    requests: list[Received] = field(factory=list)
    accepted: int = 0
    open: int = 0
    _changed: trio.Event = field(factory=trio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def until_open(self, count: int) -> None:
        with trio.fail_after(2):
            while self.open != count:
                await self._changed.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        self.accepted += 1
        self._count(+1)
        try:
            buffer = bytearray()
            while (request := await _receive(stream, buffer)) is not None:
                self.requests.append(request)
                assert self.script is not None
                await self.script(Exchange(stream, request))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            stream.socket.close()
            self._count(-1)

    def _count(self, change: int) -> None:
        self.open += change
        self._changed.set()
        self._changed = trio.Event()


async def _receive(stream: trio.SocketStream, buffer: bytearray) -> Received | None:
    while b"\r\n\r\n" not in buffer:
        data = await stream.receive_some(65_536)
        if not data:
            return None
        buffer += data
    head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = tuple((name, value.strip()) for name, _, value in (each.partition(":") for each in lines))
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    while len(rest) < length:
        rest += await stream.receive_some(65_536)
    buffer[:] = rest[length:]
    return Received(line, headers, rest[:length])


@pytest.fixture
async def server(nursery: trio.Nursery) -> ScriptedServer:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    scripted = ScriptedServer(listener.socket.getsockname()[1])
    nursery.start_soon(trio.serve_listeners, scripted.serve, [listener])
    return scripted


class ScriptedBody(httpx.AsyncByteStream):
    """Yields the parts; a callable part is awaited first, an exception raised, ``Ellipsis`` never comes."""

    def __init__(self, *parts: Any) -> None:
        self._parts = list(parts)
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if part is ...:
                await trio.sleep_forever()
            if isinstance(part, Exception):
                raise part
            if isinstance(part, int | float):
                await trio.sleep(part)
            else:
                await trio.lowlevel.checkpoint()
                yield part

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed += 1


class ScriptedTransport(httpx.AsyncBaseTransport):
    """Gives out the prepared answer: an exception, Ellipsis for none at all, a response, or several in a list."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        await trio.lowlevel.checkpoint()
        if self.answer is ...:
            await trio.sleep_forever()
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, list):
            return self.answer.pop(0)
        return self.answer

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def transport_giving() -> Callable[..., ScriptedTransport]:
    def make(*parts: Any, status: int = 200, headers: dict[str, str] | None = None) -> ScriptedTransport:
        return ScriptedTransport(httpx.Response(status, headers=headers, stream=ScriptedBody(*parts)))

    return make


@pytest.fixture
def transport_answering() -> Callable[[Any], ScriptedTransport]:
    return ScriptedTransport


@define(eq=False)
class FakeConnection:
    """A connection of a FakeNetwork; everything that it was told to do and has done."""

    incoming: list[Any] = field(factory=list)
    """What ``receive`` gives in turn: bytes, an exception to raise, Ellipsis to wait for ever."""
    send_error: Exception | None = None
    send_error_after: int = 0
    """So many bytes are taken before that."""
    unread: bool = False
    reused: bool = False
    idle_since: float = 0.0
    sent: bool = False
    closed: bool = False
    writes: list[bytes] = field(factory=list)
    timeouts_s: list[float | None] = field(factory=list)

    async def send(self, data: bytes, timeout_s: float | None) -> None:
        self.timeouts_s.append(timeout_s)
        await trio.lowlevel.checkpoint()
        if self.send_error is not None:
            self.sent = self.send_error_after > 0
            raise self.send_error
        self.sent = True
        self.writes.append(data)

    async def receive(self, timeout_s: float | None) -> bytes:
        self.timeouts_s.append(timeout_s)
        await trio.lowlevel.checkpoint()
        found = self.incoming.pop(0) if self.incoming else ...
        if found is ...:
            await trio.sleep_forever()
        if isinstance(found, Exception):
            raise found
        return found

    def has_unread(self) -> bool:
        return self.unread

    def close(self) -> None:
        self.closed = True


@define(eq=False)
class FakeNetwork:
    """Opens connections from ``prepared``, or empty ones when there are none."""

    prepared: list[FakeConnection | Exception] = field(factory=list)
    connections: list[FakeConnection] = field(factory=list)
    asked: list[tuple[Any, float | None]] = field(factory=list)
    """Origin and time of each attempt."""
    gate: trio.Event | None = None
    """Connecting waits for it."""

    async def connect(self, origin: Any, timeout_s: float | None) -> FakeConnection:
        self.asked.append((origin, timeout_s))
        if self.gate is not None:
            await self.gate.wait()
        await trio.lowlevel.checkpoint()
        made = self.prepared.pop(0) if self.prepared else FakeConnection()
        if isinstance(made, Exception):
            raise made
        self.connections.append(made)
        return made

    @property
    def open(self) -> list[FakeConnection]:
        return [connection for connection in self.connections if not connection.closed]


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def fake_connection() -> type[FakeConnection]:
    return FakeConnection


class CancelAtStep(trio.abc.Instrument):
    """Cancels ``scope`` when the current task is about to run for the ``step`` th time."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self.left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.left -= 1
            if self.left == 0:
                self._scope.cancel()
