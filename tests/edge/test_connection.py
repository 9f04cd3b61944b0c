import json

import pytest
import trio

from arbstr.edge import Limits, open_listeners
from arbstr.requests import PlainAnswer

HTTP1 = ("llhttp", "llhttp/receive", "h11")

HELLO = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_connection_is_used_again_when_the_client_keeps_it(start):
    rig = await start()
    client = await rig.client()
    for _ in range(3):
        await client.send(GET)
        assert (await client.answer("GET")).status == 200
        await client.post(HELLO)
        assert (await client.answer()).status == 200


async def test_answers_come_in_order_when_requests_are_pipelined(start):
    running = []

    async def chat(request, responder):
        assert not running
        running.append(request)
        await trio.testing.wait_all_tasks_blocked(0.01)
        running.remove(request)
        return PlainAnswer(200, (), request.call.model.encode())

    rig = await start(chat)
    client = await rig.client()
    for model in "abc":
        await client.post(json.dumps({"model": model, "messages": []}).encode())
    assert [(await client.answer()).body for _ in range(3)] == [b"a", b"b", b"c"]


async def test_pipelined_request_is_answered_when_it_comes_in_halves(start):
    entered, leave = trio.Event(), trio.Event()

    async def chat(request, responder):
        entered.set()
        await leave.wait()
        return PlainAnswer(200, (), b"{}")

    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await entered.wait()
    await client.send(GET[:10])
    await trio.testing.wait_all_tasks_blocked(0.01)
    await client.send(GET[10:20])
    await trio.testing.wait_all_tasks_blocked(0.01)
    leave.set()
    assert (await client.answer()).status == 200
    await client.send(GET[20:])
    assert (await client.answer("GET")).status == 200


async def test_no_more_than_a_bound_is_read_behind_a_request(start):
    entered, leave = trio.Event(), trio.Event()

    async def chat(request, responder):
        entered.set()
        await leave.wait()
        return PlainAnswer(200, (), b"{}")

    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await entered.wait()
    with trio.move_on_after(0.2) as tried:
        while True:
            await client.send(GET * 1000)
    assert tried.cancelled_caught  # back-pressure, not memory
    leave.set()
    assert (await client.answer()).status == 200
    assert (await client.answer("GET")).status == 200


async def test_connection_is_closed_when_it_is_idle_for_too_long(start):
    rig = await start(limits=Limits(keep_alive_s=0.1))
    fresh, used = await rig.client(), await rig.client()
    await used.send(GET)
    assert (await used.answer("GET")).status == 200
    assert await fresh.at_end()
    assert await used.at_end()


async def test_running_request_is_not_cut_when_it_takes_longer_than_the_idle_time(start):
    async def chat(request, responder):
        await trio.sleep(0.15)
        return PlainAnswer(200, (), b"{}")

    rig = await start(chat, limits=Limits(keep_alive_s=0.05, head_timeout_s=0.05))
    assert (await rig.chat()).status == 200


async def test_connection_is_closed_when_half_a_head_is_followed_by_silence_or_by_drops(start):
    rig = await start(limits=Limits(head_timeout_s=0.2))
    silent, dripping = await rig.client(), await rig.client()
    await silent.send(GET[:10])

    async def drip():
        while True:
            await dripping.send(b"x")
            await trio.sleep(0.02)

    with trio.fail_after(2), pytest.raises(trio.BrokenResourceError):
        await drip()
    assert await silent.at_end()


async def test_place_of_a_connection_is_free_at_once_when_its_client_has_closed_it(start):
    rig = await start(limits=Limits(connections=1))
    for _ in range(3):
        client = await rig.client()
        await client.send(GET)
        assert (await client.answer("GET")).status == 200
        client.close()
        await trio.testing.wait_all_tasks_blocked(0.02)


async def test_connection_over_the_bound_is_closed_unheard(start):
    rig = await start(limits=Limits(connections=1))
    first = await rig.client()
    await first.send(GET)
    assert (await first.answer("GET")).status == 200
    second = await rig.client()
    assert await second.at_end()
    await first.send(GET)
    assert (await first.answer("GET")).status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS to a plain port
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 70_000, 431),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
    ],
)
async def test_what_is_no_http_is_refused_in_openai_shape_and_the_connection_ends(start, data, status):
    rig = await start()
    client = await rig.client()
    await client.send(data)
    answer = await client.answer("GET")
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert answer.error["request_id"] == answer.headers["x-arbstr-request-id"]
    assert await client.at_end()


async def test_broken_chunks_end_the_request(start):
    rig = await start()
    client = await rig.client()
    await client.post(b"nonsense\r\n", b"transfer-encoding: chunked")
    assert (await client.answer()).status == 400
    assert await client.at_end()
    await rig.gate.wait_empty()


@pytest.mark.parametrize(
    "lines",
    [
        b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ],
)
async def test_other_protocols_are_not_spoken_when_they_are_asked_for(start, lines):
    rig = await start()
    client = await rig.client()
    await client.send(b"GET /health HTTP/1.1\r\nhost: x\r\n" + lines + b"\r\n")
    assert (await client.answer("GET")).status == 200
    await client.send(GET)
    assert (await client.answer("GET")).status == 200


async def test_http2_is_refused_when_it_is_assumed(start):
    rig = await start()
    client = await rig.client()
    await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (await client.answer("GET")).status in (400, 404)
    rig.shutdown.set()
    with trio.fail_after(5):
        await rig.stopped.wait()


async def test_http_1_0_is_answered_and_the_connection_ends(start):
    rig = await start()
    client = await rig.client()
    await client.send(b"GET /health HTTP/1.0\r\n\r\n")
    assert (await client.answer("GET")).status == 200
    assert await client.at_end()


async def test_nothing_waits_for_nagle_on_an_accepted_connection(start):
    class Listening:
        """Remembers how what it accepts is set, for the server may take the stream apart."""

        def __init__(self, listener):
            self.listener, self.socket, self.accepted = listener, listener.socket, []

        async def accept(self):
            stream = await self.listener.accept()
            self.accepted.append(stream.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY))
            return stream

        async def aclose(self):
            await self.listener.aclose()

        async def __aenter__(self):
            return self

        async def __aexit__(self, *reason):
            await self.aclose()

    listening = [Listening(listener) for listener in await open_listeners("127.0.0.1:0")]
    rig = await start(listeners=listening)
    client = await rig.client()
    await client.send(GET)
    assert (await client.answer("GET")).status == 200
    assert listening[0].accepted == [1]
