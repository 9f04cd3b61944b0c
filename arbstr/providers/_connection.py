"""One connection to a server: opened, written to, read from, closed. Foreign exceptions become httpx's here.

Nothing here speaks HTTP or knows a pool.
"""

from __future__ import annotations

import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import httpx
import trio

READ_BYTES: Final = 64 << 10
"""The most that is read ahead of whoever takes the answer."""

_BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Origin(NamedTuple):
    """Where to connect to. ``host`` is a name or an address, without brackets."""

    tls: bool
    host: str
    port: int


class Connection(Protocol):
    """What the pool and the transport need of a connection.

    A cancelled or failed ``send`` or ``receive`` leaves it in an unknown state: it must be closed then.
    """

    reused: bool
    """It has carried a whole exchange already, and was idle since ``idle_since`` by Trio's clock. The pool's notes."""
    idle_since: float
    sent: bool
    """The peer may have got a byte since the pool gave the connection out."""

    async def send(self, data: bytes, timeout_s: float | None) -> None:
        """All of ``data``. Raises httpx.WriteError and WriteTimeout."""

    async def receive(self, timeout_s: float | None) -> bytes:
        """The next bytes, at most ``READ_BYTES``; none at their end. Raises httpx.ReadError and ReadTimeout."""

    def has_unread(self) -> bool:
        """There is something to read. On an idle connection: the peer has closed it, or speaks out of turn."""

    def close(self) -> None:
        """At once; whoever waits in ``send`` or ``receive`` gets an error. May be called twice."""


Connect = Callable[[Origin, float | None], Awaitable[Connection]]
"""Opens a connection within so many seconds. Raises httpx.ConnectError and ConnectTimeout."""


class _TimedConnection(ABC):
    """What all have in common: times, and httpx's exceptions."""

    __slots__ = ("idle_since", "reused", "sent")

    def __init__(self) -> None:
        self.reused = False
        self.idle_since = 0.0
        self.sent = False

    async def send(self, data: bytes, timeout_s: float | None) -> None:
        try:
            if timeout_s is None:
                await self._send(data)
            else:
                with trio.fail_after(timeout_s):
                    await self._send(data)
        except trio.TooSlowError:
            raise httpx.WriteTimeout("the server did not take the request in time") from None
        except _BROKEN as error:
            raise httpx.WriteError(f"the connection broke: {error}") from error

    async def receive(self, timeout_s: float | None) -> bytes:
        try:
            if timeout_s is None:
                return await self._receive()
            with trio.fail_after(timeout_s):
                return await self._receive()
        except trio.TooSlowError:
            raise httpx.ReadTimeout("the server sent nothing in time") from None
        except _BROKEN as error:
            raise httpx.ReadError(f"the connection broke: {error}") from error

    @abstractmethod
    async def _send(self, data: bytes) -> None: ...

    @abstractmethod
    async def _receive(self) -> bytes: ...


class _SocketConnection(_TimedConnection):
    """Over TCP as it is.

    Uses the socket without Trio's wrapping, which does not tell how much was written and makes a checkpoint of each
    write and a try of each read.
    """

    __slots__ = ("_full", "_socket")

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__()
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._full = False
        """The last read took all there was room for: more may be there."""

    def has_unread(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def _send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # no more of a checkpoint: the answer will be waited for
        count = self._send_now(data)
        if count < len(data):
            with memoryview(data) as rest:
                while count < len(data):
                    await trio.lowlevel.wait_writable(self._socket)
                    count += self._send_now(rest[count:])

    def _send_now(self, data: bytes | memoryview) -> int:
        try:
            count = self._socket.send(data)
        except BlockingIOError:
            return 0
        self.sent = True
        return count

    async def _receive(self) -> bytes:
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError
            if self._full:
                self._full = False
                await trio.lowlevel.checkpoint()
            else:  # nothing is there yet, as a rule, and a try would cost as much as the wait
                await trio.lowlevel.wait_readable(self._socket)
            with suppress(BlockingIOError):
                data = self._socket.recv(READ_BYTES)
                self._full = len(data) == READ_BYTES
                return data


class _TlsConnection(_TimedConnection):
    """Over TLS."""

    __slots__ = ("_socket", "_tls")

    def __init__(self, stream: trio.SocketStream, tls: trio.SSLStream[trio.SocketStream]) -> None:
        super().__init__()
        self._socket = stream.socket
        self._tls = tls

    def has_unread(self) -> bool:
        # Records that arrived together with the end of an answer wait in Trio's buffer, for which it has no name.
        incoming: ssl.MemoryBIO = self._tls._incoming
        return bool(incoming.pending or self._tls.pending()) or self._socket.is_readable()

    def close(self) -> None:
        self._socket.close()

    async def _send(self, data: bytes) -> None:
        self.sent = True  # how far it comes is not known
        await self._tls.send_all(data)

    async def _receive(self) -> bytes:
        return bytes(await self._tls.receive_some(READ_BYTES))


def connector(tls_context: ssl.SSLContext | None) -> Connect:
    """Opens connections over the network: whichever of the host's addresses answers first (RFC 8305), without Nagle's
    delays, and with TLS where the origin asks for it, for which ``tls_context`` is needed."""

    async def connect(origin: Origin, timeout_s: float | None) -> Connection:
        try:
            with trio.fail_after(float("inf") if timeout_s is None else timeout_s):
                return await _open(origin, tls_context)
        except trio.TooSlowError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except (*_BROKEN, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
            raise httpx.ConnectError(f"no connection: {error}") from error

    return connect


async def _open(origin: Origin, tls_context: ssl.SSLContext | None) -> Connection:
    if origin.tls and tls_context is None:
        raise httpx.UnsupportedProtocol("this transport was made without TLS")
    stream = await trio.open_tcp_stream(origin.host, origin.port)  # switches Nagle's algorithm off
    if tls_context is None or not origin.tls:
        return _SocketConnection(stream)
    try:
        tls = trio.SSLStream(stream, tls_context, server_hostname=origin.host, https_compatible=True)
        await tls.do_handshake()
    except BaseException:
        stream.socket.close()
        raise
    return _TlsConnection(stream, tls)
