"""A provider as a test wants it: an HTTP/1.1 server on loopback that keeps what it is sent and answers by script.

One server plays any number of providers, each a :class:`Backend` under its own path, with its own script and record::

    with Upstream() as upstream:
        cheap = upstream.backend("cheap")
        cheap.replies(error(503), chat("at last"))        # in this order; the last one is repeated
        cheap.on("/models", models("a", "b"))              # another path of the same provider
        ...                                                # point the program at cheap.url
        assert cheap.calls()[0].json["model"] == "gpt-4o"

An answer is a sequence of steps on the connection: bytes, pauses, gates (a ``threading.Event`` that the test sets) and
ways to end. What HTTP calls a good answer is made by ``answer``, ``chat``, ``stream`` and their like; what it does not
is made of the same steps. ``faults`` names the usual ones.

Knows nothing of the program under test and nothing of pytest.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from enum import Enum, auto
from itertools import pairwise
from types import TracebackType
from typing import Any, BinaryIO, Self

from attrs import define, evolve, field, frozen

WAIT_BOUND_S = 60.0
"""For a gate that nobody opens, for a client that does not read, and for calls that never come."""
POLL_S = 0.01


# What an answer is made of


class Ending(Enum):
    """How a connection may end, other than by being kept."""

    RESET = auto()
    """A TCP reset: what has been sent may be lost on the way."""
    CLOSE = auto()
    """An orderly end of the connection, whatever was promised."""
    HANG = auto()
    """Silence, until the client leaves."""


RESET, CLOSE, HANG = Ending


@frozen
class Pause:
    """Do nothing for so many seconds; ends early when the client leaves."""

    seconds: float


@frozen
class Flood:
    """So many bytes, without ever having them in memory together."""

    size: int
    byte: bytes = b"x"


Step = bytes | Pause | Flood | threading.Event | Ending


@frozen
class Answer:
    """What happens on the connection once a request has been read.

    ``keep``: the bytes make a whole answer, so that the next request may come on the same connection.
    """

    steps: tuple[Step, ...]
    keep: bool = False

    def after(self, *steps: Step) -> Answer:
        """The same answer, but first this: ``chat().after(Pause(2))`` is an answer with slow headers."""
        return evolve(self, steps=(*steps, *self.steps))


@define(eq=False)
class Seen:
    """A request as it came. ``path`` is what follows the backend's URL; ``at`` is monotonic time in seconds."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    at: float
    left: threading.Event = field(factory=threading.Event)
    """The client closed the connection before it had the whole answer."""
    answered: threading.Event = field(factory=threading.Event)
    """All steps of the answer have been played."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Reply = Answer | Callable[[Seen], Answer]


# Good answers


def answer(
    body: bytes = b"",
    *,
    status: int = 200,
    content_type: str | None = "application/json",
    headers: Mapping[str, str] | None = None,
    length: int | None = None,
) -> Answer:
    """A body with its length. A ``length`` greater than the body's is a lie: the connection is closed short of it."""
    announced = len(body) if length is None else length
    lines = {"content-length": str(announced), **({"content-type": content_type} if content_type else {})}
    whole = _head(status, {**lines, **(headers or {})}) + body
    return Answer((whole,), keep=True) if announced == len(body) else Answer((whole, CLOSE))


def json_answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return answer(json.dumps(value).encode(), status=status, headers=headers)


def usage_of(tokens: tuple[int, int] | None, **members: object) -> dict[str, object]:
    """The member ``usage``, or nothing."""
    if tokens is None:
        return {}
    prompt, completion = tokens
    return {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            **members,
        }
    }


def completion(text: str = "pong", usage: tuple[int, int] | None = (10, 20), **members: object) -> dict[str, object]:
    """The body of a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "as-served", "choices": [choice]}
    return {**head, **usage_of(usage), **members}


def chat(
    text: str = "pong", usage: tuple[int, int] | None = (10, 20), *, status: int = 200, **members: object
) -> Answer:
    """A plain chat completion; further ``members`` go to the top of its body."""
    return json_answer(completion(text, usage, **members), status=status)


def models(*ids: str) -> Answer:
    return json_answer({"object": "list", "data": [{"id": one, "object": "model", "created": 1} for one in ids]})


def error(status: int, message: str = "no", *, retry_after: str | None = None) -> Answer:
    """A refusal in OpenAI's shape."""
    body = {"error": {"message": message, "type": "upstream_error", "param": None, "code": f"c{status}"}}
    return json_answer(body, status=status, headers={} if retry_after is None else {"retry-after": retry_after})


