"""What can be measured beside arbstr, and how is each started? One record per program; what is not installed is absent.

Peers live in a folder of their own (``bench.peers`` fills it), each in an environment outside the project's.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import trio
from attrs import define, field, frozen

from bench import nginx
from bench.arbstr_server import Arbstr
from bench.generator import LoadSpec, Shot, request_bytes
from bench.http1 import ProtocolError, ResponseReader
from bench.market import MODEL, ProviderEntry
from bench.process import Child, ChildFailed, free_port

BUDGET_SATS = 1_000_000_000
MAX_AT_ONCE = 4_000
START_S = 120.0
DIRECT = "direct"
REFERENCE = "Hypercorn + httpx"
PASSTHROUGH = Path(__file__).with_name("passthrough")
TOKEN = f"sk-{secrets.token_hex(32)}"
"""For programs that want a bearer of their own making."""


@frozen
class Program:
    """One way to get to the answerer. ``command`` is made from a port, the answerer's address and a directory for
    what it writes; None is no program at all."""

    name: str
    version: str
    books: str
    """What it keeps of what was spent, in the words of the table."""
    command: Callable[[int, str, Path], Sequence[str]] | None
    headers: Callable[[str], Mapping[str, str]] = lambda upstream: {}
    environment: Mapping[str, str] = field(factory=dict)


@define
class Running:
    """A program that answers. ``start_s`` is from its start to its first good answer."""

    program: Program
    child: Child | None
    spec: LoadSpec
    """Where and as whom to ask; without shots."""
    start_s: float | None = None
    arbstr: Arbstr | None = None


@asynccontextmanager
async def answerer(directory: Path) -> AsyncIterator[tuple[Child, str]]:
    """Start it; the child and its address."""
    async with Child([sys.executable, "-m", "bench.answerer"], directory / "answerer.log") as child:
        yield child, await child.address()


@asynccontextmanager
async def running(program: Program, upstream: str, directory: Path) -> AsyncIterator[Running]:
    """Start a program and wait until it has answered once. Raises ChildFailed."""
    await trio.Path(directory).mkdir(exist_ok=True)
    if program.command is None:
        at = urlsplit(upstream)
        yield Running(program, None, LoadSpec(str(at.hostname), int(at.port or 0), MODEL, ()))
        return
    port = free_port()
    child = Child(
        program.command(port, upstream, directory),
        directory / "output.log",
        environment=program.environment,
        ends_with=frozenset(range(-15, 256)),
    )
    spec = LoadSpec("127.0.0.1", port, MODEL, (), token=TOKEN, headers=program.headers(upstream))
    started_s = trio.current_time()
    async with child:
        await first_answer(child, spec)
        yield Running(program, child, spec, trio.current_time() - started_s)


def arbstr(name: str = "arbstr") -> Program:
    """For ``running_arbstr``."""
    return Program(name, version("arbstr"), "to the msat", None)


@asynccontextmanager
async def running_arbstr(
    program: Program, upstream: str, directory: Path, *, durability: str
) -> AsyncIterator[Running]:
    """Start arbstr with accounts, one agent and one provider, and wait until it has answered once."""
    provider = ProviderEntry("answerer", f"{upstream}/v1", "100", "300", max_concurrent=MAX_AT_ONCE)
    server = Arbstr(directory, [provider], durability, max_requests=MAX_AT_ONCE)
    await server.create(BUDGET_SATS)
    port = free_port()
    spec = LoadSpec("127.0.0.1", port, MODEL, (), token=server.token)
    started_s = trio.current_time()
    async with server.server(listen=f"127.0.0.1:{port}") as child:
        await first_answer(child, spec)
        yield Running(program, child, spec, trio.current_time() - started_s, server)


async def first_answer(child: Child, spec: LoadSpec) -> None:
    """Ask until there is a good answer. Raises ChildFailed when the program ends or takes too long."""
    request = request_bytes(spec, Shot("first", completion_tokens=1))
    seen = "nothing"
    with trio.move_on_after(START_S):
        while child.process.poll() is None:
            try:
                reader = await exchange(spec, request)
            except (OSError, trio.BrokenResourceError, ProtocolError) as error:
                seen = str(error)
            else:
                if reader.status == 200:
                    return
                seen = f"{reader.status} {reader.take_body()[:500]!r}"
            await trio.sleep(0.005)
    raise ChildFailed(f"gave no good answer within {START_S:g} s, the last was: {seen}{child.tail()}")


async def exchange(spec: LoadSpec, request: bytes) -> ResponseReader:
    """One request on a connection of its own. Raises OSError, trio.BrokenResourceError or ProtocolError."""
    reader = ResponseReader()
    async with await trio.open_tcp_stream(spec.host, spec.port) as stream:
        await stream.send_all(request)
        while not reader.complete:
            data = await stream.receive_some()
            if data:
                reader.feed(bytes(data))
            else:
                reader.eof()
    return reader


def python_command(module: str, *words: str) -> list[str]:
    """A module of the bench, by the Python that runs it."""
    return [sys.executable, "-m", module, *words]


def direct() -> Program:
    return Program(DIRECT, "", "no", None)


def reverse_proxy() -> Program:
    """Stock Hypercorn and httpx, of the project's own environment."""

    def command(port: int, upstream: str, directory: Path) -> list[str]:
        return [sys.executable, "-m", "bench.reverse_proxy", "--upstream", upstream, "--port", str(port)]

    return Program(REFERENCE, f"{version('hypercorn')}/{version('httpx')}", "no", command)


