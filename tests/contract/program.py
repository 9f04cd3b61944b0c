"""The program under test: started by a command, spoken to over HTTP, ended by a signal. Nothing of it is imported.

Which program it is, is told by the environment:

``ARBSTR_CONTRACT_COMMAND``       how to serve a configuration, for example ``python -m arbstr serve -c {config}``.
                                  Default: this project's own program. What stands before ``serve`` is the program
                                  itself, to which other verbs are given (``check -c FILE``).
``ARBSTR_CONTRACT_PAST_COMMAND``  the same with a wall clock that is eight days behind. Default: our own, with its
                                  clock set back.

Our own program is told to listen on port 0 and says which port it got; any other gets a free port and is polled.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field, frozen

from tests.contract.client import Answer, Exchange, open_request, send
from tests.contract.upstream import Backend, Upstream

START_BOUND_S = 60.0
STOP_BOUND_S = 30.0
EVENTUALLY_S = 20.0
"""For what a program does beside its answers: a row of the log, a poll of a feed."""

EIGHT_DAYS_S = 8 * 86_400

_TEMPLATE = os.environ.get("ARBSTR_CONTRACT_COMMAND")
_PAST_TEMPLATE = os.environ.get("ARBSTR_CONTRACT_PAST_COMMAND")
_OURS = [sys.executable, "-m", "arbstr", "serve", "-c", "{config}"]
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

PLAIN = "four plain words go here"
"""The message of the black-box cases: 24 bytes, score 0.025."""


# The configuration


@frozen
class P:
    """A provider of the cases: rates in sats per 1,000,000 tokens, fee in sats per request.

    Its URL is that of the scripted upstream's backend of its name, with ``suffix``; ``dead``: of a port that refuses.
    ``more`` are further keys of its table; a rate of None is left out.
    """

    name: str
    input_rate: float | None = 5000
    output_rate: float | None = 15000
    base_fee: float = 0
    tier: str | None = None
    models: Sequence[str] = ("gpt-4o",)
    dead: bool = False
    suffix: str = ""
    api_key: str | None = None
    more: Mapping[str, object] = field(factory=dict)

    def table(self, url: str) -> dict[str, object]:
        known: dict[str, object | None] = {
            "name": self.name,
            "url": url,
            "models": list(self.models),
            "input_rate": self.input_rate,
            "output_rate": self.output_rate,
            "base_fee": self.base_fee,
            "tier": self.tier,
            "api_key": self.api_key,
            **self.more,
        }
        return {key: value for key, value in known.items() if value is not None}


def toml(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """A mapping as TOML: plain values, mappings as tables, sequences of mappings as arrays of tables."""
    plain, tables = [], []
    for key, value in table.items():
        name = key if re.fullmatch(r"[\w-]+", key) else json.dumps(key)
        inner = (*path, name)
        if isinstance(value, Mapping):
            tables.append(f"\n[{'.'.join(inner)}]\n{toml(value, inner)}")
        elif isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[0], Mapping):
            tables += [f"\n[[{'.'.join(inner)}]]\n{toml(one, inner)}" for one in value]
        else:
            plain.append(f"{name} = {json.dumps(value)}\n")
    return "".join(plain + tables)


# The program


@define(eq=False)
class Program:
    """A started program. Its output is read all the time, so that it never waits for us."""

    process: subprocess.Popen[str]
    address: str = ""
    output: list[str] = field(factory=list)
    _changed: threading.Condition = field(factory=threading.Condition)
    killed: bool = False
    _ended: bool = False
    _reader: threading.Thread | None = None

    def read_output(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._changed:
                    self.output.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for_line(self, pattern: str) -> str:
        """The first group of the first line that matches. Fails when the program ends before."""

        def found() -> re.Match[str] | None:
            return next(filter(None, (re.search(pattern, line) for line in self.output)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, START_BOUND_S)
            match = found()
        assert match is not None, f"no {pattern!r} in:\n{''.join(self.output)}"
        return match[1]

    def wait_for_port(self, port: int) -> None:
        end = time.monotonic() + START_BOUND_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                self.address = f"http://127.0.0.1:{port}"
                return
            assert self.process.poll() is None, "".join(self.output)
            time.sleep(0.05)  # there is nothing to wait for but the port itself
        raise TimeoutError(f"nobody listens on {port}")

    def stop(self) -> int:
        """SIGTERM and the exit code; killed when that is not enough."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_BOUND_S)
        finally:
            self.clean_up()

    def kill(self) -> None:
        """SIGKILL: what a crash leaves behind is what is left."""
        self.killed = True
        self.clean_up()

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._reader is not None:
            self._reader.join(STOP_BOUND_S)


def _words(template: str | None, config: Path) -> list[str]:
    words = _OURS if template is None else shlex.split(template)
    return [word.replace("{config}", str(config)) for word in words]


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name not in _PROXIES}
    return {**clean, **more}


