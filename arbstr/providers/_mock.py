"""A provider inside the process: an httpx transport that answers like an OpenAI-compatible server, faults included.

It is configured by its URL, so that any configuration can hold one:

    mock://<name>?ttft_ms=50&tokens_per_s=200&fail=0.05&status=503&cut=0.05&hang=0.01&seed=1

``ttft_ms`` milliseconds before the answer begins; ``tokens_per_s`` completion tokens per second after that, 0 for all
at once; ``fail``, ``cut`` and ``hang`` are probabilities (0 to 1) of an error answer with ``status``, of a connection
that breaks in the middle of the body, and of headers that never come; ``seed`` lets providers draw differently. The
n-th request draws the same faults in every run.

It answers chat completions, text completions, embeddings and ``GET /models``. How long a completion is, the caller
says: ``max_tokens`` (or ``max_completion_tokens``) tokens exactly, up to 4096, and 48 without it. Nothing here opens a
socket.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from hashlib import blake2b
from math import inf
from typing import Any, Final, Self

import httpx
import trio
from attrs import field, frozen

from arbstr.providers._mock_answer import (
    MockCall,
    MockFrames,
    Refused,
    answer_to,
    dump,
    embeddings_body,
    error_body,
    parse_call,
    parse_completion,
)

_TOKENS_PER_WRITE: Final = 512
"""Of an unpaced stream: about 100 kB, so that a long answer neither needs many writes nor is built whole."""

_EARLY: Final = 1e-6
"""Seconds by which a token may be early: sums of floats must not cost a wake-up each."""


@frozen
class MockProfile:
    """How one mock provider behaves. Raises ValueError when a value makes no sense."""

    name: str
    ttft_s: float = field(default=0.0)
    tokens_per_s: float = field(default=0.0)
    """0: all at once."""
    fail: float = field(default=0.0)
    cut: float = field(default=0.0)
    hang: float = field(default=0.0)
    status: int = field(default=503)
    seed: int = field(default=0)

    @ttft_s.validator
    @tokens_per_s.validator
    def _check_finite(self, attribute: object, value: float) -> None:
        if not 0 <= value < inf:
            raise ValueError(f"mock provider {self.name!r}: ttft_ms and tokens_per_s must be finite and not negative")

    @fail.validator
    @cut.validator
    @hang.validator
    def _check_probability(self, attribute: object, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"mock provider {self.name!r}: fail, cut and hang are probabilities, 0 to 1, not {value}")

    @status.validator
    def _check_status(self, attribute: object, value: int) -> None:
        if not 400 <= value <= 599:
            raise ValueError(f"mock provider {self.name!r}: status must be an error status, 400 to 599, not {value}")

    @classmethod
    def from_url(cls, url: str) -> MockProfile:
        """Read ``mock://<name>?…``. Raises ValueError for an unknown parameter and an impossible value."""
        parsed = httpx.URL(url)
        if parsed.scheme != "mock":
            raise ValueError(f"the URL of a mock provider begins with mock:, not {url!r}")
        given: dict[str, Any] = {}
        for key, text in parsed.params.multi_items():
            if key not in _PARAMETERS:
                raise ValueError(f"mock URL {url!r}: unknown parameter {key!r}; known are {', '.join(_PARAMETERS)}")
            member, read = _PARAMETERS[key]
            try:
                given[member] = read(text)
            except ValueError:
                raise ValueError(f"mock URL {url!r}: {key} must be a number, not {text!r}") from None
        return cls(name=parsed.host or "mock", **given)


_PARAMETERS: Final[dict[str, tuple[str, Callable[[str], float]]]] = {
    "ttft_ms": ("ttft_s", lambda text: float(text) / 1_000),
    "tokens_per_s": ("tokens_per_s", float),
    "fail": ("fail", float),
    "cut": ("cut", float),
    "hang": ("hang", float),
    "status": ("status", int),
    "seed": ("seed", int),
}


@frozen
class _Faults:
    """What is to go wrong with one request, the ``number`` th of its provider."""

    number: int
    fail: bool = False
    hang: bool = False
    cut: httpx.TransportError | None = None

    @classmethod
    def draw(cls, profile: MockProfile, number: int) -> _Faults:
        if not (profile.fail or profile.cut or profile.hang):
            return cls(number)
        # A digest instead of a generator: no state, so requests that overlap cannot change each other's luck.
        digest = blake2b(f"{profile.seed}/{profile.name}/{number}".encode(), digest_size=25).digest()
        fail, cut, hang = (int.from_bytes(digest[at : at + 8], "big") / 2**64 for at in (0, 8, 16))
        broken = _broken(digest[24]) if cut < profile.cut else None
        return cls(number, fail < profile.fail, hang < profile.hang, broken)


def _broken(die: int) -> httpx.TransportError:
    """Both ways in which a client meets a connection that was cut."""
    if die % 2:
        return httpx.RemoteProtocolError("mock: peer closed connection without sending complete message body")
    return httpx.ReadError("mock: connection reset by peer")


