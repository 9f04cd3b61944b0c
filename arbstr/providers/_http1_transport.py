"""An httpx transport for HTTP/1.1 on Trio: a request over a pooled connection, and its answer as it comes.

No HTTP/2, no proxy, no redirects. A request is sent again only if not a byte of it has left: providers are paid, and
what was sent may have been done.

CPU time of this process for a small request and its answer, against ``bench/upstream.py``, beside
``httpx.AsyncHTTPTransport`` in the same runs, on two cores, quiet and busy: 60 to 95 and 280 to 340 µs alone, 45 to 65
and 1,200 at 32 concurrent, 50 to 65 and 1,350 to 4,600 at 128; a stream's chunk, 5 ms apart at 16 streams, 34 and 43.
What keeps it there: no scope where no timeout is given, one write and one read for what fits, no async generator.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Final, Self

import httpx

from arbstr.providers._connection import Connect, Connection, Origin, connector
from arbstr.providers._http1 import RequestWriter, ResponseReader
from arbstr.providers._pool import Pool, PoolLimits

IDLE_EXPIRY_S: Final = 4.0
"""Below the 5 s after which common servers close: a request must not meet their closing on its way."""

MAX_WAITING: Final = 10_000
JOIN_BYTES: Final = 64 << 10
"""A body up to this size is written together with the head."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NO_TIMEOUTS: Final[dict[str, float | None]] = {}


