"""What did the peer say? Sans-io HTTP/1.1 readers for the bench's client and its upstream: bytes in, message out.

They know what a bench meets on loopback (Content-Length, chunked, until close) and refuse everything else loudly.
"""

from __future__ import annotations

import re

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024

_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: [^\r\n]*)?")
_REQUEST = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]")


class ProtocolError(Exception):
    """The peer did not speak HTTP/1.1, or broke off."""


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise ProtocolError(f"not a header line: {line[:80]!r}")
        headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
    return headers


def _length(text: str, base: int = 10) -> int:
    digits = text.strip()
    if not re.fullmatch("[0-9a-fA-F]+" if base == 16 else "[0-9]+", digits):
        raise ProtocolError(f"not a length: {text[:40]!r}")
    value = int(digits, base)
    if value > MAX_BODY_BYTES:
        raise ProtocolError(f"a body of {value} bytes is over the bound of {MAX_BODY_BYTES}")
    return value


class _Reader:
    """Head first, then a body of one of three framings. Subclasses read the first line and choose the framing."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.head_done = False
        self.complete = False
        self._buffer = bytearray()
        self._body = bytearray()
        self._taken = 0
        self._state = "head"
        self._left = 0

    def feed(self, data: bytes) -> None:
        """Take bytes as they came, in any split. Raises ProtocolError; also for bytes after the end."""
        self._buffer += data
        while self._buffer and self._step():
            pass
        if self.complete and self._buffer:
            raise ProtocolError(f"{len(self._buffer)} bytes after the end of the message")

    def take_body(self) -> bytes:
        """The body bytes that arrived since the last call."""
        body = bytes(self._body)
        self._taken += len(body)
        self._body.clear()
        return body

    def _step(self) -> bool:
        if self._state == "head":
            return self._read_head()
        if self._state in ("length", "chunk", "close"):
            return self._read_data()
        if self._state in ("size", "chunk_end", "trailers"):
            return self._read_line()
        return False

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise ProtocolError(f"no end of the head within {MAX_HEAD_BYTES} bytes")
            return False
        first, *rest = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        self.headers = _headers(rest)
        self._on_head(first)
        return True

    def _on_head(self, first: bytes) -> None:
        raise NotImplementedError

    def _frame(self, otherwise: str) -> None:
        """Choose how the body ends; ``otherwise`` is for a head that does not say."""
        self.head_done = True
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._state = "size"
        elif "content-length" in self.headers:
            self._expect(_length(self.headers["content-length"]), "length")
        else:
            self._state = otherwise
            self.complete = otherwise == "done"

    def _expect(self, size: int, state: str) -> None:
        self._left, self._state = size, state
        if size == 0:
            self._end_of_data()

    def _read_data(self) -> bool:
        taken = len(self._buffer) if self._state == "close" else min(self._left, len(self._buffer))
        self._body += self._buffer[:taken]
        del self._buffer[:taken]
        if self._taken + len(self._body) > MAX_BODY_BYTES:
            raise ProtocolError(f"the body is over the bound of {MAX_BODY_BYTES} bytes")
        if self._state != "close":
            self._left -= taken
            if self._left == 0:
                self._end_of_data()
        return True

    def _end_of_data(self) -> None:
        self._state = "chunk_end" if self._state == "chunk" else "done"
        self.complete = self._state == "done"

    def _read_line(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > 4_096:
                raise ProtocolError("a line of the chunked body is over 4096 bytes")
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        if self._state == "size":
            size = _length(line.partition(b";")[0].decode("latin-1"), 16)
            self._left, self._state = size, "chunk" if size else "trailers"
        elif self._state == "chunk_end":
            if line:
                raise ProtocolError(f"a chunk is longer than it said: {line[:40]!r}")
            self._state = "size"
        elif not line:
            self._state, self.complete = "done", True
        return True


class ResponseReader(_Reader):
    """One answer to one request. ``status`` is 0 until the head is there; interim 1xx answers are skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 0
        self._old = False

    def _on_head(self, first: bytes) -> None:
        match = _STATUS.fullmatch(first)
        if match is None:
            raise ProtocolError(f"not a status line: {first[:80]!r}")
        status = int(match[2])
        if 100 <= status < 200:
            return
        self.status, self._old = status, match[1] == b"0"
        if status in (204, 304):
            self.head_done, self._state, self.complete = True, "done", True
        else:
            self._frame("close")

    def eof(self) -> None:
        """The peer closed its side: the end of a body that is framed by that, an error otherwise."""
        if self._state == "close":
            self._state, self.complete = "done", True
        elif not self.complete:
            raise ProtocolError("closed within the body" if self.head_done else "closed before an answer")

    @property
    def reusable(self) -> bool:
        """Whether the next request may go over the same connection."""
        framed = "content-length" in self.headers or "transfer-encoding" in self.headers
        return self.complete and framed and not self._old and self.headers.get("connection", "").lower() != "close"


class RequestReader(_Reader):
    """One request with its body. Make a new one per request; pipelining is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.method = ""
        self.target = ""

    def _on_head(self, first: bytes) -> None:
        match = _REQUEST.fullmatch(first)
        if match is None:
            raise ProtocolError(f"not a request line: {first[:80]!r}")
        self.method, self.target = match[1].decode(), match[2].decode("latin-1")
        self._frame("done")
