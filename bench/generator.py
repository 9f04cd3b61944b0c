"""Who asks, without being the limit? A closed loop of raw connections in a process of its own, one epoll loop.

Run as ``python -m bench.generator SPEC`` with a JSON object (``LoadSpec``); prints one JSON object (``LoadFigures``).
Requests are bytes made beforehand; answers are read by httptools. ``bench.client`` reads answers properly; this one
looks for what tells a good answer from another.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle

import httptools
from attrs import asdict, define, field, frozen

from bench.client import filler

RECEIVE_BYTES = 256 * 1024
TAIL_BYTES = 2_048
STALL_S = 60.0
"""Without a byte from anybody for that long, what is still open has failed."""
HELD = "all streams are open"
_COST = re.compile(rb'"cost_msat"\s*:\s*(\d+)')
_PENDING = re.compile(rb'"settlement"\s*:\s*"pending"')


@frozen
class Shot:
    """One kind of request. ``leave``: "" reads the answer to its end, "sent" hangs up when the request has been sent,
    "first" when the first event of the stream is there."""

    name: str
    stream: bool = False
    completion_tokens: int = 100
    prompt_bytes: int = 1_000
    instructions: str = ""
    """For the answerer, see there."""
    leave: str = ""
    token: str | None = None
    """In place of the target's."""
    body: str | None = None
    """In place of a chat request."""


@frozen
class LoadSpec:
    """What to do: shots in turn on every connection until ``requests`` have been begun or ``duration_s`` is over.

    With ``hold`` every connection asks once, ``HELD`` is printed when all of them have got an event, and nothing ends.
    """

    host: str
    port: int
    model: str
    shots: Sequence[Shot]
    path: str = "/v1/chat/completions"
    token: str | None = None
    headers: Mapping[str, str] = field(factory=dict)
    connections: int = 1
    requests: int = 1_000_000_000
    duration_s: float = 3_600.0
    hold: bool = False


@define
class ShotFigures:
    """How the requests of one kind went. Times in seconds."""

    begun: int = 0
    outcomes: dict[str, int] = field(factory=Counter)
    """ok, left, ``http STATUS``, stream_cut, connection, stalled."""
    total_s: list[float] = field(factory=list)
    ttft_s: list[float] = field(factory=list)
    """To the first event with data, of streams that ended well."""