class Http1Transport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over pooled connections. Bounds hold for each origin; it is meant for one provider, which has one.

    ``extensions["timeout"]`` of a request has the keys ``connect``, ``pool``, ``write`` and ``read`` in seconds, None
    or absent for no bound; the last two are for each single operation. Reads no further ahead than one buffer of
    64 KiB. Raises httpx.TransportError, and what the request's own stream raises. Cancelling a request closes its
    connection at once.
    """

    def __init__(
        self,
        *,
        max_connections: int,
        tls_context: ssl.SSLContext | None = None,
        max_idle: int | None = None,
        idle_expiry_s: float = IDLE_EXPIRY_S,
        max_waiting: int = MAX_WAITING,
        connect: Connect | None = None,
    ) -> None:
        self._limits = PoolLimits(
            max_connections=max_connections,
            # All by default: requests that a group commit lets go together would open new ones each time.
            max_idle=max_connections if max_idle is None else max_idle,
            idle_expiry_s=idle_expiry_s,
            max_waiting=max_waiting,
        )
        self._connect = connector(tls_context) if connect is None else connect
        self._pools: dict[Origin, Pool] = {}
        self._closed = False

    @property
    def max_connections(self) -> int:
        """To one origin."""
        return self._limits.max_connections

    @property
    def connections(self) -> int:
        """Open ones and those that are being made."""
        return sum(pool.places for pool in self._pools.values())

    @property
    def idle_connections(self) -> int:
        return sum(pool.idle for pool in self._pools.values())

    @property
    def waiting(self) -> int:
        """Requests in line for a connection."""
        return sum(pool.waiting for pool in self._pools.values())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        writer = RequestWriter(request.method, request.url.raw_path, request.headers.raw)
        exchange = Exchange(self, request.url, request.extensions.get("timeout", _NO_TIMEOUTS))
        await exchange.send(writer, request.stream)
        reader = await exchange.read_head(ResponseReader(head_request=request.method == "HEAD"))
        return httpx.Response(
            reader.status,
            headers=reader.headers,
            stream=exchange,
            extensions={"http_version": reader.http_version},
        )

    async def aclose(self) -> None:
        """Close all connections, now; answers that are being read end with an error. May be called twice."""
        self._closed = True
        for pool in self._pools.values():
            pool.close()

    def pool_of(self, url: httpx.URL) -> Pool:
        """For use at once: a pool that nobody uses is forgotten when another is made."""
        if self._closed:
            raise httpx.ConnectError("the transport is closed")
        scheme = url.scheme
        if scheme not in _DEFAULT_PORTS:
            raise httpx.UnsupportedProtocol("the URL's scheme is neither http nor https")
        origin = Origin(scheme == "https", url.raw_host.decode("ascii"), url.port or _DEFAULT_PORTS[scheme])
        pool = self._pools.get(origin)
        if pool is None:
            self._pools = {known: one for known, one in self._pools.items() if one.places}
            pool = self._pools[origin] = Pool(partial(self._connect, origin), self._limits)
        return pool


class Exchange(httpx.AsyncByteStream):
    """One request and its answer, on one connection; and the answer's body as a stream.

    Has the connection from the first write until the answer is complete or has failed, or until ``aclose``; then the
    pool has it back at once, whether the body was taken or not. An iterator rather than an async generator: it may be
    dropped half-way without a finaliser running later.
    """

    def __init__(self, transport: Http1Transport, url: httpx.URL, timeouts: dict[str, float | None]) -> None:
        self._transport = transport
        self._url = url
        self._connection: Connection | None = None
        self._connect_timeout_s = timeouts.get("connect")
        self._pool_timeout_s = timeouts.get("pool")
        self._write_timeout_s = timeouts.get("write")
        self._read_timeout_s = timeouts.get("read")
        self._keep_alive = True
        self._broken = False

    async def send(self, writer: RequestWriter, stream: httpx.AsyncByteStream) -> None:
        """Send the whole request, or as much of it as the server takes."""
        self._keep_alive = writer.keep_alive
        pieces = aiter(stream)
        try:
            try:
                await self._send(writer, pieces)
            finally:
                if isinstance(pieces, AsyncGenerator):
                    await pieces.aclose()
        except BaseException:
            self._give_up()
            raise

    async def read_head(self, reader: ResponseReader) -> ResponseReader:
        """The reader, when it has the head of the answer."""
        self._reader = reader
        while not reader.head_done:
            if reader.error is not None:
                raise httpx.RemoteProtocolError(reader.error)
            await self._read()
        return reader

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """What has arrived, together; waits only when that is nothing. Does not yield otherwise."""
        reader = self._reader
        while not (data := reader.take()):
            if reader.complete:
                raise StopAsyncIteration
            if reader.error is not None:
                raise httpx.RemoteProtocolError(reader.error)
            await self._read()
        return data

    def arrived(self) -> bytes | None:
        """What has arrived, together; empty when that is nothing, None at the end. Never waits: whether the answer has
        broken off, ``anext`` tells."""
        return self._reader.take() or (None if self._reader.complete else b"")

    def close(self) -> None:
        """Like ``aclose``, which has nothing to wait for."""
        self._give_up()

    async def aclose(self) -> None:
        self._give_up()

    async def _send(self, writer: RequestWriter, pieces: AsyncIterator[bytes]) -> None:
        first = writer.piece(await anext(pieces, b""))
        if writer.complete:
            async for piece in pieces:  # before anything is sent of a body that turns out to be too long
                writer.piece(piece)
        if len(first) <= JOIN_BYTES:
            await self._begin(writer.head + first)
        else:
            await self._begin(writer.head)
            await self._write(first)
        if not writer.complete:
            async for piece in pieces:
                if not await self._write(writer.piece(piece)):
                    return
            await self._write(writer.end())

    async def _begin(self, data: bytes) -> None:
        """Get a connection and write the first of the request to it.

        A connection that the server closed while it was idle shows it here at the latest: it takes not a byte, and
        another one is tried. That comes to an end, since it is not done with a new connection.
        """
        self._connection = connection = await self._acquire()
        while not await self._write(data) and connection.reused and not connection.sent:
            self._give_up()
            self._connection = connection = await self._acquire()

    async def _acquire(self) -> Connection:
        self._broken = False
        self._pool = self._transport.pool_of(self._url)
        return await self._pool.acquire(connect_timeout_s=self._connect_timeout_s, pool_timeout_s=self._pool_timeout_s)

    async def _write(self, data: bytes) -> bool:
        """Whether it was taken. When it was not, nothing more is written and the answer is read: a server that closes
        early may have said why."""
        assert self._connection is not None
        if data and not self._broken:
            try:
                await self._connection.send(data, self._write_timeout_s)
            except httpx.WriteError:
                self._broken = True
        return not self._broken

    async def _read(self) -> None:
        """The next bytes to the reader. Gives the connection back as soon as it is not needed any more."""
        connection, reader = self._connection, self._reader
        if connection is None:
            raise httpx.ReadError("the answer was closed before its end")
        try:
            data = await connection.receive(self._read_timeout_s)
        except BaseException:
            self._give_up()
            raise
        reader.feed(data)
        if reader.reusable and self._keep_alive and not self._broken:
            self._connection = None
            self._pool.release(connection)
        elif reader.complete or reader.error is not None:
            self._give_up()

    def _give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.discard(connection)
