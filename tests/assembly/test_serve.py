"""The tree in process: it starts, answers, keeps house and stops in order."""

from __future__ import annotations

import io
import json
import signal
import socket
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import evolve

from actors import ActorDeadError
from arbstr.assembly import Reloader, _housekeeping, _serve, serve
from arbstr.assembly._housekeeping import Keeper
from arbstr.assembly._serve import _listen_to_signals, _run
from arbstr.config import Config, DatabaseConfig, ProviderConfig, ReloadOutcome, ServerConfig, VaultConfig
from arbstr.edge import Gate
from arbstr.market import CatalogActor, MarketBoard
from arbstr.providers import Fleet
from arbstr.requests import Caller
from arbstr.store import Store
from arbstr.telemetry import Logs
from arbstr.units import Price
from tests.requests.rig import DONE, Client, World, piece, streams

ANYONE = Caller(None, "anonymous", "anonymous")
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


def config(path: Path, *, url: str = "mock://a", vault: bool = True) -> Config:
    return Config(
        server=ServerConfig(listen="127.0.0.1:0", shutdown_grace_s=0.5),
        database=DatabaseConfig(path=path, durability="process"),
        vault=VaultConfig() if vault else None,
        providers=(ProviderConfig(name="a", url=url, price=Price.of(1, 2)),),
    )


async def ask(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Send one request, return the head and the body of the answer."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        got = b""
        async for data in stream:
            got += data
    head, _, body = got.partition(b"\r\n\r\n")
    return head, body


def copy_books(source: Path, target: Path) -> None:
    """As a crash leaves them: the database and its log."""
    for end in ("", "-wal"):
        part = source.with_name(source.name + end)
        if part.exists():
            target.with_name(target.name + end).write_bytes(part.read_bytes())


def post(body: bytes) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )


async def run(config: Config, mock: bool) -> None:
    logs = Logs(io.StringIO())
    try:
        await _run(config, mock, None, logs, None)
    finally:
        logs.stop()