def _start(words: list[str], directory: Path, environ: Mapping[str, str], *, past: bool = False) -> Program:
    environment = _environment(environ)
    if past and _PAST_TEMPLATE is None:
        path = (str(Path(__file__).parent / "clock"), environment.get("PYTHONPATH"))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        environment["CONTRACT_CLOCK_BEHIND_S"] = str(EIGHT_DAYS_S)
    process = subprocess.Popen(
        words, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    program = Program(process)
    program.read_output()
    return program


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def serving(config: Path, port: int, *, past: bool = False, **environ: str) -> Iterator[Program]:
    """The program with this configuration, listening; ``port`` is the one in the file, 0 when the program chooses."""
    words = _words(_PAST_TEMPLATE if past and _PAST_TEMPLATE else _TEMPLATE, config)
    program = _start(words, config.parent, environ, past=past)
    try:
        if port:
            program.wait_for_port(port)
        else:
            program.address = program.wait_for_line(r"listening on (http://\S+)")
        yield program
        if not program.killed:
            assert program.process.poll() is None, f"it ended by itself:\n{''.join(program.output)}"
            assert program.stop() == 0, "".join(program.output)
    finally:
        program.clean_up()


@contextlib.contextmanager
def serving_mock(directory: Path) -> Iterator[Program]:
    """``serve --mock``, listening."""
    port = chosen_port()
    program = _start([*_base(), "serve", "--mock", "-l", f"127.0.0.1:{port}"], directory, {})
    try:
        if port:
            program.wait_for_port(port)
        else:
            program.address = program.wait_for_line(r"listening on (http://\S+)")
        yield program
        assert program.stop() == 0, "".join(program.output)
    finally:
        program.clean_up()


def chosen_port() -> int:
    return 0 if _TEMPLATE is None else free_port()


def _base() -> list[str]:
    words = _words(_TEMPLATE, Path())
    return words[: words.index("serve")]


def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Another verb of the program, to its end."""
    return subprocess.run(
        [*_base(), *arguments],
        cwd=cwd,
        env=_environment(environ),
        capture_output=True,
        text=True,
        timeout=START_BOUND_S,
        check=False,
    )


# A program among its peers


@define(eq=False, repr=False)
class World:
    """A started program, the upstream that its providers point to, and ways to speak to it."""

    program: Program
    upstream: Upstream
    config: Path
    tokens: dict[str, str]
    """Agents' tokens by name."""
    bearer: str | None = None
    """Sent when a call names none."""

    def backend(self, name: str) -> Backend:
        return self.upstream.backend(name)

    # Requests

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        bearer: str | None = None,
    ) -> Answer:
        return send(self.program.address, method, path, headers=self._headers(headers, bearer), body=body)

    def open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        bearer: str | None = None,
    ) -> contextlib.AbstractContextManager[Exchange]:
        return open_request(self.program.address, method, path, headers=self._headers(headers, bearer), body=body)

    def get(self, path: str, *, bearer: str | None = None) -> Answer:
        return self.send("GET", path, bearer=bearer)

    def post(
        self, path: str, body: bytes | object, *, headers: Mapping[str, str] | None = None, bearer: str | None = None
    ) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(
            "POST", path, headers={"content-type": "application/json", **(headers or {})}, body=data, bearer=bearer
        )

    def chat(
        self,
        text: str = PLAIN,
        *,
        model: str = "gpt-4o",
        headers: Mapping[str, str] | None = None,
        bearer: str | None = None,
        **members: object,
    ) -> Answer:
        """A chat request with one user message, or with ``messages``; further members go to the body."""
        return self.post("/v1/chat/completions", chat_body(text, model, **members), headers=headers, bearer=bearer)

    def stream(self, text: str = PLAIN, **options: Any) -> Answer:
        return self.chat(text, stream=True, **options)

    def open_chat(
        self,
        text: str = PLAIN,
        *,
        model: str = "gpt-4o",
        headers: Mapping[str, str] | None = None,
        bearer: str | None = None,
        **members: object,
    ) -> contextlib.AbstractContextManager[Exchange]:
        """The same, with the answer still to be read."""
        return self.open(
            "POST",
            "/v1/chat/completions",
            headers={"content-type": "application/json", **(headers or {})},
            body=json.dumps(chat_body(text, model, **members)).encode(),
            bearer=bearer,
        )

    def _headers(self, headers: Mapping[str, str] | None, bearer: str | None) -> dict[str, str]:
        token = self.bearer if bearer is None else bearer
        return {**({"authorization": f"Bearer {token}"} if token else {}), **(headers or {})}

    # What it tells about itself

    def health(self, provider: str) -> dict[str, Any]:
        """State, failure count and tier of one provider."""
        found: dict[str, Any] = self.get("/health").json["providers"][provider]
        return found

    def entries(self, query: str = "per_page=100", *, bearer: str | None = None) -> list[dict[str, Any]]:
        answer = self.get(f"/v1/requests?{query}", bearer=bearer)
        assert answer.status == 200, answer.body
        entries: list[dict[str, Any]] = answer.json["data"]
        return entries

    def entry(self, request_id: str, *, bearer: str | None = None) -> dict[str, Any]:
        """What the log says about one request; waits until it says something."""

        def find() -> dict[str, Any] | None:
            return next((one for one in self.entries(bearer=bearer) if request_id in json.dumps(one)), None)

        return eventually(find, f"request {request_id} in the log")

    def balance(self, agent: str) -> dict[str, int]:
        """An agent's amounts in msat, by the columns of ``agents list``."""
        done = run("agents", "list", "-c", str(self.config), cwd=self.config.parent)
        assert done.returncode == 0, done.stderr
        head, *rows = [line.split() for line in done.stdout.splitlines()]
        found = next(dict(zip(head, row, strict=True)) for row in rows if agent in row)
        return {name: _msat(found[name]) for name in ("AVAILABLE", "HELD", "SPENT", "DEPOSITED", "DEBT")}


