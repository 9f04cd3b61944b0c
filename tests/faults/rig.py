"""The whole core in one Trio run, from the front end to the books, between a scripted provider and a client that types.

What stands in front is a ``FrontEnd``: any function that serves the requests of these services on loopback.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Protocol

import h11
import trio
import trio.testing
from attrs import define, evolve, frozen

from actors import ActorSystem
from arbstr.accounts import Accounts, deposit_now
from arbstr.config import ProviderConfig, RoutingConfig, ServerConfig
from arbstr.edge import Gate, Services, make_app, serve
from arbstr.providers import Describe, Directory, Fleet, ProviderView
from arbstr.requests import Authenticator, RequestContext, Requests
from arbstr.routing import Router
from arbstr.secrets import Secret
from arbstr.store import NewAgent, Store
from arbstr.units import Price
from arbstr.wire import SSEReader
from tests.contract.upstream import Backend, Upstream, chat, stream
from tests.edge.conftest import Client, post
from tests.faults.table import (
    DEPOSIT_MSAT,
    FAULTY_RATES,
    HEALTHY_RATES,
    REPORTED,
    RETRIES,
    TEXT,
    WELL,
    Cell,
    Mode,
    Others,
)

BOUND_S = 60.0
"""For what is certain to come, on a machine that has a lot to do."""
RESERVE_TOKENS = 100
BACKOFF_S = 0.001
KEY = "sk-of-the-faulty-one"
LEASE_S = 120.0


class FrontEnd(Protocol):
    """Serve until ``shutdown`` is set; report the base URL when listening."""

    async def __call__(
        self,
        services: Services,
        *,
        shutdown: trio.Event,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None: ...


async def edge(
    services: Services, *, shutdown: trio.Event, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """The front end of the program."""

    def bound(addresses: list[str]) -> None:
        task_status.started(addresses[0])

    await serve(make_app(services, Gate()), services.config, bound=bound, shutdown=shutdown)


async def edge_on_h11(
    services: Services, *, shutdown: trio.Event, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """The same with HTTP/1.1 the other way."""
    services.config = evolve(services.config, http1="h11")
    await edge(services, shutdown=shutdown, task_status=task_status)


FRONT_ENDS: dict[str, FrontEnd] = {"edge": edge, "edge on h11": edge_on_h11}


@frozen
class Got:
    """What a client had in the end. ``cut``: the connection broke in the middle of the answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[bytes]:
        """The data of each event. Nothing but whole events may have come."""
        reader = SSEReader(max_event_bytes=1 << 30)
        events = reader.feed(self.body)
        assert reader.close() == b"", "the stream ends within an event"
        return [event.data for event in events if event.data is not None]


@define(eq=False)
class Market:
    """What runs, and what it leaves behind."""

    path: Path
    store: Store
    agent: NewAgent
    requests: Requests
    directory: Directory
    fleet: Fleet
    url: str

    async def ask(self, body: dict[str, Any]) -> Got:
        """One request on a connection of its own, to the end of its answer."""
        host, port = self.url.removeprefix("http://").split(":")
        client = Client(await trio.open_tcp_stream(host, int(port)))
        try:
            with trio.fail_after(BOUND_S):
                await client.send(
                    post(json.dumps(body).encode(), b"authorization: Bearer " + self.agent.token.encode())
                )
                head = await client.head()
                parts, cut = await _read(client)
        finally:
            client.close()
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Got(head.status_code, headers, b"".join(parts), cut)

    async def settle(self) -> None:
        """Wait until nothing is under way any more and everything is on disk."""
        with trio.fail_after(BOUND_S):
            while self.requests.in_flight:
                await trio.testing.wait_all_tasks_blocked(0.001)
            written = trio.Event()
            self.store.call(lambda db: None, lambda *_: written.set())
            await written.wait()

    def rows(self, query: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(query)]

    async def describe(self, name: str) -> ProviderView:
        view: ProviderView = await self.directory.ref(name).request(Describe())
        return view


