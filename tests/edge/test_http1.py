import re

import h11
import pytest

from arbstr.edge._http1 import AnswerWriter, BadAnswer, RequestReader
from arbstr.errors import InvalidRequest
from tests.edge.http1_readers import read_h11, read_ours

HOST = b"Host: x\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST


def refused(data):
    """Status and words of the refusal of some bytes, fed at once and one by one."""
    with pytest.raises(InvalidRequest) as caught:
        read_all(data)
    assert read_ours([bytes([byte]) for byte in data]).refused == caught.value.status
    return caught.value.status, caught.value.message


def read_all(data, max_head_bytes=65_536, max_headers=128):
    reader = RequestReader(max_head_bytes, max_headers)
    reader.feed(data)
    requests = []
    while (request := reader.next_request()) is not None:
        while not reader.body_done and reader.next_part():
            pass
        requests.append(request)
        if not reader.body_done:
            break
    return requests


# Refused, each for a way of smuggling a request past one of two readers


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",  # a folded line
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\tc\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA(: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x01c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x0bc\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x7fc\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
        POST + b"Content-Length: 1, 1\r\n\r\n",
        POST + b"Content-Length: +1\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 0x1\r\n\r\n",
        POST + b"Content-Length: 1_0\r\n\r\n",
        POST + b"Content-Length: 1 0\r\n\r\n",
        POST + b"Content-Length:\r\n\r\n",
        POST + b"Content-Length: 9999999999999999999\r\n\r\n",
        POST + b"Content-Length: \xb2\r\n\r\n",
        POST + b"Content-Length : 1\r\n\r\n",
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding\r\n: chunked\r\n\r\n",
    ],
)
def test_head_that_can_be_read_in_two_ways_is_400(data):
    assert refused(data)[0] == 400


@pytest.mark.parametrize(
    "coding",
    [b"gzip", b"identity", b"gzip, chunked", b"chunked, chunked", b"chunked;x", b"xchunked", b'"chunked"', b""],
)
def test_transfer_encoding_other_than_chunked_is_501(coding):
    assert refused(POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n")[0] == 501
    assert refused(POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: " + coding + b"\r\n\r\n")[0] == 501


@pytest.mark.parametrize("method", [b"BREW", b"get", b"G!T"])
def test_method_that_nobody_knows_is_501(method):
    status, words = refused(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, words) == (501, "the request has a method that is not known here")


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5;a=b\r\nhello\r\n",
        b"5;\nhello\r\n",
        b"5\rhello\r\n",
        b"5\r\nhello!\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"00000000000000005\r\nhello\r\n",
        b"11111111111111111\r\n",
        b"0\r\n\n",
        b"0\r\nA\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\n A: b\r\n\r\n",
        b"0\r\nA: b\r\n c\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nTransfer-Encoding: chunked\r\n\r\n",  # found by fuzzing: h11 reads trailers as headers
        b"0\r\nhost: x\r\n\r\n",
    ],
)
def test_chunks_that_can_be_read_in_two_ways_are_400(body):
    assert refused(POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)[0] == 400


