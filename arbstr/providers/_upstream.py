"""The one place where a request goes out to a provider, and where foreign exceptions are translated.

Talks to an httpx transport directly, without an httpx client: building a request and calling a transport costs 14 µs,
the client around it 67 to 118. Knows nothing of routing, permits or money. Everything that goes wrong on the way is an
UpstreamFailure; an HTTP status, whatever it is, is an answer.

A redirect is followed on the provider's own address only: elsewhere neither the key nor the prompt goes.

What a failure says never contains text from a foreign exception: those quote addresses and header values, keys
included. For the same reason the foreign exception is not chained.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, Literal, Self

import httpx
import trio

import arbstr
from arbstr.config import ProviderConfig
from arbstr.providers._http1_transport import Exchange
from arbstr.providers._models import DiscoveredModel, parse_models
from arbstr.providers._transport import build_transport
from arbstr.wire import Endpoint

FailureKind = Literal[
    "connect",
    "connect_timeout",
    "encoding",
    "first_byte_timeout",
    "idle_timeout",
    "redirect",
    "reset",
    "status",
    "too_large",
    "total_timeout",
]

CLOSE_BOUND_S: Final = 2.0
"""Closing is local work; whoever needs longer is not waited for."""

MODELS_TIMEOUT_S: Final = 10.0
"""For the whole list of models, connecting included."""

MAX_MODELS_BYTES: Final = 8 << 20

MAX_REDIRECTS: Final = 3
_MAX_REDIRECT_BYTES: Final = 64 << 10
"""Of a redirect's body, which is read so that its connection can be used again."""

_REDIRECTS: Final[Mapping[str, frozenset[int]]] = {
    "GET": frozenset((301, 302, 303, 307, 308)),
    # 303 would turn it into a GET, and 301 and 302 mean the same to many: but an answer to a GET is no completion.
    "POST": frozenset((301, 302, 307, 308)),
}

_TRANSPORT_ERRORS: Final = (httpx.TransportError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)
_PRINTABLE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,510}[\x21-\x7e])?")


