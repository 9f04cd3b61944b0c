import errno
import json

import pytest
import trio

from arbstr.config import ServerConfig
from arbstr.edge import CannotListen, Gate, Limits, Services, addresses_of, make_app, open_listeners, serve
from arbstr.errors import Overloaded, ShuttingDown
from arbstr.requests import Caller, PlainAnswer

HTTP1 = ("llhttp", "llhttp/receive", "h11")

ANYONE = Caller(agent_id=None, role="anonymous", name="anonymous")

HELLO = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}).encode()
GET = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
SSE = [(b"content-type", b"text/event-stream")]


class Held:
    """A chat that runs until it is let go."""

    def __init__(self, *, stream):
        self.stream = stream
        self.begun, self.let_go = trio.Event(), trio.Event()

    async def __call__(self, request, responder):
        if self.stream:
            await responder.start(200, SSE)
            await responder.write(b"data: 1\n\n")
        self.begun.set()
        await self.let_go.wait()
        if not self.stream:
            return PlainAnswer(200, (), b"{}")
        await responder.write(b"data: [DONE]\n\n")
        await responder.finish()
        return None


async def stopped(rig):
    with trio.fail_after(5):
        await rig.stopped.wait()


# Listening


async def test_taken_port_is_a_clear_error_before_anything_else():
    (listener,) = await open_listeners("127.0.0.1:0")
    async with listener:
        address = addresses_of([listener])[0].removeprefix("http://")

        def unreachable(*arguments):
            raise AssertionError("nothing else may happen")

        config = ServerConfig(listen=address)
        app = make_app(Services(config, *[unreachable] * 5), Gate())
        with pytest.raises(CannotListen) as caught:
            await serve(app, config, bound=unreachable, shutdown=unreachable)
    assert caught.value.errno == errno.EADDRINUSE
    assert f"cannot listen on {address}: Address already in use" in str(caught.value)
    assert isinstance(caught.value, OSError)


async def test_unknown_host_is_a_clear_error():
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *arguments):
            raise trio.socket.gaierror(trio.socket.EAI_NONAME, "Name or service not known")

        async def getnameinfo(self, *arguments):
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Resolver())
    with pytest.raises(CannotListen, match=r"cannot listen on nowhere\.example:80: Name or service not known"):
        await open_listeners("nowhere.example:80")


@pytest.mark.parametrize(
    "address",
    ["", "8080", "localhost", ":8080", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "a..b:80", "198.51.100.1:0"],
)
async def test_impossible_address_is_a_clear_error(address):
    with pytest.raises(CannotListen, match="cannot listen on"):
        await open_listeners(address)


async def test_port_is_reported_when_any_was_asked_for():
    listeners = await open_listeners("127.0.0.1:0")
    (address,) = addresses_of(listeners)
    assert address.startswith("http://127.0.0.1:")
    assert int(address.rpartition(":")[2]) > 0
    for listener in listeners:
        await listener.aclose()


async def test_ipv6_address_is_written_in_brackets():
    try:
        listeners = await open_listeners("[::1]:0")
    except CannotListen:
        return  # a machine without IPv6
    assert addresses_of(listeners)[0].startswith("http://[::1]:")
    for listener in listeners:
        await listener.aclose()


async def test_shutdown_may_be_something_to_wait_for(start):
    config = ServerConfig(listen="127.0.0.1:0")
    app = make_app(Services(config, *[lambda *arguments: None] * 5), Gate())
    trigger = trio.Event()
    trigger.set()
    with trio.fail_after(5):
        await serve(app, config, shutdown=trigger.wait)


# Stopping


async def test_server_returns_at_once_when_nothing_runs(start):
    rig = await start(limits=Limits())
    idle, used = await rig.client(), await rig.client()
    await used.send(GET)
    assert (await used.answer("GET")).status == 200
    rig.shutdown.set()
    with trio.fail_after(0.9):
        await rig.stopped.wait()
    assert await idle.at_end()
    assert await used.at_end()


