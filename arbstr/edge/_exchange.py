"""One request and its answer over ASGI: reading the body within bounds, sending an answer, whole or in pieces.

It knows messages and headers, not routes and not who may do what.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import trio

from arbstr import wire
from arbstr.edge._gate import Gate
from arbstr.edge._headers import Headers
from arbstr.edge._services import Limits
from arbstr.errors import ArbstrError, BodyTooLarge, MethodNotAllowed, RateLimited, RequestTimeout
from arbstr.requests import ClientGone, PlainAnswer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HeaderList = Sequence[tuple[bytes, bytes]]

OnDisconnect = Callable[[Callable[[], object]], None]
ON_DISCONNECT = "arbstr.on_disconnect"
"""Our extension of ASGI, in ``scope["extensions"]``: a function that takes a function, which is called as soon as the
client leaves before the answer is complete. Where it is missing, ``receive`` tells the same to whoever waits in it."""

JSON_TYPE = (b"content-type", b"application/json")
RETRY_AFTER_MAX_S = 86_400


class Exchange:
    """The two directions of one request. ``send`` is to raise ``OSError`` when the client is gone (ASGI 2.4)."""

    def __init__(
        self,
        headers: Headers,
        receive: Receive,
        send: Send,
        *,
        request_id: str,
        gate: Gate,
        limits: Limits,
        on_disconnect: OnDisconnect | None = None,
    ) -> None:
        self.headers = headers
        self.request_id = request_id
        self.correlation_id = headers.correlation_id
        self.started = False
        """An answer has begun; it cannot become another one."""
        self.finished = False
        self.gone = False
        """The client left before the answer was finished."""
        self.limit_headers: HeaderList = ()
        """Sent with whatever the answer becomes, where it does not have them itself."""
        self._receive = receive
        self._send = send
        self._on_disconnect = on_disconnect
        self._gate = gate
        self._limits = limits
        self._body_read = not headers.has_body
        self._body_awaited = False

    async def read_body(self, max_bytes: int, timeout_s: float, take_in: Callable[[int], None]) -> bytes:
        """The whole body. Raises ``RequestTimeout``, ``ClientGone``, ``BodyTooLarge`` (at once if declared).

        ``take_in`` is told the size of each part before it is kept, and may raise.
        """
        self._body_awaited = True
        if (self.headers.content_length or 0) > max_bytes:
            raise _too_large(max_bytes)
        parts: list[bytes] = []
        size = 0
        with trio.move_on_after(timeout_s):
            while not self._body_read:
                part = await self._next_part()
                size += len(part)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                take_in(len(part))
                parts.append(part)
            return b"".join(parts)
        raise RequestTimeout(f"the request body did not arrive within {timeout_s:g} s; {size} bytes did")

    async def _next_part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
            raise ClientGone
        self._body_read = not message.get("more_body", False)
        return message.get("body", b"") or b""

    def cancel_when_gone(self, work: trio.CancelScope) -> bool:
        """Have ``work`` cancelled when the client leaves. False when that is not to be had; then ``wait_gone``."""
        if self._on_disconnect is None:
            return False

        def left() -> None:
            if not self.finished:  # the connection's end after the answer is nobody's loss
                self.gone = True
                work.cancel()

        self._on_disconnect(left)
        return True

    async def wait_gone(self) -> None:
        """Return when the client has left and still had something to expect. The body must have been read before."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self.finished:  # the connection's end after the answer is nobody's loss
            await trio.sleep_forever()
        self.gone = True

    # The answer

    async def answer(self, answer: PlainAnswer) -> None:
        """Send one whole answer. Raises ``ClientGone``."""
        if not self._body_read and not self._body_awaited:
            await self._discard_body()
        await self.start(answer.status, (*answer.headers, (b"content-length", b"%d" % len(answer.body))))
        await self._finish(answer.body)

    async def fail(self, error: ArbstrError) -> None:
        """Say that it went wrong, in an answer or as the last event of a stream. Raises ``ClientGone``."""
        if self.finished:
            return
        if self.started:
            await self._finish(wire.error_event(error, self.request_id))
        else:
            body = wire.error_body(error, self.request_id)
            await self.answer(PlainAnswer(error.status, error_headers(error), body))

    async def start(self, status: int, headers: HeaderList) -> None:
        self.started = True
        names = {name for name, _ in headers}
        request_id = self.request_id.encode()
        # The second name is where OpenAI's SDKs look for it.
        own = [(b"x-arbstr-request-id", request_id), (b"x-request-id", request_id)]
        if self.correlation_id is not None:
            own.append((b"x-arbstr-correlation-id", self.correlation_id.encode()))
        if self._gate.draining or not self._body_read:
            own.append((b"connection", b"close"))
        own += self.limit_headers
        own = [header for header in own if header[0] not in names]
        await self._deliver({"type": "http.response.start", "status": status, "headers": [*headers, *own]})

    async def write(self, data: bytes) -> None:
        await self._deliver({"type": "http.response.body", "body": data, "more_body": True})

    async def _finish(self, body: bytes = b"") -> None:
        self.finished = True
        await self._deliver({"type": "http.response.body", "body": body, "more_body": False})

    async def finish(self) -> None:
        if not self.finished:
            await self._finish()

    async def _deliver(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError as error:
            self.gone = True
            raise ClientGone from error

    async def _discard_body(self) -> None:
        """Read a small body of a request that is refused, so that the connection can go on; larger ones end it."""
        declared = self.headers.content_length
        if declared is not None and declared <= self._limits.discard_bytes:
            with trio.move_on_after(self._limits.discard_s):
                while not self._body_read:
                    await self._next_part()


class StreamResponder:
    """What the life of a request is given to stream through: ``arbstr.requests.Responder``."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        await self._checkpoint()
        await self._exchange.start(status, headers)

    async def write(self, data: bytes) -> None:
        await self._checkpoint()
        if data:
            await self._exchange.write(data)

    async def finish(self) -> None:
        await self._checkpoint()
        await self._exchange.finish()

    async def _checkpoint(self) -> None:
        # A send is shielded below, for a half-written chunk would spoil the stream: without this a task that only
        # writes could not be cancelled.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._exchange.gone:
            raise ClientGone


def error_headers(error: ArbstrError) -> tuple[tuple[bytes, bytes], ...]:
    headers = [JSON_TYPE]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(min(error.retry_after_s, RETRY_AFTER_MAX_S)))))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allow).encode()))
    if isinstance(error, RateLimited):
        headers += error.headers
    return tuple(headers)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the request body is larger than {max_bytes} bytes; send less, or raise max_body_bytes in [server]"
    )