def redirect(location: str, status: int = 302) -> Answer:
    return answer(status=status, headers={"location": location})


# Streams


def chunk_object(text: str | None = None, **members: object) -> dict[str, object]:
    """The payload of one event: a piece of text, or whatever ``members`` say (``choices=[]`` for usage alone)."""
    delta = {} if text is None else {"content": text}
    choices = [{"index": 0, "delta": delta, "finish_reason": None if text is not None else "stop"}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "as-served",
        "choices": choices,
        **members,
    }


def usage_chunk(tokens: tuple[int, int] = (10, 20)) -> dict[str, object]:
    return {**chunk_object(choices=[]), **usage_of(tokens)}


DONE = b"data: [DONE]\n\n"

Piece = bytes | Mapping[str, object] | Pause | Flood | threading.Event | Ending
"""Of a stream: an object becomes an event, bytes go out as they are, the rest is as in ``Step``."""


def sse(
    *pieces: Piece,
    status: int = 200,
    content_type: str = "text/event-stream",
    ending: Ending | None = None,
) -> Answer:
    """A chunked body, one HTTP chunk per piece. ``ending`` None ends it in good order, else without the last chunk."""
    steps: list[Step] = [_head(status, {"content-type": content_type, "transfer-encoding": "chunked"})]
    for piece in pieces:
        match piece:
            case bytes():
                steps.append(_http_chunk(piece))
            case Flood():
                steps += [b"%x\r\n" % piece.size, piece, b"\r\n"]
            case Pause() | threading.Event() | Ending():
                steps.append(piece)
            case _:
                steps.append(_http_chunk(event(piece)))
    steps.append(b"0\r\n\r\n" if ending is None else ending)
    return Answer(tuple(steps), keep=ending is None)


def event(payload: Mapping[str, object]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def stream(
    *texts: str | Pause | threading.Event,
    usage: tuple[int, int] | None = (10, 20),
    done: bool = True,
    ending: Ending | None = None,
) -> Answer:
    """A chat stream of these pieces of text. With an ``ending`` it breaks off behind the last of them."""
    pieces: list[Piece] = [chunk_object(text) if isinstance(text, str) else text for text in texts or ("po", "ng")]
    if ending is None:
        pieces.append(chunk_object())
        pieces += [usage_chunk(usage)] if usage is not None else []
        pieces += [DONE] if done else []
    return sse(*pieces, ending=ending)


def trickle(whole: Answer, *, every_s: float, size: int = 1) -> Answer:
    """The same bytes, ``size`` at a time with a pause between."""
    steps: list[Step] = []
    for step in whole.steps:
        if not isinstance(step, bytes):
            steps.append(step)
            continue
        for at in range(0, len(step), size):
            steps += [step[at : at + size], Pause(every_s)]
    return Answer(tuple(steps), keep=whole.keep)


def split(data: bytes, *cuts: int) -> list[bytes]:
    """Bytes in pieces, cut at these places."""
    places = [0, *cuts, len(data)]
    return [data[a:b] for a, b in pairwise(places)]


# Whatever can be wrong


STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 520)


@frozen
class Fault:
    """One thing that a provider does. An answer is None where it has no meaning for that kind of request.

    ``listens`` false: nobody answers at all; use ``refused_url``.
    """

    name: str
    plain: Answer | None = None
    stream: Answer | None = None
    listens: bool = True


