"""HTTP/1.1 without a network: what is written, and what is made of every kind of answer, however it is split."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import h11
import httpx
import pytest
from attrs import frozen
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from arbstr.providers._connection import READ_BYTES
from arbstr.providers._http1 import MAX_HEAD_BYTES, RequestWriter, ResponseReader

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HOST = (b"Host", b"provider.example")


@frozen
class Read:
    """What a reader made of an answer after which the peer closed. ``reusable`` is as it was before that."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    complete: bool
    reusable: bool
    error: str | None


def read(pieces: Iterable[bytes], *, head_request: bool = False) -> Read:
    reader = ResponseReader(head_request=head_request)
    body = b""
    for piece in pieces:
        reader.feed(piece)
        body += reader.take()
    reusable = reader.reusable
    reader.feed(b"")
    assert reader.complete is (reader.error is None)
    return Read(reader.status, tuple(reader.headers), body, reader.complete, reusable, reader.error)


def in_reads_of(size: int, data: bytes) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def bytewise(data: bytes) -> list[bytes]:
    return in_reads_of(1, data)


# -- answers that are fine

LENGTH_5 = OK + b"content-length: 5\r\n\r\nhello"
ANSWERS = {
    "length": (LENGTH_5, 200, b"hello", True),
    "length and close": (OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", False),
    "empty": (OK + b"content-length: 0\r\n\r\n", 200, b"", True),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, b"hello", True),
    "chunked in capitals": (
        OK + b"TRANSFER-ENCODING: Chunked \r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        200,
        b"0123456789",
        True,
    ),
    "chunk extension": (CHUNKED + b"2;a=b\r\nhe\r\n0;c\r\n\r\n", 200, b"he", True),
    "trailers": (CHUNKED + b"2\r\nhe\r\n0\r\nx-sum: 1\r\n\r\n", 200, b"he", True),
    "until close": (OK + b"content-type: text/plain\r\n\r\nhello", 200, b"hello", False),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "no body but a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b"", True),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: </x>\r\n\r\n" + LENGTH_5,
        200,
        b"hello",
        True,
    ),
    "old": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", False),
    "old with keep-alive": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello",
        200,
        b"hello",
        False,
    ),
    "no reason": (b"HTTP/1.1 429\r\ncontent-length: 2\r\n\r\nno", 429, b"no", True),
    "strange status": (b"HTTP/1.1 799 Odd\r\ncontent-length: 2\r\n\r\nno", 799, b"no", True),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_is_read_the_same_when_it_comes_in_single_bytes(name: str) -> None:
    data, status, body, reusable = ANSWERS[name]
    whole = read([data])
    assert (whole.status, whole.body, whole.reusable, whole.error) == (status, body, reusable, None)
    assert read(bytewise(data)) == whole


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 150), max_size=6))
def test_answer_is_read_the_same_when_it_is_split_anywhere(name: str, cuts: list[int]) -> None:
    data = ANSWERS[name][0]
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds) if start < end]
    assert read(pieces) == read([data])


def test_names_and_order_of_headers_are_kept_when_one_comes_twice() -> None:
    found = read(
        [OK + b"Set-Cookie: a=1\r\nX-Tab:\t b c \t\r\nset-cookie: b=\xe4\r\nEmpty:\r\nContent-Length: 0\r\n\r\n"]
    )
    assert found.headers == (
        (b"Set-Cookie", b"a=1"),
        (b"X-Tab", b"b c"),
        (b"set-cookie", b"b=\xe4"),
        (b"Empty", b""),
        (b"Content-Length", b"0"),
    )


def test_headers_are_those_of_the_answer_when_interim_ones_and_trailers_have_some() -> None:
    data = b"HTTP/1.1 103 Early\r\nlink: </x>\r\n\r\n" + CHUNKED + b"0\r\nx-sum: 1\r\n\r\n"
    assert read([data]).headers == read(bytewise(data)).headers == ((b"Transfer-Encoding", b"chunked"),)


def test_body_is_given_out_together_when_several_chunks_came_together() -> None:
    reader = ResponseReader()
    reader.feed(CHUNKED + b"1\r\na\r\n1\r\nb\r\n")
    assert (reader.take(), reader.take()) == (b"ab", b"")
    reader.feed(b"1\r\nc\r\n0\r\n\r\n")
    assert (reader.complete, reader.take()) == (True, b"c")


