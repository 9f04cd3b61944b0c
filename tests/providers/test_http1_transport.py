"""Our transport over connections that do as they are told: what is written when, and what is never sent twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import trio

from arbstr.providers import Http1Transport
from arbstr.providers._connection import Origin
from tests.providers.conftest import CancelAtStep

BODY = b'{"model":"m"}'
HEAD = b"POST /v1 HTTP/1.1\r\nHost: provider.example\r\nContent-Length: 13\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"
URL = "http://provider.example/v1"


@pytest.fixture
def transport(network: Any) -> Http1Transport:
    return Http1Transport(max_connections=2, connect=network.connect)


class Body(httpx.AsyncByteStream):
    """The given pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await trio.lowlevel.checkpoint()
            yield piece


def request_of(*pieces: bytes, url: str = URL, length: int | None = None, **timeouts_s: float) -> httpx.Request:
    size = sum(map(len, pieces)) if length is None else length
    headers = [(b"Host", b"provider.example"), (b"Content-Length", b"%d" % size)]
    return httpx.Request("POST", url, headers=headers, stream=Body(*pieces), extensions={"timeout": timeouts_s})


async def exchange(transport: Http1Transport, request: httpx.Request | None = None) -> bytes:
    response = await transport.handle_async_request(request or request_of(BODY))
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        return b"".join([chunk async for chunk in response.stream])
    finally:
        await response.stream.aclose()


async def used(transport: Http1Transport, network: Any, connection: Any) -> Any:
    """``connection``, when it has carried an exchange and is idle."""
    connection.incoming.insert(0, HELLO)
    network.prepared.append(connection)
    assert await exchange(transport) == b"hello"
    assert transport.idle_connections >= 1
    connection.writes.clear()
    return connection


# -- writing


