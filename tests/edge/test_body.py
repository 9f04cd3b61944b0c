import json
import threading

import pytest
import trio

from arbstr.edge import Limits
from arbstr.errors import AuthenticationFailed
from arbstr.requests import Caller, PlainAnswer

HTTP1 = ("llhttp", "llhttp/receive", "h11")

ANYONE = Caller(agent_id=None, role="anonymous", name="anonymous")

MIB = 1 << 20
HELLO = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()


@pytest.mark.parametrize(
    "line", [[], ["content-type: text/plain"], ["content-type: application/x-www-form-urlencoded"]]
)
async def test_body_that_is_not_declared_as_json_is_415(start, line):
    rig = await start()
    answer = await rig.request("POST", "/v1/chat/completions", *line, body=HELLO)
    assert (answer.status, answer.error["reason"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(("body", "status"), [(b"{bad", 400), (b"", 400), (b"[1]", 400), (b'{"model":"m"}', 422)])
async def test_body_that_is_no_chat_request_is_refused_by_the_parser(start, body, status):
    rig = await start()
    answer = await rig.chat(body=body)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"


async def test_declared_length_over_the_bound_is_413_at_once_when_nothing_of_it_was_sent(start):
    rig = await start(max_body_bytes=1024)
    client = await rig.client()
    await client.post(b"", b"content-length: 1025")
    answer = await client.answer()
    assert (answer.status, answer.error["reason"]) == (413, "body_too_large")
    assert "1024 bytes" in answer.error["message"]


async def test_body_of_exactly_the_bound_is_taken(start):
    rig = await start(max_body_bytes=1024)
    assert (await rig.chat(body=HELLO.ljust(1024))).status == 200
    assert (await rig.chat(body=HELLO.ljust(1025))).status == 413


async def test_413_is_read_and_the_connection_ends_when_40_mb_are_sent_with_their_length(start):
    rig = await start()
    async with rig.httpx() as client:
        answer = await client.post(
            "/v1/chat/completions", content=bytes(40 * MIB), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert answer.json()["error"]["reason"] == "body_too_large"
        assert (await client.get("/health")).status_code == 200


async def test_413_is_read_and_the_connection_ends_when_40_mb_are_sent_in_chunks(start):
    async def chunks():
        for _ in range(160):
            yield bytes(MIB // 4)

    rig = await start()
    async with rig.httpx() as client:
        answer = await client.post(
            "/v1/chat/completions", content=chunks(), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert (await client.get("/health")).status_code == 200


async def test_refused_upload_does_not_hold_the_server_when_the_client_never_stops_sending(start):
    rig = await start(max_body_bytes=1024, limits=Limits(linger_s=0.2, linger_idle_s=0.1))
    client = await rig.client()
    await client.post(b"", b"transfer-encoding: chunked")

    async def send_for_ever():
        while True:
            await client.send(b"10000\r\n" + bytes(65_536) + b"\r\n")

    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
        await send_for_ever()
    rig.shutdown.set()
    with trio.fail_after(5):
        await rig.stopped.wait()


async def test_large_body_is_taken_whole_and_parsed_beside_the_loop(start, monkeypatch):
    from arbstr import wire

    threads = []
    real = wire.parse_chat

    def parse_chat(body):
        threads.append(threading.current_thread() is threading.main_thread())
        return real(body)

    async def chat(request, responder):
        return PlainAnswer(200, (), b"%d" % len(request.call.body))

    monkeypatch.setattr(wire, "parse_chat", parse_chat)
    rig = await start(chat)
    large = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * (20 * MIB)}]}).encode()
    assert (await rig.chat(body=large)).body == b"%d" % len(large)
    assert (await rig.chat(body=HELLO)).body == b"%d" % len(HELLO)
    assert threads == [False, True]


async def test_large_body_that_is_wrong_is_refused_by_the_parser_all_the_same(start):
    rig = await start()
    assert (await rig.chat(body=b"[" + b" " * 2 * MIB)).status == 400


async def test_chunked_body_arrives_whole_when_it_is_small(start):
    rig = await start()
    client = await rig.client()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (HELLO[:7], HELLO[7:])) + b"0\r\n\r\n"
    await client.post(chunks, b"transfer-encoding: chunked")
    assert (await client.answer()).status == 200


