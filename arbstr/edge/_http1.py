"""HTTP/1.1 of a server, both directions, as pure state: bytes in, requests out; ASGI messages in, bytes out.

No sockets and no clock but the one of the ``date`` header. Sources: RFC 9110 and 9112; ASGI 3.0, "HTTP & WebSocket".

Reading is stricter than the RFC asks for, because whatever two parsers read differently can smuggle a request past one
of them. A head must match one expression over its raw bytes *and* be accepted by llhttp, which then takes it apart:
llhttp as httptools builds it allows a bare LF, and h11 allows folded lines and control characters. Where a message ends
is counted here, for httptools does not say at which byte one ended. Refused although h11 takes it, next to what both
refuse: line ends other than CRLF, folded lines, control characters, ``Content-Length`` repeated or as a list, with
``Transfer-Encoding`` or beside it in HTTP/1.0, chunk extensions, and methods that llhttp does not know.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, NoReturn

import httptools
from attrs import define

from arbstr.errors import InvalidRequest

HeaderList = list[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_FIELD = _TOKEN + rb":[^\x00-\x08\x0a-\x1f\x7f]*+\r\n"
_FIELDS = re.compile(rb"(?:%b)*+" % _FIELD)
_HEAD = re.compile(rb"%b [\x21-\x7e]++ HTTP/1\.[01]\r\n(?:%b)*+\r\n" % (_TOKEN, _FIELD))
_BEGINNING = re.compile(rb"%b(?: |\Z)" % _TOKEN)
_REQUEST_LINE = re.compile(rb"%b [\x21-\x7e]++ HTTP/1\.[01]" % _TOKEN)
_MISPLACED = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_CHUNK_SIZE_BEGUN = re.compile(rb"[0-9A-Fa-f]{0,16}|[0-9A-Fa-f]{1,16}\r")

_TALKS_OF_THE_MESSAGE = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"))


@define
class Request:
    """The head of a request. Names of headers are lower case, values without the blanks around them."""

    method: str
    target: bytes
    http_version: str
    """``1.1`` or ``1.0``."""
    headers: HeaderList
    keep_alive: bool
    """The client does not mind a further request on this connection; never with HTTP/1.0."""
    expects_continue: bool
    """It waits for ``100 Continue`` before it sends the body."""


class RequestReader:
    """What a client sends on one connection: ``feed`` it, then ask for the next request, then for its body.

    ``max_head_bytes`` bounds request line and headers together, and so do the trailers of a chunked body;
    ``max_headers`` their number. Everything raises ``InvalidRequest`` with the HTTP status to refuse with; after that
    the connection is of no further use.
    """

    def __init__(self, max_head_bytes: int, max_headers: int) -> None:
        self.body_done = True
        """The body of the latest request has been taken to its end; the next request may be asked for."""
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self._data = b""
        self._searched = 0
        self._left = 0
        self._chunks: _Chunks | None = None

    @property
    def waiting(self) -> int:
        """Bytes that were fed and not yet taken."""
        return len(self._data)

    def feed(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data

    # The head

    def next_request(self) -> Request | None:
        """The next head; None while it is not complete. Not before the body of the request before is done."""
        assert self.body_done
        data = self._data
        end = data.find(b"\r\n\r\n", self._searched) + 4
        if end < 4 or end > self._max_head_bytes:
            self._check_unfinished(data)
            return None
        self._data = data[end:]
        self._searched = 0
        request, length = read_head(data[:end], self._max_headers)
        self.body_done = length == 0
        self._left, self._chunks = (0, _Chunks(self._max_head_bytes)) if length is None else (length, None)
        return request

    def _check_unfinished(self, data: bytes) -> None:
        """Refuse early what cannot become a request: TLS, a blank line in front, line ends that are none."""
        if len(data) > self._max_head_bytes:
            raise InvalidRequest(f"the request headers are larger than {self._max_head_bytes} bytes", status=431)
        if data and not _BEGINNING.match(data):
            raise _refused("it does not begin with a method")
        if _MISPLACED.search(data, max(0, self._searched - 1)):
            raise _refused("there is a control character, or a line that does not end in CR LF, in its headers")
        self._searched = max(0, len(data) - 3)

    # The body

    def next_part(self) -> bytes:
        """What has come of the body, without its framing; empty when ``body_done`` or when more must be fed first."""
        data = self._data
        if self._chunks is not None:
            part, used = self._chunks.take(data)
            self.body_done = self._chunks.done
            self._data = data[used:]
            return part
        if len(data) <= self._left:
            part, self._data = data, b""
        else:
            part, self._data = data[: self._left], data[self._left :]
        self._left -= len(part)
        self.body_done = self._left == 0
        return part

    def discard(self) -> None:
        """Throw away what has come of the body."""
        while not self.body_done and self.next_part():
            pass


class _Chunks:
    """A chunked body (RFC 9112, 7.1). Extensions are refused, trailers are checked and thrown away."""

    def __init__(self, max_trailer_bytes: int) -> None:
        self.done = False
        self._max_trailer_bytes = max_trailer_bytes
        self._left = 0
        self._line_end_due = False
        self._in_trailers = False

    def take(self, data: bytes) -> tuple[bytes, int]:
        """The decoded bytes, and how many of ``data`` have been used; the others are to be brought again."""
        parts = []
        at, size = 0, len(data)
        while at < size and not self.done:
            if self._left:
                part = data[at : at + self._left]
                parts.append(part)
                self._left -= len(part)
                at += len(part)
                continue
            used = self._take_framing(data, at)
            if not used:
                break
            at += used
        return parts[0] if len(parts) == 1 else b"".join(parts), at

    def _take_framing(self, data: bytes, at: int) -> int:
        """How many bytes stand between data and data; 0 when more must come first."""
        if self._in_trailers:
            return self._take_trailers(data, at)
        if self._line_end_due:
            end = data[at : at + 2]
            if end not in (b"\r", b"\r\n"):
                raise _refused("a chunk of its body is longer than it says")
            self._line_end_due = len(end) < 2
            return 0 if self._line_end_due else 2
        line = _CHUNK_SIZE.match(data, at)
        if line is None:
            if not _CHUNK_SIZE_BEGUN.fullmatch(data, at):
                raise _refused("the size of a chunk of its body is no hexadecimal number alone on its line")
            return 0
        self._left = int(line[1], 16)
        self._line_end_due = self._left > 0
        self._in_trailers = self._left == 0
        return line.end() - at

    def _take_trailers(self, data: bytes, at: int) -> int:
        block = data[at:]
        if block[:2] == b"\r\n":
            self.done = True
            return 2
        end = block.find(b"\r\n\r\n") + 2
        if len(block if end < 2 else block[:end]) > self._max_trailer_bytes:
            raise InvalidRequest(f"the trailers are larger than {self._max_trailer_bytes} bytes", status=431)
        if _MISPLACED.search(block if end < 2 else block[:end]) or (end >= 2 and not _are_trailers(block[:end])):
            raise _refused("there is a line in its trailers that may not stand there")
        self.done = end >= 2
        return end + 2 if self.done else 0


def _are_trailers(block: bytes) -> bool:
    """Headers, and none that would say how the message is to be read (RFC 9110, 6.5.1)."""
    names = {line.partition(b":")[0].lower() for line in block.split(b"\r\n")}
    return _FIELDS.fullmatch(block) is not None and names.isdisjoint(_TALKS_OF_THE_MESSAGE)


class _Head:
    """What llhttp tells of a head."""

    __slots__ = ("complete", "headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: HeaderList = []
        self.complete = 0

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete += 1


def read_head(data: bytes, max_headers: int) -> tuple[Request, int | None]:
    """Take one head apart, from the first byte to the blank line; with the length of the body, None: in chunks.

    Raises ``InvalidRequest``.
    """
    if _HEAD.fullmatch(data) is None:
        raise _refused(_what_is_wrong(data))
    head = _Head()
    parser = httptools.HttpRequestParser(head)
    failure: Exception | None = None
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade may be ignored (RFC 9110, 7.8), and is
    except httptools.HttpParserError as error:
        failure = error
    # Where llhttp stops it has not told of all headers, and one of the others may be the better reason.
    headers = head.headers if failure is None else _split(data)
    if len(headers) > max_headers:
        raise InvalidRequest(f"the request has more than {max_headers} headers", status=431)
    old = data[data.index(b"\r") - 1] == 0x30
    found = _find_framing(headers)
    length = _length_of_body(found, old)
    if length is None:
        headers = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers]
    if failure is not None or head.complete != 1:
        _raise_refusal(failure)
    connection = found.get(b"connection")
    expect = found.get(b"expect")
    return (
        Request(
            method=parser.get_method().decode("ascii"),
            target=head.target,
            http_version="1.0" if old else "1.1",
            headers=headers,
            keep_alive=not old and (connection is None or not _lists(connection, b"close")),
            expects_continue=not old and expect is not None and _lists(expect, b"100-continue"),
        ),
        length,
    )


def _split(head: bytes) -> HeaderList:
    """The headers of a head that has the right form."""
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:-2]]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in lines]


def _find_framing(headers: HeaderList) -> dict[bytes, bytes]:
    """The headers that say how the message is to be read. Those that may stand there once do."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _TALKS_OF_THE_MESSAGE:
            if name not in found:
                found[name] = value
            elif name in (b"connection", b"expect"):
                found[name] += b"," + value
            elif name == b"transfer-encoding":
                raise InvalidRequest("only one Transfer-Encoding is understood: chunked", status=501)
            else:
                raise _refused(f"it has more than one header {name.decode()}")
    return found


