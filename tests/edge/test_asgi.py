"""What an ASGI application meets on a connection, over each implementation of HTTP/1.1."""

import json

import pytest
import trio

from arbstr.config import ServerConfig
from arbstr.edge import Gate, Limits, serve
from tests.edge.conftest import Client

HTTP1 = ("llhttp", "llhttp/receive", "h11")
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
STREAM = {"type": "http.response.start", "status": 200, "headers": []}
OK = {"type": "http.response.body", "body": b"ok"}
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"


@pytest.fixture
async def connect(nursery, http1):
    """``await connect(app)`` serves a function as an application and gives a client of it."""
    clients = []

    async def connect(function, limits=Limits(linger_idle_s=0.1)):  # noqa: B008
        class App:
            gate = Gate()

            async def __call__(self, scope, receive, send):
                await function(scope, receive, send)

        async def run(task_status):
            await serve(App(), ServerConfig("127.0.0.1:0", http1=http1), bound=task_status.started, limits=limits)

        (url,) = await nursery.start(run)
        client = Client(await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2])))
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


class Recorder:
    """An application that remembers what it was called with, and says ok."""

    def __init__(self):
        self.scope, self.received = None, []

    async def __call__(self, scope, receive, send):
        self.scope = scope
        while True:
            self.received.append(await receive())
            if not self.received[-1].get("more_body"):
                break
        await send(START)
        await send(OK)

    @property
    def body(self):
        return b"".join(message["body"] for message in self.received)


async def test_scope_says_what_the_client_sent(connect):
    app = Recorder()
    client = await connect(app)
    await client.send(b"GET /a%20b/%C3%A9?c=%20d HTTP/1.1\r\nHost: x\r\nX-Two:  y \r\n\r\n")
    assert (await client.answer("GET")).body == b"ok"
    port = client.stream.socket.getpeername()[1]
    assert set(app.scope.pop("extensions")) <= {"arbstr.on_disconnect"}
    assert app.scope == {
        "type": "http",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a b/\xe9",
        "raw_path": b"/a%20b/%C3%A9",
        "query_string": b"c=%20d",
        "root_path": "",
        "headers": [(b"host", b"x"), (b"x-two", b"y")],
        "client": client.stream.socket.getsockname(),
        "server": ("127.0.0.1", port),
        "state": {},
    }
    assert app.received == [{"type": "http.request", "body": b"", "more_body": False}]


@pytest.mark.parametrize(
    ("lines", "data"),
    [
        (b"content-length: 5", b"hello"),
        (b"transfer-encoding: chunked", b"2\r\nhe\r\n3\r\nllo\r\n0\r\nx: y\r\n\r\n"),
    ],
)
async def test_body_arrives_as_it_was_sent_when_it_comes_in_any_pieces(connect, lines, data):
    app = Recorder()
    client = await connect(app)
    head = b"POST / HTTP/1.1\r\nhost: x\r\n" + lines + b"\r\n\r\n"
    for cut in (0, 1, 4, len(data) - 1):
        app.received.clear()
        await client.send(head + data[:cut])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(data[cut:])
        assert (await client.answer()).body == b"ok"
        assert app.body == b"hello"
        assert [message["more_body"] for message in app.received][-1] is False


async def test_date_is_said(connect):
    client = await connect(Recorder())
    await client.send(GET)
    assert (await client.answer("GET")).headers["date"].endswith(" GMT")


async def test_head_request_gets_the_headers_alone(connect):
    client = await connect(Recorder())
    await client.send(GET.replace(b"GET", b"HEAD") + GET)
    head = await client.answer("HEAD")
    assert (head.headers["content-length"], head.body) == ("2", b"")
    assert (await client.answer("GET")).body == b"ok"


async def test_disconnect_is_received_when_the_client_leaves(connect):
    received = []
    done = trio.Event()

    async def app(scope, receive, send):
        received.extend([await receive(), await receive(), await receive()])
        done.set()

    client = await connect(app)
    await client.send(POST + b"hello")
    await trio.testing.wait_all_tasks_blocked(0.01)
    client.close()
    with trio.fail_after(5):
        await done.wait()
    assert received[-1] == {"type": "http.disconnect"}