def faults(*, pause_s: float = 1.0, line_bytes: int = 100 << 20) -> dict[str, Fault]:
    """All of them by name. ``pause_s`` is what "slow" means, ``line_bytes`` how long a line without an end is."""
    invalid = b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n'
    error_event: dict[str, object] = {"error": {"message": "overloaded", "type": "server_error", "code": 500}}
    wrong = json.dumps(completion(usage=(10**9, 10**9))).encode()
    no_such_path, limited = answer(b"not here", status=404, content_type="text/plain"), error(429, retry_after="7")
    listed = [
        Fault("refused", listens=False),
        Fault("reset_before_headers", Answer((RESET,)), Answer((RESET,))),
        Fault("close_before_headers", Answer((CLOSE,)), Answer((CLOSE,))),
        Fault("slow_headers", chat().after(Pause(pause_s)), stream().after(Pause(pause_s))),
        Fault("hang", Answer((HANG,)), Answer((HANG,))),
        *(Fault(f"status_{status}", error(status), error(status)) for status in STATUSES),
        Fault("status_404_without_error_body", no_such_path, no_such_path),
        Fault("status_429_with_retry_after", limited, limited),
        Fault("bad_json", answer(b'{"choices": ['), sse(b"data: {not json\n\n", ending=CLOSE)),
        Fault("empty_body", answer(), answer(content_type="text/event-stream")),
        Fault(
            "wrong_content_type",
            answer(b"<html>hello</html>", content_type="text/html"),
            answer(b"<html>hello</html>", content_type="text/html"),
        ),
        Fault("truncated_body", answer(wrong[:40], length=len(wrong)), stream("po", ending=CLOSE)),
        Fault(
            "reset_mid_body", Answer((_announce(wrong), Pause(0.05), RESET)), stream("po", Pause(0.05), ending=RESET)
        ),
        Fault("hang_mid_body", Answer((_announce(wrong), HANG)), stream("po", ending=HANG)),
        Fault("no_done", None, stream("po", "ng", done=False)),
        Fault("no_usage", chat(usage=None), stream("po", "ng", usage=None)),
        Fault("usage_late", None, sse(chunk_object("po"), chunk_object(), Pause(pause_s), usage_chunk(), DONE)),
        Fault("usage_after_done", None, sse(chunk_object("po"), chunk_object(), DONE, usage_chunk())),
        Fault("usage_wrong", answer(wrong), stream("po", usage=(10**9, 10**9))),
        Fault(
            "usage_malformed",
            json_answer({**completion(usage=None), "usage": {"prompt_tokens": -1, "completion_tokens": "many"}}),
            sse(chunk_object("po"), chunk_object(choices=[], usage={"prompt_tokens": -1}), DONE),
        ),
        Fault("error_in_200", json_answer(error_event), sse(error_event)),
        Fault("error_event_mid_stream", None, sse(chunk_object("po"), error_event, DONE)),
        Fault(
            "long_line",
            Answer(
                (_head(200, {"content-type": "application/json", "content-length": str(line_bytes)}), Flood(line_bytes))
            ),
            sse(chunk_object("po"), b"data: ", Flood(line_bytes), b"\n\n", DONE),
        ),
        Fault("invalid_utf8", answer(b'{"choices":[{"message":{"content":"\xff"}}]}'), sse(invalid, DONE)),
        Fault(
            "trickle",
            trickle(chat(), every_s=pause_s / 100, size=16),
            trickle(stream(), every_s=pause_s / 100, size=16),
        ),
    ]
    return {fault.name: fault for fault in listed}


# The server