def _msat(sats: str) -> int:
    whole, _, rest = sats.replace(",", "").partition(".")
    return int(whole) * 1000 + int(rest.ljust(3, "0") or 0)


def chat_body(text: str = PLAIN, model: str = "gpt-4o", **members: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **members}


Start = Callable[..., contextlib.AbstractContextManager[World]]


@contextlib.contextmanager
def started(
    directory: Path,
    providers: Sequence[P] = (),
    *,
    upstream: Upstream | None = None,
    tables: Mapping[str, object] | None = None,
    agents: Mapping[str, str | None] | None = None,
    bearer: str | None = None,
    past: bool = False,
    **environ: str,
) -> Iterator[World]:
    """Write a configuration, make the agents (name: first deposit in sats), start the program.

    ``tables`` are merged over the defaults: first waits between rounds of 20 ms, a database in ``directory``. Started
    twice in one directory, the program finds its database again.
    """
    with contextlib.ExitStack() as stack:
        peer = upstream or stack.enter_context(Upstream())
        port = chosen_port()
        config = write_config(directory, peer, providers, port=port, tables=tables)
        tokens = {name: _add_agent(config, name, deposit) for name, deposit in (agents or {}).items()}
        program = stack.enter_context(serving(config, port, past=past, **environ))
        token = tokens.get(bearer, bearer) if bearer is not None else None
        yield World(program, peer, config, tokens, token)


def write_config(
    directory: Path,
    upstream: Upstream,
    providers: Sequence[P],
    *,
    port: int,
    tables: Mapping[str, object] | None = None,
) -> Path:
    written: dict[str, Any] = {
        "rate_unit": "sats_per_1m_tokens",
        "server": {"listen": f"127.0.0.1:{port}"},
        "database": {"path": str(directory / "contract.db")},
        "routing": {"backoff_s": 0.02},
    }
    for name, table in (tables or {}).items():
        known = written.get(name)
        written[name] = {**known, **table} if isinstance(known, dict) and isinstance(table, Mapping) else table
    if providers:
        written["providers"] = [one.table(_url_of(one, upstream)) for one in providers]
    config = directory / "config.toml"
    config.write_text(toml(written))
    config.chmod(0o600)
    return config


def _url_of(provider: P, upstream: Upstream) -> str:
    if provider.dead:
        return upstream.refused_url()
    return upstream.backend(provider.name).url + provider.suffix


def _add_agent(config: Path, name: str, deposit: str | None) -> str:
    deposits = () if deposit is None else ("--deposit", deposit)
    done = run("agents", "add", name, *deposits, "-c", str(config), cwd=config.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[2]


# Helpers for what is not fixed in time or in place


_Found = TypeVar("_Found")


def eventually(check: Callable[[], _Found | None], what: str) -> _Found:
    """The first true answer of ``check``. For what happens beside the answers: there is nothing to wait on but time."""
    end = time.monotonic() + EVENTUALLY_S
    while not (found := check()):
        assert time.monotonic() < end, f"still no {what}"
        time.sleep(0.05)
    return found


def member(value: object, *names: str) -> object:
    """The first member of one of these names, however deep: the papers name it, not its place. Fails without one."""
    found = list(_members(value, names))
    assert found, f"no member {' or '.join(names)} in {value}"
    return found[0]


def _members(value: object, names: tuple[str, ...]) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from (value[name] for name in names if name in value)
        for inner in value.values():
            yield from _members(inner, names)
    elif isinstance(value, list):
        for inner in value:
            yield from _members(inner, names)