class Told:
    """What the program prints; the port out of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        self._announced = trio.Event()
        monkeypatch.setattr(_serve, "print", self._print, raising=False)

    def _print(self, *words: object, **_: object) -> None:
        self.lines += "\n".join(map(str, words)).splitlines()
        self._announced.set()

    async def port(self) -> int:
        with trio.fail_after(10):
            await self._announced.wait()
        return int(self.lines[0].rsplit(":", 1)[1])


async def test_the_program_answers_and_leaves_clean_books_when_it_is_told_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = tmp_path / "books.db", Told(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, config(path), True)
        port = await told.port()
        head, body = await ask(port, post(BODY))
        assert head.startswith(b"HTTP/1.1 200")
        assert b"x-arbstr-cost-msat" in head.lower()
        assert json.loads(body)["arbstr_provider"] == "a"
        signal.raise_signal(signal.SIGTERM)
    report = Store.check(path)
    assert report.clean
    assert report.open_holds == 0
    assert report.spent_msat > 0
    assert any("OPENAI_API_KEY=vtk_" in line for line in told.lines)


async def test_a_stream_under_way_is_ended_and_settled_when_the_program_is_told_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = tmp_path / "books.db", Told(monkeypatch)
    body = json.dumps({**json.loads(BODY), "stream": True}).encode()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, config(path, url="mock://a?tokens_per_s=20&ttft_ms=1"), True)
        port = await told.port()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(post(body))
        got = b""
        while b"data: " not in got:
            got += await stream.receive_some(65_536)
        signal.raise_signal(signal.SIGTERM)
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGTERM)  # no grace for those in flight
        async for data in stream:
            got += data
        await stream.aclose()
    assert b"[DONE]" not in got
    assert b"shutting_down" in got
    report = Store.check(path)
    assert report.clean
    assert report.open_holds == 0
    assert report.spent_msat > 0


async def test_holds_of_a_dead_process_are_resolved_before_anybody_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    # The books of a process that died in the middle of a stream: copied while it is under way.
    go = trio.Event()
    world.provider("a", streams(piece("one"), go, DONE))
    path, told = tmp_path / "crashed.db", Told(monkeypatch)
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stream, client)
        await world.until(lambda: bool(client.writes))
        world.requests.renew_leases()
        await trio.testing.wait_all_tasks_blocked()
        await world.flush()
        copy_books(world.path, path)
        go.set()
    assert Store.check(path).open_holds == 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, config(path), False)
        await told.port()
        signal.raise_signal(signal.SIGINT)
    report = Store.check(path)
    assert report.clean
    assert report.open_holds == 0
    assert report.spent_msat == 12


def test_the_program_says_why_and_returns_1_when_it_cannot_open_its_books(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(config(tmp_path / "missing" / "books.db")) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("Error: cannot open database")


def test_the_program_does_not_start_when_its_books_are_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "books.db"
    with Store.open(path) as store:
        store.add_agent_now("a")
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE accounts SET available_msat = 5, deposited_msat = 5")
        db.commit()
    assert serve(config(path)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "are wrong" in last
    assert "arbstr audit check" in last


def test_the_program_says_why_and_returns_1_when_its_address_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(evolve(config(tmp_path / "a.db"), server=ServerConfig(listen=f"127.0.0.1:{port}"))) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert f"cannot listen on 127.0.0.1:{port}" in last


async def keeper(world: World, *configs: ProviderConfig) -> Keeper:
    fleet = Fleet(world.system, world.directory)
    await fleet.start()
    await fleet.apply(configs)
    catalog = world.system.start(CatalogActor, Config(providers=configs), fleet, MarketBoard())
    return Keeper(fleet, catalog, world.requests, world.accounts, world.store)


async def test_the_program_ends_when_provider_actors_crash_faster_than_they_can_be_restarted(
    world: World, clock: trio.testing.MockClock
) -> None:
    keep = await keeper(world, ProviderConfig(name="a", url="mock://a", price=Price.of(1, 2)))
    while keep.fleet.alive:
        with suppress(KeyError, ActorDeadError):
            world.directory.ref("a").tell("nonsense")
        await trio.testing.wait_all_tasks_blocked()
    clock.autojump_threshold = 0
    with pytest.raises(RuntimeError, match="crash faster"):
        await keep.run()


async def test_leases_are_renewed_again_and_again_while_the_keeper_runs(
    world: World, clock: trio.testing.MockClock
) -> None:
    go = trio.Event()
    world.provider("a", streams(piece("one"), go, DONE))
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon((await keeper(world)).run)
        nursery.start_soon(world.stream, client)
        await world.until(lambda: bool(client.writes))
        for _ in range(2):
            [before] = world.holds()
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(_housekeeping.HOUSEKEEPING_S + 0.1)
            await world.until(lambda before=before: world.holds()[0]["lease_ns"] > before["lease_ns"])
        go.set()
        await world.until(lambda: client.finished)
        nursery.cancel_scope.cancel()
    await world.check_closed()


class Unread(Reloader):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.heard = trio.Event()

    async def reload(self) -> ReloadOutcome:
        self.asked += 1
        self.heard.set()
        return ReloadOutcome(self.asked, 0, 0)


async def test_the_configuration_is_read_again_when_told_to(world: World) -> None:
    reloader = Unread()
    async with trio.open_nursery() as nursery:
        await nursery.start(_listen_to_signals, world.context, Gate(), reloader)
        signal.raise_signal(signal.SIGHUP)
        await reloader.heard.wait()
        assert not world.context.stopping
        nursery.cancel_scope.cancel()
    assert reloader.asked == 1


async def test_the_first_signal_stops_and_the_next_ends_the_grace(world: World) -> None:
    gate = Gate()
    visit = gate.enter()
    async with trio.open_nursery() as nursery:
        told: trio.Event = await nursery.start(_listen_to_signals, world.context, gate, Unread())
        assert not world.context.stopping
        signal.raise_signal(signal.SIGTERM)
        await told.wait()
        assert world.context.stopping
        assert not visit.expired
        signal.raise_signal(signal.SIGINT)
        with visit.scope:
            await trio.sleep(5)
        assert visit.expired
        nursery.cancel_scope.cancel()
