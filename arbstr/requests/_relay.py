"""A provider's stream on its way to the client, without any I/O: what goes on now, what is held back, what was seen.

Events pass with their bytes untouched. Held back are the provider's ``[DONE]`` (it may only follow a settled, complete
stream) and the chunk that carries nothing but usage: it goes out at the end with the cost in it if the client asked for
usage, and not at all if the usage was only asked for by us. Comments before the first data, and data that is not JSON,
are held back until some comes that is: they are no answer, and without one another provider may still give it.
"""

from __future__ import annotations

from collections.abc import Mapping

from arbstr.wire import DONE, SSEEvent, SSEReader, Usage, observe_chunk, sse_event, with_usage_extra

BYTES_PER_TOKEN = 4
MAX_LEADING_BYTES = 16 << 10
"""Of what is held back before the first data. It says nothing: of more, the rest is dropped."""


def estimated_tokens(content_bytes: int, pieces: int, limit: int | None) -> int:
    """Tokens of text whose count nobody told: 4 bytes each, and at least one for each piece it came in.

    ``limit`` is what the client allowed, None when it named none: a provider that keeps to it has not written more
    tokens, however many bytes each of them has; one that does not shows it by the pieces.
    """
    tokens = -(-content_bytes // BYTES_PER_TOKEN)
    return max(tokens if limit is None else min(tokens, limit), pieces)


class StreamRelay:
    """Feed it what the provider sends; it returns what the client may have.

    After ``done`` or ``failed`` is set, further input is ignored. ``prompt_tokens`` is what to count while the provider
    has not told, ``limit`` as for ``estimated_tokens``. Raises ``EventTooLarge`` from ``feed``.
    """

    def __init__(self, *, prompt_tokens: int, limit: int | None, include_usage: bool) -> None:
        self._prompt_tokens = prompt_tokens
        self._limit = limit
        self._include_usage = include_usage
        self._reader = SSEReader()
        self._leading: list[bytes] | None = []  # None: it has gone out
        self._leading_bytes = 0
        self._held_usage: bytes | None = None
        self._reported: Usage | None = None
        # Counted since the last report: providers that report as they go may be cut between two reports.
        self._content_bytes = 0
        self._pieces = 0
        self.done = False
        """The provider said that the stream is complete."""
        self.failed = False
        """The provider gave up: it sent an error event, or nothing but what is not JSON."""
        self._answered = False  # there has been data that is JSON
        self._garbled = False  # there has been data that is not

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes, give the bytes to pass on; those that arrived together leave together."""
        out: list[bytes] = []
        for event in self._reader.feed(chunk):
            if self.done or self.failed:
                break
            if event.is_done:
                self._end()
            elif event.data is None or self._observe(event, event.data):
                if self._leading is not None:
                    if not self._answered:
                        self._hold_back(self._leading, event.raw)
                        continue
                    out, self._leading = self._leading, None
                out.append(event.raw)
        return out[0] if len(out) == 1 else b"".join(out)

    def close(self) -> None:
        """The provider's bytes have ended. A ``[DONE]`` without the blank line behind it is one all the same."""
        rest = self._reader.close()
        if rest and not self.failed and any(event.is_done for event in SSEReader().feed(rest + b"\n\n")):
            self._end()

    @property
    def malformed(self) -> bool:
        """Something has come that is not JSON, and nothing that is."""
        return self._garbled and not self._answered

    def _end(self) -> None:
        self.done, self.failed = not self.malformed, self.malformed

    def _hold_back(self, leading: list[bytes], raw: bytes) -> None:
        self._leading_bytes += len(raw)
        if self._leading_bytes <= MAX_LEADING_BYTES:
            leading.append(raw)

    def _observe(self, event: SSEEvent, data: bytes) -> bool:
        """Note what an event says. True when it passes on."""
        facts = observe_chunk(data)
        if facts.error or event.event == b"error":
            self.failed = True
            return False
        if facts.content_bytes or facts.malformed:  # whatever it is, the client gets it
            self._content_bytes += facts.content_bytes
            self._pieces += 1
        if facts.usage is not None:
            self._reported = facts.usage
            self._content_bytes = self._pieces = 0
        if facts.has_usage and not facts.has_choices:
            if facts.usage is not None or self._held_usage is None:  # one that counts is not lost for one that does not
                self._held_usage = data
            return False
        if facts.malformed:
            self._garbled = True
        else:
            self._answered = True
        return True

    @property
    def estimated(self) -> bool:
        """Whether some of ``usage`` is our count and not the provider's."""
        return self._reported is None or self._pieces > 0

    @property
    def usage(self) -> Usage:
        """What has been consumed so far: as reported, and what passed since then as counted."""
        counted = estimated_tokens(self._content_bytes, self._pieces, self._limit)
        if self._reported is None:
            return Usage(self._prompt_tokens, counted)
        if not counted:
            return self._reported
        return Usage(self._reported.prompt_tokens, self._reported.completion_tokens + counted)

    def tail(self, cost: Mapping[str, object], *, cost_event: bool) -> bytes:
        """What ends a complete stream: usage with its cost, the cost event if wanted, and one ``[DONE]``."""
        parts = self._leading or []
        if self._include_usage and self._held_usage is not None:
            parts.append(with_usage_extra(self._held_usage, cost))
        if cost_event:
            parts.append(sse_event({"arbstr": dict(cost)}))
        return b"".join([*parts, DONE])
