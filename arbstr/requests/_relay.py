"""A provider's stream on its way to the client, without any I/O: what goes on now, what is held back, what was seen.

Events pass with their bytes untouched. Held back are the provider's ``[DONE]`` (it may only follow a settled, complete
stream) and the chunk that carries nothing but usage: it goes out at the end with the cost in it if the client asked for
usage, and not at all if the usage was only asked for by us.
"""

from __future__ import annotations

from collections.abc import Mapping

from arbstr.routing import Demand
from arbstr.wire import DONE, SSEEvent, SSEReader, Usage, observe_chunk, sse_event, with_usage_extra

BYTES_PER_TOKEN = 4


def estimated_tokens(content_bytes: int, pieces: int) -> int:
    """Tokens of text whose count nobody told: 4 bytes each, and at least one for each piece it came in."""
    return max(-(-content_bytes // BYTES_PER_TOKEN), pieces)


class StreamRelay:
    """Feed it what the provider sends; it returns what the client may have.

    After ``done`` or ``error_data`` is set, further input is ignored. Raises ``EventTooLarge`` from ``feed``.
    """

    def __init__(self, demand: Demand, *, include_usage: bool) -> None:
        self._demand = demand
        self._include_usage = include_usage
        self._reader = SSEReader()
        self._held_usage: bytes | None = None
        self._content_bytes = 0
        self._pieces = 0
        self._reported: Usage | None = None
        self.done = False
        """The provider said that the stream is complete."""
        self.error_data: bytes | None = None
        """The payload of an error event: the provider gave up."""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes, give the bytes to pass on; those that arrived together leave together."""
        out: list[bytes] = []
        for event in self._reader.feed(chunk):
            if self.done or self.error_data is not None:
                break
            if event.is_done:
                self.done = True
            elif event.data is None or self._observe(event):
                out.append(event.raw)
        return out[0] if len(out) == 1 else b"".join(out)

    def _observe(self, event: SSEEvent) -> bool:
        """Note what an event says. True when it passes on."""
        assert event.data is not None
        facts = observe_chunk(event.data)
        if facts.error:
            self.error_data = event.data
            return False
        if facts.content_bytes:
            self._content_bytes += facts.content_bytes
            self._pieces += 1
        if facts.usage is not None:
            self._reported = facts.usage
            if not facts.has_choices:
                self._held_usage = event.data
                return False
        return True

    @property
    def estimated(self) -> bool:
        """Whether ``usage`` is our count and not the provider's."""
        return self._reported is None

    @property
    def usage(self) -> Usage:
        """What has been consumed so far: as reported, else counted from what passed."""
        return self._reported or Usage(self._demand.prompt_tokens, self.counted_tokens)

    @property
    def counted_tokens(self) -> int:
        """Completion tokens counted from what passed, whatever the provider reports."""
        return estimated_tokens(self._content_bytes, self._pieces)

    def tail(self, cost: Mapping[str, object], *, cost_event: bool) -> bytes:
        """What ends a complete stream: usage with its cost, the cost event if wanted, and one ``[DONE]``."""
        parts = []
        if self._include_usage and self._held_usage is not None:
            parts.append(with_usage_extra(self._held_usage, cost))
        if cost_event:
            parts.append(sse_event({"arbstr": dict(cost)}))
        return b"".join([*parts, DONE])
