import json
from contextlib import suppress

import h11
import pytest
import trio

from arbstr.edge import Limits
from arbstr.errors import InvalidRequest, ProviderFailed
from arbstr.requests import ClientGone, PlainAnswer

HTTP1 = ("llhttp", "llhttp/receive", "h11")

HELLO = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}).encode()
SSE = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class Watched:
    """A chat that streams one event and then does as it is told, and remembers how it ended."""

    def __init__(self, then=trio.sleep_forever, *, stream=True):
        self.then = then
        self.stream = stream
        self.begun, self.ended = trio.Event(), trio.Event()
        self.outcome = None

    async def __call__(self, request, responder):
        try:
            if self.stream:
                await responder.start(200, SSE)
                await responder.write(b"data: 1\n\n")
            self.begun.set()
            return await (self.then(responder) if self.then is not trio.sleep_forever else self.then())
        except BaseException as error:
            self.outcome = type(error)
            raise
        finally:
            self.ended.set()

    async def has_ended(self):
        with trio.fail_after(5):
            await self.ended.wait()
        return self.outcome


async def test_stream_goes_out_piece_by_piece_and_ends_cleanly(start):
    tell = trio.Event()

    async def then(responder):
        await tell.wait()
        await responder.write(b"")
        await responder.write(b"data: 2\n\n")
        await responder.finish()

    rig = await start(Watched(then))
    client = await rig.client()
    await client.post(HELLO, b"x-request-id: job-7")
    head = await client.head()
    headers = dict(head.headers)
    assert head.status_code == 200
    assert (headers[b"content-type"], headers[b"cache-control"]) == (b"text/event-stream", b"no-cache")
    assert len(headers[b"x-arbstr-request-id"]) == 36
    assert headers[b"x-arbstr-correlation-id"] == b"job-7"
    assert await client.part() == b"data: 1\n\n"
    tell.set()
    assert await client.rest() == b"data: 2\n\n"
    await client.post(HELLO)  # and the connection goes on
    assert (await client.answer()).status == 200


async def test_stream_is_ended_when_the_chat_did_not_say_that_it_is_finished(start):
    async def then(responder):
        return None

    rig = await start(Watched(then))
    assert (await rig.chat()).body == b"data: 1\n\n"


@pytest.mark.parametrize("error", [ProviderFailed("it broke"), InvalidRequest("no")])
async def test_error_is_the_last_event_when_the_stream_has_begun(start, error):
    async def then(responder):
        raise error

    rig = await start(Watched(then))
    answer = await rig.chat()
    assert answer.status == 200
    first, last, nothing = answer.body.split(b"\n\n")
    assert (first, nothing) == (b"data: 1", b"")
    said = json.loads(last.removeprefix(b"data: "))["error"]
    assert (said["reason"], said["request_id"]) == (error.reason, answer.headers["x-arbstr-request-id"])


async def test_unexpected_exception_is_an_event_without_details_when_the_stream_has_begun(start, caplog):
    async def then(responder):
        raise ValueError("key-123")

    rig = await start(Watched(then))
    answer = await rig.chat()
    assert b"internal_error" in answer.body
    assert b"key-123" not in answer.body
    assert answer.headers["x-arbstr-request-id"] in caplog.text


async def test_chat_that_answers_twice_or_never_is_an_internal_error(start, caplog):
    async def both(responder):
        return PlainAnswer(200, (), b"{}")

    async def neither(responder):
        return None

    rig = await start(Watched(both))
    assert b"internal_error" in (await rig.chat()).body
    rig = await start(Watched(neither, stream=False))
    assert (await rig.chat()).status == 500


@pytest.mark.parametrize("stream", [True, False])
async def test_chat_is_cancelled_when_the_client_leaves(start, stream):
    chat = Watched(stream=stream)
    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await chat.begun.wait()
    client.close()
    assert await chat.has_ended() is trio.Cancelled
    with trio.fail_after(5):
        await rig.gate.wait_empty()


async def test_chat_is_cancelled_when_the_client_leaves_behind_a_second_request(start):
    chat = Watched(stream=False)
    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await client.post(HELLO)
    await chat.begun.wait()
    client.close()
    assert await chat.has_ended() is trio.Cancelled
    with trio.fail_after(5):
        await rig.gate.wait_empty()


async def test_chat_is_cancelled_when_the_client_shuts_its_sending_side(start):
    chat = Watched(stream=False)
    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await chat.begun.wait()
    await client.stream.send_eof()
    assert await chat.has_ended() is trio.Cancelled


