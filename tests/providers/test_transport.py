"""What an httpx transport does, over httpx's own and over ours: the same tests for both."""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import trio
import trustme
from attrs import define, field

from arbstr.providers import Http1Transport, PooledTransport
from arbstr.providers._upstream import RequestBody

BODY = b'{"model":"m"}'
MakeTransport = Callable[..., httpx.AsyncBaseTransport]
TIMEOUTS = ("connect", "pool", "write", "read")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["own", "httpx"])
def make(request: Any, authority: trustme.CA) -> MakeTransport:
    """Makes the transport under test; with ``trusting`` it believes in ``authority``."""

    def own(*, max_connections: int = 10, trusting: bool = True) -> httpx.AsyncBaseTransport:
        return Http1Transport(max_connections=max_connections, tls_context=context(trusting))

    def httpx_s(*, max_connections: int = 10, trusting: bool = True) -> httpx.AsyncBaseTransport:
        # With the corrections that a cancelled request needs, see there.
        transport = PooledTransport(max_connections=max_connections, tls=False)
        transport._pool._ssl_context = context(trusting)
        return transport

    def context(trusting: bool) -> ssl.SSLContext:
        made = ssl.create_default_context()
        if trusting:
            authority.configure_trust(made)
        return made

    return own if request.param == "own" else httpx_s


