"""One client connection: HTTP/1.1 over a Trio stream, one task for all of it.

The task reads a request, runs the application, writes the answer. Nobody reads while the application works, unless it
asks for the body or for the client's end: what a client sends too early waits in its socket, and back-pressure needs
no queue. That the client has left comes through ``_hangups``. Properties, each with a test:

- a write that does not go out at once ends after ``write_stall_s`` without progress, or by ``abort``; cancellation does
  not end it, for half of what the protocol counts as sent would make everything after it unreadable;
- a connection takes no place once its client is gone;
- after a refusal, or an answer to a request that was not read to its end, we listen on for a while: closing with unread
  input resets the connection and takes the answer with it;
- what is no HTTP is refused in our shape; upgrades are ignored.

A send is no checkpoint as long as the client takes what it is given. The socket is used without Trio's wrapping, which
costs 6 µs per request more. This module knows no routes, and of HTTP only what ``_http1`` tells.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import trio

from arbstr import wire
from arbstr.edge._exchange import ON_DISCONNECT, Message, Receive, Send
from arbstr.edge._hangups import Hangups
from arbstr.edge._http1 import CONTINUE, AnswerWriter, BadAnswer, Request, RequestReader
from arbstr.edge._services import Limits
from arbstr.errors import ArbstrError, InternalError, InvalidRequest

logger = logging.getLogger("arbstr.edge")

PIECE = 65_536
"""Bytes read at once; a write must make this much progress within ``write_stall_s``."""

App = Callable[[Message, Receive, Send], Awaitable[None]]
Address = tuple[str, int] | None


class Connection:
    """Serves one accepted stream until either side ends it. Closes the stream in every case."""

    def __init__(
        self,
        app: App,
        limits: Limits,
        stream: trio.SocketStream,
        *,
        stopping: Callable[[], bool],
        hangups: Hangups | None,
    ) -> None:
        self.client = _address(stream, "getpeername")
        self.server = _address(stream, "getsockname")
        self.limits = limits
        self.reader = RequestReader(limits.head_bytes, limits.headers)
        self.hung_up = False
        """The client has closed its side; it may still read."""
        self.broken = False
        """Nothing can be sent any more."""
        self.stopping = stopping
        self._app = app
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._scope = trio.CancelScope()  # of everything that waits for the client between requests
        self._interruptible = True
        self._turn: _Turn | None = None
        self._write_lock = trio.Lock()
        self._writing: trio.CancelScope | None = None
        self._closed = False
        self._hangups: Hangups | None = None
        if hangups is not None:
            with suppress(OSError):  # the kernel watches no more of them; ``receive`` tells all the same
                hangups.watch(self._socket, self._on_hangup)
                self._hangups = hangups

    @property
    def tells_of_hangups(self) -> bool:
        return self._hangups is not None

    async def run(self) -> None:
        """Raises nothing but cancellation."""
        try:
            with self._scope:
                await self._serve()
                await self._linger()
        except Exception:
            logger.exception("a connection failed")  # and takes no other with it
        finally:
            self._close()

    def abort(self) -> None:
        """End it now: writes in progress fail, the application is told that the client is gone."""
        self.broken = True
        self._close()
        self._on_hangup()

    def close_if_idle(self) -> None:
        """End it unless a request is being answered."""
        if self._interruptible:
            self._scope.cancel()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._hangups is not None:
                self._hangups.forget(self._socket)
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _on_hangup(self) -> None:
        self.hung_up = True
        if self._writing is not None:
            self._writing.deadline = min(self._writing.deadline, trio.current_time() + self._patience())
        if self._turn is not None:
            self._turn.on_hangup()

    # One request after the other

    async def _serve(self) -> None:
        try:
            while (request := await self._next_request()) is not None:
                turn = self._turn = _Turn(self, request)
                await self._run_app(turn)
                self._turn = None
                if not await self._conclude(turn):
                    return
        except InvalidRequest as error:
            await self._refuse(error)

    async def _next_request(self) -> Request | None:
        """None at the end. Raises ``InvalidRequest``."""
        limits, reader = self.limits, self.reader
        self._interruptible = True
        self._scope.deadline = trio.current_time() + limits.keep_alive_s
        if reader.waiting:
            await trio.lowlevel.checkpoint()  # a client must not keep all others waiting with what it sent at once
        in_head = False
        while (request := reader.next_request()) is None:
            if reader.waiting and not in_head:
                in_head = True
                self._scope.deadline = trio.current_time() + limits.head_timeout_s
            data = await self.receive()
            if not data:
                return None
            reader.feed(data)
        if self._scope.cancel_called:  # just now, and the application must not be hit by it
            return None
        self._scope.deadline = inf
        self._interruptible = False
        return request

    async def _run_app(self, turn: _Turn) -> None:
        try:
            await self._app(turn.make_scope(), turn.receive, turn.send)
        except Exception:  # the last resort of the rim; the application answers its own errors
            logger.exception("the application failed")

    async def _conclude(self, turn: _Turn) -> bool:
        """Whether the connection goes on."""
        answer = turn.answer
        if turn.refusal is not None and not answer.started:
            raise turn.refusal
        if not answer.complete:
            if not answer.started and not self.hung_up:
                await self._refuse(InternalError("something went wrong here"))
            return False
        try:
            self.reader.discard()
        except InvalidRequest:
            return False  # it has its answer
        return self.reader.body_done and not (answer.must_close or self.broken or self.hung_up or self.stopping())

    async def _refuse(self, error: ArbstrError) -> None:
        """The last words on a connection, in our shape."""
        request_id = str(uuid4())
        answer = AnswerWriter("GET", "1.1", must_close=True)
        body = wire.error_body(error, request_id)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-arbstr-request-id", request_id.encode()),
        ]
        answer.start(error.status, headers)
        with suppress(OSError):  # then there is nobody to tell
            await self.write(answer.body(body, more=False))

    async def _linger(self) -> None:
        """Our side is done: say so, and listen a little longer."""
        self._interruptible = True
        if self.broken:
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return
        self._scope.deadline = trio.current_time() + self.limits.linger_s
        data = b"more"
        while data:
            data = b""
            # A scope each: one whose time passes while data comes in must not end the next wait.
            with trio.move_on_after(self.limits.linger_idle_s):
                data = await self.receive()

    # Bytes

    async def receive(self) -> bytes:
        """Some bytes, empty at the end. Cancelling it loses nothing."""
        while not self.broken:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                data = self._socket.recv(PIECE)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                self.broken = True
                break
            if not data:
                self._on_hangup()
            return data
        return b""

    async def write(self, data: bytes) -> None:
        """Write all of it, whoever cancels. Raises ``OSError`` when the client does not take it."""
        if self.broken:
            raise BrokenPipeError("the client is gone")
        sent = 0
        if not self._write_lock.locked():
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self.broken = True
                raise
            if sent == len(data):
                return
        with trio.CancelScope(shield=True) as scope:
            async with self._write_lock:
                self._writing = scope
                try:
                    await self._write_slowly(memoryview(data)[sent:], scope)
                except (OSError, trio.ClosedResourceError):
                    self.broken = True
                finally:
                    self._writing = None
        if scope.cancelled_caught:
            self.abort()
        if self.broken:
            raise BrokenPipeError("the client is gone")

    async def _write_slowly(self, data: memoryview, scope: trio.CancelScope) -> None:
        for start in range(0, len(data), PIECE):
            scope.deadline = trio.current_time() + self._patience()
            piece = data[start : start + PIECE]
            while piece and not self.broken:
                await trio.lowlevel.wait_writable(self._socket)
                try:
                    piece = piece[self._socket.send(piece) :]
                except BlockingIOError:
                    continue

    def _patience(self) -> float:
        return self.limits.linger_idle_s if self.hung_up else self.limits.write_stall_s


class _Turn:
    """One request on its connection, as the application sees it. ``receive`` is for one task at a time."""

    __slots__ = ("_connection", "_left", "_request", "_told_end", "_waiting", "answer", "refusal")

    def __init__(self, connection: Connection, request: Request) -> None:
        self.answer = AnswerWriter(request.method, request.http_version, must_close=not request.keep_alive)
        self.refusal: InvalidRequest | None = None
        """Why the body cannot be read."""
        self._connection = connection
        self._request = request
        self._told_end = False
        self._waiting: trio.CancelScope | None = None
        self._left: Callable[[], object] | None = None

    def make_scope(self) -> dict[str, Any]:
        request, connection = self._request, self._connection
        path, _, query = request.target.partition(b"?")
        text = path.decode("ascii")
        return {
            "type": "http",
            "http_version": request.http_version,
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": request.method,
            "scheme": "http",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": request.headers,
            "client": connection.client,
            "server": connection.server,
            "state": {},
            "extensions": {ON_DISCONNECT: self.on_disconnect} if connection.tells_of_hangups else {},
        }

    async def receive(self) -> Message:
        """ASGI's: the parts of the body, then, when it has happened, that the client has left or the answer is out."""
        reader = self._connection.reader
        while not self._told_end and not self._ended:
            try:
                part = reader.next_part()
            except InvalidRequest as error:
                self.refusal = error
                break
            self._told_end = reader.body_done
            if part or self._told_end:
                self._request.expects_continue = False  # it has not waited
                return {"type": "http.request", "body": part, "more_body": not self._told_end}
            await self._invite()
            data = await self._hear()
            if not data:
                break
            reader.feed(data)
        await self._wait_end()
        return {"type": "http.disconnect"}

    @property
    def _ended(self) -> bool:
        return self.answer.complete or self.refusal is not None or self._connection.broken

    async def _invite(self) -> None:
        if self._request.expects_continue and not self.answer.started:
            self._request.expects_continue = False
            await self._connection.write(CONTINUE)

    async def _wait_end(self) -> None:
        connection, reader = self._connection, self._connection.reader
        while not self._ended and not connection.hung_up:
            if reader.waiting < connection.limits.head_bytes:
                reader.feed(await self._hear())
            else:
                await self._wait(trio.sleep_forever)

    async def _hear(self) -> bytes:
        return await self._wait(self._connection.receive) or b""

    async def _wait(self, function: Callable[[], Awaitable[bytes | None]]) -> bytes | None:
        """Until the answer is complete, or the connection at its end."""
        with trio.CancelScope() as self._waiting:
            return await function()
        return None

    async def send(self, message: Message) -> None:
        """ASGI's. Raises ``OSError`` when the client is gone, ``BadAnswer`` for what is no answer."""
        connection, answer = self._connection, self.answer
        if connection.broken or self.refusal is not None:
            raise BrokenPipeError("the client is gone")
        kind = message["type"]
        if kind == "http.response.start":
            answer.must_close = answer.must_close or connection.stopping()
            data = answer.start(message["status"], message.get("headers", ()))
        elif kind == "http.response.body":
            data = answer.body(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise BadAnswer(f"{kind!r} is no message of an answer over HTTP/1.1")
        if data:
            await connection.write(data)
        if answer.complete and self._waiting is not None:
            self._waiting.cancel()

    def on_disconnect(self, left: Callable[[], object]) -> None:
        self._left = left
        if self._connection.hung_up:
            self.on_hangup()

    def on_hangup(self) -> None:
        if self._told_end and self._waiting is not None:  # a body is read to where it breaks off
            self._waiting.cancel()
        if self._left is not None and not self.answer.complete:
            self._left()


def _address(stream: trio.SocketStream, which: str) -> Address:
    """As ASGI wants it; None where the peer is gone already, or has none."""
    try:
        address = getattr(stream.socket, which)()
    except OSError:
        return None
    return (address[0], address[1]) if isinstance(address, tuple) else None