async def test_disconnect_is_received_when_the_answer_is_complete(connect):
    received = []

    async def app(scope, receive, send):
        while not received or received[-1].get("more_body"):
            received.append(await receive())

        async def watch():
            received.append(await receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await send(START)
            await send(OK)
        received.append(await receive())

    client = await connect(app)
    await client.send(GET)
    assert (await client.answer("GET")).body == b"ok"
    await client.send(GET)  # the connection goes on
    assert (await client.answer("GET")).body == b"ok"
    assert [message["type"] for message in received[1:3]] == ["http.disconnect"] * 2


async def test_send_says_so_when_the_client_is_gone(connect):
    raised = []
    done = trio.Event()

    async def app(scope, receive, send):
        await send(STREAM)
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(1000), "more_body": True})
                await trio.lowlevel.checkpoint()
        except OSError as error:
            raised.append(error)
        with pytest.raises(OSError, match="gone"):
            await send(OK)
        done.set()

    client = await connect(app)
    await client.send(GET)
    await client.head("GET")
    client.close()
    with trio.fail_after(5):
        await done.wait()
    assert raised


@pytest.mark.parametrize(
    "messages",
    [
        [OK],
        [START, START],
        [START, OK, OK],
        [{"type": "http.response.push", "path": "/", "headers": []}],
        [{"type": "nonsense"}],
        [{"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]}],
        [START, {"type": "http.response.body", "body": b"longer"}],
    ],
)
async def test_send_refuses_what_is_no_answer(connect, http1, messages):
    if http1 == "h11" and messages == [START, OK, OK]:
        pytest.skip("Hypercorn passes over what follows an answer")
    caught = []

    async def app(scope, receive, send):
        try:
            for message in messages:
                await send(message)
        except Exception as error:
            caught.append(error)
            raise

    client = await connect(app)
    await client.send(GET)
    await client.stream.receive_some()
    assert caught
    assert not isinstance(caught[0], OSError)


async def test_500_when_the_application_does_not_answer(connect, http1):
    async def app(scope, receive, send):
        raise ValueError("it broke")

    client = await connect(app)
    await client.send(GET)
    answer = await client.answer("GET")
    assert (answer.status, answer.headers["connection"]) == (500, "close")
    if http1 == "llhttp":
        assert json.loads(answer.body)["error"]["request_id"] == answer.headers["x-arbstr-request-id"]
    assert await client.at_end()


@pytest.mark.parametrize("start", [START, STREAM])
async def test_answer_that_breaks_off_does_not_look_complete(connect, start):
    async def app(scope, receive, send):
        await send(start)
        await send({"type": "http.response.body", "body": b"o", "more_body": True})

    client = await connect(app)
    await client.send(GET)
    with pytest.raises(Exception, match="peer closed connection"):
        await client.answer("GET")


async def test_early_answer_is_read_and_the_rest_of_the_body_is_no_request(connect):
    async def app(scope, receive, send):
        await send(START)
        await send(OK)

    client = await connect(app)
    await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n" + GET)
    assert (await client.answer()).body == b"ok"
    await client.send(GET * 100)
    assert await client.at_end()


async def test_body_is_not_invited_when_the_application_does_not_want_it(connect, http1):
    if http1 == "h11":
        pytest.skip("Hypercorn invites it at once")

    async def app(scope, receive, send):
        await send(START)
        await send(OK)

    client = await connect(app)
    await client.send(POST.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
    data = await client.stream.receive_some()
    assert data.startswith(b"HTTP/1.1 200 ")


async def test_400_after_a_body_that_breaks_the_rules_when_nothing_was_answered_yet(connect, http1):
    if http1 == "h11":
        pytest.skip("Hypercorn reads ahead, and refuses or answers, whichever comes first")

    app = Recorder()
    client = await connect(app)
    await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\nxyz\r\n")
    assert (await client.answer()).status == 400
    assert await client.at_end()
    assert app.received[-1] == {"type": "http.disconnect"}


async def test_nothing_follows_a_complete_answer_when_the_unread_body_breaks_the_rules(connect, http1):
    if http1 == "h11":
        pytest.skip("Hypercorn reads ahead, and refuses or answers, whichever comes first")

    async def app(scope, receive, send):
        await send(START)
        await send(OK)

    client = await connect(app)
    await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n")
    assert (await client.answer()).body == b"ok"
    assert await client.at_end()