@define(eq=False)
class Peer:
    """A server that runs ``script`` with each connection as it is, and counts them."""

    port: int
    host: str = "127.0.0.1"
    script: Callable[[trio.SocketStream], Awaitable[None]] | None = None
    accepted: int = 0
    open: int = 0
    received: bytearray = field(factory=bytearray)
    changed: trio.Event = field(factory=trio.Event)

    def url(self, path: str = "/v1", scheme: str = "http") -> str:
        return f"{scheme}://{self.host}:{self.port}{path}"

    async def serve(self, stream: trio.SocketStream) -> None:
        assert self.script is not None
        self.accepted += 1
        self.count(+1)
        try:
            await self.script(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            stream.socket.close()
            self.count(-1)

    def count(self, change: int) -> None:
        self.open += change
        self.changed.set()
        self.changed = trio.Event()

    async def until_open(self, count: int) -> None:
        with trio.fail_after(5):
            while self.open != count:
                await self.changed.wait()

    async def request(self, stream: Any, ending: bytes = b"") -> bytes:
        """The next request, up to ``ending`` or else as long as its Content-Length says; nothing if there is none."""
        data = b""
        while not _whole(data, ending) and (more := await stream.receive_some(65_536)):
            data += more
        self.received += data
        return data

    def answering(self, *answers: bytes, then_close: bool = False) -> None:
        """Each request gets the next of the answers, and again from the first one on each new connection."""

        async def script(stream: Any) -> None:
            for answer in answers:
                if not await self.request(stream):
                    return
                await stream.send_all(answer)
            if not then_close:
                await until_closed(stream)

        self.script = script


def _whole(data: bytes, ending: bytes) -> bool:
    if ending:
        return data.endswith(ending)
    head, end, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    return bool(end) and len(body) >= length


async def until_closed(stream: Any) -> None:
    while await stream.receive_some(65_536):
        pass


@pytest.fixture
async def peer(nursery: trio.Nursery) -> Peer:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made = Peer(listener.socket.getsockname()[1])
    nursery.start_soon(trio.serve_listeners, made.serve, [listener])
    return made


def request_to(url: str, method: str = "POST", content: Any = BODY, **timeouts: float) -> httpx.Request:
    extensions = {"timeout": dict.fromkeys(TIMEOUTS, 10.0) | timeouts}
    request = httpx.Request(method, url, content=content, headers={"x-key": "sk-1"}, extensions=extensions)
    if isinstance(content, bytes):
        request.stream = RequestBody(content)  # httpx's is a generator, which httpcore leaves to the finaliser
    return request


async def read(response: httpx.Response) -> bytes:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        return b"".join([chunk async for chunk in response.stream])
    finally:
        await response.stream.aclose()


async def exchange(transport: httpx.AsyncBaseTransport, url: str, **fields: Any) -> tuple[int, bytes]:
    response = await transport.handle_async_request(request_to(url, **fields))
    return response.status_code, await read(response)


def kept(transport: httpx.AsyncBaseTransport) -> tuple[int, int]:
    """Connections, and how many of them are idle."""
    if isinstance(transport, Http1Transport):
        return transport.connections, transport.idle_connections
    assert isinstance(transport, PooledTransport)
    connections = transport._pool.connections
    return len(connections), sum(connection.is_idle() for connection in connections)


async def failure_of(transport: httpx.AsyncBaseTransport, url: str, **fields: Any) -> type[Exception]:
    """The class of what an exchange ends in, which leaves nothing behind."""
    with pytest.raises(httpx.TransportError) as caught:
        await exchange(transport, url, **fields)
    connections, idle = kept(transport)
    assert connections == idle
    return caught.type


OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"


# -- answers


@pytest.mark.parametrize(
    ("answer", "status", "body", "connections"),
    [
        (HELLO, 200, b"hello", 1),
        (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nx-sum: 1\r\n\r\n", 200, b"hello", 1),
        (OK + b"content-length: 0\r\n\r\n", 200, b"", 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", 1),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b"", 1),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + HELLO, 200, b"hello", 1),
        (b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", 302, b"", 1),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno", 500, b"no", 1),
        (b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", 1),
        (OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", 3),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", 3),
    ],
)
async def test_answer_is_given_and_its_connection_used_again_where_that_is_possible(
    answer: bytes, status: int, body: bytes, connections: int, make: MakeTransport, peer: Peer
) -> None:
    peer.answering(*[answer] * 3)
    async with make() as transport:
        for _ in range(3):
            assert await exchange(transport, peer.url()) == (status, body)
    assert peer.accepted == connections


async def test_answer_is_given_when_it_ends_with_the_connection(make: MakeTransport, peer: Peer) -> None:
    peer.answering(OK + b"\r\nhello", then_close=True)
    async with make() as transport:
        assert await exchange(transport, peer.url()) == (200, b"hello")
        assert kept(transport) == (0, 0)


async def test_answer_to_head_has_no_body_whatever_it_announces(make: MakeTransport, peer: Peer) -> None:
    peer.answering(OK + b"content-length: 5\r\n\r\n")
    async with make() as transport:
        response = await transport.handle_async_request(request_to(peer.url(), "HEAD", b""))
        assert (response.headers["content-length"], await read(response)) == ("5", b"")


async def test_headers_are_as_they_were_sent(make: MakeTransport, peer: Peer) -> None:
    peer.answering(OK + b"Set-Cookie: a=1\r\nX-B:  b c \t\r\nset-cookie: b=\xe4\r\nContent-Length: 0\r\n\r\n")
    async with make() as transport:
        response = await transport.handle_async_request(request_to(peer.url()))
        assert response.headers.raw == [
            (b"Set-Cookie", b"a=1"),
            (b"X-B", b"b c"),
            (b"set-cookie", b"b=\xe4"),
            (b"Content-Length", b"0"),
        ]
        assert (response.http_version, response.reason_phrase) == ("HTTP/1.1", "OK")
        await read(response)


async def test_answer_is_read_when_it_comes_byte_by_byte(make: MakeTransport, peer: Peer) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await peer.request(stream)
        for byte in OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n":
            await stream.send_all(bytes([byte]))
        await until_closed(stream)

    peer.script = script
    async with make() as transport:
        assert await exchange(transport, peer.url()) == (200, b"hello")


async def test_body_is_given_as_it_comes(make: MakeTransport, peer: Peer) -> None:
    more = trio.Event()

    async def script(stream: trio.SocketStream) -> None:
        await peer.request(stream)
        await stream.send_all(OK + b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await more.wait()
        await stream.send_all(b"3\r\ntwo\r\n0\r\n\r\n")
        await until_closed(stream)

    peer.script = script
    async with make() as transport:
        response = await transport.handle_async_request(request_to(peer.url()))
        chunks = aiter(response.stream)  # type: ignore[arg-type]
        assert await anext(chunks) == b"one"
        more.set()
        assert await anext(chunks) == b"two"
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)
        await response.aclose()
        assert kept(transport) == (1, 1)


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_body_comes_whole(chunked: bool, make: MakeTransport, peer: Peer) -> None:
    body = bytes(range(256)) * 20_000
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    peer.answering(OK + framing + b"\r\n\r\n" + framed)
    async with make() as transport:
        assert await exchange(transport, peer.url()) == (200, body)


async def test_server_is_held_back_when_the_body_is_not_taken(make: MakeTransport, peer: Peer) -> None:
    size = 64 << 20
    sent = trio.Event()

    async def script(stream: trio.SocketStream) -> None:
        await peer.request(stream)
        await stream.send_all(OK + b"content-length: %d\r\n\r\n" % size)
        await stream.send_all(bytes(size))
        sent.set()
        await until_closed(stream)

    peer.script = script
    async with make() as transport:
        response = await transport.handle_async_request(request_to(peer.url()))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not sent.is_set()
        assert isinstance(response.stream, httpx.AsyncByteStream)
        count = 0
        async for chunk in response.stream:
            count += len(chunk)
        assert count == size


# -- answers that break


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        OK,
        OK + b"content-length: 5\r\n\r\nhell",
        OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhel",
    ],
)
@pytest.mark.parametrize("reset", [False, True])
async def test_broken_answer_is_an_error_and_never_a_short_one(
    beginning: bytes, reset: bool, make: MakeTransport, peer: Peer
) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await peer.request(stream)
        await stream.send_all(beginning)
        if reset:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    peer.script = script
    async with make() as transport:
        # A reset may overtake what was sent before it.
        expected = (httpx.ReadError, httpx.RemoteProtocolError) if reset else (httpx.RemoteProtocolError,)
        assert await failure_of(transport, peer.url()) in expected
        assert kept(transport) == (0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        OK + b"content-length: -1\r\n\r\n",
        OK + b"a b: c\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffffffff\r\nhello",
        OK + b"transfer-encoding: chunked\r\n\r\n5x\r\nhello",
        OK + b"a: " + b"x" * 200_000,
    ],
)
async def test_answer_is_refused_when_it_is_not_http(answer: bytes, make: MakeTransport, peer: Peer) -> None:
    peer.answering(answer)
    async with make() as transport:
        assert await failure_of(transport, peer.url()) is httpx.RemoteProtocolError
        assert kept(transport) == (0, 0)


# -- requests


async def test_request_is_sent_as_it_is(make: MakeTransport, peer: Peer) -> None:
    peer.answering(HELLO)
    async with make() as transport:
        await exchange(transport, peer.url("/v1/chat?a=%20b"))
    head, _, body = bytes(peer.received).partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    assert line == b"POST /v1/chat?a=%20b HTTP/1.1"
    assert sorted(header.lower() for header in headers) == [
        b"content-length: 13",
        b"host: 127.0.0.1:%d" % peer.port,
        b"x-key: sk-1",
    ]
    assert body == BODY


async def parts(*values: bytes) -> AsyncIterator[bytes]:
    for value in values:
        await trio.lowlevel.checkpoint()
        yield value


async def test_request_is_sent_in_chunks_when_its_length_is_not_known(make: MakeTransport, peer: Peer) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await peer.request(stream, ending=b"0\r\n\r\n")
        await stream.send_all(HELLO)
        await until_closed(stream)

    peer.script = script
    async with make() as transport:
        assert await exchange(transport, peer.url(), content=parts(b"one", b"", b"three")) == (200, b"hello")
    head, _, body = bytes(peer.received).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    assert body == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


async def test_large_request_arrives_whole_when_the_server_is_slow(make: MakeTransport, peer: Peer) -> None:
    content = bytes(range(256)) * 40_000

    async def script(stream: trio.SocketStream) -> None:
        data = await stream.receive_some(100)
        await trio.testing.wait_all_tasks_blocked(0.05)
        peer.received += data
        while not peer.received.endswith(content):
            peer.received += await stream.receive_some(200_000)
        await stream.send_all(HELLO)
        await until_closed(stream)

    peer.script = script
    async with make() as transport:
        assert await exchange(transport, peer.url(), content=content) == (200, b"hello")
    assert peer.received.partition(b"\r\n\r\n")[2] == content


async def test_connection_is_closed_when_the_request_says_so(make: MakeTransport, peer: Peer) -> None:
    peer.answering(HELLO)
    async with make() as transport:
        request = request_to(peer.url())
        request.headers["connection"] = "close"
        assert await read(await transport.handle_async_request(request)) == b"hello"
        assert kept(transport) == (0, 0)


@pytest.mark.parametrize(
    ("name", "value"), [("x-key", "sk\r\nx-evil: 1"), ("x-key", "sk\n"), ("x-key", "sk\0"), ("x key", "sk"), ("", "sk")]
)
async def test_request_is_refused_when_a_header_could_be_read_as_two(
    name: str, value: str, make: MakeTransport, peer: Peer
) -> None:
    peer.answering(HELLO)
    async with make() as transport:
        request = request_to(peer.url())
        request.headers[name] = value
        with pytest.raises(httpx.LocalProtocolError):
            await transport.handle_async_request(request)
    assert peer.received == b""


async def test_answer_is_given_when_the_server_breaks_off_the_request(make: MakeTransport, peer: Peer) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")

    peer.script = script
    async with make() as transport:
        assert await exchange(transport, peer.url(), content=bytes(20 << 20)) == (413, b"no")
        assert kept(transport) == (0, 0)


# -- connections


async def test_new_connection_is_used_when_the_server_has_closed_the_idle_one(make: MakeTransport, peer: Peer) -> None:
    peer.answering(HELLO, then_close=True)
    async with make() as transport:
        for count in range(1, 4):
            assert await exchange(transport, peer.url()) == (200, b"hello")
            await peer.until_open(0)
            assert peer.accepted == count


@pytest.mark.parametrize("taken", [0, 1])
async def test_connection_is_closed_when_the_answer_is_closed_early(
    taken: int, make: MakeTransport, peer: Peer
) -> None:
    peer.answering(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    async with make() as transport:
        response = await transport.handle_async_request(request_to(peer.url()))
        assert isinstance(response.stream, httpx.AsyncByteStream)
        chunks = aiter(response.stream)
        for _ in range(taken):
            assert await anext(chunks) == b"hello"
        await response.stream.aclose()
        await response.stream.aclose()
        await peer.until_open(0)
        assert kept(transport) == (0, 0)


async def test_no_more_connections_are_made_than_allowed(make: MakeTransport, peer: Peer) -> None:
    most = 0

    async def script(stream: trio.SocketStream) -> None:
        nonlocal most
        while await peer.request(stream):
            most = max(most, peer.open)
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(HELLO)

    peer.script = script
    async with make(max_connections=3) as transport, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(exchange, transport, peer.url())
    assert most == peer.accepted == 3


async def test_all_connections_are_closed_when_the_transport_is(make: MakeTransport, peer: Peer) -> None:
    peer.answering(HELLO)
    async with make() as transport:
        await exchange(transport, peer.url())
        assert peer.open == 1
    await peer.until_open(0)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_address_is_taken_when_it_is_of_ipv6(make: MakeTransport, nursery: trio.Nursery) -> None:
    try:
        [listener] = await trio.open_tcp_listeners(0, host="::1")
    except OSError:
        pytest.skip("there is no IPv6 on this machine")
    peer = Peer(listener.socket.getsockname()[1], "[::1]")
    peer.answering(HELLO)
    nursery.start_soon(trio.serve_listeners, peer.serve, [listener])
    async with make() as transport:
        assert await exchange(transport, peer.url()) == (200, b"hello")


# -- timeouts and errors by phase


async def test_is_a_connect_error_when_nobody_listens(make: MakeTransport) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    async with make() as transport:
        assert await failure_of(transport, f"http://127.0.0.1:{port}/") is httpx.ConnectError
        assert kept(transport) == (0, 0)


async def test_is_a_connect_timeout_when_the_server_does_not_greet(make: MakeTransport, peer: Peer) -> None:
    peer.script = until_closed
    async with make() as transport:
        assert await failure_of(transport, peer.url(scheme="https"), connect=0.05) is httpx.ConnectTimeout
        await peer.until_open(0)
        assert kept(transport) == (0, 0)


async def test_is_a_pool_timeout_when_no_connection_is_free(make: MakeTransport, peer: Peer) -> None:
    peer.answering(OK + b"transfer-encoding: chunked\r\n\r\n")
    async with make(max_connections=1) as transport:
        response = await transport.handle_async_request(request_to(peer.url()))
        with pytest.raises(httpx.PoolTimeout):
            await exchange(transport, peer.url(), pool=0.05)
        await response.aclose()
        response = await transport.handle_async_request(request_to(peer.url()))
        await response.aclose()


async def test_is_a_write_timeout_when_the_server_does_not_take_the_request(make: MakeTransport, peer: Peer) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await peer.until_open(0)

    peer.script = script
    async with make() as transport:
        assert await failure_of(transport, peer.url(), content=bytes(64 << 20), write=0.1) is httpx.WriteTimeout
        assert kept(transport) == (0, 0)
        peer.count(-1)  # lets the script go


@pytest.mark.parametrize(
    "beginning", [b"", OK, OK + b"content-length: 5\r\n\r\n", OK + b"content-length: 5\r\n\r\nhell"]
)
async def test_is_a_read_timeout_when_the_server_falls_silent(
    beginning: bytes, make: MakeTransport, peer: Peer
) -> None:
    peer.answering(beginning)
    async with make() as transport:
        assert await failure_of(transport, peer.url(), read=0.05) is httpx.ReadTimeout
        await peer.until_open(0)
        assert kept(transport) == (0, 0)


async def test_is_refused_when_the_scheme_is_another(make: MakeTransport) -> None:
    async with make() as transport:
        assert await failure_of(transport, "ftp://127.0.0.1/") is httpx.UnsupportedProtocol


# -- cancellation


async def cancelled_when(
    transport: httpx.AsyncBaseTransport, peer: Peer, is_time: trio.Event, *, scheme: str = "http", **fields: Any
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: exchange(transport, peer.url(scheme=scheme), **fields))
        with trio.fail_after(5):
            await is_time.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    await peer.until_open(0)
    assert kept(transport) == (0, 0)


@pytest.mark.parametrize(
    "beginning", [b"", OK, OK + b"content-length: 5\r\n\r\n", OK + b"content-length: 5\r\n\r\nhell"]
)
async def test_connection_is_closed_when_cancelled_while_reading(
    beginning: bytes, make: MakeTransport, peer: Peer
) -> None:
    begun = trio.Event()

    async def script(stream: trio.SocketStream) -> None:
        await peer.request(stream)
        await stream.send_all(beginning)
        begun.set()
        await until_closed(stream)

    peer.script = script
    async with make(max_connections=1) as transport:
        await cancelled_when(transport, peer, begun)
        peer.answering(HELLO)
        assert await exchange(transport, peer.url()) == (200, b"hello")


async def test_connection_is_closed_when_cancelled_while_writing(make: MakeTransport, peer: Peer) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        begun.set()
        await go_on.wait()
        await until_closed(stream)

    peer.script = script
    async with make(max_connections=1) as transport, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: cancelled_when(transport, peer, begun, content=bytes(64 << 20)))
        await begun.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        go_on.set()
    async with make(max_connections=1) as transport:
        peer.answering(HELLO)
        assert await exchange(transport, peer.url()) == (200, b"hello")


# -- TLS


def over_tls(peer: Peer, authority: trustme.CA, host: str = "127.0.0.1") -> None:
    """The peer's script gets a TLS stream from now on, which was offered HTTP/1.1 or HTTP/2."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert(host).configure_cert(context)
    plain = peer.script
    assert plain is not None

    async def script(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await tls.do_handshake()
        await plain(tls)  # type: ignore[arg-type]

    peer.script = script


async def send_apart(stream: Any, *parts: bytes) -> None:
    """Send the parts so that a reader gets one at a time: with TLS in a record each, which arrive at once."""
    if not isinstance(stream, trio.SSLStream):
        for part in parts:
            await stream.send_all(part)
        return
    held = bytearray()

    async def hold(data: Any) -> None:
        held.extend(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream.transport_stream, "send_all", hold)
        for part in parts:
            await stream.send_all(part)
    await stream.transport_stream.send_all(held)


async def test_answers_come_over_one_connection_when_it_is_tls(
    make: MakeTransport, peer: Peer, authority: trustme.CA
) -> None:
    large = bytes(range(256)) * 2_000
    peer.answering(HELLO, OK + b"content-length: %d\r\n\r\n" % len(large) + large, HELLO)
    over_tls(peer, authority)
    async with make() as transport:
        for body in (b"hello", large, b"hello"):
            assert await exchange(transport, peer.url(scheme="https"), content=large) == (200, body)
        assert kept(transport) == (1, 1)
    assert peer.accepted == 1


async def test_answer_is_cut_off_when_a_tls_connection_breaks(
    make: MakeTransport, peer: Peer, authority: trustme.CA
) -> None:
    peer.answering(OK + b"content-length: 9\r\n\r\nhello", then_close=True)
    over_tls(peer, authority)
    async with make() as transport:
        assert await failure_of(transport, peer.url(scheme="https")) is httpx.RemoteProtocolError
        assert kept(transport) == (0, 0)


@pytest.mark.parametrize(("host", "trusting"), [("127.0.0.1", False), ("other.example", True)])
async def test_is_a_connect_error_when_the_certificate_is_of_another(
    host: str, trusting: bool, make: MakeTransport, peer: Peer, authority: trustme.CA
) -> None:
    peer.answering(HELLO)
    over_tls(peer, authority, host)
    async with make(trusting=trusting) as transport:
        assert await failure_of(transport, peer.url(scheme="https")) is httpx.ConnectError
        assert kept(transport) == (0, 0)
    assert peer.received == b""


async def test_is_a_connect_error_when_the_server_does_not_speak_tls(make: MakeTransport, peer: Peer) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    peer.script = script
    async with make() as transport:
        assert await failure_of(transport, peer.url(scheme="https")) is httpx.ConnectError


# -- under a client


async def test_client_follows_redirects_and_reads_json_when_it_uses_the_transport(
    make: MakeTransport, peer: Peer
) -> None:
    peer.answering(
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /v2\r\ncontent-length: 0\r\n\r\n",
        OK + b'content-type: application/json\r\ncontent-length: 7\r\n\r\n{"a":1}',
    )
    async with httpx.AsyncClient(transport=make(), follow_redirects=True) as client:
        response = await client.post(peer.url(), json={"model": "m"})
        assert (response.json(), response.url.path, len(response.history)) == ({"a": 1}, "/v2", 1)
    assert peer.accepted == 1


# -- what ours does and httpcore does not


@pytest.fixture
async def own(authority: trustme.CA) -> AsyncIterator[Http1Transport]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with Http1Transport(max_connections=1, tls_context=context) as transport:
        yield transport


async def test_connection_is_closed_when_cancelled_while_greeting(own: Http1Transport, peer: Peer) -> None:
    begun = trio.Event()

    async def script(stream: trio.SocketStream) -> None:
        begun.set()
        await until_closed(stream)

    peer.script = script
    await cancelled_when(own, peer, begun, scheme="https")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("surplus", [b"x", HELLO])
async def test_what_follows_an_answer_is_no_answer_to_anybody(
    surplus: bytes, tls: bool, own: Http1Transport, peer: Peer, authority: trustme.CA
) -> None:
    async def script(stream: Any) -> None:
        while await peer.request(stream):
            await send_apart(stream, OK + b"content-length: 2\r\n\r\nok", surplus)

    peer.script = script
    if tls:
        over_tls(peer, authority)
    for _ in range(5):
        assert await exchange(own, peer.url(scheme="https" if tls else "http")) == (200, b"ok")
        await peer.until_open(peer.open)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert peer.accepted == 5


async def test_generator_of_the_body_is_ended_when_the_request_fails(own: Http1Transport, peer: Peer) -> None:
    class Endless(httpx.AsyncByteStream):
        ended = 0

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(1 << 20)
            finally:
                self.ended += 1

    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    peer.script = script
    request = request_to(peer.url())
    request.stream = body = Endless()
    request.headers["content-length"] = str(1 << 40)
    with pytest.raises(httpx.TransportError):
        await own.handle_async_request(request)
    assert body.ended == 1
    assert kept(own) == (0, 0)


async def test_readers_and_those_in_line_get_an_error_when_the_transport_is_closed(
    own: Http1Transport, peer: Peer
) -> None:
    peer.answering(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    response = await own.handle_async_request(request_to(peer.url()))
    failures: list[type[Exception]] = []

    async def note(work: Awaitable[Any]) -> None:
        try:
            await work
        except httpx.TransportError as error:
            failures.append(type(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, read(response))
        nursery.start_soon(note, exchange(own, peer.url()))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (own.connections, own.waiting) == (1, 1)
        await own.aclose()
    assert sorted(failure.__name__ for failure in failures) == ["ConnectError", "ReadError"]
    assert await failure_of(own, peer.url()) is httpx.ConnectError
    await peer.until_open(0)
    assert (own.connections, own.waiting) == (0, 0)


@pytest.mark.parametrize("tls", [False, True])
async def test_nobody_gets_the_answer_of_another_when_everything_breaks_at_random(
    tls: bool, peer: Peer, authority: trustme.CA
) -> None:
    chance = random.Random(7)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    whole = broken = 0

    async def script(stream: Any) -> None:
        while (request := await peer.request(stream)) and chance.random() > 0.03:
            body = request.partition(b"\r\n\r\n")[2] * chance.choice([1, 1, 1, 5_000])
            framing, framed = b"content-length: %d" % len(body), body
            if chance.random() < 0.5:
                framing, framed = b"transfer-encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            answer = OK + framing + b"\r\n\r\n" + framed
            kind = chance.random()
            if kind < 0.05:
                answer = answer[: chance.randrange(len(answer))]
            elif kind < 0.1:
                answer += OK + b"content-length: 3\r\n\r\nbad"
            cut = chance.randrange(len(answer) + 1)
            await stream.send_all(answer[:cut])
            await trio.sleep(chance.choice([0, 0, 0.001]))
            await stream.send_all(answer[cut:])
            if kind < 0.05 or chance.random() < 0.05:
                return

    async def ask(transport: Http1Transport, number: int) -> None:
        nonlocal whole, broken
        content = b"<%d>" % number
        with trio.move_on_after(chance.choice([0.002, 5, 5, 5])):
            try:
                status, body = await exchange(transport, peer.url(scheme="https" if tls else "http"), content=content)
            except httpx.TransportError:
                broken += 1
            else:
                assert status == 200
                assert body in (content, content * 5_000)
                whole += 1

    async def work(transport: Http1Transport, first: int) -> None:
        for number in range(first, first + 40):
            await ask(transport, number)

    peer.script = script
    if tls:
        over_tls(peer, authority)
    async with Http1Transport(max_connections=5, tls_context=context) as transport:
        async with trio.open_nursery() as nursery:
            for first in range(0, 400, 40):
                nursery.start_soon(work, transport, first)
        assert transport.connections == transport.idle_connections <= 5
        assert whole > 200
        assert broken > 0
        assert peer.accepted < whole
    await peer.until_open(0)


async def test_nothing_is_opened_for_https_when_the_transport_was_made_without_tls(peer: Peer) -> None:
    async with Http1Transport(max_connections=1) as transport:
        assert await failure_of(transport, peer.url(scheme="https")) is httpx.UnsupportedProtocol
    assert peer.accepted == 0


async def test_is_a_connect_error_when_the_name_cannot_be_one(own: Http1Transport) -> None:
    assert await failure_of(own, f"http://{'a' * 64}.example/") is httpx.ConnectError
