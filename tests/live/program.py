"""The program as its users meet it: started as a process, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from attrs import define, field

from arbstr.store import CheckReport, Store

START_BOUND_S = 30


@define(eq=False)
class Program:
    """A running ``arbstr serve``. Its output is read all the time, so that it never waits for us."""

    process: subprocess.Popen[str]
    lines: queue.Queue[str | None] = field(factory=queue.Queue)
    output: list[str] = field(factory=list)
    address: str = ""
    token: str | None = None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            self.lines.put(line)
        self.lines.put(None)

    def wait_for_address(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        while not self.address:
            line = self.lines.get(timeout=START_BOUND_S)
            assert line is not None, f"it ended with {self.process.wait()}:\n{''.join(self.output)}"
            found = re.search(r"listening on (http://\S+)", line)
            self.address = found[1] if found else ""

    def wait_for_token(self) -> None:
        while self.token is None:
            line = self.lines.get(timeout=START_BOUND_S)
            assert line is not None, "".join(self.output)
            found = re.search(r"OPENAI_API_KEY=(\S+)", line)
            self.token = found[1] if found else None

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def client(self, token: str | None = None, timeout_s: float = 30) -> httpx.Client:
        token = token or self.token
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.address, headers=headers, timeout=timeout_s)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 40) -> int:
        """Signal it and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


def arbstr(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    return subprocess.run(
        [sys.executable, "-m", "arbstr", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


Serve = Callable[..., Program]


@contextlib.contextmanager
def serving(
    *arguments: str, cwd: Path, preexec: Callable[[], None] | None = None, verb: str = "serve"
) -> Iterator[Program]:
    """``arbstr serve`` with these arguments, listening; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "arbstr", verb, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=preexec,
    )
    program = Program(process)
    try:
        program.wait_for_address()
        yield program
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@define
class Household:
    """A directory with a configuration, a database and one agent with money."""

    path: Path
    token: str = ""

    def write_config(self, providers: str, *, server: str = "", vault: str = "", database: str = "") -> None:
        config = self.path / "config.toml"
        config.write_text(
            f'[server]\nlisten = "127.0.0.1:0"\n{server}\n[database]\npath = "books.db"\n{database}\n'
            f"[vault]\n{vault}\n{providers}\n"
        )
        config.chmod(0o600)

    def add_agent(self, name: str, deposit: str) -> str:
        done = arbstr("agents", "add", name, "--deposit", deposit, cwd=self.path)
        assert done.returncode == 0, done.stderr
        self.token = done.stdout.strip().split("\t")[2]
        return self.token

    def serve(self, **options: Any) -> contextlib.AbstractContextManager[Program]:
        return serving(cwd=self.path, **options)

    def check(self) -> CheckReport:
        """Audit the books; fails the test when they are wrong."""
        report = Store.check(self.path / "books.db")
        assert report.problems == ()
        return report


def mock_provider(name: str, query: str = "", *, rates: tuple[str, str] = ("1", "1"), base_fee: str = "0") -> str:
    """A ``[[providers]]`` table for a pretended provider of model ``m``; rates in sats per 1,000 tokens."""
    return (
        f'[[providers]]\nname = "{name}"\nurl = "mock://{name}?{query}"\nmodels = ["m"]\n'
        f"input_rate = {rates[0]}\noutput_rate = {rates[1]}\nbase_fee = {base_fee}\n"
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RecordingServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((headers, body))
        answer = json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "seen"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class RecordingServer(ThreadingHTTPServer):
    """A provider that answers everything alike and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[dict[str, str], bytes]] = []

    def provider(self) -> str:
        return (
            f'[[providers]]\nname = "recorder"\nurl = "http://127.0.0.1:{self.server_address[1]}/v1/"\n'
            'api_key = "sk-upstream-secret"\nmodels = ["m"]\ninput_rate = 5\noutput_rate = 15\n'
        )
