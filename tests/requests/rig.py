"""A whole market in process: real store, accounts, provider actors and requests; scripted upstreams and clients.

Time is real, for the writer is a real thread. A test that wants time to pass takes ``clock``, which runs at real speed
and is moved by hand.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import trio
import trio.testing
from attrs import define, evolve, field, frozen

from actors import ActorSystem
from arbstr.accounts import Accounts
from arbstr.config import ProviderConfig, RoutingConfig
from arbstr.providers import Describe, Directory, ProviderActor, ProviderView, Upstream
from arbstr.requests import Caller, ClientGone, ModelRequest, PlainAnswer, RequestContext, Requests
from arbstr.routing import Router
from arbstr.store import CheckReport, NewAgent, Store
from arbstr.units import Price
from arbstr.wire import SSEReader, parse_chat

DONE = b"data: [DONE]\n\n"
EVENT_STREAM = {"content-type": "text/event-stream"}
CHEAP, DEAR = Price.of(1, 2), Price.of(10, 20)


def event(obj: object) -> bytes:
    return b"data: " + json.dumps(obj).encode() + b"\n\n"


def piece(text: str) -> bytes:
    """A chunk of a stream in which the model says something."""
    return event({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]})


def usage_event(prompt: int, completion: int) -> bytes:
    return event({"id": "c", "choices": [], "usage": usage(prompt, completion)})


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


def completion(text: str = "hello there", used: dict[str, int] | None = None) -> bytes:
    body: dict[str, object] = {"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    if used is not None:
        body["usage"] = used
    return json.dumps(body).encode()


class Body(httpx.AsyncByteStream):
    """Gives the parts: bytes; an exception is raised, an Event awaited, a float slept, ``...`` never comes, and what
    else there is is called."""

    def __init__(self, parts: Iterable[Any]) -> None:
        self._parts = iter(parts)
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for part in self._parts:
            await trio.lowlevel.checkpoint()
            if isinstance(part, bytes):
                return part
            if isinstance(part, Exception):
                raise part
            if isinstance(part, trio.Event):
                await part.wait()
            elif isinstance(part, float):
                await trio.sleep(part)
            elif part is ...:
                await trio.sleep_forever()
            else:
                part()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1
        await trio.lowlevel.checkpoint()


@frozen
class Answer:
    """What a provider does with a request."""

    parts: Sequence[Any] = ()
    status: int = 200
    headers: dict[str, str] = field(factory=dict)


def says(text: str = "hello there", used: dict[str, int] | None = None, **fields: Any) -> Answer:
    return Answer([completion(text, used)], **fields)


def streams(*parts: Any, **fields: Any) -> Answer:
    return Answer(parts, **{"headers": EVENT_STREAM, **fields})


class Transport(httpx.AsyncBaseTransport):
    """Gives out the scripted answers one after the other, the last one for ever; an exception is raised."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.sent: list[bytes] = []
        self.bodies: list[Body] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.sent.append(await request.aread())
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, trio.Event):
            await answer.wait()
            answer = self.answers[0]
        if answer is ...:
            await trio.sleep_forever()
        if isinstance(answer, BaseException):
            raise answer
        body = Body(answer.parts)
        self.bodies.append(body)
        return httpx.Response(answer.status, headers=answer.headers, stream=body)


@define(eq=False)
class Client:
    """The client's end: keeps what it gets, and leaves or stops reading when the test says so."""

    status: int | None = None
    headers: dict[bytes, bytes] = field(factory=dict)
    writes: list[bytes] = field(factory=list)
    finished: bool = False
    leaves_after: int | None = None
    """Writes that it takes before it is gone."""
    reads: trio.Event | None = None
    """It takes nothing until then."""

    @property
    def got(self) -> bytes:
        return b"".join(self.writes)

    @property
    def events(self) -> list[Any]:
        """The data of each event, decoded; ``[DONE]`` as a string."""
        datas = [one.data for one in SSEReader().feed(self.got)]
        return ["[DONE]" if data == b"[DONE]" else json.loads(data) for data in datas if data is not None]

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        await trio.lowlevel.checkpoint()
        assert self.status is None, "an answer begins once"
        self._look_around()
        self.status, self.headers = status, dict(headers)

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        assert self.status is not None
        assert not self.finished
        self._look_around()
        if self.reads is not None:
            await self.reads.wait()
        self.writes.append(data)

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()
        assert not self.finished
        self._look_around()
        self.finished = True

    def _look_around(self) -> None:
        if self.leaves_after is not None and len(self.writes) >= self.leaves_after:
            raise ClientGone


