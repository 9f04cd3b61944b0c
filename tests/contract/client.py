"""A plain HTTP client that hides nothing: one connection per request, headers as sent, and whether a body was whole."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from attrs import define, field, frozen

TIMEOUT_S = 30.0


@frozen
class Answer:
    """A whole answer. ``complete`` is false when the body broke off before its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error of an OpenAI-shaped body; fails when it is not one."""
        assert self.headers["content-type"].startswith("application/json"), self.headers
        found = self.json["error"]
        assert isinstance(found["message"], str), found
        assert isinstance(found["type"], str), found
        return dict(found)

    @property
    def request_id(self) -> str:
        return self.headers["x-arbstr-request-id"]

    @property
    def provider(self) -> str | None:
        return self.headers.get("x-arbstr-provider")

    @property
    def payloads(self) -> list[str]:
        """What the ``data:`` lines of a stream hold, in order."""
        lines = self.body.decode().replace("\r\n", "\n").split("\n")
        return [line[5:].strip() for line in lines if line.startswith("data:")]

    @property
    def events(self) -> list[Any]:
        """The payloads that are JSON."""
        found = []
        for payload in self.payloads:
            try:
                found.append(json.loads(payload))
            except ValueError:
                continue
        return found

    @property
    def text(self) -> str:
        """The content of all chunks of a stream."""
        choices = [choice for event in self.events for choice in event.get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


@define(eq=False)
class Exchange:
    """An answer that is still arriving."""

    _connection: http.client.HTTPConnection
    _response: http.client.HTTPResponse | None = None
    _got: bytearray = field(factory=bytearray)
    _complete: bool = True

    @property
    def head(self) -> http.client.HTTPResponse:
        """Status and headers; waits for them."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def read_until(self, wanted: bytes) -> bytes:
        """Read until this has arrived; fails at the end of the body."""
        while wanted not in self._got:
            assert self._read_some(), f"{wanted!r} did not come: {bytes(self._got)!r}"
        return bytes(self._got)

    def rest(self) -> Answer:
        """Read to the end."""
        while self._read_some():
            pass
        headers: dict[str, str] = {}
        for name, value in self.head.getheaders():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        return Answer(self.head.status, headers, bytes(self._got), self._complete)

    def _read_some(self) -> bool:
        head = self.head  # outside of the try: an answer that never begins is no answer
        try:
            data = head.read1(65_536)
        except (http.client.IncompleteRead, ConnectionError):
            self._complete = False
            return False
        if not data and head.length:  # a body with a length that ended short of it
            self._complete = False
        self._got += data
        return bool(data)

    def leave(self) -> None:
        """Close the connection at once, by a reset."""
        sock = self._connection.sock
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()


@contextmanager
def open_request(
    address: str,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Iterator[Exchange]:
    """Send a request; the answer is read as the test likes. The connection is closed at the end."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=TIMEOUT_S)
    exchange = Exchange(connection)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders()
        if body:
            with suppress(ConnectionError):  # refused before it was read; the answer says why
                connection.send(body)
        yield exchange
    finally:
        exchange.close()


def send(
    address: str,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Send a request and read the whole answer."""
    with open_request(address, method, path, headers=headers, body=body) as exchange:
        return exchange.rest()