@pytest.mark.parametrize("stream", [True, False])
async def test_running_request_finishes_when_the_grace_is_long_enough(start, stream):
    chat = Held(stream=stream)
    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await chat.begun.wait()
    rig.shutdown.set()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not rig.stopped.is_set()
    chat.let_go.set()
    answer = await client.answer()
    assert answer.status == 200
    assert answer.body == (b"data: 1\n\ndata: [DONE]\n\n" if stream else b"{}")
    assert answer.headers.get("connection") == (None if stream else "close")
    await stopped(rig)


async def test_stream_ends_with_an_error_event_when_the_grace_is_over(start):
    rig = await start(Held(stream=True), shutdown_grace_s=0.1)
    client = await rig.client()
    await client.post(HELLO)
    await client.head()
    assert await client.part() == b"data: 1\n\n"
    rig.shutdown.set()
    last = await client.rest()  # a clean end of the chunks
    assert json.loads(last.removeprefix(b"data: "))["error"]["reason"] == "shutting_down"
    assert b"[DONE]" not in last
    await stopped(rig)


async def test_write_in_progress_is_completed_when_the_grace_is_over(start):
    size, begun = 8_000_000, trio.Event()

    async def chat(request, responder):
        await responder.start(200, SSE)
        begun.set()
        await responder.write(b"x" * size)
        await trio.sleep_forever()

    rig = await start(chat, shutdown_grace_s=0.02)
    client = await rig.client()
    await client.post(HELLO)
    await begun.wait()
    rig.shutdown.set()
    await trio.sleep(0.1)  # the grace passes within the write
    answer = await client.answer()  # whose chunks are whole
    assert answer.body[:size] == b"x" * size
    assert json.loads(answer.body[size:].removeprefix(b"data: "))["error"]["reason"] == "shutting_down"
    await stopped(rig)


async def test_plain_request_is_503_when_the_grace_is_over(start):
    chat = Held(stream=False)
    rig = await start(chat, shutdown_grace_s=0.1)
    client = await rig.client()
    await client.post(HELLO)
    await chat.begun.wait()
    rig.shutdown.set()
    answer = await client.answer()
    assert (answer.status, answer.error["reason"]) == (503, "shutting_down")
    assert answer.headers["connection"] == "close"
    await stopped(rig)


async def test_request_whose_body_is_still_coming_is_503_when_the_grace_is_over(start):
    rig = await start(shutdown_grace_s=0.05, limits=Limits(discard_s=0.05, linger_idle_s=0.05))
    client = await rig.client()
    await client.post(HELLO[:9], b"content-length: %d" % len(HELLO))
    await trio.testing.wait_all_tasks_blocked(0.01)
    rig.shutdown.set()
    assert (await client.answer()).status == 503
    await stopped(rig)


async def test_answer_goes_out_when_it_comes_in_spite_of_the_cancellation(start):
    async def chat(request, responder):
        with trio.CancelScope(shield=True):
            await trio.sleep(0.1)
        return PlainAnswer(200, (), b"paid for")

    rig = await start(chat, shutdown_grace_s=0.01)
    client = await rig.client()
    await client.post(HELLO)
    await trio.testing.wait_all_tasks_blocked(0.01)
    rig.shutdown.set()
    assert (await client.answer()).body == b"paid for"
    await stopped(rig)


async def test_settlement_is_waited_for_when_the_grace_is_over(start):
    settle = trio.Event()

    async def chat(request, responder):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await settle.wait()

    rig = await start(chat, shutdown_grace_s=0.01, limits=Limits(abort_after_s=0.05))
    client = await rig.client()
    await client.post(HELLO)
    await trio.testing.wait_all_tasks_blocked(0.01)
    rig.shutdown.set()
    await trio.sleep(0.15)
    assert not rig.stopped.is_set()
    settle.set()
    await stopped(rig)


