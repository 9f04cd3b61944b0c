"""httpx transports for providers, by what their configuration asks for; and the two corrections that httpcore's pool,
which does what ours does not (HTTP/2, proxies), needs on Trio.

Everything that leans on the inside of httpcore 1.x stands here and nowhere else; the tests of this room notice when it
no longer fits.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import cache
from typing import Any

import h2.events
import h2.exceptions
import httpcore
import httpx
import trio
from h2.errors import ErrorCodes

from arbstr.config import ProviderConfig
from arbstr.providers._http1_transport import Http1Transport
from arbstr.providers._mock import MockTransport

MAX_KEEPALIVE_CONNECTIONS = 64


def build_transport(config: ProviderConfig) -> httpx.AsyncBaseTransport:
    """The transport for ``config.url``: a MockTransport for ``mock:``; for http and https our own, or httpx's where
    HTTP/2 or a proxy is wanted.

    Raises ValueError for a mock URL with an unknown or impossible parameter, and for any other scheme.
    """
    scheme = httpx.URL(config.url).scheme
    if scheme == "mock":
        return MockTransport(config.url, models=tuple([model.upstream_id or model.id for model in config.models]))
    if scheme in ("http", "https"):
        tls = scheme == "https"
        if config.http2 or config.proxy is not None:
            return PooledTransport(
                max_connections=config.max_concurrent,
                tls=tls,
                http2=config.http2,
                proxy=None if config.proxy is None else config.proxy.reveal(),
            )
        return Http1Transport(
            max_connections=config.max_concurrent, tls_context=tls_context(("http/1.1",)) if tls else None
        )
    raise ValueError(f"provider {config.name!r}: no transport for URLs with the scheme {scheme!r}; use http or https")


class PooledTransport(httpx.AsyncHTTPTransport):
    """Pooled connections by httpcore: HTTP/1.1, or ``http2`` where a server with TLS agrees to it, straight or through
    an HTTP ``proxy`` (its URL, with user and password if it wants them). No redirects, no retries.

    Corrects two things of httpcore 1.0 on Trio:

    * A request that is cancelled just after its connection was made, or while it waited for one, leaves that
      connection in the pool as neither idle nor closed: it would hold a socket and a place for ever.
    * A body that is not read to its end leaves a chain of suspended async generators behind, each of which Trio
      finalises later with a warning.
    """

    def __init__(self, *, max_connections: int, tls: bool, http2: bool = False, proxy: str | None = None) -> None:
        super().__init__(
            verify=tls_context(("http/1.1", "h2") if http2 else ("http/1.1",)) if tls else False,
            http2=http2,
            proxy=proxy,
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=MAX_KEEPALIVE_CONNECTIONS),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await super().handle_async_request(request)
        except BaseException:
            await self._close_orphans()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        over_http2 = response.extensions["http_version"] == b"HTTP/2"
        response.stream = (_Http2Body if over_http2 else _Body)(response.stream)
        return response

    async def _close_orphans(self) -> None:
        """Close the connections that are in use by nobody: neither idle nor closed, and no request has them."""
        pool = self._pool
        owned = {id(request.connection) for request in pool._requests}
        orphans = [
            connection
            for connection in pool._connections
            if not connection.is_idle() and not connection.is_closed() and id(connection) not in owned
        ]
        for connection in orphans:
            pool._connections.remove(connection)
        with trio.CancelScope(shield=True):
            for connection in orphans:
                await connection.aclose()
            # A place is free now; whoever waits for one must be woken.
            await pool._close_connections(pool._assign_requests_to_connections())


class _Body(httpx.AsyncByteStream):
    """The body of a pooled response. Closing it early also finishes the generators behind it."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        self._iterator = aiter(stream)
        self._running = False  # a generator that was never started needs no end
        self._complete = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._running = True
        try:
            return await anext(self._iterator)
        except StopAsyncIteration:
            self._running, self._complete = False, True
            raise
        except BaseException:
            self._running = False
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()
        # The connection is closed or was read to its end: the innermost generator now gives out what had arrived
        # already, at most one read of 64 KiB, and then fails, which ends the whole chain from the inside.
        await self._finish()

    async def _finish(self) -> None:
        with suppress(httpx.TransportError):
            while self._running:
                await anext(self, None)


class _Http2Body(_Body):
    """Over HTTP/2 the connection stays open when an answer is closed early, and httpcore only stops listening: the
    server would go on, and bill all of it. So it is told. (When it was cancelled before its head came, it is not.)
    """

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        super().__init__(stream)
        inner: Any = stream
        self._http2_stream: Any = inner._httpcore_stream._stream

    async def aclose(self) -> None:
        if not self._complete:
            await self._withdraw()
            await self._finish()
        await self._stream.aclose()

    async def _withdraw(self) -> None:
        stream_id, connection = self._http2_stream._stream_id, self._http2_stream._connection
        with suppress(h2.exceptions.ProtocolError, httpcore.NetworkError, httpcore.TimeoutException):
            connection._h2_state.reset_stream(stream_id, ErrorCodes.CANCEL)
            await connection._write_outgoing_data(self._http2_stream._request)
        if stream_id in connection._events:  # where the innermost generator looks for more
            connection._events[stream_id].append(h2.events.StreamEnded(stream_id=stream_id))


@cache
def tls_context(protocols: tuple[str, ...]) -> ssl.SSLContext:
    """One for all providers that are spoken to alike: loading the certificates takes tens of milliseconds.

    Not one for all: httpcore writes the protocols that it offers (ALPN) into it.
    """
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(list(protocols))
    return context
