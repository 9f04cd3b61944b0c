"""A real server on a free port in the test's nursery, services of plain functions, and a client that types HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import h11
import httpx
import pytest
import trio
from attrs import define, field, frozen

from arbstr.config import ServerConfig
from arbstr.edge import NO_FEED, Gate, Limits, Services, make_app, serve
from arbstr.providers import ProviderView
from arbstr.requests import Caller, ModelRequest, PlainAnswer, Responder

ANYONE = Caller(agent_id=None, role="anonymous", name="anonymous")
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]


class Client:
    """One connection. Requests are typed by hand, answers are read by h11."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = b""
        self._h11: h11.Connection

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def post(self, body: bytes, *lines: bytes) -> None:
        await self.send(post(body, *lines))

    def close(self) -> None:
        self.stream.socket.close()

    async def head(self, method: str = "POST") -> h11.Response:
        """Status and headers of the next answer; ``part`` reads on."""
        self._h11 = h11.Connection(h11.CLIENT)
        self._h11.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        self._h11.send(h11.EndOfMessage())
        if self._rest:
            self._h11.receive_data(self._rest)
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                return event
            assert isinstance(event, h11.InformationalResponse), event

    async def part(self) -> bytes | None:
        """The next piece of the body, None at its clean end; h11.RemoteProtocolError when it is cut."""
        event = await self._event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)
        self._rest = self._h11.trailing_data[0]
        return None

    async def rest(self) -> bytes:
        parts = []
        while (part := await self.part()) is not None:
            parts.append(part)
        return b"".join(parts)

    async def answer(self, method: str = "POST") -> Answer:
        with trio.fail_after(5):
            head = await self.head(method)
            body = await self.rest()
        return Answer(head.status_code, {k.decode(): v.decode() for k, v in head.headers}, body)

    async def at_end(self) -> bool:
        """Wait until the server closes; whether nothing more came."""
        with trio.fail_after(5):
            return not self._rest and await self.stream.receive_some(1) == b""

    async def _event(self) -> Any:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(await self.stream.receive_some(65_536))
        return event


def post(body: bytes, *lines: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    head = [b"POST " + path + b" HTTP/1.1", b"host: x", b"content-type: application/json", *lines]
    if not any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in lines):
        head.append(b"content-length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@define
class Rig:
    url: str
    gate: Gate
    shutdown: trio.Event
    stopped: trio.Event
    clients: list[Client] = field(factory=list)

    async def client(self) -> Client:
        host, port = self.url.removeprefix("http://").split(":")
        client = Client(await trio.open_tcp_stream(host, int(port)))
        self.clients.append(client)
        return client

    def httpx(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, trust_env=False)

    async def request(self, method: str, path: str, *lines: str, body: bytes = b"") -> Answer:
        """One request on a connection of its own."""
        client = await self.client()
        head = [f"{method} {path} HTTP/1.1", "host: x", *lines, *([f"content-length: {len(body)}"] if body else [])]
        await client.send("\r\n".join([*head, "", ""]).encode() + body)
        answer = await client.answer(method)
        client.close()
        return answer

    async def chat(self, *lines: str, body: object = HELLO) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.request("POST", "/v1/chat/completions", "content-type: application/json", *lines, body=data)


async def say_hello(request: ModelRequest, responder: Responder) -> PlainAnswer | None:
    return PlainAnswer(200, ((b"content-type", b"application/json"),), b'{"hello":true}')


def no_quote(request: ModelRequest) -> Any:
    raise NotImplementedError


async def no_store(function: Any) -> Any:
    raise NotImplementedError


Start = Callable[..., Awaitable[Rig]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that names several implementations in ``HTTP1`` has its tests run over each of them."""
    if "http1" in metafunc.fixturenames:
        metafunc.parametrize("http1", getattr(metafunc.module, "HTTP1", ("llhttp",)), indirect=True)


@pytest.fixture
def http1(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """``[server] http1`` of the rigs that ``start`` makes; ``llhttp/receive`` is as on a system without epoll."""
    name, _, without_epoll = request.param.partition("/")
    if without_epoll:
        monkeypatch.setattr("arbstr.edge._server.make_hangups", lambda: None)
    return name


@pytest.fixture
async def start(nursery: trio.Nursery, http1: str) -> AsyncIterator[Start]:
    """``await start(chat=..., authenticate=..., limits=..., **server_config)`` gives a running :class:`Rig`."""
    rigs: list[Rig] = []

    async def start(
        chat: Callable[[ModelRequest, Responder], Awaitable[PlainAnswer | None]] = say_hello,
        *,
        authenticate: Callable[[str | None, str, bool], Caller] = lambda authorization, peer, local: ANYONE,
        quote: Callable[[ModelRequest], Any] = no_quote,
        providers: Callable[[], tuple[ProviderView, ...]] = lambda: (),
        read: Any = no_store,
        touch: Callable[[Caller], tuple[tuple[bytes, bytes], ...]] = lambda caller: (),
        market: Callable[[], Any] = lambda: NO_FEED,
        metrics: Callable[[], bytes] = lambda: b"up 1\n",
        vault: Any = None,
        vault_alone: bool = False,
        limits: Limits | None = None,
        listeners: Any = None,
        **config: Any,
    ) -> Rig:
        server = ServerConfig(listen="127.0.0.1:0", **{"http1": http1, **config})
        limits = limits or Limits(linger_idle_s=0.1)
        gate = Gate()
        services = Services(
            server,
            authenticate,
            chat,
            quote,
            providers=providers,
            read=read,
            touch=touch,
            market=market,
            metrics=metrics,
            vault=vault,
            vault_alone=vault_alone,
        )
        app = make_app(services, gate, limits)
        rig = Rig("", gate, trio.Event(), trio.Event())

        async def run(task_status: trio.TaskStatus[list[str]]) -> None:
            await serve(
                app, server, listeners=listeners, bound=task_status.started, shutdown=rig.shutdown, limits=limits
            )
            rig.stopped.set()

        (rig.url,) = await nursery.start(run)
        rigs.append(rig)
        return rig

    yield start
    for client in [client for rig in rigs for client in rig.clients]:
        client.close()