class UpstreamFailure(Exception):
    """No usable answer from the provider.

    ``kind`` says how: ``connect``, ``connect_timeout`` and ``redirect`` mean that nobody works on the request; with
    every other kind the provider may have done the work. ``detail`` is fit for a client: it holds no URL and no key.
    """

    def __init__(self, kind: FailureKind, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind: FailureKind = kind
        self.detail = detail
        self.retry_after_s = retry_after_s


class Upstream:
    """Sends requests to one provider. No actor: any number of tasks may use it at once.

    Owns ``transport`` (made from the configuration when none is given) and closes it in ``aclose``, or after ``retire``
    with the last answer.
    """

    def __init__(self, config: ProviderConfig, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._config = config
        self._transport = build_transport(config) if transport is None else transport
        self._urls = {endpoint: _url_of(config.url, endpoint) for endpoint in Endpoint}
        self._models_url = _url_of(config.url, "models")
        self._base_headers = _base_headers(config, self._models_url)
        self._in_flight = 0
        self._retired = False
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Calls that wait for their answer, and answers that are not closed yet."""
        return self._in_flight

    @property
    def closed(self) -> bool:
        return self._closed

    async def send(
        self,
        endpoint: Endpoint,
        body: bytes,
        *,
        stream: bool,
        request_id: str,
        correlation_id: str | None = None,
        traceparent: str | None = None,
    ) -> UpstreamAnswer:
        """Send ``body`` and wait for the status and headers of the answer.

        Waits at most ``connect_timeout_s`` for a connection, ``first_byte_timeout_s`` for all of it, and never beyond
        ``total_timeout_s``. Raises UpstreamFailure. When cancelled, the connection is closed and given up; after a
        return, it is the caller's duty to ``aclose`` the answer in every path.
        """
        config, now = self._config, trio.current_time()
        total_deadline = float("inf") if config.total_timeout_s is None else now + config.total_timeout_s
        headers = self._headers(body, stream, request_id, correlation_id, traceparent)
        return await self._call(
            "POST", self._urls[endpoint], headers, body, now + config.first_byte_timeout_s, total_deadline
        )

    async def models(self) -> tuple[DiscoveredModel, ...]:
        """``GET /models``: what the provider says it serves.

        Takes at most ``MODELS_TIMEOUT_S`` and ``MAX_MODELS_BYTES``. Raises UpstreamFailure, of the kind ``status`` for
        an answer that is not 200, and UndecodableModels (a ValueError).
        """
        deadline = trio.current_time() + MODELS_TIMEOUT_S
        headers = [*self._base_headers, (b"accept", b"application/json")]
        async with await self._call("GET", self._models_url, headers, b"", deadline, deadline) as answer:
            if answer.status != 200:
                raise UpstreamFailure("status", f"the provider answered with status {answer.status}")
            return parse_models(await answer.read(MAX_MODELS_BYTES))

    async def _call(
        self,
        method: str,
        url: httpx.URL,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        deadline: float,
        total_deadline: float,
    ) -> UpstreamAnswer:
        if self._closed:
            raise UpstreamFailure("connect", "the connections to the provider have just been closed")
        self._in_flight += 1
        try:
            with trio.CancelScope(deadline=min(deadline, total_deadline)) as scope:
                response = await self._exchange(method, url, headers, body)
                if response.status_code in _REDIRECTS[method]:
                    response = await self._follow(response, method, url, headers, body)
            if scope.cancelled_caught:
                raise _timed_out("first_byte_timeout", total_deadline)
        except BaseException:
            await self.let_go()
            raise
        answer = UpstreamAnswer(
            response, idle_timeout_s=self._config.idle_timeout_s, total_deadline=total_deadline, owner=self
        )
        if answer.content_encoding not in ("", "identity"):
            await answer.aclose()
            raise UpstreamFailure(
                "encoding", "the provider answered in a content encoding although identity was asked for"
            )
        return answer

    async def _exchange(
        self, method: str, url: httpx.URL, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> httpx.Response:
        request = httpx.Request(
            method,
            url,
            headers=headers,
            stream=RequestBody(body),
            extensions={"timeout": self._transport_timeouts()},
        )
        try:
            return await self._transport.handle_async_request(request)
        except _TRANSPORT_ERRORS as error:
            raise _translated(error, waiting_for_headers=True) from None

    async def _follow(
        self,
        response: httpx.Response,
        method: str,
        url: httpx.URL,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
    ) -> httpx.Response:
        """The answer at the end of the redirects; a redirect that does not say where to is an answer."""
        for _ in range(MAX_REDIRECTS):
            location = _headers_of(response).get(b"location")
            if location is None:
                return response
            url = await self._next_url(response, url, location)
            response = await self._exchange(method, url, headers, body)
            if response.status_code not in _REDIRECTS[method]:
                return response
        await self._drop(response)
        raise UpstreamFailure("redirect", f"the provider redirects more than {MAX_REDIRECTS} times")

    async def _next_url(self, response: httpx.Response, url: httpx.URL, location: str) -> httpx.URL:
        await self._drop(response)
        try:
            target = url.join(location)
        except httpx.InvalidURL:
            raise UpstreamFailure("redirect", "the provider redirects to what is no URL") from None
        if _origin(target) != _origin(url):
            raise UpstreamFailure(
                "redirect", "the provider redirects to another address, where neither key nor prompt may go"
            )
        return url.copy_with(raw_path=target.raw_path)

    async def _drop(self, response: httpx.Response) -> None:
        answer = UpstreamAnswer(response, idle_timeout_s=self._config.idle_timeout_s, total_deadline=float("inf"))
        try:
            with suppress(UpstreamFailure):  # what matters has been said by the headers
                await answer.read(_MAX_REDIRECT_BYTES)
        finally:
            await answer.aclose()

    async def let_go(self) -> None:
        """A call has come to its end; for its answer. Safe when cancelled."""
        self._in_flight -= 1
        if self._retired and not self._in_flight:
            await self.aclose()

    async def retire(self) -> None:
        """Close the transport as soon as no answer is in flight: at once, or with the last one. Does not wait for it.

        Until then further calls are taken, after that they fail as ``connect``. Safe when cancelled.
        """
        self._retired = True
        if not self._in_flight:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the transport with all its connections, now; answers that are still being read are cut."""
        if self._closed:
            return
        self._closed = True
        with trio.move_on_after(CLOSE_BOUND_S, shield=True), suppress(*_TRANSPORT_ERRORS):
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _headers(
        self, body: bytes, stream: bool, request_id: str, correlation_id: str | None, traceparent: str | None
    ) -> list[tuple[bytes, bytes]]:
        headers = [
            *self._base_headers,
            (b"accept", b"text/event-stream" if stream else b"application/json"),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"idempotency-key", request_id.encode()),
        ]
        # These two come from the client. One that cannot be a header value is left out: it must not look like the
        # provider's fault, nor add a header of its own.
        for name, value in ((b"x-request-id", correlation_id), (b"traceparent", traceparent)):
            if value is not None and _PRINTABLE.fullmatch(value):
                headers.append((name, value.encode("ascii")))
        return headers

    def _transport_timeouts(self) -> dict[str, float | None]:
        # The scopes here bound reading and writing for every transport alike; only it knows when it connects.
        connect_s = self._config.connect_timeout_s
        return {"connect": connect_s, "pool": connect_s, "read": None, "write": None}


class UpstreamAnswer:
    """A provider's answer whose body has not been read yet. One task reads it and closes it.

    ``aclose`` must be called in every path. Reading to the end closes it as well and keeps the connection for the next
    request; any other end gives the connection up.
    """

    def __init__(
        self,
        response: httpx.Response,
        *,
        idle_timeout_s: float,
        total_deadline: float,
        owner: Upstream | None = None,
    ) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        headers = _headers_of(response)
        self.status: int = response.status_code
        self.content_type: str = headers.get(b"content-type", "")
        self.content_encoding: str = headers.get(b"content-encoding", "").strip().lower()
        self.retry_after_s: float | None = retry_after_s(headers.get(b"retry-after-ms"), headers.get(b"retry-after"))
        self._announced_length = _length(headers.get(b"content-length"))
        self._stream = response.stream
        self._iterator = aiter(response.stream)
        self._idle_timeout_s = idle_timeout_s
        self._total_deadline = total_deadline
        self._owner = owner
        self._closed = False
        self._complete = False  # read to its end

    async def read(self, limit: int) -> bytes:
        """The whole body, at most ``limit`` bytes. Raises UpstreamFailure: cut, silent for too long, too large."""
        if self._announced_length is not None and self._announced_length > limit:
            await self.aclose()
            raise UpstreamFailure("too_large", f"the provider announced a body of more than {limit} bytes")
        parts: list[bytes] = []
        size = 0
        while (chunk := self._arrived()) and size <= limit:  # small answers come in one piece with their head
            size += len(chunk)
            parts.append(chunk)
        if chunk is None:
            await self.aclose()
        else:
            size += await self._read_on(parts, limit - size)
        if size > limit:
            raise UpstreamFailure("too_large", f"the provider's body is larger than {limit} bytes")
        return b"".join(parts)

    def _arrived(self) -> bytes | None:
        """What can be had of the body without waiting: empty when nothing, None at its end."""
        if self._closed or not isinstance(self._stream, Exchange):
            return b""
        chunk = self._stream.arrived()
        self._complete = chunk is None
        return chunk

    async def _read_on(self, parts: list[bytes], limit: int) -> int:
        """The rest of the body, until it is more than ``limit`` bytes. Gives its size."""
        size = 0
        with trio.CancelScope() as scope:  # one for many chunks: entering it costs more than reading one
            while size <= limit and (chunk := await self._next_within(scope)) is not None:
                size += len(chunk)
                parts.append(chunk)
        await self._end_of_wait(scope)
        return size

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, in pieces that are not empty. Raises UpstreamFailure; ends only where the body ends."""
        return _Chunks(self)

    async def next_chunk(self) -> bytes | None:
        """The next piece of the body, None at its end. Waits at most ``idle_timeout_s``. Raises UpstreamFailure."""
        chunk = self._arrived()
        if chunk is None:
            await self.aclose()
        while chunk == b"":
            with trio.CancelScope() as scope:
                chunk = await self._next_within(scope)
            if chunk is None or scope.cancelled_caught:
                await self._end_of_wait(scope)
        return chunk

    async def _next_within(self, scope: trio.CancelScope) -> bytes | None:
        if self._closed:
            if self._complete:
                return None
            # Never a clean end: whoever counts what came must not take the part for the whole.
            raise UpstreamFailure("reset", "the answer was closed before its end")
        scope.deadline = min(trio.current_time() + self._idle_timeout_s, self._total_deadline)
        try:
            chunk = await anext(self._iterator, None)
        except _TRANSPORT_ERRORS as error:
            await self.aclose()
            raise _translated(error, waiting_for_headers=False) from None
        self._complete = chunk is None
        return chunk

    async def _end_of_wait(self, scope: trio.CancelScope) -> None:
        await self.aclose()
        if scope.cancelled_caught:
            raise _timed_out("idle_timeout", self._total_deadline)

    async def aclose(self) -> None:
        """Let go of the connection at once. Safe when cancelled (shielded, for at most two seconds) and twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if isinstance(self._stream, Exchange):  # nothing to wait for, so no scope, which would cost 11 µs
                self._stream.close()
            else:
                await self._close_stream()
        finally:
            if self._owner is not None:
                await self._owner.let_go()

    async def _close_stream(self) -> None:
        with trio.move_on_after(CLOSE_BOUND_S, shield=True), suppress(*_TRANSPORT_ERRORS):
            await self._stream.aclose()
            if isinstance(self._iterator, AsyncGenerator):
                await self._iterator.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class RequestBody(httpx.AsyncByteStream):
    """The body in one piece. ``httpx.ByteStream`` is a generator: cancelling a send would leave it to the finaliser."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._body)


class _Once:
    """An iterator over one piece of bytes."""

    __slots__ = ("_left",)

    def __init__(self, data: bytes) -> None:
        self._left = [data]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class _Chunks:
    """An iterator rather than an async generator: it may be dropped half-way without a finaliser running later."""

    __slots__ = ("_answer",)

    def __init__(self, answer: UpstreamAnswer) -> None:
        self._answer = answer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._answer.next_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk


def retry_after_s(milliseconds: str | None, value: str | None) -> float | None:
    """Seconds from ``retry-after-ms`` (OpenAI) or ``Retry-After`` (RFC 9110, 10.2.3); None when unusable."""
    if milliseconds is not None and re.fullmatch(r"\d{1,12}(\.\d+)?", milliseconds.strip()):
        return float(milliseconds) / 1_000
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter for numbers of twenty digits
        return None
    return max((when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def _url_of(text: str, endpoint: str) -> httpx.URL:
    url = httpx.URL(text)
    path, mark, query = url.raw_path.partition(b"?")
    return url.copy_with(raw_path=path.rstrip(b"/") + b"/" + endpoint.encode() + mark + query)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port, the latter None where it is the scheme's own (RFC 6454, section 4)."""
    return url.scheme, url.host, url.port


def _base_headers(config: ProviderConfig, url: httpx.URL) -> tuple[tuple[bytes, bytes], ...]:
    headers = [
        (b"host", url.netloc),
        (b"user-agent", f"arbstr/{arbstr.__version__}".encode()),
        (b"accept-encoding", b"identity"),
    ]
    if config.api_key is not None:
        headers.append((b"authorization", b"Bearer " + config.api_key.reveal().encode()))
    return tuple(headers)


def _headers_of(response: httpx.Response) -> dict[bytes, str]:
    """By name in lower case; several of one name joined by commas. Looking up in httpx's own costs a scan each time."""
    headers: dict[bytes, str] = {}
    for name, value in response.headers.raw:
        key, text = name.lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _length(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch(r"[0-9]{1,18}", value) else None


def _timed_out(kind: Literal["first_byte_timeout", "idle_timeout"], total_deadline: float) -> UpstreamFailure:
    if trio.current_time() >= total_deadline:
        return UpstreamFailure("total_timeout", "the provider did not finish within the total time")
    if kind == "first_byte_timeout":
        return UpstreamFailure(kind, "the provider did not begin to answer in time")
    return UpstreamFailure(kind, "the provider fell silent in the middle of its answer")


def _translated(error: Exception, *, waiting_for_headers: bool) -> UpstreamFailure:
    kind: FailureKind
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            kind, what = "connect_timeout", "no connection to the provider in time"
        case httpx.ConnectError() | httpx.ProxyError() | httpx.UnsupportedProtocol():
            kind, what = "connect", "no connection to the provider"
        case httpx.TimeoutException() if waiting_for_headers:
            kind, what = "first_byte_timeout", "the provider did not begin to answer in time"
        case httpx.TimeoutException():
            kind, what = "idle_timeout", "the provider fell silent in the middle of its answer"
        case httpx.LocalProtocolError():
            kind, what = "connect", "the request cannot be sent as HTTP, probably for the form of the key"
        case httpx.RemoteProtocolError():
            kind, what = "reset", "the provider broke off or did not speak HTTP"
        case _:
            kind, what = "reset", "the connection to the provider broke"
    return UpstreamFailure(kind, f"{what} ({type(error).__name__})")