def _length_of_body(found: dict[bytes, bytes], old: bool) -> int | None:
    """RFC 9112, 6.3, without what may be understood in two ways."""
    if b"host" not in found and not old:
        raise _refused("it has no header host")
    coding, length = found.get(b"transfer-encoding"), found.get(b"content-length")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise InvalidRequest("only one Transfer-Encoding is understood: chunked", status=501)
        if length is not None or old:
            raise _refused("Transfer-Encoding is not possible in HTTP/1.0, nor together with Content-Length")
        return None
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise _refused("its Content-Length is no number of at most 18 digits")
    return int(length)


def _lists(value: bytes, word: bytes) -> bool:
    return value.lower() == word or word in [item.strip(b" \t") for item in value.lower().split(b",")]


def _raise_refusal(failure: Exception | None) -> NoReturn:
    if isinstance(failure, httptools.HttpParserInvalidMethodError):
        raise InvalidRequest("the request has a method that is not known here", status=501) from failure
    raise _refused(str(failure) if failure is not None else "its headers end too early") from failure


def _what_is_wrong(head: bytes) -> str:
    """Which line; never what stands in it, for that may be a bearer."""
    first, *lines = head.split(b"\r\n")[:-2]
    if not _REQUEST_LINE.fullmatch(first):
        return "its first line is not METHOD TARGET HTTP/1.1"
    wrong = next((number for number, line in enumerate(lines, 2) if not _FIELDS.fullmatch(line + b"\r\n")), 0)
    return f"line {wrong} of its headers is not NAME: VALUE on one line"


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"this is not a valid HTTP/1.1 request: {why}")


