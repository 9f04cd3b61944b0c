"""What does one request look like from the caller's side? Raw HTTP/1.1 on pooled Trio connections.

No retry of any kind: a chat request that is sent twice is paid twice. An idle connection that the server has closed
meanwhile is found before anything is written to it.
"""

from __future__ import annotations

import json
import select
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import trio
from attrs import define, field, frozen

from bench.http1 import ProtocolError, ResponseReader
from bench.sse import StreamReader

RECEIVE_BYTES = 64 * 1024
IDLE_S = 4.0
"""An idle connection older than this is not used again: servers close theirs after 5 s or more."""

_WORDS = "the cheapest qualified answer and never a millisatoshi lost, invented or overspent; "
_FILLER = _WORDS * 4_096


class Refused(Exception):
    """Nobody accepts connections at the address."""


@frozen
class Target:
    """Where requests go and as whom."""

    host: str
    port: int
    model: str
    token: str | None = None
    path: str = "/v1/chat/completions"

    @classmethod
    def of(cls, url: str, model: str, token: str | None = None) -> Target:
        """From ``http://host:port`` or ``http://host:port/v1``. Raises ValueError for any other scheme."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"the address must look like http://HOST:PORT, got {url!r}")
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or 80, model, token, f"{prefix}/v1/chat/completions")


@frozen
class Ask:
    """One request to make. ``prompt_tokens`` become about four bytes each; ``completion_tokens`` is ``max_tokens``."""

    index: int
    prompt_tokens: int
    completion_tokens: int
    stream: bool
    label: str = ""


@frozen
class Outcome:
    """How one request went, as its client saw it. Times in seconds; None where nothing was seen.

    ``kind``: ok, http_error, stream_error (an error event), stream_cut (ended without ``[DONE]``), connection,
    protocol, timeout, unfinished (the overall bound ended it).
    """

    ask: Ask
    kind: str
    reason: str | None = None
    delay_s: float = 0.0
    total_s: float | None = None
    ttft_s: float | None = None
    status: int | None = None
    provider: str | None = None
    retries: str | None = None
    request_id: str | None = None
    cost_msat: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    events: int = 0

    @property
    def ok(self) -> bool:
        return self.kind == "ok"


def request_bytes(target: Target, ask: Ask) -> bytes:
    """The whole request, head and body."""
    body = _body(target.model, ask)
    head = [
        f"POST {target.path} HTTP/1.1",
        f"host: {target.host}:{target.port}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    if target.token is not None:
        head.append(f"authorization: Bearer {target.token}")
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def _body(model: str, ask: Ask) -> bytes:
    fields: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": filler(ask.index, ask.prompt_tokens * 4)}],
        "max_tokens": ask.completion_tokens,
        "stream": ask.stream,
    }
    if ask.stream:
        fields["stream_options"] = {"include_usage": True}
    return json.dumps(fields, separators=(",", ":")).encode()


def filler(index: int, size: int) -> str:
    """``size`` characters of text that differ by request."""
    text = f"{index} "
    while len(text) < size:
        text += _FILLER[: size - len(text)]
    return text[:size]


@define
class _Idle:
    stream: trio.SocketStream
    since: float


@define
class Client:
    """A pool of keep-alive connections to one target. It opens as many as there are requests at once and no more.

    Use it as an async context manager; leaving closes the idle connections, requests in flight keep theirs.
    """

    target: Target
    timeout_s: float = 120.0
    _idle: list[_Idle] = field(factory=list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True):
            while self._idle:
                await trio.aclose_forcefully(self._idle.pop().stream)

    async def request(self, ask: Ask, delay_s: float = 0.0) -> Outcome:
        """Make one request within ``timeout_s``. Failures are outcomes, not exceptions.

        Cancelled from outside, it closes its connection and reports nothing.
        """
        seen = _Seen(ask, delay_s, trio.current_time())
        with trio.move_on_after(self.timeout_s) as deadline:
            try:
                await self._exchange(ask, seen)
            except Refused as error:
                return seen.outcome("connection", f"refused: {error}")
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                return seen.outcome("connection", type(error).__name__)
            except ProtocolError as error:
                return seen.outcome("connection" if "closed" in str(error) else "protocol", str(error))
            except ValueError as error:
                return seen.outcome("protocol", str(error))
        return seen.outcome("timeout", None) if deadline.cancelled_caught else seen.judged()

    async def _exchange(self, ask: Ask, seen: _Seen) -> None:
        stream = await self._connection()
        try:
            await stream.send_all(request_bytes(self.target, ask))
            while not seen.reader.complete:
                data = await stream.receive_some(RECEIVE_BYTES)
                seen.take(bytes(data), trio.current_time())
        except BaseException:
            # A connection with half an answer on it is of no use to anyone.
            await trio.aclose_forcefully(stream)
            raise
        if seen.reader.reusable:
            self._idle.append(_Idle(stream, trio.current_time()))
        else:
            await trio.aclose_forcefully(stream)

    async def _connection(self) -> trio.SocketStream:
        now = trio.current_time()
        while self._idle:
            idle = self._idle.pop()
            if now - idle.since < IDLE_S and not _readable(idle.stream):
                return idle.stream
            await trio.aclose_forcefully(idle.stream)
        try:
            return await trio.open_tcp_stream(self.target.host, self.target.port)
        except OSError as error:
            raise Refused(str(error)) from None


def _readable(stream: trio.SocketStream) -> bool:
    """Whether an idle connection has something to read, which can only be its end."""
    poll = select.poll()
    poll.register(stream.socket.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


@define
class _Seen:
    """What has come of one answer so far."""

    ask: Ask
    delay_s: float
    started: float
    reader: ResponseReader = field(factory=ResponseReader)
    events: StreamReader | None = None
    body: bytearray = field(factory=bytearray)
    first: float | None = None
    last: float | None = None

    def take(self, data: bytes, now: float) -> None:
        """Read what came; empty bytes are the end of the connection."""
        self.last = now
        if data:
            self.reader.feed(data)
        else:
            self.reader.eof()
        if not self.reader.head_done:
            return
        if self.events is None and self.reader.headers.get("content-type", "").startswith("text/event-stream"):
            self.events = StreamReader()
        piece = self.reader.take_body()
        if self.events is None:
            self.body += piece
        else:
            self.events.feed(piece)
        if self.first is None and (self.events is None or self.events.events):
            self.first = now

    def judged(self) -> Outcome:
        """The outcome of a complete answer."""
        if self.reader.status != 200:
            return self.outcome("http_error", _reason(_object(self.body).get("error")))
        if self.events is None:
            if self.ask.stream:
                return self.outcome("protocol", "a stream was asked for and none came")
            return self.outcome("ok" if "choices" in _object(self.body) else "protocol", None)
        if self.events.error is not None:
            return self.outcome("stream_error", _reason(self.events.error))
        if self.events.malformed:
            return self.outcome("protocol", "an event is not JSON")
        return self.outcome("ok" if self.events.done else "stream_cut", None)

    def outcome(self, kind: str, reason: str | None) -> Outcome:
        headers = self.reader.headers
        usage = self._usage()
        return Outcome(
            ask=self.ask,
            kind=kind,
            reason=reason,
            delay_s=self.delay_s,
            total_s=None if self.last is None else self.last - self.started,
            ttft_s=None if self.first is None else self.first - self.started,
            status=self.reader.status or None,
            provider=headers.get("x-arbstr-provider"),
            retries=headers.get("x-arbstr-retries"),
            request_id=headers.get("x-arbstr-request-id"),
            cost_msat=self._cost_msat(usage),
            prompt_tokens=_whole(usage.get("prompt_tokens")),
            completion_tokens=_whole(usage.get("completion_tokens")),
            events=0 if self.events is None else self.events.events,
        )

    def _usage(self) -> Mapping[str, object]:
        found = self.events.usage if self.events is not None else _object(self.body).get("usage")
        return found if isinstance(found, Mapping) else {}

    def _cost_msat(self, usage: Mapping[str, object]) -> int | None:
        told = self.reader.headers.get("x-arbstr-cost-msat")
        if told is not None:
            return int(told) if told.isdigit() else None
        extra = usage.get("arbstr")
        # A cost whose settlement is pending is an announcement: it is not on disk yet, so nobody was told of a charge.
        if not isinstance(extra, Mapping) or extra.get("settlement") == "pending":
            return None
        return _whole(extra.get("cost_msat"))


def _object(body: bytes | bytearray) -> Mapping[str, object]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _reason(error: object) -> str | None:
    if not isinstance(error, Mapping):
        return None
    reason = error.get("reason") or error.get("code")
    return None if reason is None else str(reason)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