@pytest.mark.parametrize("framing", [b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b""])
def test_answer_to_head_has_no_body_and_is_the_last_whatever_it_announces(framing: bytes) -> None:
    found = read([OK + framing + b"\r\n"], head_request=True)
    assert (found.status, found.body, found.complete, found.reusable) == (200, b"", True, False)
    assert read(bytewise(OK + framing + b"\r\n"), head_request=True) == found


@pytest.mark.parametrize("surplus", [b"x", b"H", b"HTTP/1.1 200 OK\r\n\r\n", LENGTH_5])
@pytest.mark.parametrize("name", ["length", "length and close", "empty", "chunked", "trailers", "no body"])
def test_what_follows_an_answer_is_dropped_and_spoils_the_connection(name: str, surplus: bytes) -> None:
    data, status, body, _ = ANSWERS[name]
    for pieces in ([data + surplus], bytewise(data + surplus), [data, surplus]):
        found = read(pieces)
        assert (found.status, found.body, found.reusable, found.error) == (status, body, False, None)


# -- answers that are not


@given(st.sampled_from(["length", "chunked", "chunk extension", "trailers"]), st.data())
def test_answer_never_ends_cleanly_when_it_is_cut_anywhere(name: str, data: st.DataObject) -> None:
    answer, _, body, _ = ANSWERS[name]
    found = read([answer[: data.draw(st.integers(0, len(answer) - 1))]])
    assert found.error is not None
    assert "closed" in found.error
    assert body.startswith(found.body)


