"""The event stream reader and writer (WHATWG HTML, section 9.2)."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbstr.wire import DONE, EventTooLarge, SSEEvent, SSEReader, sse_event

PIECES = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b"data",
        b"data:",
        b"data: ",
        b"event: e",
        b": note",
        b"id: 1",
        b"x",
        b" ",
        b":",
        b"[DONE]",
        "héé".encode(),
        b"\xef\xbb\xbf",
        b"\xff",
    ]
)
STREAMS = st.lists(PIECES, max_size=24).map(b"".join)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def read(pieces: list[bytes]) -> tuple[list[SSEEvent], bytes]:
    reader = SSEReader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events, reader.close()


def told(events: list[SSEEvent]) -> list[tuple[bytes | None, bytes | None]]:
    """What a reader of events is told, without blank lines and comments."""
    return [(event.event, event.data) for event in events if event.data is not None]


def told_by_the_standard(stream: bytes) -> list[tuple[bytes | None, bytes | None]]:
    """The algorithm of the standard, written down line by line over the whole stream; an empty type is kept."""
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))
    events: list[tuple[bytes | None, bytes | None]] = []
    kind: bytes | None = None
    data: list[bytes] = []
    for line in lines[:-1]:  # after the last line end there is no line
        if not line:
            if data:
                events.append((kind, b"\n".join(data)))
            kind, data = None, []
            continue
        name, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value
    return events


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 200), max_size=12))
@example(stream=b"data: a\r\n\r\ndata: b\r\n\r\n", cuts=[10, 11])
@example(stream=b"\xef\xbb\xbf\ndata: a\n\n", cuts=[1, 2])
@example(stream=b"data: a\n\r\ndata: b\r\n\n", cuts=[9])
def test_no_byte_is_lost_or_changed_when_the_input_is_split_anywhere(stream: bytes, cuts: list[int]) -> None:
    events, rest = read(split(stream, cuts))
    assert b"".join(event.raw for event in events) + rest == stream


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 200), max_size=12))
@example(stream=b"data: a\r\n\r\ndata: b\r\n\r\n", cuts=[10])
@example(stream=b"data: a\r\n\r\r\ndata: b\n\n", cuts=[11])
def test_the_events_are_those_of_the_standard_when_the_input_is_split_anywhere(stream: bytes, cuts: list[int]) -> None:
    events, _ = read(split(stream, cuts))
    assert told(events) == told_by_the_standard(stream)


@given(stream=STREAMS)
def test_the_events_are_the_same_when_every_byte_comes_alone(stream: bytes) -> None:
    whole, _ = read([stream])
    bytewise, rest = read([bytes([byte]) for byte in stream])
    assert told(bytewise) == told(whole)
    assert b"".join(event.raw for event in bytewise) + rest == stream


@given(stream=STREAMS)
def test_nothing_complete_is_held_back_when_the_stream_pauses(stream: bytes) -> None:
    _, rest = read([stream])
    assert told_by_the_standard(rest) == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_typical_stream_is_read_when_lines_end_with(end: bytes) -> None:
    stream = b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n'.replace(b"\n", end)
    events, rest = read([stream])
    assert [event.data for event in events] == [b'{"a":1}', b'{"b":2}', b"[DONE]"]
    assert [event.is_done for event in events] == [False, False, True]
    assert events[0].raw == b'data: {"a":1}' + end * 2
    assert rest == b""


def test_an_event_comes_out_at_once_when_lf_lf_ends_it() -> None:
    reader = SSEReader()
    assert reader.feed(b"data: a\r\ndata: b\n") == []
    assert [event.data for event in reader.feed(b"\n")] == [b"a\nb"]


def test_an_event_comes_out_at_the_cr_and_its_lf_follows_alone_when_crlf_is_torn() -> None:
    reader = SSEReader()
    assert reader.feed(b"data: a\r\n\r") == [SSEEvent(b"data: a\r\n\r", b"a", None)]
    assert reader.feed(b"\n") == [SSEEvent(b"\n", None, None)]
    assert reader.feed(b"data: b\r\n\r\n") == [SSEEvent(b"data: b\r\n\r\n", b"b", None)]


def test_comments_belong_to_the_next_event_when_no_blank_line_parts_them() -> None:
    events, _ = read([b": ping\ndata: a\n\n"])
    assert events == [SSEEvent(b": ping\ndata: a\n\n", b"a", None)]


def test_an_event_has_no_data_when_it_is_a_comment_only() -> None:
    events, _ = read([b": OPENROUTER PROCESSING\n\n"])
    assert events == [SSEEvent(b": OPENROUTER PROCESSING\n\n", None, None)]
    assert not events[0].is_done


@pytest.mark.parametrize(
    ("lines", "data", "event"),
    [
        (b"data:x\n", b"x", None),
        (b"data: x\n", b"x", None),
        (b"data:  x\n", b" x", None),
        (b"data\n", b"", None),
        (b"data:\n", b"", None),
        (b"data: a\ndata: b\n", b"a\nb", None),
        (b"event: error\ndata: x\n", b"x", b"error"),
        (b"event:a\nevent:b\n", None, b"b"),
        (b"id: 1\nretry: 5\ndata: x\n", b"x", None),
        (b" data: x\n", None, None),
        (b"Data: x\n", None, None),
        (b"data: a: b\n", b"a: b", None),
        (b"data: \xe2\x80\xa8\x0b\x0c\x1c\n", b"\xe2\x80\xa8\x0b\x0c\x1c", None),
        (b"\xef\xbb\xbfdata: x\n", b"x", None),
    ],
)
def test_fields_are_read_when_a_line_looks_like(lines: bytes, data: bytes | None, event: bytes | None) -> None:
    events, _ = read([lines + b"\n"])
    assert events == [SSEEvent(lines + b"\n", data, event)]


def test_a_byte_order_mark_is_part_of_the_name_when_it_is_not_at_the_start() -> None:
    events, _ = read([b"data: a\n\n\xef\xbb\xbfdata: b\n\n"])
    assert [event.data for event in events] == [b"a", None]


@pytest.mark.parametrize("payload", [b"data: [DONE]", b"data:[DONE]", b"data: [DONE] "])
def test_the_end_is_recognised_when_its_spaces_vary(payload: bytes) -> None:
    events, _ = read([payload + b"\n\n"])
    assert events[0].is_done


def test_the_rest_is_no_event_when_the_stream_ends_without_a_blank_line() -> None:
    reader = SSEReader()
    assert len(reader.feed(b"data: a\n\ndata: [DONE]\n")) == 1
    assert reader.close() == b"data: [DONE]\n"
    assert reader.close() == b""


@given(cuts=st.lists(st.integers(0, 60), max_size=6))
def test_a_long_event_is_refused_and_earlier_ones_are_kept_when_the_input_is_split(cuts: list[int]) -> None:
    stream = b"data: 1234\n\n" + b"data: 12345\n\n" + b"data: a\n\n"
    reader = SSEReader(max_event_bytes=12)
    seen: list[SSEEvent] = []
    refusal: EventTooLarge | None = None
    for piece in split(stream, cuts):
        try:
            seen += reader.feed(piece)
        except EventTooLarge as error:
            refusal = refusal or error
    assert refusal is not None
    seen += refusal.events
    assert [event.data for event in seen] == [b"1234"]
    assert refusal.limit_bytes == 12
    with pytest.raises(EventTooLarge):
        reader.feed(b"")


def test_memory_is_bounded_when_no_event_ever_ends() -> None:
    reader = SSEReader(max_event_bytes=100)
    for _ in range(10):
        assert reader.feed(b"0123456789") == []
    with pytest.raises(EventTooLarge):
        reader.feed(b"0")


class Counting(bytearray):
    """A buffer that counts the bytes a search may look at."""

    looked_at = 0

    def find(self, sub, start=0, end=None):  # type: ignore[no-untyped-def, override]  # as bytearray's
        self.looked_at += len(self) - start
        return super().find(sub, start)


def test_each_byte_is_searched_once_when_an_event_comes_in_small_pieces() -> None:
    reader = SSEReader()
    reader._buffer = buffer = Counting()
    for _ in range(10_000):
        assert reader.feed(b"0123456") == []
    assert buffer.looked_at < 100_000


def test_an_event_is_compact_json_when_it_is_written() -> None:
    assert (
        sse_event({"arbstr": {"cost_msat": 1, "name": "é"}})
        == 'data: {"arbstr":{"cost_msat":1,"name":"é"}}\n\n'.encode()
    )
    events, _ = read([sse_event({"text": "a\nb\r\u2028"}), DONE])
    assert [event.data for event in events] == ['{"text":"a\\nb\\r\u2028"}'.encode(), b"[DONE]"]


TEXTS = st.lists(st.text(), min_size=1, max_size=4)


@given(texts=TEXTS, data=st.data())
def test_what_was_written_is_read_again_when_the_bytes_are_split_anywhere(
    texts: list[str], data: st.DataObject
) -> None:
    stream = b"".join(sse_event({"text": text}) for text in texts) + DONE
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    events, rest = read(split(stream, cuts))
    assert [json.loads(event.data or b"") for event in events[:-1]] == [{"text": text} for text in texts]
    assert (events[-1].is_done, rest) == (True, b"")
