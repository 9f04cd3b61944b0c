"""Server-sent events, read and written without a socket (WHATWG HTML, section 9.2 "Server-sent events").

The reader takes any split of the bytes and gives whole events with their bytes untouched, so that a relay can pass
them on as they came. It works on ``find`` and one regular expression; no byte is looked at twice, however small the
pieces are that an event comes in.
"""

from __future__ import annotations

import re

from attrs import frozen

from arbstr.wire import _json

DONE = b"data: [DONE]\n\n"
"""The event that ends an OpenAI stream."""

_BOM = b"\xef\xbb\xbf"
_LINE_END = rb"(?:\r\n|\n|\r(?!\n))"
_find_blank_line = re.compile(_LINE_END + rb"(?:\r\n|\n|\r)").search
_CR, _LF = 13, 10


@frozen
class SSEEvent:
    """One event. ``raw`` is every byte of it: comments before it, its lines, and the blank line that ends it.

    ``data`` is the data lines joined by LF, None when there is no data line (comments only, or a stray blank line).
    ``event`` is the event type, None when none is named.
    """

    raw: bytes
    data: bytes | None
    event: bytes | None

    @property
    def is_done(self) -> bool:
        """Whether this is OpenAI's end of stream."""
        return self.data is not None and self.data.strip() == b"[DONE]"


class EventTooLarge(ValueError):
    """An event is longer than ``limit_bytes``. ``events`` are the whole events that the same feed held before it."""

    def __init__(self, limit_bytes: int, events: tuple[SSEEvent, ...] = ()) -> None:
        super().__init__(f"a server-sent event is longer than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes
        self.events = events


class SSEReader:
    """Cuts a byte stream into events. The raw bytes of all events, then ``close()``, are exactly what was fed.

    Lines end with LF, CRLF or CR, mixed as they like. An event is given out with the byte that completes it: when a
    CRLF that ends an event is torn between two feeds, the event goes out at the CR and the late LF follows as an event
    of its own without data, which to every reader of such streams is one more blank line.
    """

    def __init__(self, max_event_bytes: int = 1 << 20) -> None:
        self._max_event_bytes = max_event_bytes
        self._buffer = bytearray()
        self._searched = 0  # no blank line begins before this index
        self._carriage_returns = False  # one was seen in this stream: LF LF is no longer the only end of an event
        self._at_start = True
        self._too_large = False

    def feed(self, data: bytes) -> list[SSEEvent]:
        """Take the next bytes, give the events they complete.

        Raises EventTooLarge, then and on every later call.
        """
        if self._too_large:
            raise EventTooLarge(self._max_event_bytes)
        if not self._carriage_returns and b"\r" in data:
            self._carriage_returns = True
        buffer = self._buffer
        buffer += data
        events: list[SSEEvent] = []
        start = 0
        while (end := self._event_end(start)) > 0 and end - start <= self._max_event_bytes:
            events.append(self._cut(bytes(buffer[start:end])))
            start = self._searched = end
        del buffer[:start]
        self._searched = max(0, len(buffer) - 2)  # its last two bytes may be the CRLF before a blank line
        if len(buffer) > self._max_event_bytes:
            self._too_large = True
            raise EventTooLarge(self._max_event_bytes, tuple(events))
        return events

    def close(self) -> bytes:
        """The stream has ended: the bytes after the last whole event, by the standard no event. The reader is empty."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return rest

    def _event_end(self, start: int) -> int:
        """Index after the blank line that ends the event beginning at ``start``; -1 while there is none."""
        buffer = self._buffer
        if start == len(buffer):
            return -1
        first = start + 3 if self._at_start and buffer.startswith(_BOM) else start
        if first < len(buffer) and buffer[first] in (_CR, _LF):
            return first + 2 if buffer[first : first + 2] == b"\r\n" else first + 1
        if self._carriage_returns:
            match = _find_blank_line(buffer, max(first, self._searched))
            return match.end() if match else -1
        found = buffer.find(b"\n\n", max(first, self._searched))
        return found if found < 0 else found + 2

    def _cut(self, raw: bytes) -> SSEEvent:
        text = raw
        if self._at_start:
            self._at_start = False
            text = raw.removeprefix(_BOM)
        if text.startswith(b"data: ") and not self._carriage_returns and text.find(b"\n") == len(text) - 2:
            return SSEEvent(raw, text[6:-2], None)
        return _event_of_lines(raw, text)


def _event_of_lines(raw: bytes, text: bytes) -> SSEEvent:
    data: list[bytes] = []
    event: bytes | None = None
    for line in text.splitlines():  # of bytes: splits at LF, CRLF and CR, as the standard does
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ")
    return SSEEvent(raw, b"\n".join(data) if data else None, event)


def frame(data: bytes) -> bytes:
    """The event with this data; each of its lines becomes a data line."""
    if b"\n" not in data and b"\r" not in data:
        return b"data: " + data + b"\n\n"
    return b"".join(b"data: " + line + b"\n" for line in data.splitlines()) + b"\n"


def sse_event(obj: object) -> bytes:
    """The event whose data is ``obj`` as compact JSON."""
    return b"data: " + _json.dumps(obj) + b"\n\n"