async def test_plain_get_is_answered_when_the_client_shuts_its_sending_side(start):
    rig = await start()
    client = await rig.client()
    await client.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    await client.stream.send_eof()
    assert (await client.answer("GET")).status == 200
    assert await client.at_end()


async def test_settlement_is_waited_for_when_the_client_leaves(start):
    settle, settled = trio.Event(), []

    async def chat(request, responder):
        try:
            await responder.start(200, SSE)
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await settle.wait()
                settled.append(request.request_id)

    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await client.head()
    client.close()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert rig.gate.in_flight == 1
    settle.set()
    with trio.fail_after(5):
        await rig.gate.wait_empty()
    assert len(settled) == 1


async def test_request_ends_when_the_chat_swallows_its_cancellation(start, caplog):
    async def stubborn(responder):
        with suppress(trio.Cancelled):  # what a broken chat might do
            await trio.sleep_forever()
        return PlainAnswer(200, (), b"{}")

    chat = Watched(stubborn, stream=False)
    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await chat.begun.wait()
    client.close()
    with trio.fail_after(5):
        await rig.gate.wait_empty()
    assert not caplog.records


async def test_failure_is_logged_when_the_chat_breaks_after_the_client_left(start, caplog):
    async def broken(responder):
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("settling failed")

    chat = Watched(broken)
    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await chat.begun.wait()
    client.close()
    with trio.fail_after(5):
        await rig.gate.wait_empty()
    assert "settling failed" in caplog.text


async def test_write_says_that_the_client_is_gone_when_it_has_left(start):
    raised = []

    async def then(responder):
        with trio.CancelScope(shield=True):  # as one that settles does
            try:
                while True:
                    await responder.write(b"data: x\n\n" * 1000)
            except ClientGone as error:
                raised.append(error)
                raise

    chat = Watched(then)
    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await chat.begun.wait()
    client.close()
    assert await chat.has_ended() is ClientGone
    with trio.fail_after(5):
        await rig.gate.wait_empty()


async def test_chat_that_only_writes_is_cancelled_when_the_client_leaves(start):
    async def then(responder):
        while True:
            await responder.write(b"data: x\n\n" * 1000)

    chat = Watched(then)
    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await client.head()
    client.close()
    assert await chat.has_ended() in (trio.Cancelled, ClientGone)


async def test_chat_is_not_cancelled_when_the_client_leaves_after_the_end_of_the_stream(start):
    goes_on, left = trio.Event(), trio.Event()

    async def then(responder):
        await responder.finish()
        await left.wait()
        await goes_on.wait()

    chat = Watched(then)
    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    assert (await client.answer()).body == b"data: 1\n\n"
    client.close()
    left.set()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert not chat.ended.is_set()
    goes_on.set()
    assert await chat.has_ended() is None


async def test_client_is_given_up_when_it_does_not_read(start):
    async def then(responder):
        while True:
            await responder.write(bytes(65_536))

    chat = Watched(then)
    rig = await start(chat, limits=Limits(write_stall_s=0.1))
    client = await rig.client()
    await client.post(HELLO)
    assert await chat.has_ended() in (trio.Cancelled, ClientGone)
    with pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
        await client.answer()


async def test_client_is_given_up_sooner_when_it_said_goodbye_and_does_not_read(start):
    async def then(responder):
        while True:
            await responder.write(bytes(65_536))

    chat = Watched(then)
    rig = await start(chat, limits=Limits(write_stall_s=60, linger_idle_s=0.1))
    client = await rig.client()
    await client.post(HELLO)
    await trio.testing.wait_all_tasks_blocked(0.02)
    await client.stream.send_eof()
    assert await chat.has_ended() in (trio.Cancelled, ClientGone)
    with trio.fail_after(5):
        await rig.gate.wait_empty()


async def test_whole_answer_is_one_write(start):
    rig = await start()
    client = await rig.client()
    await client.post(HELLO)
    with trio.fail_after(5):
        assert (await client.stream.receive_some()).endswith(b'\r\n\r\n{"hello":true}')


async def test_client_is_not_given_up_when_it_reads_slowly(start):
    size = 2_000_000

    async def chat(request, responder):
        return PlainAnswer(200, (), bytes(size))

    rig = await start(chat, limits=Limits(write_stall_s=0.25))
    client = await rig.client()
    client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 131_072)
    await client.post(HELLO)
    await client.head()
    received = 0
    while (part := await client.part()) is not None:
        received += len(part)
        await trio.sleep(0.01)
    assert received == size