def test_refusal_names_the_line_and_not_what_stands_in_it():
    _, words = refused(b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer secret\r\n\r\n")
    assert words == "this is not a valid HTTP/1.1 request: line 3 of its headers is not NAME: VALUE on one line"
    _, words = refused(b"hello\r\n\r\n")
    assert words.endswith("its first line is not METHOD TARGET HTTP/1.1")
    _, words = refused(b"\x16\x03\x01")
    assert words.endswith("it does not begin with a method")


# Bounds


def test_headers_are_431_when_they_are_more_bytes_than_the_bound_with_or_without_an_end():
    head = b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 100
    for data in (head, head + b"\r\n\r\n"):
        with pytest.raises(InvalidRequest) as caught:
            read_all(data, max_head_bytes=100)
        assert (caught.value.status, caught.value.message) == (431, "the request headers are larger than 100 bytes")
    exactly = head[:96] + b"\r\n\r\n"
    assert len(read_all(exactly, max_head_bytes=100)) == 1


def test_headers_are_431_when_they_are_more_than_the_bound():
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 4
    assert len(read_all(head + b"\r\n", max_headers=5)) == 1
    with pytest.raises(InvalidRequest, match="more than 5 headers") as caught:
        read_all(head + b"A: b\r\n\r\n", max_headers=5)
    assert caught.value.status == 431


def test_trailers_are_431_when_they_are_larger_than_the_bound():
    data = POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"y" * 100
    for end in (b"", b"\r\n\r\n"):
        with pytest.raises(InvalidRequest, match="trailers") as caught:
            read_all(data + end, max_head_bytes=90)
        assert caught.value.status == 431


# Accepted


def test_headers_are_as_h11_has_them():
    data = b"GET /a?b HTTP/1.1\r\nHost:x\r\nX-A: \t b c\t \r\nX-B:\r\nx-a: \xe9\r\n\r\n"
    assert read_ours([data]).requests == read_h11(data).requests
    (request,) = read_all(data)
    assert request.headers == [(b"host", b"x"), (b"x-a", b"b c"), (b"x-b", b""), (b"x-a", b"\xe9")]


@pytest.mark.parametrize(
    ("version", "line", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Keep-Alive , CLOSE\r\n", False),
        (b"1.1", b"Connection: upgrade\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: closet\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", False),
    ],
)
def test_connection_is_kept_as_the_client_says(version, line, keep_alive):
    (request,) = read_all(b"GET / HTTP/" + version + b"\r\nHost: x\r\n" + line + b"\r\n")
    assert (request.keep_alive, request.http_version) == (keep_alive, version.decode())


def test_client_waits_to_be_told_only_when_it_says_so_in_1_1():
    def expects(version, value):
        return read_all(b"POST / HTTP/%b\r\nHost: x\r\nExpect: %b\r\n\r\n" % (version, value))[0].expects_continue

    assert expects(b"1.1", b"100-Continue")
    assert not expects(b"1.1", b"something")
    assert not expects(b"1.0", b"100-continue")


def test_upgrade_and_connect_are_requests_like_others():
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"
    connect = b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n"
    assert [request.method for request in read_all(upgrade + connect + upgrade)] == ["GET", "CONNECT", "GET"]


# Answers


def answered(writer, status, headers, *parts):
    out = writer.start(status, headers)
    for number, part in enumerate(parts, 1):
        out += writer.body(part, more=number < len(parts))
    return out


def as_h11_reads(data, method="GET"):
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    head, body = connection.next_event(), b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert connection.trailing_data[0] == b""
    return head.status_code, {name: value for name, value in head.headers if name != b"date"}, body


def writer(method="GET", version="1.1", *, must_close=False):
    return AnswerWriter(method, version, must_close=must_close)


def test_answer_of_known_length_is_one_piece():
    one = writer()
    assert one.start(200, [(b"content-length", b"5"), (b"x-a", b"b")]) == b""
    data = one.body(b"hello", more=False)
    assert re.fullmatch(
        rb"HTTP/1\.1 200 OK\r\ncontent-length: 5\r\nx-a: b\r\n"
        rb"date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n\r\nhello",
        data,
    )
    assert one.complete
    assert not one.must_close


def test_answer_of_unknown_length_is_chunked_and_to_an_old_client_until_the_end():
    parts = (b"one", b"", b"two", b"")
    assert as_h11_reads(answered(writer(), 200, [], *parts)) == (200, {b"transfer-encoding": b"chunked"}, b"onetwo")
    old = writer(version="1.0", must_close=True)
    assert as_h11_reads(answered(old, 200, [], *parts)) == (200, {b"connection": b"close"}, b"onetwo")


@pytest.mark.parametrize("status", [200, 204, 304, 404, 599])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("headers", [[(b"content-length", b"5")], []])
def test_answer_is_what_h11_reads(status, method, headers):
    headers = [] if status == 204 else headers
    one = writer(method)
    status_read, _, body = as_h11_reads(answered(one, status, headers, b"he", b"llo"), method)
    bodiless = method == "HEAD" or status in (204, 304)
    assert (status_read, body) == (status, b"" if bodiless else b"hello")
    assert one.complete


def test_last_chunk_goes_with_the_end():
    one = writer()
    one.start(200, [])
    assert one.body(b"hello", more=True) == b"5\r\nhello\r\n"
    assert one.body(b"", more=True) == b""
    assert one.body(b"!", more=False) == b"1\r\n!\r\n0\r\n\r\n"


def test_close_is_said_once():
    said = writer()
    assert answered(said, 200, [(b"Connection", b"Close"), (b"content-length", b"0")], b"").count(b"lose") == 1
    assert said.must_close
    assert b"connection: close" in answered(writer(must_close=True), 200, [(b"content-length", b"0")], b"")


def test_headers_that_are_for_the_server_to_choose_are_left_out():
    data = answered(
        writer(), 200, [(b"transfer-encoding", b"gzip"), (b"date", b"today"), (b"content-length", b"0")], b""
    )
    assert data == b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "header",
    [
        (b"a", b"b\r\nset-cookie: c"),
        (b"a", b"b\nc"),
        (b"a", b"b\r"),
        (b"a", b"b\0"),
        (b"a b", b"c"),
        (b"", b"c"),
        (b"a\r\nb", b"c"),
        (b"content-length", b"-1"),
        (b"content-length", b"1, 1"),
    ],
)
def test_header_that_would_split_the_answer_is_not_sent(header):
    one = writer()
    with pytest.raises(BadAnswer):
        one.start(200, [header])
    assert not one.started


def test_answer_out_of_order_is_not_sent():
    with pytest.raises(BadAnswer):
        writer().body(b"", more=False)
    with pytest.raises(BadAnswer):
        writer().start(100, [])
    with pytest.raises(BadAnswer):
        writer().start(200, [(b"content-length", b"1"), (b"Content-Length", b"1")])
    twice = writer()
    twice.start(200, [])
    with pytest.raises(BadAnswer):
        twice.start(200, [])
    twice.body(b"", more=False)
    with pytest.raises(BadAnswer):
        twice.body(b"", more=False)


@pytest.mark.parametrize("parts", [(b"hello!",), (b"hell",), (b"hello", b"!")])
def test_body_of_another_length_than_was_said_is_no_answer(parts):
    one = writer()
    with pytest.raises(BadAnswer):
        answered(one, 200, [(b"content-length", b"5")], *parts)
    assert not one.complete
