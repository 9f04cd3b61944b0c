"""Two readers of the same bytes, ours and h11's, told in the same words, and what must hold between them."""

from __future__ import annotations

from collections.abc import Iterable

import h11
from attrs import frozen

from arbstr.edge._http1 import RequestReader
from arbstr.errors import InvalidRequest

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 128


@frozen
class Read:
    """One request as it was understood."""

    method: bytes
    target: bytes
    http_version: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    end: int
    """How many bytes of the stream are read with it; the next request begins there."""


@frozen
class Understood:
    """What a stream of bytes is: whole requests, and whether the rest is refused or not yet complete."""

    requests: tuple[Read, ...]
    refused: int | None
    """The status."""


def read_ours(pieces: Iterable[bytes]) -> Understood:
    reader, requests, refused = RequestReader(MAX_HEAD_BYTES, MAX_HEADERS), [], None
    head, body, fed = None, b"", 0
    try:
        for piece in pieces:
            reader.feed(piece)
            fed += len(piece)
            while True:
                if head is None and (head := reader.next_request()) is None:
                    break
                while not reader.body_done and (part := reader.next_part()):
                    body += part
                if not reader.body_done:
                    break
                version, headers = head.http_version.encode(), tuple(head.headers)
                requests.append(Read(head.method.encode(), head.target, version, headers, body, fed - reader.waiting))
                head, body = None, b""
    except InvalidRequest as error:
        refused = error.status
    return Understood(tuple(requests), refused)


def read_h11(data: bytes) -> Understood:
    connection = _h11_with(data)
    requests, refused = [], None
    head, body = None, b""
    try:
        while (event := connection.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                rest = connection.trailing_data[0]
                end = len(data) - len(rest)
                requests.append(Read(head.method, head.target, head.http_version, tuple(head.headers), body, end))
                # A connection that would end here is gone on with, to compare what follows.
                connection = _h11_with(rest)
    except h11.RemoteProtocolError as error:
        refused = error.error_status_hint
    return Understood(tuple(requests), refused)


def _h11_with(data: bytes) -> h11.Connection:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    if data:  # nothing would be the end of the connection
        connection.receive_data(data)
    return connection


def check(data: bytes, pieces: Iterable[bytes] = ()) -> Understood:
    """Raises AssertionError unless ours is the stricter of the two and otherwise the same, however it is fed."""
    ours, theirs = read_ours([data]), read_h11(data)
    count = len(ours.requests)
    assert ours.requests == theirs.requests[:count]
    if theirs.refused is not None and count == len(theirs.requests):
        assert ours.refused is not None, f"h11 refuses with {theirs.refused}"
    if pieces:
        assert read_ours(pieces) == ours
    return ours