HOSTILE = {
    "other protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "RTSP": b"RTSP/1.0 200 OK\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "empty lines first": b"\r\n\r\n" + LENGTH_5,
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "switching protocols silently": b"HTTP/1.1 101 Switching\r\n\r\n",
    "interim with a length": b"HTTP/1.1 100 Continue\r\ncontent-length: 5\r\n\r\nhello" + LENGTH_5,
    "interim that is chunked": b"HTTP/1.1 103 Early\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + LENGTH_5,
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
    "bare LF in headers": OK + b"a: b\ncontent-length: 5\r\n\r\nhello",
    "bare CR in a value": OK + b"a: b\rc\r\ncontent-length: 5\r\n\r\nhello",
    "NUL in a value": OK + b"a: b\0c\r\n\r\n",
    "control character in a value": OK + b"a: b\x01c\r\n\r\n",
    "folded header": OK + b"a: b\r\n c\r\n\r\n",
    "space before the colon": OK + b"content-length : 5\r\n\r\nhello",
    "space before the name": OK + b" a: b\r\n\r\n",
    "no colon": OK + b"nonsense\r\n\r\n",
    "no name": OK + b": b\r\n\r\n",
    "length and chunked": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked and length": OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "two lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "one length twice": OK + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "list of lengths": OK + b"content-length: 5, 5\r\n\r\nhello",
    "negative length": OK + b"content-length: -5\r\n\r\nhello",
    "length with a sign": OK + b"content-length: +5\r\n\r\nhello",
    "hexadecimal length": OK + b"content-length: 0x5\r\n\r\nhello",
    "empty length": OK + b"content-length: \r\n\r\n",
    "huge length": OK + b"content-length: 99999999999999999999999\r\n\r\nhello",
    "other encoding": OK + b"transfer-encoding: gzip\r\n\r\nhello",
    "encoding before chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "encoding after chunked": OK + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "almost chunked": OK + b"transfer-encoding: xchunked\r\n\r\nhello",
    "chunked by old server": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk of no size": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "chunk of negative size": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunk of overflowing size": CHUNKED + b"ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk of bad size": CHUNKED + b"5g\r\nhello\r\n0\r\n\r\n",
    "chunk with spaces": CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
    "chunk with bare LF": CHUNKED + b"5\nhello\n0\n\n",
    "bad trailer": CHUNKED + b"5\r\nhello\r\n0\r\nx y: 1\r\n\r\n",
    "endless head": OK + b"a: " + b"x" * MAX_HEAD_BYTES,
    "large head": OK + (b"a: " + b"x" * 1_000 + b"\r\n") * 70 + b"content-length: 5\r\n\r\nhello",
    "many headers": OK + b"a: b\r\n" * 20_000 + b"content-length: 5\r\n\r\nhello",
    "endless interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 4_000,
    "endless chunk extension": CHUNKED + b"5;" + b"x" * (2 * MAX_HEAD_BYTES),
    "endless trailers": CHUNKED + b"0\r\n" + b"x-a: b\r\n" * 30_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_answer_is_refused_when_it_is(name: str) -> None:
    data = HOSTILE[name]
    whole, single = read(in_reads_of(READ_BYTES, data)), read(bytewise(data))
    for found in (whole, single):
        assert found.error is not None
        assert not found.reusable
        assert b"hello".startswith(found.body)
    # Said as soon as it is seen, and not only when the peer closes.
    assert "closed" not in (whole.error or "")


@pytest.mark.parametrize("size", [100, 4_096, 65_536])
def test_head_is_refused_when_it_is_too_large_in_reads_of(size: int) -> None:
    for name in ("endless head", "large head", "many headers", "endless chunk extension", "endless trailers"):
        found = read(in_reads_of(size, HOSTILE[name]))
        assert f"over {MAX_HEAD_BYTES} bytes" in (found.error or ""), name


def test_head_is_read_when_it_is_almost_too_large() -> None:
    data = OK + b"a: " + b"x" * (MAX_HEAD_BYTES - 100) + b"\r\ncontent-length: 70000\r\n\r\n"
    found = read([data + b"y" * 70_000])
    assert (found.error, len(found.body)) == (None, 70_000)
    assert read([data[:50_000], data[50_000:], b"y" * 70_000]) == found


def test_chunks_are_read_when_there_are_so_many_that_their_framing_is_large() -> None:
    data = CHUNKED + b"1\r\nx\r\n" * 30_000 + b"0\r\n\r\n"
    assert read([data]).body == b"x" * 30_000
    assert read(in_reads_of(999, data)).error is None


FRAGMENTS = st.sampled_from(
    [
        *(
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n\r\n",
            b"\0",
            b" ",
            b"\t",
            b":",
            b";",
            b",",
            b"0",
            b"5",
            b"a",
            b"\xff",
            b"-",
            b"+",
        ),
        *(b"HTTP/1.1 ", b"200", b"100", b"204", b"content-length: 5\r\n", b"content-length: 0\r\n"),
        *(b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"hello"),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An answer with something put in, taken out or doubled in a few places."""
    data = bytearray(draw(st.sampled_from([answer for answer, *_ in ANSWERS.values()] + list(HOSTILE.values())[:40])))
    for _ in range(draw(st.integers(0, 3))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 4))
        data[at : at + length] = draw(FRAGMENTS | st.binary(max_size=3)) * draw(st.integers(1, 2))
    return bytes(data)


@settings(max_examples=400)
@given(mutated() | st.binary(max_size=60), st.lists(st.integers(0, 200), max_size=4))
def test_every_answer_ends_as_complete_or_refused_whatever_it_is(data: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds) if start < end]
    whole, split = read([data] if data else []), read(pieces)
    assert (whole.error is None) == (split.error is None)
    if whole.error is None:
        assert (whole.status, whole.headers, whole.body) == (split.status, split.headers, split.body)


def judged(data: bytes) -> tuple[int, tuple[tuple[bytes, bytes], ...], bytes]:
    """Status, headers and body as h11 reads them. Raises h11.RemoteProtocolError."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[HOST]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    status, headers, body = 0, (), b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
        if isinstance(event, h11.Response):
            status, headers = event.status_code, tuple(event.headers.raw_items())
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    return status, headers, body


def without_reason(data: bytes) -> bytes:
    """Nobody looks at the reasons, in which llhttp takes characters that h11 refuses."""
    lines = data.split(b"\r\n")
    return b"\r\n".join([line[:12] if line.startswith(b"HTTP/") else line for line in lines])


@settings(max_examples=600)
@given(mutated().map(without_reason))
@example(without_reason(LENGTH_5))
def test_answer_is_what_h11_makes_of_it_when_it_is_accepted(data: bytes) -> None:
    # Between an interim answer and the next one llhttp skips empty lines, which is harmless.
    assume(b"\r\n\r\n\r" not in data and b"\r\n\r\n\n" not in data)
    found = read([data] if data else [])
    if found.error is None:
        status, headers, body = judged(data)
        assert (found.status, found.body) == (status, body)
        # h11 turns the value of Transfer-Encoding to lower case.
        assert [(name, value.lower()) for name, value in found.headers] == [
            (name, value.lower()) for name, value in headers
        ]


# -- requests


def served(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]:
    """Method, target, headers and body as a server reads them with h11."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += bytes(event.data)
    assert connection.trailing_data == (b"", False)
    return request.method, request.target, list(request.headers.raw_items()), body


def written(
    headers: list[tuple[bytes, bytes]], *pieces: bytes, method: str = "POST", target: bytes = b"/v1?a=b"
) -> bytes:
    writer = RequestWriter(method, target, [HOST, *headers])
    return writer.head + b"".join([writer.piece(piece) for piece in pieces]) + writer.end()


@given(st.lists(st.binary(max_size=20), max_size=4), st.booleans())
def test_request_is_read_as_it_was_meant_in_either_framing(pieces: list[bytes], chunked: bool) -> None:
    body = b"".join(pieces)
    framing = (b"Transfer-Encoding", b"chunked") if chunked else (b"Content-Length", b"%d" % len(body))
    headers = [(b"X-Key", b"sk \xe4\t1"), (b"x-empty", b""), framing]
    data = written(headers, *pieces)
    assert served(data) == (b"POST", b"/v1?a=b", [HOST, *headers], body)


def test_request_has_no_body_when_it_announces_none() -> None:
    assert written([], b"", method="GET") == b"GET /v1?a=b HTTP/1.1\r\nHost: provider.example\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "pieces"),
    [
        ([(b"content-length", b"2")], [b"abc"]),
        ([(b"content-length", b"2")], [b"ab", b"c"]),
        ([(b"content-length", b"2")], [b"a"]),
        ([(b"content-length", b"2")], []),
        ([], [b"a"]),
        ([(b"content-length", b"2"), (b"Content-Length", b"2")], [b"ab"]),
        ([(b"content-length", b"2"), (b"transfer-encoding", b"chunked")], [b"ab"]),
        ([(b"content-length", b"two")], [b"ab"]),
        ([(b"content-length", b"-2")], [b"ab"]),
        ([(b"content-length", b"2, 2")], [b"ab"]),
        ([(b"transfer-encoding", b"gzip, chunked")], [b"ab"]),
        ([(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")], [b"ab"]),
        ([HOST], []),
    ],
)
def test_request_is_refused_when_its_framing_is_not_clear(
    headers: list[tuple[bytes, bytes]], pieces: list[bytes]
) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        written(headers, *pieces)


def test_request_is_refused_when_it_has_no_host() -> None:
    with pytest.raises(httpx.LocalProtocolError, match="0 Host headers"):
        RequestWriter("GET", b"/", [])


@pytest.mark.parametrize("bad", [b"\r", b"\n", b"\0", b"\x7f", b"\x1b"])
def test_request_is_refused_without_a_word_of_the_value_when_it_could_add_a_line(bad: bytes) -> None:
    for value in (bad, b"sk-1" + bad, bad + b"sk-1", b"sk-1" + bad + b"x: y"):
        with pytest.raises(httpx.LocalProtocolError) as caught:
            RequestWriter("POST", b"/", [HOST, (b"authorization", value)])
        assert "sk-1" not in str(caught.value)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"a\n", b"\xe4", b"a\0", b"(a)"])
def test_request_is_refused_when_a_header_name_is_not_one(name: bytes) -> None:
    with pytest.raises(httpx.LocalProtocolError, match="header name"):
        RequestWriter("POST", b"/", [HOST, (name, b"x")])


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET\r\n", b"/"),
        ("", b"/"),
        ("G T", b"/"),
        ("GÄT", b"/"),
        ("CONNECT", b"/"),
        ("GET", b""),
        ("GET", b"/ x"),
        ("GET", b"/\r\n"),
        ("GET", b"/\xe4"),
    ],
)
def test_request_is_refused_when_its_first_line_would_not_be_one(method: str, target: bytes) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        RequestWriter(method, target, [HOST])


@pytest.mark.parametrize(("value", "keeps"), [(b"close", False), (b"Close, x", False), (b"keep-alive", True)])
def test_connection_is_kept_unless_the_request_says_otherwise(value: bytes, keeps: bool) -> None:
    assert RequestWriter("GET", b"/", [HOST, (b"Connection", value)]).keep_alive is keeps
