"""Frames: four bytes of length, the most significant first, and as many bytes of payload. Sans-I/O."""

from __future__ import annotations

from collections.abc import Iterator

MAX_FRAME_BYTES = 64 << 20
_HEADER = 4


class FrameTooLong(ValueError):
    """A frame, sent or announced, that is longer than ``MAX_FRAME_BYTES``."""

    def __init__(self, length: int) -> None:
        super().__init__(f"a frame of {length} bytes; at most {MAX_FRAME_BYTES} are taken")
        self.length = length


def frame(payload: bytes) -> bytes:
    """Raises FrameTooLong."""
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameTooLong(len(payload))
    return len(payload).to_bytes(_HEADER, "big") + payload


class FrameReader:
    """Feed it what arrives, in pieces of any size; it gives whole payloads, in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        """Raises FrameTooLong at the header of one; nothing after that can be read."""
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _HEADER:
                length = int.from_bytes(buffer[start : start + _HEADER], "big")
                if length > MAX_FRAME_BYTES:
                    raise FrameTooLong(length)
                end = start + _HEADER + length
                if len(buffer) < end:
                    break
                payload = bytes(buffer[start + _HEADER : end])
                start = end
                yield payload
        finally:
            del buffer[:start]

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)