@define(eq=False, repr=False)
class Backend:
    """One provider: an URL, a script and a record. Made by ``Upstream.backend``."""

    name: str
    url: str
    """Base URL for a configuration; chat completions are expected under it."""
    _changed: threading.Condition
    _requests: list[Seen] = field(factory=list)
    _scripts: dict[str, list[Reply]] = field(factory=dict)

    CHAT = "/chat/completions"

    def replies(self, *replies: Reply) -> None:
        """Answer the chat requests to come with these, in order; the last is repeated. None: as at the beginning."""
        self.on(self.CHAT, *replies)

    def on(self, path: str, *replies: Reply) -> None:
        """The same for another path, without its query."""
        with self._changed:
            self._scripts[path] = list(replies)

    def calls(self, path: str = CHAT) -> list[Seen]:
        with self._changed:
            return [seen for seen in self._requests if seen.path == path]

    @property
    def requests(self) -> list[Seen]:
        """All of them, whatever the path."""
        with self._changed:
            return list(self._requests)

    def wait_for_calls(self, count: int, path: str = CHAT) -> list[Seen]:
        """The calls, once there are so many. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.calls(path)) >= count, WAIT_BOUND_S):
                raise TimeoutError(f"{self.name}: {len(self.calls(path))} of {count} calls came")
            return self.calls(path)

    def forget(self) -> None:
        """Begin anew: no record, no script."""
        with self._changed:
            self._requests.clear()
            self._scripts.clear()

    def _take(self, seen: Seen) -> Answer:
        with self._changed:
            self._requests.append(seen)
            script = self._scripts.get(seen.path)
            reply = _default if not script else script.pop(0) if len(script) > 1 else script[0]
            self._changed.notify_all()
        return reply if isinstance(reply, Answer) else reply(seen)


def _default(seen: Seen) -> Answer:
    """A good answer to a chat request, 404 to anything else."""
    if seen.path != Backend.CHAT:
        return error(404, f"nothing at {seen.path}")
    return stream() if seen.body and seen.json.get("stream") else chat()


class Upstream:
    """The server; a context manager. A thread for each connection, ended with it."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._backends: dict[str, Backend] = {}
        self._stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._stack = ExitStack()

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"http://{host}:{port}"

    def backend(self, name: str, suffix: str = "/v1") -> Backend:
        """The provider of that name, made when it is new. Its URL is ``<address>/<name><suffix>``."""
        with self._changed:
            if name not in self._backends:
                self._backends[name] = Backend(name, f"{self.address}/{name}{suffix}", self._changed)
            return self._backends[name]

    def refused_url(self) -> str:
        """An URL whose port refuses connections for as long as this server runs: it is bound and nobody listens."""
        idle = self._stack.enter_context(socket.socket())
        idle.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{idle.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_BOUND_S)
        self._stack.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        with self._changed:
            self._threads = [one for one in self._threads if one.is_alive()]
            # Started under the lock: a thread that is in the list and has not begun would look like one that is over.
            thread.start()
            self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(WAIT_BOUND_S)
        with self._changed:
            self._connections.add(connection)
        try:
            with connection, connection.makefile("rb") as reader, suppress(OSError):
                while not self._stopping.is_set() and (request := _read_request(reader)) is not None:
                    if not self._answer(connection, *request):
                        break
        finally:
            with self._changed:
                self._connections.discard(connection)

    def _answer(self, connection: socket.socket, target: str, seen: Seen) -> bool:
        """Play the answer. True when the connection may go on."""
        backend = self._backend_of(target)
        if backend is None:
            connection.sendall(answer(b"no such backend", status=404, content_type="text/plain").steps[0])  # type: ignore[arg-type]  # it is bytes
            return True
        path, _, seen.query = target.partition("?")
        seen.path = path.removeprefix(backend.url.removeprefix(self.address))
        scripted = backend._take(seen)
        for step in scripted.steps:
            if not self._play(connection, seen, step):
                return False
        seen.answered.set()
        return scripted.keep

    def _backend_of(self, target: str) -> Backend | None:
        name = target.lstrip("/").partition("/")[0].partition("?")[0]
        with self._changed:
            return self._backends.get(name)

    def _play(self, connection: socket.socket, seen: Seen, step: Step) -> bool:
        """Do one step. False when the connection is over."""
        match step:
            case bytes():
                return self._send(connection, seen, (step,))
            case Flood():
                piece = step.byte * 65_536
                whole, rest = divmod(step.size, len(piece))
                return self._send(connection, seen, (*[piece] * whole, piece[:rest]))
            case Pause():
                return self._wait(connection, seen, threading.Event(), step.seconds)
            case threading.Event():
                return self._wait(connection, seen, step, WAIT_BOUND_S)
            case Ending.RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case Ending.HANG:
                self._wait(connection, seen, threading.Event(), WAIT_BOUND_S)
        seen.answered.set()
        return False

    def _send(self, connection: socket.socket, seen: Seen, pieces: Iterable[bytes]) -> bool:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except OSError:
            seen.left.set()
            return False
        return True

    def _wait(self, connection: socket.socket, seen: Seen, gate: threading.Event, bound_s: float) -> bool:
        """Until the gate opens or the time is over. False when the client has left, or the server stops."""
        end = time.monotonic() + bound_s
        while not gate.wait(POLL_S) and time.monotonic() < end:
            if self._stopping.is_set():
                return False
            if _has_left(connection):
                seen.left.set()
                return False
        return True


def _has_left(connection: socket.socket) -> bool:
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


def _read_request(reader: BinaryIO) -> tuple[str, Seen] | None:
    """Target and request; None at the end of the connection."""
    first = reader.readline(65_536)
    if not first.strip():
        return None
    at = time.monotonic()
    method, target, _ = first.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while (line := reader.readline(65_536)) not in (b"\r\n", b"\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        key = name.strip().lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _read_chunked(reader)
    else:
        body = reader.read(int(headers.get("content-length", "0")))
    return target, Seen(method, target, "", headers, body, at)


def _read_chunked(reader: BinaryIO) -> bytes:
    parts: list[bytes] = []
    while size := int(reader.readline(64).split(b";")[0] or b"0", 16):
        parts.append(reader.read(size))
        reader.readline(64)
    while reader.readline(65_536).strip():
        pass
    return b"".join(parts)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} As-Scripted", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _announce(body: bytes) -> bytes:
    """The head and a beginning of a body that will not come to its end."""
    return _head(200, {"content-type": "application/json", "content-length": str(len(body))}) + body[:40]


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