async def _read(client: Client) -> tuple[list[bytes], bool]:
    parts: list[bytes] = []
    try:
        while (part := await client.part()) is not None:
            parts.append(part)
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        return parts, True
    return parts, False


@asynccontextmanager
async def open_market(
    path: Path, providers: Sequence[ProviderConfig], routing: RoutingConfig, front_end: FrontEnd
) -> AsyncIterator[Market]:
    server, shutdown = ServerConfig(listen="127.0.0.1:0"), trio.Event()
    with Store.open(path, durability="process") as store:
        agent = store.add_agent_now("agent")
        deposit_now(store, agent.agent_id, DEPOSIT_MSAT, "first")
        tokens = store.tokens_now()
        store.attach(trio.lowlevel.current_trio_token())
        try:
            async with ActorSystem.run() as system:
                accounts = Accounts(system, store, tokens, hold_lease_s=LEASE_S)
                directory = Directory()
                fleet = Fleet(system, directory)
                try:
                    await fleet.start()
                    await fleet.apply(providers)
                    context = RequestContext(
                        system=system,
                        directory=directory,
                        fleet=fleet,
                        router=Router(default_reserve_tokens=RESERVE_TOKENS, routing=routing),
                        store=store,
                        accounts=accounts,
                        stream_cost_event=False,
                    )
                    requests = Requests(context)
                    services = Services(
                        config=server,
                        authenticate=Authenticator(server, accounts),
                        answer=requests.answer,
                        quote=requests.quote,
                        providers=lambda: directory.snapshot,
                        read=store.read,
                    )
                    async with trio.open_nursery() as nursery:
                        url = await nursery.start(_front(front_end, services, shutdown))
                        yield Market(path, store, agent, requests, directory, fleet, url)
                        shutdown.set()
                finally:
                    await fleet.aclose()
        finally:
            store.detach()


def _front(front_end: FrontEnd, services: Services, shutdown: trio.Event) -> Callable[..., Any]:
    async def run(task_status: trio.TaskStatus[str]) -> None:
        await front_end(services, shutdown=shutdown, task_status=task_status)

    return run


@asynccontextmanager
async def play(
    cell: Cell, upstream: Upstream, front_end: FrontEnd, path: Path
) -> AsyncIterator[tuple[Got, Market, Backend]]:
    """Have one request meet the fault. Gives what the client got, once nothing is under way any more."""
    faulty, healthy = upstream.backend("faulty"), upstream.backend("healthy")
    faulty.forget()
    healthy.forget()
    if cell.others is Others.ITSELF:
        faulty.replies(cell.row.answers[cell.mode], chat() if cell.mode is Mode.PLAIN else stream())
    elif cell.row.listens:
        faulty.replies(cell.row.answers[cell.mode])
    healthy.replies(chat(WELL, REPORTED) if cell.mode is Mode.PLAIN else stream(WELL, usage=REPORTED))
    settings = cell.row.settings
    providers = [
        ProviderConfig(
            name="faulty",
            url=faulty.url if cell.row.listens else upstream.refused_url(),
            api_key=Secret(KEY),
            price=Price.of(*FAULTY_RATES),
            first_byte_timeout_s=settings.first_byte_s,
            idle_timeout_s=settings.idle_s,
            total_timeout_s=settings.total_s,
        ),
        ProviderConfig(name="healthy", url=healthy.url, price=Price.of(*HEALTHY_RATES)),
    ]
    routing = RoutingConfig(retries=RETRIES, backoff_s=BACKOFF_S, deadline_s=settings.deadline_s)
    there = providers if cell.others is Others.HEALTHY else providers[:1]
    async with open_market(path / "books.db", there, routing, front_end) as market:
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": TEXT}]}
        if settings.max_tokens is not None:
            body["max_tokens"] = settings.max_tokens
        if cell.mode is Mode.STREAM:
            body["stream"] = True
        got = await market.ask(body)
        await market.settle()
        assert len(healthy.calls()) == cell.expected.rescued
        yield got, market, faulty
