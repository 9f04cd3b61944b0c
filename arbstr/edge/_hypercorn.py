"""One client connection the other way: Hypercorn's HTTP/1.1 protocol, which is h11's, on a Trio stream.

``[server] http1 = "h11"``; the usual one is in ``_connection``. Hypercorn 0.18 keeps its protocol apart from its
sockets, and here the socket side is ours. Reasons, each with a test:

- its writes are shielded from cancellation without a bound, so that a client that stops reading keeps a request, and
  with it the program's shutdown, for ever; ours end after ``write_stall_s`` without progress, or by ``abort``;
- its task for idle connections outlives the client: a closed connection keeps its descriptor for the keep-alive time;
- telling the application of a disconnect waits for room in the application's queue, which nobody makes when the
  application has just refused the body: the connection hangs;
- closing with unread input resets the connection and takes the refusal with it; we linger;
- while a pipelined request waits it does not read, and so does not see that the client has left;
- it speaks HTTP/2 and WebSocket to whoever asks, and answers what is no HTTP with an empty body.

This module knows no routes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any, cast
from uuid import uuid4

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIFramework,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    H11SendableEvent,
    Scope,
)
from hypercorn.utils import parse_socket_addr

from arbstr import wire
from arbstr.edge._services import Limits
from arbstr.errors import InvalidRequest

logger = logging.getLogger("arbstr.edge")

PIECE = 65_536
"""Bytes read or written at once; a write must make this much progress within ``write_stall_s``."""
BODY_PARTS = 10
"""Parts of a body (each at most ``PIECE``) that wait for the application; then the client waits."""

HTTPSend = Callable[[ASGISendEvent | None], Awaitable[None]]


class _HungUp(Exception):
    """There will be no further request on this connection."""


class _Inlet:
    """What the application receives: the parts of the body, then for ever that the client is gone.

    The end overtakes nothing and waits for nothing: it also releases a part that waits for room.
    """

    def __init__(self) -> None:
        self._put, self._take = trio.open_memory_channel[ASGIReceiveEvent](BODY_PARTS)

    async def put(self, event: ASGIReceiveEvent) -> None:
        if event["type"] == "http.disconnect":
            self._put.close()
            return
        with suppress(trio.ClosedResourceError):
            await self._put.send(event)

    async def receive(self) -> ASGIReceiveEvent:
        try:
            return await self._take.receive()
        except trio.EndOfChannel:
            return {"type": "http.disconnect"}


class _Tasks(TaskGroup):
    """The tasks of one connection. The application's ``send`` raises ``OSError`` once that is broken (ASGI 2.4)."""

    def __init__(self, is_broken: Callable[[], bool]) -> None:
        super().__init__()
        self._is_broken = is_broken

    async def spawn_app(
        self, app: AppWrapper, config: HypercornConfig, scope: Scope, send: HTTPSend
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        inlet = _Inlet()
        assert self._nursery is not None
        self._nursery.start_soon(self._run_app, app, scope, inlet, send)
        return inlet.put

    async def _run_app(self, app: AppWrapper, scope: Scope, inlet: _Inlet, send: HTTPSend) -> None:
        async def send_checked(message: ASGISendEvent) -> None:
            if not self._is_broken():
                await send(message)
            if self._is_broken():
                raise BrokenPipeError("the client is gone")

        try:
            await app(scope, inlet.receive, send_checked, trio.to_thread.run_sync, trio.from_thread.run)
        except Exception:  # the last resort of the rim; the application answers its own errors
            logger.exception("the application failed")
        await send(None)


class _Turn:
    """Whether the next request may be read; stands where Hypercorn has an event.

    ``wait`` raises ``_HungUp`` when that will never be.
    """

    def __init__(self, watch: Callable[[], Awaitable[None]]) -> None:
        self._watch = watch
        self._event = trio.Event()
        self._hung_up = False

    async def clear(self) -> None:
        self._event = trio.Event()

    async def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def hang_up(self) -> None:
        self._hung_up = True
        self._event.set()

    async def wait(self) -> None:
        if not self._hung_up:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                await self._event.wait()
                nursery.cancel_scope.cancel()
        if self._hung_up:
            raise _HungUp


class _Http1(H11Protocol):
    """Hypercorn's HTTP/1.1, and nothing else: no HTTP/2, no WebSocket, errors in our shape."""

    def __init__(self, *args: Any, receive: Callable[[], Awaitable[bytes]], limits: Limits) -> None:
        super().__init__(*args)
        self._receive = receive
        self._limits = limits
        self.turn = self.can_read = _Turn(self._watch_behind)
        self._held = b""

    async def _watch_behind(self) -> None:
        """Read on while a request waits behind another: to see the end, and not more than a bound."""
        waiting = len(self.connection.trailing_data[0])
        while waiting < self._limits.head_bytes:
            data = await self._receive()
            self.connection.receive_data(data)
            waiting += len(data)
            if not data:
                self.turn.hang_up()
                return

    async def _check_protocol(self, event: h11.Request) -> None:
        """An upgrade may be ignored (RFC 9110, 7.8); a preface of HTTP/2 is a request that nobody knows."""

    async def _create_stream(self, request: h11.Request) -> None:
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        """As in Hypercorn, but the head of a whole answer waits for its body: one write instead of two."""
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        data = self._held + (data or b"")
        is_head = isinstance(event, h11.Response) and any(name == b"content-length" for name, _ in event.headers)
        self._held = data if is_head else b""
        if data and not is_head:
            await self.send(RawData(data=data))

    async def _send_error_response(self, status_code: int) -> None:
        request_id = str(uuid4())
        body = wire.error_body(_protocol_error(status_code, self._limits), request_id)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-arbstr-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class HypercornConnection:
    """Serves one accepted stream until either side ends it. Closes the stream in every case."""

    def __init__(
        self,
        app: AppWrapper,
        config: HypercornConfig,
        context: WorkerContext,
        limits: Limits,
        stream: trio.SocketStream,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._limits = limits
        self._stream = stream
        self._protocol: _Http1
        self._reading = trio.CancelScope()
        self._writing: trio.CancelScope | None = None
        self._write_lock = trio.Lock()  # the reader may have to refuse while the application answers
        self._idle = True
        self._in_head = False
        self._ending = False
        self._eof = False
        self._broken = False
        self._linger_until = inf

    async def run(self) -> None:
        """Raises nothing but cancellation."""
        try:
            await self._run()
        except OSError:
            pass  # gone before it was looked at
        except Exception:
            logger.exception("a connection failed")  # and takes no other with it
        finally:
            self._stream.socket.close()

    def abort(self) -> None:
        """End it now: writes in progress fail, the application is told that the client is gone."""
        self._broken = True
        self._stream.socket.close()
        self._reading.cancel()

    def close_if_idle(self) -> None:
        """End it unless a request is being read or answered."""
        if self._idle or self._ending:
            self._reading.cancel()

    async def _run(self) -> None:
        socket = self._stream.socket
        client = parse_socket_addr(socket.family, socket.getpeername())
        server = parse_socket_addr(socket.family, socket.getsockname())
        async with _Tasks(lambda: self._broken) as tasks:
            self._protocol = _Http1(
                self._app,
                self._config,
                self._context,
                tasks,
                ConnectionState({}),
                False,
                client,
                server,
                self._on_protocol_event,
                receive=self._receive,
                limits=self._limits,
            )
            self._set_idle(True)
            await self._read()

    # Reading. One task; its deadline is the whole of the idle, head and linger timeouts.

    async def _read(self) -> None:
        with self._reading:
            with suppress(_HungUp):
                while not self._ending and not self._eof:
                    data = await self._receive()
                    if not self._ending:
                        await self._protocol.handle(RawData(data))
            while self._ending and not self._eof:
                await self._receive()
                self._reading.deadline = min(self._linger_until, trio.current_time() + self._limits.linger_idle_s)
        await self._protocol.handle(Closed())

    async def _receive(self) -> bytes:
        try:
            data = await self._stream.receive_some(PIECE)
        except trio.ClosedResourceError:
            data = b""
        except trio.BrokenResourceError:
            self._broken = True
            data = b""
        if not data:
            self._eof = True
            self._hurry()
        elif self._idle and not self._in_head:
            self._in_head = True
            self._reading.deadline = trio.current_time() + self._limits.head_timeout_s
        return bytes(data)

    def _hurry(self) -> None:
        """The client has said goodbye; a write that it does not take is not worth waiting for."""
        if self._writing is not None:
            self._writing.deadline = min(self._writing.deadline, trio.current_time() + self._patience())

    # What the protocol asks for, from the reading task or from the application's.

    async def _on_protocol_event(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            self._set_idle(event.idle)
        elif isinstance(event, Closed):
            await self._end()

    def _set_idle(self, idle: bool) -> None:
        self._idle = idle
        self._in_head = False
        if not self._ending:
            self._reading.deadline = trio.current_time() + self._limits.keep_alive_s if idle else inf

    async def _write(self, data: bytes) -> None:
        # Shielded from before the lock on: the protocol has already counted these bytes as sent, and half of them
        # would make everything after them unreadable.
        with trio.CancelScope(shield=True) as scope:
            async with self._write_lock:
                self._writing = scope
                try:
                    for start in range(0, len(data), PIECE):
                        scope.deadline = trio.current_time() + self._patience()
                        await self._stream.send_all(data[start : start + PIECE] if len(data) > PIECE else data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.abort()
                finally:
                    self._writing = None
        if scope.cancelled_caught:
            self.abort()
        if self._broken:
            await self._protocol.handle(Closed())

    def _patience(self) -> float:
        return self._limits.linger_idle_s if self._eof else self._limits.write_stall_s

    async def _end(self) -> None:
        """Our side is done: say so, and listen a little longer, for a close with unread input is a reset."""
        self._ending = True
        self._protocol.turn.hang_up()
        with trio.CancelScope(shield=True), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._write_lock:
                await self._stream.send_eof()
        now = trio.current_time()
        self._linger_until = now + self._limits.linger_s
        self._reading.deadline = now + min(self._limits.linger_s, self._limits.linger_idle_s)
        await self._protocol.handle(Closed())


class _Context(WorkerContext):
    """Hypercorn asks it, after each answer, whether the server stops."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        super().__init__(None)
        self.terminated = cast(Any, _Stopping(stopping))


class _Stopping:
    def __init__(self, is_set: Callable[[], bool]) -> None:
        self.is_set = is_set


class HypercornConnections:
    """Makes the connections of one server."""

    def __init__(self, app: Callable[..., Awaitable[None]], limits: Limits, *, stopping: Callable[[], bool]) -> None:
        self._app = ASGIWrapper(cast(ASGIFramework, app))
        self._config = _hypercorn_config(limits)
        self._context = _Context(stopping)
        self._limits = limits

    def __call__(self, stream: trio.SocketStream) -> HypercornConnection:
        return HypercornConnection(self._app, self._config, self._context, self._limits, stream)


def _hypercorn_config(limits: Limits) -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = logging.getLogger("arbstr.edge.hypercorn")
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.head_bytes
    config.keep_alive_max_requests = 1_000_000
    # Timeouts, the backlog and the grace are not here: the sockets are ours.
    return config


def _protocol_error(status: int, limits: Limits) -> InvalidRequest:
    """What to say to a peer whose bytes are no request; the statuses are h11's hints."""
    if status == 431:
        return InvalidRequest(f"the request headers are larger than {limits.head_bytes} bytes", status=status)
    if status == 501:
        return InvalidRequest("only chunked transfer encoding is understood", status=status)
    return InvalidRequest("this is not a valid HTTP/1.1 request", status=status)
