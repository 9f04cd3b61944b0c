"""The HTTP reader says the same whatever the split of its input."""

import pytest

from bench.http1 import MAX_HEAD_BYTES, ProtocolError, RequestReader, ResponseReader

FIXED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Name:  some value \r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\nA;ext=1\r\n\r\n world\r\n\r\n0\r\nx-trailer: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + FIXED
EMPTY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


def read(reader: ResponseReader | RequestReader, pieces: list[bytes]) -> bytes:
    body = b""
    for piece in pieces:
        reader.feed(piece)
        body += reader.take_body()
    return body


def splits(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and in two at every place."""
    return [[data], [data[at : at + 1] for at in range(len(data))]] + [
        [data[:at], data[at:]] for at in range(1, len(data))
    ]


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (FIXED, 200, b"hello"),
        (CHUNKED, 200, b"hello\r\n world\r\n"),
        (INTERIM, 200, b"hello"),
        (EMPTY, 503, b""),
        (NO_CONTENT, 204, b""),
    ],
)
def test_reads_the_same_answer_when_split_at_every_byte(data: bytes, status: int, body: bytes) -> None:
    for pieces in splits(data):
        reader = ResponseReader()
        for piece in pieces[:-1]:
            reader.feed(piece)
            assert not reader.complete
        reader.feed(pieces[-1])
        assert reader.complete
        assert (reader.status, reader.take_body()) == (status, body)


def test_reads_a_request_when_split_at_every_byte() -> None:
    data = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    for pieces in splits(data):
        reader = RequestReader()
        assert read(reader, pieces) == b"{}"
        assert (reader.method, reader.target, reader.complete) == ("POST", "/v1/chat/completions", True)


def test_a_request_is_complete_when_it_has_no_body() -> None:
    reader = RequestReader()
    reader.feed(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")

    assert reader.complete


def test_lowers_names_and_strips_values_when_headers_are_read() -> None:
    reader = ResponseReader()
    reader.feed(FIXED)

    assert reader.headers == {"content-length": "5", "x-name": "some value"}


def test_hands_out_a_body_in_parts_when_it_arrives_in_parts() -> None:
    reader = ResponseReader()
    reader.feed(FIXED[:-3])
    assert reader.take_body() == b"he"
    reader.feed(FIXED[-3:])
    assert reader.take_body() == b"llo"
    assert reader.take_body() == b""


def test_body_ends_with_the_connection_when_nothing_else_frames_it() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    assert not reader.complete
    reader.eof()

    assert reader.complete
    assert not reader.reusable
    assert reader.take_body() == b"all of it"


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", False),
    ],
)
def test_says_whether_a_connection_may_be_used_again_when_complete(head: bytes, reusable: bool) -> None:
    reader = ResponseReader()
    reader.feed(head)

    assert reader.reusable is reusable


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200", FIXED[:-1], CHUNKED[:-1], CHUNKED[:-5]])
def test_complains_when_the_connection_ends_too_early(data: bytes) -> None:
    reader = ResponseReader()
    reader.feed(data)

    with pytest.raises(ProtocolError, match="closed"):
        reader.eof()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"SSH-2.0\r\n\r\n", "not a status line"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "not a header line"),
        (b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n", "not a header line"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "not a length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", "over the bound"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\n", "not a length"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n", "longer than it said"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 5_000, "over 4096 bytes"),
        (FIXED + b"more", "after the end"),
        (b"x" * (MAX_HEAD_BYTES + 1), "no end of the head"),
    ],
)
def test_complains_when_the_peer_does_not_speak_http(data: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        ResponseReader().feed(data)