class Ledger:
    """Stands before the store and breaks it, from where commits are asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.broken: Callable[[Any], Exception | None] = lambda change: None
        self.silent = False
        """Takes everything and answers nothing."""
        self._kept: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def submit(self, change: Any, done: Any = None) -> None:
        error = self.broken(change)
        if error is not None:
            trio.lowlevel.current_trio_token().run_sync_soon(done or (lambda *_: None), None, error)
        elif self.silent:
            self._kept.append(lambda: self._store.submit(change, done))
        else:
            self._store.submit(change, done)

    def call(self, function: Any, done: Any) -> None:
        if self.silent:
            self._kept.append(lambda: self._store.call(function, done))
        else:
            self._store.call(function, done)

    def recover(self) -> None:
        self.broken, self.silent = lambda change: None, False
        kept, self._kept = self._kept, []
        for call in kept:
            call()


class OutdatedDirectory(Directory):
    """What readers saw a moment ago, before a provider filled up, closed or died."""

    def __init__(self, directory: Directory) -> None:
        super().__init__()
        self._snapshot = directory.snapshot
        self._refs = directory._refs


@define(eq=False)
class World:
    """Everything from the store to the requests, and what is asked of it."""

    path: Path
    store: Store
    ledger: Ledger
    system: ActorSystem
    accounts: Accounts | None
    agent: NewAgent
    directory: Directory = field(factory=Directory)
    transports: dict[str, Transport] = field(factory=dict)
    upstreams: dict[str, Upstream] = field(factory=dict)
    context: RequestContext = field(init=False)
    requests: Requests = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.context = RequestContext(
            system=self.system,
            directory=self.directory,
            fleet=self,
            router=Router(default_reserve_tokens=100, routing=RoutingConfig(retries=0)),
            store=self.ledger,  # type: ignore[arg-type]  # quacks
            accounts=self.accounts,
            stream_cost_event=False,
        )
        self.requests = Requests(self.context)

    def provider(self, name: str, *answers: Any, price: Price = CHEAP, **fields: Any) -> Transport:
        """Start a provider that answers by the script."""
        config = ProviderConfig(**{"name": name, "url": f"http://{name}.test/v1", "price": price, **fields})
        transport = self.transports[name] = Transport(answers)
        self.upstreams[name] = Upstream(config, transport)
        self.system.start(ProviderActor, config, self.directory)
        return transport

    def upstream(self, name: str) -> Upstream:
        """It is its own fleet."""
        return self.upstreams[name]

    def configure(self, **fields: Any) -> None:
        """How often and how long requests are tried from now on; by default each provider is asked once."""
        self.context.router = evolve(self.context.router, routing=RoutingConfig(**fields))

    def request(
        self,
        *,
        stream: bool = False,
        content: str = "four plain words go here",
        include_usage: bool = False,
        caller: Caller | None = None,
        stream_cost: bool = False,
        request_id: str | None = None,
        **fields: Any,
    ) -> ModelRequest:
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
        if stream:
            body |= {"stream": True}
        if include_usage:
            body |= {"stream_options": {"include_usage": True}}
        return ModelRequest(
            request_id=request_id or str(uuid4()),
            correlation_id="mine",
            traceparent=None,
            policy=None,
            stream_cost=stream_cost,
            caller=caller or Caller(self.agent.agent_id, "agent", "a"),
            call=parse_chat(json.dumps(body).encode()),
        )

    async def chat(self, request: ModelRequest | None = None, client: Client | None = None) -> PlainAnswer | None:
        return await self.requests.answer(request or self.request(), client or Client())

    async def stream(self, client: Client | None = None, **fields: Any) -> Client:
        """Have a request streamed that is expected to go out through the responder."""
        client = client or Client()
        assert await self.chat(self.request(stream=True, **fields), client) is None
        return client

    def keep_the_directory_as_it_is(self) -> None:
        """Requests choose by what it says now, whatever happens to the providers."""
        self.context.directory = OutdatedDirectory(self.directory)

    # What is left behind

    async def flush(self) -> None:
        """Wait until everything that was submitted so far is on disk."""
        written = trio.Event()
        self.store.call(lambda db: None, lambda *_: written.set())
        await written.wait()

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(query, values)]

    async def receipts(self) -> list[dict[str, Any]]:
        await self.flush()
        return self.rows("SELECT * FROM receipts ORDER BY started_ns")

    async def receipt(self) -> dict[str, Any]:
        [one] = await self.receipts()
        return one

    def attempts(self) -> list[tuple[str, str]]:
        return [(row["provider"], row["outcome"]) for row in self.rows("SELECT * FROM attempts ORDER BY position")]

    def holds(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM holds ORDER BY created_ns")

    async def describe(self, name: str) -> ProviderView:
        view: ProviderView = await self.directory.ref(name).request(Describe())
        return view

    def store_check(self) -> CheckReport:
        return Store.check(self.path)

    async def check_closed(self, *, spent: int | None = None) -> None:
        """Nothing is under way and nothing was lost: rules M1 to M4, permits, connections."""
        await self.flush()
        report = Store.check(self.path)
        # A transaction that moves nothing (a provider that is free) has no postings, whatever the audit says of that.
        assert not [problem for problem in report.problems if "sum to None" not in problem]
        assert report.open_holds == 0
        if spent is not None:
            assert report.spent_msat + report.debt_msat == spent
        for name, transport in self.transports.items():
            view = await self.describe(name)
            assert (view.in_flight, view.expired_permits, view.unknown_reports) == (0, 0, 0), (name, view)
            assert not [body for body in transport.bodies if not body.closed], name
        assert self.requests.in_flight == 0

    async def until(self, condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
        """Real time: for what the writer's thread has a part in."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, "it did not come to that"
            await trio.testing.wait_all_tasks_blocked()
            await self.flush()