def _nginx(peers: Path) -> Program | None:
    binary = nginx.binary(peers / "nginx")
    if binary is None:
        return None

    def command(port: int, upstream: str, directory: Path) -> list[str]:
        return nginx.command(binary, directory, port, upstream)

    return Program("nginx", nginx.version(binary), "no", command)


def _python_peer(peers: Path, name: str, package: str, shown: str) -> Program | None:
    python = peers / name / "bin" / "python"
    if not python.exists():
        return None

    def command(port: int, upstream: str, directory: Path) -> list[str]:
        return [str(python), str(PASSTHROUGH / f"{name}_app.py"), str(port), upstream]

    return Program(shown, _installed_version(python, package), "no", command)


def _installed_version(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


LITELLM_CONFIG = """model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: {upstream}/v1
      api_key: {token}
litellm_settings:
  telemetry: false
  request_timeout: 600
  num_retries: 0
"""


def _litellm(peers: Path) -> Program | None:
    """One worker on uvloop and httptools, no database, no cache, logs of errors only."""
    script, python = peers / "litellm" / "bin" / "litellm", peers / "litellm" / "bin" / "python"
    if not script.exists():
        return None

    def command(port: int, upstream: str, directory: Path) -> list[str]:
        config = directory / "config.yaml"
        config.write_text(LITELLM_CONFIG.format(model=MODEL, upstream=upstream, token=TOKEN))
        return [str(script), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]

    # The list of prices that comes with it, instead of one from the network.
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    environment["LITELLM_MASTER_KEY"] = TOKEN
    return Program("LiteLLM", _installed_version(python, "litellm"), "in memory", command, environment=environment)


def _portkey(peers: Path) -> Program | None:
    folder, node = peers / "portkey" / "node_modules" / "@portkey-ai" / "gateway", shutil.which("node")
    if node is None or not folder.exists():
        return None

    def command(port: int, upstream: str, directory: Path) -> list[str]:
        return [str(node), str(folder / "build" / "start-server.js"), "--headless", f"--port={port}"]

    def headers(upstream: str) -> dict[str, str]:
        return {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{upstream}/v1"}

    package = json.loads((folder / "package.json").read_text())
    environment = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    return Program("Portkey", str(package["version"]), "no", command, headers, environment)


PEERS: Mapping[str, Callable[[Path], Program | None]] = {
    "nginx": _nginx,
    "aiohttp": lambda peers: _python_peer(peers, "aiohttp", "aiohttp", "aiohttp"),
    "starlette": lambda peers: _python_peer(peers, "starlette", "starlette", "Starlette + httpx"),
    "portkey": _portkey,
    "litellm": _litellm,
}
"""By the name that the command line uses, from the lightest to the heaviest."""


def find(peers: Path, names: Sequence[str]) -> tuple[list[Program], list[str]]:
    """What is installed of these names of ``PEERS``, and the names of what is not."""
    found = {name: PEERS[name](peers) for name in names}
    return [each for each in found.values() if each is not None], [name for name, each in found.items() if each is None]