@define
class LoadFigures:
    """What came of it. ``told_msat`` is the sum of the costs that were told; ``cpu_s`` is the generator's own."""

    shots: dict[str, ShotFigures]
    wall_s: float
    cpu_s: float
    told_msat: int

    @property
    def begun(self) -> int:
        return sum(shot.begun for shot in self.shots.values())

    @property
    def failed(self) -> int:
        """Neither ended well nor hung up by us."""
        return sum(n for shot in self.shots.values() for kind, n in shot.outcomes.items() if kind not in ("ok", "left"))

    @property
    def failures(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for shot in self.shots.values():
            found.update({kind: n for kind, n in shot.outcomes.items() if kind not in ("ok", "left")})
        return dict(found)


def read_figures(text: str) -> LoadFigures:
    """From what a generator has printed."""
    fields = json.loads(text)
    fields["shots"] = {name: ShotFigures(**shot) for name, shot in fields["shots"].items()}
    return LoadFigures(**fields)


def spec_text(spec: LoadSpec) -> str:
    """For the command line of a generator."""
    return json.dumps(asdict(spec))


def read_spec(text: str) -> LoadSpec:
    fields = json.loads(text)
    fields["shots"] = [Shot(**shot) for shot in fields["shots"]]
    return LoadSpec(**fields)


def request_bytes(spec: LoadSpec, shot: Shot) -> bytes:
    """Head and body."""
    body = shot.body if shot.body is not None else _body(spec.model, shot)
    token = shot.token if shot.token is not None else spec.token
    headers = {
        "host": f"{spec.host}:{spec.port}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **({"authorization": f"Bearer {token}"} if token is not None else {}),
        **spec.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {spec.path} HTTP/1.1\r\n{head}\r\n{body}".encode()


def _body(model: str, shot: Shot) -> str:
    text = shot.instructions + " " + filler(0, shot.prompt_bytes)
    fields: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": text[: shot.prompt_bytes]}],
        "max_tokens": shot.completion_tokens,
        "stream": shot.stream,
    }
    if shot.stream:
        fields["stream_options"] = {"include_usage": True}
    return json.dumps(fields, separators=(",", ":"))


class _Connection:
    """One connection, one request at a time; made anew when the server closes it. A callback object of httptools."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.sock: socket.socket | None = None
        self.shot: Shot | None = None

    def begin(self) -> None:
        """The next request, or nothing more."""
        upcoming = self.run.next_shot()
        if upcoming is None:
            self.shot = None
            self.close()
            return
        self.shot, data = upcoming
        self.figures = self.run.shots[self.shot.name]
        self.figures.begun += 1
        self.tail, self.first_s, self.complete, self.stays, self.told = b"", 0.0, False, False, 0
        self.started_s = time.perf_counter()
        try:
            if self.sock is None:
                self._connect()
            assert self.sock is not None
            self.sock.sendall(data)
        except OSError:
            self._end("connection")
            return
        if self.shot.leave == "sent":
            self._end("left")

    def _connect(self) -> None:
        self.sock = sock = socket.create_connection((self.run.spec.host, self.run.spec.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.parser = httptools.HttpResponseParser(self)
        self.run.connections[sock.fileno()] = self
        self.run.poll.register(sock.fileno(), select.EPOLLIN)

    def close(self) -> None:
        if self.sock is not None:
            self.run.poll.unregister(self.sock.fileno())
            del self.run.connections[self.sock.fileno()]
            self.sock.close()
            self.sock = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-arbstr-cost-msat" and value.isdigit():
            self.told = int(value)

    def on_body(self, data: bytes) -> None:
        if not self.first_s and (b"data:" in data or not self.shot.stream):
            self.first_s = time.perf_counter()
        self.tail = (self.tail + data)[-TAIL_BYTES:]

    def on_message_complete(self) -> None:
        self.complete = True
        self.stays = self.parser.should_keep_alive()  # only known here: the parser is about to forget this answer

    def readable(self) -> None:
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            self._end("connection")
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._end("protocol")
            return
        if self.complete:
            self._end(self._judged())
        elif self.first_s and self.shot.leave == "first":
            self._end("left")
        elif self.first_s and self.run.spec.hold:
            self.run.has_event(self)

    def _judged(self) -> str:
        status = self.parser.get_status_code()
        if status != 200:
            return f"http {status}"
        if self.shot.stream and b"[DONE]" not in self.tail:
            return "stream_cut"
        return "ok"

    def _end(self, outcome: str) -> None:
        now = time.perf_counter()
        self.figures.outcomes[outcome] = self.figures.outcomes.get(outcome, 0) + 1
        if outcome == "ok":
            self.figures.total_s.append(now - self.started_s)
            if self.shot.stream:
                self.figures.ttft_s.append(self.first_s - self.started_s)
        if self.complete:
            self.run.told_msat += self.told or self._told_at_the_end()
        if not self.complete or not self.stays:
            self.close()
        self.run.idle.append(self)

    def _told_at_the_end(self) -> int:
        """Of a stream. A cost whose settlement is pending is an announcement and no charge yet."""
        found = _COST.search(self.tail) if self.shot.stream else None
        return int(found[1]) if found and not _PENDING.search(self.tail) else 0


class Run:
    """All connections of one load."""

    def __init__(self, spec: LoadSpec) -> None:
        self.spec = spec
        self.poll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.shots = {shot.name: ShotFigures() for shot in spec.shots}
        self.told_msat = 0
        self.begun = 0
        self.idle: list[_Connection] = []
        self.held: set[_Connection] = set()
        self._upcoming = cycle([(shot, request_bytes(spec, shot)) for shot in spec.shots])
        self._until_s = 0.0

    def next_shot(self) -> tuple[Shot, bytes] | None:
        most = self.spec.connections if self.spec.hold else self.spec.requests
        if self.begun >= most or time.perf_counter() >= self._until_s:
            return None
        self.begun += 1
        return next(self._upcoming)

    def has_event(self, connection: _Connection) -> None:
        if len(self.held) < self.spec.connections:
            self.held.add(connection)
            if len(self.held) == self.spec.connections:
                print(HELD, flush=True)

    def run(self) -> LoadFigures:
        started_s, cpu_s = time.perf_counter(), time.process_time()
        self._until_s = started_s + self.spec.duration_s
        self.idle = [_Connection(self) for _ in range(self.spec.connections)]
        while self.idle or self.connections:
            self._begin_idle()
            if self.connections and not self._turn():
                break
        return LoadFigures(self.shots, time.perf_counter() - started_s, time.process_time() - cpu_s, self.told_msat)

    def _begin_idle(self) -> None:
        # What comes back while these begin waits for the next turn: a server that is gone must not make this recurse.
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.begin()

    def _turn(self) -> bool:
        ready = self.poll.poll(0 if self.idle else STALL_S)
        for number, _ in ready:
            connection = self.connections.get(number)
            if connection is not None:
                connection.readable()
        if ready or self.idle:
            return True
        for connection in self.connections.values():
            connection.figures.outcomes["stalled"] = connection.figures.outcomes.get("stalled", 0) + 1
        return False


def main() -> None:
    figures = Run(read_spec(sys.argv[1])).run()
    print(json.dumps(asdict(figures)), flush=True)


if __name__ == "__main__":
    main()
