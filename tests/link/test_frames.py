"""Frames: whatever pieces they come in, whole payloads come out, and nothing that is too long is waited for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.link import FrameReader, FrameTooLong, frame
from arbstr.link import _frames as frames_module

PAYLOADS = [b"", b"one", b"two" * 100, b"\x00\x00\x00\x05"]


def test_whole_payloads_come_out_when_the_input_is_split_at_every_byte() -> None:
    data = b"".join(map(frame, PAYLOADS))
    for at in range(len(data) + 1):
        reader = FrameReader()
        assert [*reader.feed(data[:at]), *reader.feed(data[at:])] == PAYLOADS
        assert not reader.partial


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(1, 9), max_size=200))
def test_what_was_framed_comes_out_when_it_comes_in_pieces_of_any_size(payloads: list[bytes], sizes: list[int]) -> None:
    data, reader, found = b"".join(map(frame, payloads)), FrameReader(), []
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        found += reader.feed(piece)
    assert [*found, *reader.feed(data)] == payloads


def test_the_beginning_of_a_frame_is_kept_when_the_rest_is_missing() -> None:
    reader = FrameReader()
    assert list(reader.feed(frame(b"whole") + frame(b"half")[:-1])) == [b"whole"]
    assert reader.partial


def test_a_frame_is_refused_at_its_header_when_it_is_too_long() -> None:
    reader = FrameReader()
    with pytest.raises(FrameTooLong):
        list(reader.feed(b"\xff\xff\xff\xff"))


def test_a_payload_that_is_too_long_is_not_framed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "MAX_FRAME_BYTES", 10)
    assert frame(b"x" * 10)
    with pytest.raises(FrameTooLong, match="11 bytes"):
        frame(b"x" * 11)
