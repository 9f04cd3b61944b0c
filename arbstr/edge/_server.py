"""Listening, accepting, and stopping without losing a request."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

import trio

from arbstr.config import ServerConfig
from arbstr.edge._app import EdgeApp
from arbstr.edge._connection import Connection
from arbstr.edge._hangups import Hangups, make_hangups
from arbstr.edge._services import Limits

logger = logging.getLogger("arbstr.edge")

BACKLOG = 1024

Listeners = Sequence[trio.SocketListener]
Shutdown = trio.Event | Callable[[], Awaitable[object]]


class CannotListen(OSError):
    """The address of ``[server] listen`` cannot be had: taken, unknown, not allowed. The text names it."""


async def open_listeners(address: str) -> list[trio.SocketListener]:
    """Listen on ``host:port`` (``[host]:port`` for IPv6); port 0 takes a free one. Raises ``CannotListen``.

    A name that stands for several addresses is listened to on each.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise CannotListen(f"cannot listen on {address!r}: it must be host:port, such as 127.0.0.1:8080")
    try:
        return await trio.open_tcp_listeners(int(port), host=host.strip("[]"), backlog=BACKLOG)
    except UnicodeError as error:
        raise CannotListen(f"cannot listen on {address!r}: that is no host name") from error
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise CannotListen(error.errno, f"cannot listen on {address}: {why}") from error


def addresses_of(listeners: Listeners) -> list[str]:
    """Where to reach them: ``http://host:port``, with the port that was really taken."""
    return [_url(listener.socket) for listener in listeners]


async def serve(
    app: EdgeApp,
    config: ServerConfig,
    *,
    listeners: Listeners | None = None,
    bound: Callable[[list[str]], None] | None = None,
    shutdown: Shutdown | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve until ``shutdown`` is set (or returns), then stop in order; returns when every request has ended.

    ``listeners`` from :func:`open_listeners`, for a caller that wants its address before anything else; without them
    ``config.listen`` is opened first. Raises ``CannotListen``. ``bound`` is told the real addresses.

    Order of stopping: nobody is admitted any more, listeners close, requests in flight have ``shutdown_grace_s``; then
    their work is cancelled and each is told that the program stops; a client that does not even take that is cut off.
    Work that settles behind a shield is waited for. Cancelling ``serve`` skips all of this but the shields.
    """
    if listeners is None:
        listeners = await open_listeners(config.listen)
    hangups = make_hangups() if config.http1 == "llhttp" else None
    server = _Server(app, config, limits or Limits(), hangups)
    try:
        async with trio.open_nursery() as watching:
            if hangups is not None:
                watching.start_soon(hangups.run)
            await _serve(server, config, listeners, bound, shutdown)
            watching.cancel_scope.cancel()
    finally:
        if hangups is not None:
            hangups.close()


async def _serve(
    server: _Server,
    config: ServerConfig,
    listeners: Listeners,
    bound: Callable[[list[str]], None] | None,
    shutdown: Shutdown | None,
) -> None:
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, server.handle, list(listeners), handler_nursery=connections)
            )
            if bound is not None:
                bound(addresses_of(listeners))
            await _triggered(shutdown)
            server.drain()
            accepting.cancel_scope.cancel()
        await server.stop(config.shutdown_grace_s)


async def _triggered(shutdown: Shutdown | None) -> None:
    if shutdown is None:
        await trio.sleep_forever()
    elif isinstance(shutdown, trio.Event):
        await shutdown.wait()
    else:
        await shutdown()


class _Connection(Protocol):
    async def run(self) -> None: ...
    def abort(self) -> None: ...
    def close_if_idle(self) -> None: ...


class _Server:
    """The open connections and what they have in common."""

    def __init__(self, app: EdgeApp, config: ServerConfig, limits: Limits, hangups: Hangups | None) -> None:
        self._app = app
        self._gate = app.gate
        self._limits = limits
        self._hangups = hangups
        self._connect = self._connect_llhttp if config.http1 == "llhttp" else self._make_h11()
        self._connections: set[_Connection] = set()
        self._all_closed = trio.Event()
        self._stopping = False
        """An answer that ends from here on closes its connection."""

    def _connect_llhttp(self, stream: trio.SocketStream) -> _Connection:
        return Connection(self._app, self._limits, stream, stopping=lambda: self._stopping, hangups=self._hangups)

    def _make_h11(self) -> Callable[[trio.SocketStream], _Connection]:
        from arbstr.edge._hypercorn import HypercornConnections  # 44 ms to load, and seldom wanted

        return HypercornConnections(self._app, self._limits, stopping=lambda: self._stopping)

    async def handle(self, stream: trio.SocketStream) -> None:
        """One accepted connection. Trio has set TCP_NODELAY on it."""
        if len(self._connections) >= self._limits.connections:
            return  # closed by the caller
        connection = self._connect(stream)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
            if not self._connections:
                self._all_closed.set()

    def drain(self) -> None:
        self._gate.drain()

    async def stop(self, grace_s: float) -> None:
        with trio.move_on_after(grace_s):
            await self._gate.wait_empty()
        self._gate.expire()
        with trio.move_on_after(self._limits.abort_after_s):
            await self._gate.wait_empty()
        if self._gate.occupied:
            self._abort_all()
            await self._gate.wait_empty()
        await self._close_connections()

    async def _close_connections(self) -> None:
        self._stopping = True
        for connection in list(self._connections):
            connection.close_if_idle()
        self._all_closed = trio.Event()
        if self._connections:
            with trio.move_on_after(self._limits.linger_idle_s):
                await self._all_closed.wait()
        self._abort_all()

    def _abort_all(self) -> None:
        for connection in list(self._connections):
            connection.abort()


def _url(sock: trio.socket.SocketType) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if sock.family == socket.AF_INET6 else f"http://{host}:{port}"