async def test_server_returns_when_a_client_does_not_read_its_stream(start):
    begun = trio.Event()

    async def chat(request, responder):
        await responder.start(200, SSE)
        begun.set()
        while True:
            await responder.write(bytes(65_536))

    rig = await start(chat, shutdown_grace_s=0.05, limits=Limits(abort_after_s=0.1))
    client = await rig.client()
    await client.post(HELLO)
    await begun.wait()
    await trio.testing.wait_all_tasks_blocked(0.02)
    rig.shutdown.set()
    await stopped(rig)
    assert rig.gate.in_flight == 0


async def test_kept_connection_hears_503_and_new_ones_are_refused_while_others_finish(start):
    chat = Held(stream=True)
    rig = await start(chat)
    kept, probe, busy = await rig.client(), await rig.client(), await rig.client()
    for client in (kept, probe):
        await client.send(GET)
        assert (await client.answer("GET")).status == 200
    await busy.post(HELLO)
    await chat.begun.wait()
    rig.shutdown.set()
    await trio.testing.wait_all_tasks_blocked(0.01)

    with pytest.raises(OSError, match="all attempts to connect"):
        await rig.client()
    await kept.send(GET)
    refused = await kept.answer("GET")
    assert (refused.status, refused.error["reason"]) == (503, "shutting_down")
    assert (refused.headers["connection"], refused.headers["retry-after"]) == ("close", "1")
    assert await kept.at_end()
    await probe.send(GET.replace(b"/v1/models", b"/ready"))
    ready = await probe.answer("GET")
    assert (ready.status, ready.body) == (503, b'{"status":"draining"}')

    chat.let_go.set()
    assert (await busy.answer()).body.endswith(b"data: [DONE]\n\n")
    await stopped(rig)


async def test_ready_is_200_when_requests_are_accepted(start):
    rig = await start()
    assert (await rig.request("GET", "/ready")).body == b'{"status":"ready"}'


async def test_pipelined_request_is_not_lost_silently_when_the_server_stops(start):
    chat = Held(stream=False)
    rig = await start(chat)
    client = await rig.client()
    await client.post(HELLO)
    await client.send(GET)
    await chat.begun.wait()
    rig.shutdown.set()
    await trio.testing.wait_all_tasks_blocked(0.01)
    chat.let_go.set()
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    await stopped(rig)


async def test_chat_settles_when_serve_itself_is_cancelled(nursery):
    settled, begun = trio.Event(), trio.Event()

    async def chat(request, responder):
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)
                settled.set()

    config = ServerConfig(listen="127.0.0.1:0")
    app = make_app(Services(config, lambda *arguments: ANYONE, chat, *[lambda *arguments: None] * 3), Gate())
    listeners = await open_listeners(config.listen)
    stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
    async with trio.open_nursery() as running:
        running.start_soon(lambda: serve(app, config, listeners=listeners))
        await stream.send_all(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(HELLO), HELLO)
        )
        await begun.wait()
        running.cancel_scope.cancel()
    assert settled.is_set()
    await stream.aclose()


# The gate


async def test_gate_counts_only_what_was_admitted():
    gate = Gate()
    first, second = gate.enter(), gate.enter()
    gate.admit(first, 1)
    with pytest.raises(Overloaded):
        gate.admit(second, 1)
    assert (gate.in_flight, gate.occupied) == (1, True)
    gate.leave(first)
    gate.admit(second, 1)
    gate.leave(second)
    assert (gate.in_flight, gate.occupied) == (0, False)
    await gate.wait_empty()


async def test_gate_admits_nobody_when_it_drains():
    gate = Gate()
    gate.drain()
    with pytest.raises(ShuttingDown):
        gate.admit(gate.enter(), 10)


async def test_gate_cancels_the_work_of_everybody_when_the_time_is_over():
    gate = Gate()
    visits = [gate.enter(), gate.enter()]
    gate.expire()
    assert all(visit.expired and visit.scope.cancel_called for visit in visits)
