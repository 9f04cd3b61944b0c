"""Differential test: what h11 refuses is refused, and what is accepted means what it means to h11."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edge.http1_readers import check, read_ours

TOKENS = st.sampled_from(
    [b"GET", b"POST", b"HEAD", b"get", b"BREW", b"G T", b"", b"GET\t", b"CONNECT", b"PRI", b"\x16\x03"]
)
TARGETS = st.sampled_from(
    [b"/", b"/v1/chat/completions", b"/a?b=c#d", b"*", b"http://x/y", b"x:1", b"a", b"", b"/ ", b"/\xff"]
)
VERSIONS = st.sampled_from(
    [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.1 ", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.10", b""]
)
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b"\0\r\n", b"\x0b\r\n", b""])
NAMES = st.sampled_from(
    [
        b"Content-Length",
        b"content-length",
        b"Transfer-Encoding",
        b"Host",
        b"Connection",
        b"Expect",
        b"Upgrade",
        b"X-A",
        b"Content-Length ",
        b" Content-Length",
        b"Content_Length",
        b"",
        b"X\x00",
        b"X(",
        b"\xc3\xa9",
    ]
)
VALUES = st.sampled_from(
    [
        b"0", b"5", b"+5", b"-5", b"5,5", b"5, 6", b"05", b"0x5", b" 5", b"5 ", b"5\t", b"5;", b"", b"1" * 30,
        b"chunked", b"Chunked", b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"\x0bchunked",
        b"chunked\x0b", b"close", b"keep-alive", b"upgrade", b"100-continue", b"h2c", b"x", b"\xff\x80", b"a\x00b",
        b"a\x01b", b"a\x7fb", b"a b",
    ]
)  # fmt: skip
LINES = st.tuples(NAMES, st.sampled_from([b":", b": ", b":\t ", b" :", b"", b"::"]), VALUES, ENDS).map(b"".join)
SOUND_LINES = st.sampled_from(
    [
        b"Host: x\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"X-A:  b c \r\n",
        b"X-A:\r\n",
    ]
)
SIZES = st.sampled_from(
    [
        b"0",
        b"5",
        b"1",
        b"05",
        b"a",
        b"A",
        b"0x5",
        b"-1",
        b" 5",
        b"5 ",
        b"5;x=y",
        b"5;\n",
        b"",
        b"g",
        b"1" * 21,
        b"00000000000000000005",
    ]
)
CHUNKS = st.one_of(
    st.sampled_from(
        [
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"0\r\nX: y\r\n\r\n",
            b"0\r\nTransfer-Encoding: x\r\n\r\n",
            b"1\r\nx\r\n0\r\n\r\n",
        ]
    ),
    st.tuples(SIZES, ENDS, st.sampled_from([b"hello", b"x", b"", b"hell", b"hello!", b"\r\n"]), ENDS).map(b"".join),
    st.tuples(st.just(b"0\r\n"), LINES, ENDS).map(b"".join),
)
BODIES = st.one_of(st.sampled_from([b"", b"hello", b"hell", b"hello\r\n"]), st.lists(CHUNKS, max_size=4).map(b"".join))
FIRST_LINES = st.one_of(
    st.sampled_from([b"GET / HTTP/1.1\r\n", b"POST /v1/x HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n"]),
    st.tuples(TOKENS, st.sampled_from([b" ", b"  ", b"\t"]), TARGETS, st.just(b" "), VERSIONS, ENDS).map(b"".join),
)
HEADS = st.one_of(
    st.tuples(
        st.sampled_from([b"GET / HTTP/1.1\r\n", b"POST /x?y HTTP/1.1\r\n"]),
        st.just(b"Host: x\r\n"),
        st.lists(SOUND_LINES.filter(lambda line: not line.startswith(b"Host")), max_size=3).map(b"".join),
        st.just(b"\r\n"),
    ).map(b"".join),
    st.tuples(FIRST_LINES, st.lists(SOUND_LINES | LINES, max_size=4).map(b"".join), ENDS).map(b"".join),
)
MESSAGES = st.tuples(HEADS, BODIES).map(b"".join)


@st.composite
def streams(draw):
    """One to three messages, some of them with bytes put in, taken out or exchanged."""
    data = b"".join(draw(st.lists(MESSAGES, min_size=1, max_size=3)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        put = draw(
            st.one_of(st.binary(max_size=2), st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b"0"]))
        )
        data = data[:at] + put + data[at + draw(st.integers(0, 2)) :]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return data, pieces


@given(streams())
@settings(max_examples=600)
def test_requests_mean_what_they_mean_to_h11_when_both_take_them(stream):
    check(*stream)


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_noise_is_refused_when_h11_refuses_it(data):
    check(data)


SOUND = (
    b"POST /v1/x?y HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    b"GET / HTTP/1.0\r\n\r\n"
)


def test_sound_requests_are_read_whole_and_alike_when_they_are_split_at_any_byte():
    whole = check(SOUND)
    assert whole.refused is None
    assert [(request.method, request.body) for request in whole.requests] == [
        (b"POST", b"hello0123456789"),
        (b"POST", b"hello"),
        (b"GET", b""),
    ]
    assert read_ours([bytes([byte]) for byte in SOUND]) == whole
    for cut in range(len(SOUND)):
        assert read_ours([SOUND[:cut], SOUND[cut:]]) == whole


@pytest.mark.parametrize("byte", [b"\0", b"\r", b"\n", b" ", b"\x0b", b"\x7f", b":", b"\xff"])
def test_a_byte_put_in_anywhere_does_not_part_the_readers(byte):
    for at in range(len(SOUND)):
        check(SOUND[:at] + byte + SOUND[at:])
        check(SOUND[:at] + byte + SOUND[at + 1 :])
