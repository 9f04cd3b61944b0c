"""What did a stream of chat chunks tell? A passive reader, separate from the program's own, so that it can judge it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

MAX_EVENT_BYTES = 1 << 20
_BLANK = re.compile(rb"\r?\n\r?\n")


class StreamReader:
    """Feed the body in any split; afterwards read what came. Only events that carry usage or an error are decoded."""

    def __init__(self) -> None:
        self.events = 0
        """Events with data before the final ``[DONE]``, errors not counted."""
        self.done = False
        self.error: Mapping[str, object] | None = None
        self.usage: Mapping[str, object] | None = None
        self.malformed = 0
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Raises ValueError for an event over 1 MiB."""
        *events, self._rest = _BLANK.split(self._rest + data)
        for event in events:
            self._event(event)
        if len(self._rest) > MAX_EVENT_BYTES:
            raise ValueError(f"no end of an event within {MAX_EVENT_BYTES} bytes")

    def _event(self, event: bytes) -> None:
        lines = [line.rstrip(b"\r") for line in event.split(b"\n")]
        data = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
        if data.strip() == b"[DONE]":
            self.done = True
        elif data:
            self._payload(data)

    def _payload(self, data: bytes) -> None:
        if b'"usage"' not in data and b'"error"' not in data:
            self.events += 1
            return
        try:
            payload = json.loads(data)
        except ValueError:
            self.malformed += 1
            return
        if isinstance(payload, dict) and isinstance(payload.get("error"), dict):
            self.error = payload["error"]
            return
        self.events += 1
        if isinstance(payload, dict) and isinstance(payload.get("usage"), dict):
            self.usage = payload["usage"]