async def test_head_and_body_are_one_write_when_the_body_is_small(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    network.prepared = [fake_connection([HELLO])]
    assert await exchange(transport) == b"hello"
    assert network.connections[0].writes == [HEAD + BODY]


async def test_large_body_is_not_copied_behind_the_head(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    network.prepared = [fake_connection([HELLO])]
    body = bytes(1 << 20)
    await exchange(transport, request_of(body))
    head, written = network.connections[0].writes
    assert head.endswith(b"Content-Length: 1048576\r\n\r\n")
    assert written is body


async def test_pieces_are_written_as_they_come_when_there_are_several(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    network.prepared = [fake_connection([HELLO])]
    await exchange(transport, request_of(BODY[:5], b"", BODY[5:]))
    assert network.connections[0].writes == [HEAD + BODY[:5], BODY[5:]]


async def test_nothing_is_sent_when_the_body_is_longer_than_announced(transport: Http1Transport, network: Any) -> None:
    for pieces in ((BODY,), (BODY[:3], b"x")):
        with pytest.raises(httpx.LocalProtocolError, match="longer"):
            await exchange(transport, request_of(*pieces, length=3))
    assert network.connections == []


async def test_connection_is_closed_when_the_body_is_shorter_than_announced(
    transport: Http1Transport, network: Any
) -> None:
    with pytest.raises(httpx.LocalProtocolError, match="shorter"):
        await exchange(transport, request_of(BODY, length=100))
    assert (network.open, transport.connections) == ([], 0)


async def test_each_phase_gets_its_own_time(transport: Http1Transport, network: Any, fake_connection: Any) -> None:
    network.prepared = [fake_connection([OK, b"content-length: 5\r\n\r\n", b"hello"])]
    await exchange(transport, request_of(BODY, connect=1, pool=2, write=3, read=4))
    assert network.asked == [(Origin(False, "provider.example", 80), 1)]
    assert network.connections[0].timeouts_s == [3, 4, 4, 4]
    network.connections[0].incoming = [HELLO]
    await exchange(transport, request_of(BODY))
    assert network.connections[0].timeouts_s == [3, 4, 4, 4, None, None]
    assert len(network.asked) == 1


# -- what is sent again, and what is not


@pytest.mark.parametrize("count", [1, 2])
async def test_new_connection_is_taken_when_the_idle_ones_take_not_a_byte(
    count: int, transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    dead = [fake_connection([HELLO[:-5], b"hello"]) for _ in range(count)]
    network.prepared = list(dead)
    responses = [await transport.handle_async_request(request_of(BODY)) for _ in dead]
    assert [await anext(aiter(response.stream)) for response in responses] == [b"hello"] * count  # type: ignore[arg-type]
    assert transport.idle_connections == len(network.open)
    for connection in dead:
        connection.send_error = httpx.WriteError("broken")
    network.prepared = [fake_connection([HELLO])]
    assert await exchange(transport) == b"hello"
    assert network.connections[-1].writes == [HEAD + BODY]
    assert network.open == [network.connections[-1]]
    assert (transport.connections, transport.idle_connections) == (1, 1)


async def test_request_is_not_sent_again_when_a_byte_of_it_has_left(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    connection = await used(transport, network, fake_connection([b""]))
    connection.send_error, connection.send_error_after = httpx.WriteError("broken"), 1
    with pytest.raises(httpx.RemoteProtocolError):
        await exchange(transport)
    assert network.connections == [connection]
    assert (connection.closed, transport.connections) == (True, 0)


@pytest.mark.parametrize("end", [b"", httpx.ReadError("reset")])
async def test_request_is_not_sent_again_when_the_connection_ends_before_the_answer(
    end: Any, transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    connection = await used(transport, network, fake_connection([end]))
    with pytest.raises(httpx.TransportError):
        await exchange(transport)
    assert network.connections == [connection]
    assert connection.writes == [HEAD + BODY]


async def test_request_is_not_sent_again_when_it_was_not_in_time(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    connection = await used(transport, network, fake_connection())
    connection.send_error = httpx.WriteTimeout("slow")
    with pytest.raises(httpx.WriteTimeout):
        await exchange(transport)
    assert network.connections == [connection]
    assert transport.connections == 0


async def test_new_connection_is_not_tried_twice_when_it_takes_not_a_byte(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    refusing = fake_connection([b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"])
    refusing.send_error = httpx.WriteError("broken")
    network.prepared = [refusing]
    response = await transport.handle_async_request(request_of(BODY, BODY))
    assert response.status_code == 503
    assert network.connections == [refusing]
    assert (refusing.closed, transport.connections) == (True, 0)


async def test_idle_connection_is_not_used_when_it_is_readable(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    connection = await used(transport, network, fake_connection())
    connection.unread = True
    network.prepared = [fake_connection([HELLO])]
    assert await exchange(transport) == b"hello"
    assert (connection.writes, connection.closed) == ([], True)


# -- reading


async def test_connection_is_back_before_the_body_is_taken_when_all_of_it_has_come(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    network.prepared = [fake_connection([HELLO])]
    response = await transport.handle_async_request(request_of(BODY))
    assert transport.idle_connections == 1
    assert [chunk async for chunk in response.stream] == [b"hello"]  # type: ignore[union-attr]
    await response.aclose()
    assert transport.idle_connections == 1


async def test_nothing_is_read_ahead_of_whoever_takes_the_body(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    network.prepared = [connection := fake_connection([OK + b"content-length: 6\r\n\r\nab", b"cd", b"ef"])]
    response = await transport.handle_async_request(request_of(BODY))
    assert len(connection.incoming) == 2
    chunks = aiter(response.stream)  # type: ignore[arg-type]
    assert await anext(chunks) == b"ab"
    assert len(connection.incoming) == 2
    assert await anext(chunks) == b"cd"
    assert len(connection.incoming) == 1
    assert await anext(chunks) == b"ef"
    assert transport.idle_connections == 1
    await response.aclose()


async def test_what_came_before_an_error_is_given_out_first(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    network.prepared = [fake_connection([OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\nnonsense"])]
    response = await transport.handle_async_request(request_of(BODY))
    assert transport.connections == 0
    chunks = aiter(response.stream)  # type: ignore[arg-type]
    assert await anext(chunks) == b"ab"
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(chunks)


async def test_reading_on_is_an_error_when_the_answer_was_closed_early(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    network.prepared = [fake_connection([OK + b"content-length: 6\r\n\r\n", b"abcdef"])]
    response = await transport.handle_async_request(request_of(BODY))
    assert isinstance(response.stream, httpx.AsyncByteStream)
    await response.stream.aclose()
    assert (network.open, transport.connections) == ([], 0)
    with pytest.raises(httpx.ReadError):
        await anext(aiter(response.stream))


@pytest.mark.parametrize("incoming", [[HELLO + b"x"], [HELLO + HELLO], [HELLO[:-5], b"hello" + b"HTTP/1.1"]])
async def test_connection_is_closed_when_something_follows_the_answer(
    incoming: list[bytes], transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    network.prepared = [fake_connection(incoming)]
    assert await exchange(transport) == b"hello"
    assert (network.open, transport.connections) == ([], 0)


# -- places


async def test_bounds_hold_for_each_origin_and_what_is_not_used_is_forgotten(
    transport: Http1Transport, network: Any, fake_connection: Any
) -> None:
    for port in range(1, 50):
        network.prepared = [fake_connection([OK + b"connection: close\r\ncontent-length: 0\r\n\r\n"])]
        await exchange(transport, request_of(BODY, url=f"http://provider.example:{port}/v1"))
    assert len(transport._pools) == 1
    network.prepared = [fake_connection([OK]) for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for url in (URL, "http://provider.example:81/v1") * 3:
            nursery.start_soon(exchange, transport, request_of(BODY, url=url))
        await trio.testing.wait_all_tasks_blocked()
        assert (transport.connections, transport.waiting) == (4, 2)
        nursery.cancel_scope.cancel()
    assert (transport.connections, transport.waiting, network.open) == (0, 0, [])


@pytest.mark.parametrize("idle", [False, True])
async def test_nothing_is_kept_when_a_request_is_cancelled_at_any_step(
    idle: bool, network: Any, fake_connection: Callable[..., Any]
) -> None:
    answer = [OK, b"transfer-encoding: chunked\r\n\r\n", b"2\r\nab\r\n", b"0\r\n\r\n"]
    step, finished = 0, False
    while not finished:
        step += 1
        transport = Http1Transport(max_connections=1, connect=network.connect)
        if idle:
            await used(transport, network, fake_connection(list(answer)))
        else:
            network.prepared = [fake_connection(list(answer))]
        with trio.CancelScope() as scope:
            trio.lowlevel.add_instrument(instrument := CancelAtStep(scope, step))
            try:
                assert await exchange(transport, request_of(BODY[:3], BODY[3:])) == b"ab"
                finished = instrument.left > 0
            finally:
                trio.lowlevel.remove_instrument(instrument)
        assert transport.connections == transport.idle_connections == len(network.open)
        await transport.aclose()
        assert network.open == []
        network.prepared = []
    assert step > 6
