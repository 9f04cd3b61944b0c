"""HTTP/1.1 as a client speaks it (RFC 9112), without any I/O: requests to bytes, bytes to a response.

Reading is llhttp's work, with its leniencies off; what it would let through and others would read differently is
refused here. Knows nothing of sockets, time or connections, except that it says whether one may be used again.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import httptools
import httpx

MAX_HEAD_BYTES: Final = 64 << 10
"""Of an answer's status line and headers, those of interim answers included; and of what frames a chunked body
(sizes, extensions, trailers) without any of the body between."""

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET: Final = re.compile(rb"[\x21-\x7e]+")
_NOT_IN_A_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_MEANINGFUL: Final = frozenset((b"host", b"connection", b"content-length", b"transfer-encoding"))
_OPENING: Final = b"HTTP/1."
_VERSIONS: Final = {"1.0": b"HTTP/1.0", "1.1": b"HTTP/1.1"}


class RequestWriter:
    """One request: ``head`` as bytes, and its body piece by piece as it goes over the wire.

    The body is framed as the headers say: by Content-Length or chunked; a request that says neither has none. Raises
    httpx.LocalProtocolError for what cannot be sent: here for the head, in ``piece`` and ``end`` for a body that is
    longer or shorter than announced. No message holds a value: values are keys.
    """

    __slots__ = ("_chunked", "_left", "head", "keep_alive")

    def __init__(self, method: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        known = [(lower, value) for name, value in headers if (lower := _lowered(name)) in _MEANINGFUL]
        hosts = sum([name == b"host" for name, _ in known])
        if hosts != 1:
            raise httpx.LocalProtocolError(f"the request has {hosts} Host headers; it needs one")
        self._chunked, self._left = _framing(known)
        self.keep_alive = not any(name == b"connection" and b"close" in value.lower() for name, value in known)
        self.head = _head(method, target, headers)

    @property
    def complete(self) -> bool:
        """All of the announced body was given; what follows can only be too much."""
        return not self._chunked and self._left == 0

    def piece(self, data: bytes) -> bytes:
        """``data`` framed."""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self._left -= len(data)
        if self._left < 0:
            raise httpx.LocalProtocolError("the request's body is longer than its headers announce")
        return data

    def end(self) -> bytes:
        """What goes behind the last piece."""
        if self._chunked:
            return b"0\r\n\r\n"
        if self._left:
            raise httpx.LocalProtocolError("the request's body is shorter than its headers announce")
        return b""


def _framing(headers: list[tuple[bytes, bytes]]) -> tuple[bool, int]:
    """Whether the body is chunked, and its length if not."""
    found = [header for header in headers if header[0] in (b"content-length", b"transfer-encoding")]
    if not found:
        return False, 0
    [(name, value), *more] = found
    if more:
        raise httpx.LocalProtocolError("the request says more than once how long its body is")
    if name == b"transfer-encoding":
        if value.lower() != b"chunked":
            raise httpx.LocalProtocolError("the request's Transfer-Encoding is not just chunked")
        return True, 0
    if not _LENGTH.fullmatch(value):
        raise httpx.LocalProtocolError("the request's Content-Length is not a number")
    return False, int(value)


def _head(method: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    if not method.isascii() or not _TOKEN.fullmatch(method.encode()) or method == "CONNECT":
        raise httpx.LocalProtocolError("the request's method cannot be sent")
    if not _TARGET.fullmatch(target):
        raise httpx.LocalProtocolError("the request's target has a character that must be escaped")
    # One search over all values: none can hide in the seam of two, since only single characters are looked for.
    if _NOT_IN_A_VALUE.search(b"".join([value for _, value in headers])):
        raise httpx.LocalProtocolError("a header value of the request has a control character")
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), target, b"".join(lines))


@lru_cache(maxsize=256)  # the same dozen names with each request
def _lowered(name: bytes) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise httpx.LocalProtocolError("a header name of the request has a character that names cannot have")
    return name.lower()


class ResponseReader:
    """One answer, fed in any split. Never raises: ``error`` says what was wrong, in words.

    ``status``, ``headers`` and ``http_version`` hold from ``head_done`` on; interim answers (1xx) are skipped. What
    came of the body before an error can still be taken. Bytes behind the end of the answer are dropped, and then
    ``reusable`` is false: what they belong to is unknown.
    """

    __slots__ = (
        "_framing_bytes",
        "_head_request",
        "_keep_alive",
        "_opening",
        "_parser",
        "_pieces",
        "_until_close",
        "complete",
        "error",
        "head_done",
        "headers",
        "http_version",
        "reusable",
        "status",
    )

    def __init__(self, *, head_request: bool = False) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.http_version = b""
        self.head_done = False
        self.complete = False
        self.reusable = False
        """The answer is complete and its connection as if nothing had been said on it: a request may follow."""
        self.error: str | None = None
        self._head_request = head_request
        self._opening = b""
        self._framing_bytes = 0
        self._until_close = True
        self._keep_alive = False
        self._pieces: list[bytes] = []
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take the next bytes; no bytes: the peer has closed its side."""
        if self._parser is None:
            self.reusable = False
        elif not data:
            self._end_of_input()
        elif len(self._opening) == len(_OPENING) or self._opens_well(data):
            self._parse(self._parser, data)
        if self.complete or self.error is not None:
            self._parser = None  # the two refer to each other, and the collector should not have to find out

    def take(self) -> bytes:
        """What has come of the body since the last call, in one piece."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    def _parse(self, parser: httptools.HttpResponseParser, data: bytes) -> None:
        self._framing_bytes += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.reusable = False  # something follows the answer
            if not self.complete and self.error is None:
                self.error = f"the answer is not HTTP/1.1: {error}"
            return
        if self._framing_bytes > MAX_HEAD_BYTES and not self.complete:
            part = "the framing of its body is" if self.head_done else "its head is"
            self.error = f"the answer is refused: {part} over {MAX_HEAD_BYTES} bytes"

    def _opens_well(self, data: bytes) -> bool:
        """llhttp takes RTSP for an answer too, and skips empty lines."""
        self._opening += data[: len(_OPENING) - len(self._opening)]
        if not _OPENING.startswith(self._opening):
            self.error = "the answer is not HTTP/1.1: it begins otherwise"
        return self.error is None

    def _end_of_input(self) -> None:
        if not self._opening:
            self.error = "the connection was closed without an answer"
        elif self.head_done and self._until_close:
            self.complete = True
        else:
            self.error = "the connection was closed before the end of the answer"

    # Called by llhttp. An exception stops it; unless the answer was complete already, ``error`` then says why.

    def on_message_begin(self) -> None:
        if self.complete:
            raise _Stop

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_done:  # else it is a trailer, which nobody asked for
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self.http_version = _VERSIONS.get(self._parser.get_http_version(), b"")
        fault = self._fault_of_head()
        if fault is not None:
            self.error = f"the answer is refused: {fault}"
            raise _Stop
        if self.status < 200:
            self.headers = []
            return
        self.head_done = True
        self._framing_bytes = 0
        self._keep_alive = self.http_version == b"HTTP/1.1" and self._parser.should_keep_alive()
        if self._head_request:  # llhttp cannot be told that no body follows, so where the answer ends is not exact:
            self.complete = True  # it is not reusable
            raise _Stop

    def on_body(self, data: bytes) -> None:
        self._framing_bytes = 0
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        self.complete = self.head_done
        self.reusable = self.head_done and self._keep_alive

    def _fault_of_head(self) -> str | None:
        """What is wrong with it, beside what llhttp refuses by itself; two framings, for example, it has refused."""
        encodings: list[bytes] = []
        for name, value in self.headers:
            match name.lower():
                case b"content-length":
                    self._until_close = False
                case b"transfer-encoding":
                    self._until_close = False
                    encodings.append(value.lower())
        if not self.http_version:
            return "it is of another version of HTTP"
        if encodings and encodings != [b"chunked"]:
            return "its Transfer-Encoding is not just chunked"
        if encodings and self.http_version != b"HTTP/1.1":
            return "it is chunked, which its version of HTTP does not know"
        if self.status < 100 or self.status == 101:
            return f"nobody asked for the status {self.status}"
        if self.status < 200 and not self._until_close:
            return "it is an interim answer with a body"
        if self._framing_bytes > MAX_HEAD_BYTES and _size(self.headers) > MAX_HEAD_BYTES:
            return f"its head is over {MAX_HEAD_BYTES} bytes"
        return None


class _Stop(Exception):
    """Ends the parser's work."""


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    return sum([len(name) + len(value) + len(b": \r\n") for name, value in headers])