# The answer


class BadAnswer(RuntimeError):
    """What the application sends is no answer: out of order, or impossible in HTTP. It is not sent."""


_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class AnswerWriter:
    """One answer: ASGI's messages in, bytes out.

    The head of an answer that names its length waits for the first part of the body, to go with it; another one goes at
    once, its body in chunks, or to HTTP/1.0 until the connection closes. ``must_close``: the connection cannot, or must
    not, go on after this answer.
    """

    def __init__(self, method: str, http_version: str, *, must_close: bool) -> None:
        self.started = False
        self.complete = False
        self.must_close = must_close
        self._bodiless = method == "HEAD"
        self._old = http_version == "1.0"
        self._held = b""
        self._left: int | None = None
        self._chunked = False

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """What to write now. Raises ``BadAnswer``."""
        if self.started:
            raise BadAnswer("the answer has already begun")
        if not 200 <= status <= 999:
            raise BadAnswer(f"{status} is no status of an answer")
        lines: list[bytes] = []
        left, dated, says_close = None, False, False
        for name, value in headers:
            key = name.lower()
            if key in _WRITERS_OWN:
                if key == b"content-length":
                    if left is not None:
                        raise BadAnswer("the answer has more than one content-length")
                    left = _whole(value)
                elif key == b"connection":
                    says_close = says_close or _lists(value, b"close")
                elif key == b"date":
                    dated = True
                else:
                    continue  # the transfer encoding is for us to choose (ASGI: ignored)
            lines.append(b"%b: %b\r\n" % (name, value))
        block = b"".join(lines)
        if _FIELDS.fullmatch(block) is None or block.count(b"\n") != len(lines):
            raise BadAnswer("a header of the answer has a character that may not stand there")
        empty = status in (204, 304)
        self._chunked = left is None and not empty and not self._old
        self.must_close = self.must_close or says_close or (left is None and self._old)
        self._bodiless = self._bodiless or empty
        self._left = left
        self.started = True
        head = b"%b%b%b%b%b\r\n" % (
            _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
            block,
            b"transfer-encoding: chunked\r\n" if self._chunked else b"",
            b"connection: close\r\n" if self.must_close and not says_close else b"",
            b"" if dated else _date(),
        )
        if left is None:
            return head
        self._held = head
        return b""

    def body(self, data: bytes, *, more: bool) -> bytes:
        """What to write for the next part of the body. Raises ``BadAnswer``."""
        if not self.started or self.complete:
            raise BadAnswer("a part of a body outside of an answer")
        if self._left is not None and not self._bodiless:
            self._left -= len(data)
            if self._left < 0 or (self._left > 0 and not more):
                raise BadAnswer("the body of the answer is not as long as its content-length")
        self.complete = not more
        held, self._held = self._held, b""
        if self._bodiless:
            return held
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        return held + data if held else data


def _whole(value: bytes) -> int:
    if _LENGTH.fullmatch(value) is None:
        raise BadAnswer(f"{value[:30]!r} is no content-length")
    return int(value)


_WRITERS_OWN = frozenset((b"content-length", b"transfer-encoding", b"connection", b"date"))
_dates: Any = (0, b"")


def _date() -> bytes:
    """The ``date`` header (RFC 9110, 6.6.1), made once a second."""
    global _dates
    now = int(time.time())
    if _dates[0] != now:
        _dates = (now, b"date: %b\r\n" % formatdate(now, usegmt=True).encode())
    line: bytes = _dates[1]
    return line