class MockTransport(httpx.AsyncBaseTransport):
    """One mock provider. ``models`` are the ones it serves; none means any.

    ``wall`` gives the Unix time for ``created``. Waits by the Trio clock, so a virtual clock rules it.
    """

    def __init__(self, url: str, *, models: Sequence[str] = (), wall: Callable[[], float] = time.time) -> None:
        self._profile = MockProfile.from_url(url)
        self._models = tuple(models)
        self._wall = wall
        self.requests = 0
        """Requests to a model so far, including those that failed or were cancelled."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer ``POST …/{chat/completions,completions,embeddings}`` and ``GET …/models``; else 404 or 405."""
        await trio.lowlevel.checkpoint()
        rest, _, last = request.url.path.rpartition("/")
        try:
            match request.method, last:
                case ("POST", "completions"):
                    parse = parse_call if rest.endswith("/chat") else parse_completion
                    return await self._post(await request.aread(), partial(self._complete, parse))
                case ("POST", "embeddings"):
                    return await self._post(await request.aread(), self._embed)
                case ("GET", "models"):
                    return _whole(200, self._list_of_models())
                case (_, "completions" | "embeddings" | "models"):
                    raise Refused(405, f"Not allowed method for {request.url.path}")
            raise Refused(404, f"Invalid URL ({request.method} {request.url.path})")
        except Refused as refused:
            return _whole(refused.status, refused.body)

    async def _post(
        self, body: bytes, answer: Callable[[bytes, float, _Faults], Awaitable[httpx.Response]]
    ) -> httpx.Response:
        """What all requests to a model have in common: the wait, and what may go wrong before the answer."""
        profile, began_at = self._profile, trio.current_time() + self._profile.ttft_s
        self.requests += 1
        faults = _Faults.draw(profile, self.requests)
        if faults.hang:
            await trio.sleep_forever()
        if profile.ttft_s:
            await trio.sleep_until(began_at)
        if faults.fail:
            return _failure(profile.status)
        return await answer(body, began_at, faults)

    async def _embed(self, body: bytes, began_at: float, faults: _Faults) -> httpx.Response:
        return _whole(200, embeddings_body(body, self._models), faults.cut)

    async def _complete(
        self, parse: Callable[[bytes, Sequence[str]], MockCall], body: bytes, began_at: float, faults: _Faults
    ) -> httpx.Response:
        profile, call = self._profile, parse(body, self._models)
        kind = "cmpl" if call.as_text else "chatcmpl"
        answer = answer_to(
            call,
            provider=profile.name,
            id=f"{kind}-{profile.name}-{profile.seed}-{faults.number}",
            created=int(self._wall()),
        )
        if call.stream:
            frames = answer.frames(call.include_usage)
            return httpx.Response(
                200,
                headers=[(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")],
                stream=_EventStream(frames, profile.tokens_per_s, began_at, faults.cut),
            )
        if profile.tokens_per_s:
            await trio.sleep_until(began_at + len(answer.deltas) / profile.tokens_per_s)
        return _whole(200, answer.body(), faults.cut)

    def _list_of_models(self) -> bytes:
        owner = f"mock-{self._profile.name}"
        data = [{"id": model, "object": "model", "created": 0, "owned_by": owner} for model in self._models]
        return dump({"object": "list", "data": data})


class _EventStream(httpx.AsyncByteStream):
    """The events of one answer at their time; those that are due together come as one piece of bytes.

    An iterator rather than a generator: dropping it half-way leaves nothing to finalise, and a cancelled wait can be
    repeated.
    """

    def __init__(
        self, frames: MockFrames, tokens_per_s: float, began_at: float, cut: httpx.TransportError | None
    ) -> None:
        self._frames = frames
        self._tokens_per_s = tokens_per_s
        self._began_at = began_at
        self._cut = cut
        self._last = len(frames.deltas) if cut is None else len(frames.deltas) // 2
        self._sent = 0
        self._head: bytes = frames.head
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        end = await self._due()
        piece = self._head + self._frames.tokens(self._sent, end)
        self._head, self._sent = b"", end
        if end == self._last:
            if self._cut is None:
                self._ended = True
                return piece + self._frames.tail
            if not piece:
                self._ended = True
                raise self._cut
        return piece

    async def aclose(self) -> None:
        self._ended = True

    async def _due(self) -> int:
        """Wait until there is something to send; the number of tokens that should be out by then."""
        if not self._tokens_per_s:
            await trio.lowlevel.checkpoint()
            return min(self._sent + _TOKENS_PER_WRITE, self._last)
        if self._sent < self._last:
            await trio.sleep_until(self._began_at + self._sent / self._tokens_per_s)
        else:
            await trio.lowlevel.checkpoint()
        elapsed_s = trio.current_time() - self._began_at + _EARLY
        return min(max(int(elapsed_s * self._tokens_per_s), self._sent) + 1, self._last)


class _TornBody(httpx.AsyncByteStream):
    """Half of a body, then the connection breaks."""

    def __init__(self, body: bytes, cut: httpx.TransportError) -> None:
        self._half: bytes = body[: len(body) // 2]
        self._cut = cut

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._half:
            raise self._cut
        half, self._half = self._half, b""
        return half


def _whole(status: int, body: bytes, cut: httpx.TransportError | None = None) -> httpx.Response:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    stream = httpx.ByteStream(body) if cut is None else _TornBody(body, cut)
    return httpx.Response(status, headers=headers, stream=stream)


def _failure(status: int) -> httpx.Response:
    response = _whole(status, error_body(status, "This mock provider was told to fail.", code="mock_failure"))
    if status in (429, 503):
        response.headers["retry-after"] = "1"
    return response
