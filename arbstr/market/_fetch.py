"""GET one JSON document from a host that may be slow, silent, huge or lying. Bounded in time and size.

Speaks to an httpx transport directly: no redirects, no cookies, no proxy from the environment. What a failure says
never contains text from a foreign exception, a URL or a key: it is shown to whoever may see ``/providers``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import httpx
import trio

import arbstr
from arbstr.secrets import Secret

CLOSE_BOUND_S: Final = 2.0
"""Closing is local work; whoever needs longer is not waited for."""
MAX_INTEGER_DIGITS: Final = 40
"""No integer of use is longer; Python's own limit would refuse the whole document."""

_TRANSPORT_ERRORS: Final = (httpx.TransportError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class FetchFailed(Exception):
    """No usable answer. The text is a sentence for the operator, without address and key."""


async def get_json(
    transport: httpx.AsyncBaseTransport,
    url: str,
    *,
    timeout_s: float,
    max_bytes: int,
    bearer: Secret | None = None,
    query: Mapping[str, str] | None = None,
) -> Any:
    """The document at ``url``: numbers with a point or exponent as Decimal, and those that are none as Decimal NaN.

    Takes at most ``timeout_s`` seconds (and CLOSE_BOUND_S to let go of the connection). Raises FetchFailed. When
    cancelled, the connection is closed and nothing is left behind.
    """
    request = _request(url, timeout_s, bearer, query)
    with trio.move_on_after(timeout_s):
        return decode(await _read(transport, request, max_bytes))
    raise FetchFailed(f"no complete answer within {timeout_s:g} s")


def decode(body: bytes) -> Any:
    """A JSON document as above. Raises FetchFailed."""
    try:
        return json.loads(
            body.decode("utf-8-sig"), parse_float=_decimal, parse_int=_integer, parse_constant=lambda _: Decimal("NaN")
        )
    except (ValueError, RecursionError) as error:
        raise FetchFailed(f"the answer is not JSON ({type(error).__name__})") from None


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond what decimal knows
        return Decimal("NaN")


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) <= MAX_INTEGER_DIGITS else Decimal("NaN")


def _request(url: str, timeout_s: float, bearer: Secret | None, query: Mapping[str, str] | None) -> httpx.Request:
    headers = {
        "accept": "application/json",
        "accept-encoding": "identity",  # a bound on bytes is none when they are unpacked afterwards
        "user-agent": f"arbstr/{arbstr.__version__}",
    }
    if bearer is not None:
        headers["authorization"] = f"Bearer {bearer.reveal()}"
    timeouts = {"connect": timeout_s, "pool": timeout_s, "read": timeout_s, "write": timeout_s}
    try:
        return httpx.Request("GET", url, params=query, headers=headers, extensions={"timeout": timeouts})
    except (httpx.InvalidURL, ValueError):
        raise FetchFailed("the address is not a URL") from None


async def _read(transport: httpx.AsyncBaseTransport, request: httpx.Request, max_bytes: int) -> bytes:
    try:
        response = await transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        chunks = aiter(response.stream)
        try:
            _refuse_unusable(response)
            return await _collect(chunks, max_bytes)
        finally:
            with trio.move_on_after(CLOSE_BOUND_S, shield=True), suppress(*_TRANSPORT_ERRORS):
                await response.stream.aclose()
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
    except _TRANSPORT_ERRORS as error:
        raise FetchFailed(f"cannot be reached, or broke off ({type(error).__name__})") from None


def _refuse_unusable(response: httpx.Response) -> None:
    if not 200 <= response.status_code < 300:
        raise FetchFailed(f"answered with status {response.status_code}")
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise FetchFailed("answered in a content encoding although identity was asked for")


async def _collect(chunks: Any, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise FetchFailed(f"the answer is larger than {max_bytes:,} bytes")
        parts.append(chunk)
    return b"".join(parts)
