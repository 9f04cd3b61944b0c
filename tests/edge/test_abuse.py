"""Clients that want to cost more than they should: bounded memory, and the others are served."""

import json
import resource
import socket
from pathlib import Path

import pytest
import trio

from arbstr.edge import Limits
from arbstr.requests import PlainAnswer

HELLO = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}).encode()
GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
MIB = 1 << 20


def memory_bytes():
    """Resident, of this process: server and clients together."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def is_served(rig):
    return (await rig.chat()).status == 200


async def test_others_are_served_when_many_clients_drip_their_headers_and_each_is_cut(start):
    rig = await start(limits=Limits(head_timeout_s=0.5))
    clients = [await rig.client() for _ in range(100)]
    cut = []

    async def drip(client):
        try:
            for byte in b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 10_000:
                await client.send(bytes([byte]))
                await trio.sleep(0.05)
        except trio.BrokenResourceError:
            cut.append(client)

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(drip, client)
        await trio.sleep(0.1)
        assert await is_served(rig)
    assert len(cut) == len(clients)


async def test_idle_connections_take_little_and_one_that_works_is_served(start):
    """2,000 of them, or as many as the limit on open files allows: each has both of its ends in this process.

    With the 10,000 that ``Limits`` allows the same holds, at 7 KB each, but the test takes 14 s.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        count = min(2_000, (hard - 500) // 2)
        rig = await start(limits=Limits(connections=count + 10))
        host, port = rig.url.removeprefix("http://").split(":")
        assert await is_served(rig)
        before = memory_bytes()
        idle = []
        try:
            for number in range(count):
                idle.append(sock := socket.socket())
                sock.setblocking(False)
                sock.connect_ex((host, int(port)))
                sock.setblocking(True)
                if number % 100 == 0:  # the backlog is longer
                    assert await is_served(rig)
            assert await is_served(rig)
            assert (memory_bytes() - before) / count < 40_000
        finally:
            for sock in idle:
                sock.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_takes_byte_by_byte_holds_little_and_is_given_up(start, stream):
    size, piece = 64 * MIB, 65_536
    written, ended = [], trio.Event()

    async def chat(request, responder):
        if request.call.model == "other":
            return plain(b"{}")
        try:
            if not stream:
                return plain(large)
            await responder.start(200, [(b"content-type", b"text/event-stream")])
            while sum(written) < size:
                await responder.write(bytes(piece))
                written.append(piece)
            await responder.finish()
        finally:
            ended.set()

    def plain(body):
        return PlainAnswer(200, (), body)

    large = bytes(size)
    rig = await start(chat, limits=Limits(write_stall_s=0.5))
    client = await rig.client()
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    before = memory_bytes()
    await client.post(HELLO)

    async def sip():
        while True:
            await client.stream.receive_some(1)
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sip)
        assert (await rig.chat(body={"model": "other", "messages": []})).status == 200
        with trio.fail_after(20):
            await ended.wait()
            await rig.gate.wait_empty()  # the client has been given up, although it took all the time
        nursery.cancel_scope.cancel()
    assert sum(written) < size
    assert memory_bytes() - before < size / 2 + (0 if stream else size)
    assert await is_served_other(rig)


async def is_served_other(rig):
    return (await rig.chat(body={"model": "other", "messages": []})).status == 200


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_header_of_a_mebibyte_is_431_and_not_kept(start, end):
    rig = await start()
    clients = [await rig.client() for _ in range(20)]
    assert await is_served(rig)
    before = memory_bytes()
    for client in clients:
        await client.send(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * MIB + end)
        assert (await client.answer("GET")).status == 431
    assert await is_served(rig)
    assert memory_bytes() - before < 10 * MIB


async def test_request_never_happens_when_its_body_is_shorter_than_it_says(start):
    asked = []

    async def chat(request, responder):
        asked.append(request)

    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO, b"content-length: %d" % (len(HELLO) + 1))
    await client.stream.send_eof()
    with trio.fail_after(5):
        await rig.gate.wait_empty()
    assert not asked


async def test_rest_is_no_request_when_a_body_is_longer_than_it_says(start):
    rig = await start()
    client = await rig.client()
    await client.post(HELLO + b'{"model":"m"}', b"content-length: %d" % len(HELLO))
    assert (await client.answer()).status == 200
    refused = await client.answer()
    assert (refused.status, refused.headers["connection"]) == (400, "close")
    assert await client.at_end()


async def test_many_chunks_of_a_byte_each_are_one_body_of_their_length(start):
    rig = await start(max_body_bytes=50_000)
    client = await rig.client()
    body = HELLO.ljust(50_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    await client.post(chunks + b"0\r\n\r\n", b"transfer-encoding: chunked")
    assert (await client.answer()).status == 200
    await client.post(chunks + b"1\r\n \r\n0\r\n\r\n", b"transfer-encoding: chunked")
    assert (await client.answer()).status == 413


async def test_others_are_served_between_pipelined_requests(start):
    rig = await start()
    greedy = await rig.client()
    await greedy.send(GET * 500)
    assert await is_served(rig)
    for _ in range(500):
        assert (await greedy.answer("GET")).status == 200