async def test_body_arrives_whole_when_it_comes_byte_by_byte(start):
    rig = await start()
    client = await rig.client()
    typed = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for byte in typed + b"content-length: %d\r\n\r\n" % len(HELLO) + HELLO:
        await client.send(bytes([byte]))
    assert (await client.answer()).status == 200


async def test_body_is_invited_when_the_client_waits_to_be_told(start):
    rig = await start()
    client = await rig.client()
    await client.post(b"", b"expect: 100-continue", b"content-length: %d" % len(HELLO))
    with trio.fail_after(5):
        assert (await client.stream.receive_some(100)).startswith(b"HTTP/1.1 100 ")
    await client.send(HELLO)
    assert (await client.answer()).status == 200


async def test_half_a_body_and_then_silence_is_408_and_the_connection_ends(start):
    rig = await start(body_timeout_s=0.1)
    client = await rig.client()
    await client.post(HELLO[:10], b"content-length: %d" % len(HELLO))
    answer = await client.answer()
    assert (answer.status, answer.error["reason"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"
    assert await client.at_end()
    assert rig.gate.in_flight == 0


async def test_request_just_ends_when_the_client_leaves_within_the_body(start):
    async def chat(request, responder):
        raise AssertionError("nothing was asked")

    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO[:10], b"content-length: %d" % len(HELLO))
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert rig.gate.in_flight == 1
    client.close()
    with trio.fail_after(5):
        await rig.gate.wait_empty()


async def test_connection_goes_on_when_a_small_refused_body_was_sent(start):
    bearers = iter([None, "Bearer x"])

    def authenticate(authorization, peer, local):
        if next(bearers) is None:
            raise AuthenticationFailed("no")
        return ANYONE

    rig = await start(authenticate=authenticate)
    client = await rig.client()
    await client.post(HELLO[:10], b"content-length: %d" % len(HELLO))
    await trio.testing.wait_all_tasks_blocked(0.01)
    await client.send(HELLO[10:])
    refused = await client.answer()
    assert (refused.status, refused.headers.get("connection")) == (401, None)
    await client.post(HELLO)
    assert (await client.answer()).status == 200


async def test_connection_ends_when_a_small_refused_body_does_not_come(start):
    def authenticate(authorization, peer, local):
        raise AuthenticationFailed("no")

    rig = await start(authenticate=authenticate, limits=Limits(discard_s=0.05, linger_idle_s=0.05))
    client = await rig.client()
    await client.post(HELLO[:10], b"content-length: %d" % len(HELLO))
    refused = await client.answer()
    assert (refused.status, refused.headers["connection"]) == (401, "close")
    assert await client.at_end()


async def test_connection_ends_at_once_when_a_refused_body_is_large_or_of_unknown_length(start):
    def authenticate(authorization, peer, local):
        raise AuthenticationFailed("no")

    rig = await start(authenticate=authenticate)
    for line in (b"content-length: 100000", b"transfer-encoding: chunked"):
        client = await rig.client()
        await client.post(b"", line)
        refused = await client.answer()
        assert (refused.status, refused.headers["connection"]) == (401, "close")


async def test_get_with_a_body_is_answered_and_the_body_is_not_taken_for_a_request(start):
    rig = await start()
    client = await rig.client()
    await client.send(b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nGET /" * 2)
    assert [(await client.answer("GET")).status for _ in range(2)] == [200, 200]


async def test_503_when_all_bodies_together_are_more_than_memory_is_set_aside_for(start):
    rig = await start(max_body_bytes=1024, limits=Limits(body_bytes=1500))
    first, second = await rig.client(), await rig.client()
    await first.post(HELLO, b"content-length: 1024")  # most of it never comes, and counts as far as it came
    await first.send(b" " * (1000 - len(HELLO)))
    with trio.fail_after(5):
        while rig.gate.body_bytes < 1000:
            await trio.lowlevel.checkpoint()
    refused = await rig.chat(body=HELLO.ljust(1000))
    assert (refused.status, refused.error["reason"]) == (503, "overloaded")
    assert refused.headers["retry-after"] == "1"
    await first.send(b" " * 24)
    assert (await first.answer()).status == 200
    await second.post(HELLO.ljust(1000))
    assert (await second.answer()).status == 200, "what has left takes no room"
