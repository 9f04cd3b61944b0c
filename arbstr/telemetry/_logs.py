"""Structured logs: JSON or for people, one line for each request, never a prompt unless asked, never a secret.

Whoever logs only puts a record into a bounded queue; a thread renders what has come and writes it in one piece. A full
pipe or a slow terminal costs lines, which are counted, and never holds up the event loop.

The line of a request is the one that there are many of. It is queued as the receipt that it tells of and rendered past
structlog's processors, to the same text: 12 µs in all instead of 28.
"""

from __future__ import annotations

import atexit
import json
import logging
import queue
import sys
import threading
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from logging.handlers import QueueHandler
from typing import Any, Final, Protocol, TextIO, TypeVar

import structlog
from attrs import define, field, frozen

from arbstr.config import LoggingConfig
from arbstr.store import ReceiptRow
from arbstr.wire import ModelCall

MAX_WAITING = 10_000
"""Lines that wait for the writing thread; further ones are dropped and counted."""
MAX_PROMPT_CHARACTERS = 2_000
MAX_AT_ONCE = 1_000
"""Lines that are written in one piece."""
GATHER_S = 0.02
"""How long the thread lets lines come before it writes them: waking it for each costs more than the line."""

_QUIET = ("pykka", "httpx", "httpcore", "hpack", "hypercorn")
"""Libraries that would name every address, header and actor."""

Event = dict[str, Any]
E = TypeVar("E", bound=MutableMapping[str, Any])


def start_logging(config: LoggingConfig, stream: TextIO | None = None, worker: str | None = None) -> Logs:
    """Set up logging for the whole process, to stderr by default; what waits is written at exit.

    ``worker`` is what this process is called in every line, where there are several.
    """
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logs = Logs(sys.stderr if stream is None else stream, worker)
    logs.configure(config)
    atexit.register(logs.stop)
    return logs


class Logs:
    """The way of log records to a stream."""

    def __init__(self, stream: TextIO, worker: str | None = None) -> None:
        self._worker = worker
        self._handler = logging.StreamHandler(stream)
        self._queue = _Dropping()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()
        self._running = True
        logging.getLogger().handlers[:] = [self._queue]

    def configure(self, config: LoggingConfig) -> None:
        """Level and format from now on; may be called again."""
        self._handler.setFormatter(_formatter(config.format, self._handler.stream, self._worker))
        logging.getLogger().setLevel(config.level.upper())

    def stop(self) -> None:
        """Write what waits and end the thread; what is logged later is written at once. A second time does nothing."""
        if not self._running:
            return
        self._running = False
        logging.getLogger().handlers[:] = [self._handler]
        self._queue.waiting.put(None)
        self._stopping.set()
        self._thread.join()
        if self._queue.dropped:
            logging.getLogger("arbstr").warning("%d log lines were dropped: they came too fast", self._queue.dropped)

    def _write(self) -> None:
        """In a thread of its own: what waits, until the word to stop."""
        waiting, goes_on = self._queue.waiting, True
        while goes_on:
            record = waiting.get()
            self._stopping.wait(GATHER_S)
            lines: list[str] = []
            while record is not None:
                lines.append(self._render(record))
                if len(lines) == MAX_AT_ONCE or waiting.empty():  # nobody else takes any out
                    break
                record = waiting.get()
            goes_on = record is not None
            self._write_out("".join(lines))

    def _render(self, record: logging.LogRecord) -> str:
        try:
            return self._handler.format(record) + self._handler.terminator
        except Exception:  # as the library does it: one line that cannot be rendered costs no other
            self._handler.handleError(record)
            return ""

    def _write_out(self, text: str) -> None:
        try:
            self._handler.stream.write(text)
            self._handler.flush()
        except (OSError, ValueError) as error:  # a pipe that has broken, a stream that was closed, a lone surrogate
            self._handler.handleError(logging.makeLogRecord({"msg": f"{len(text)} characters of log: {error}"}))


class _Dropping(QueueHandler):
    """Puts records into a queue as they are, and drops them when ``MAX_WAITING`` are in it.

    The bound is ours and not the queue's: the word to stop must find room.
    """

    def __init__(self) -> None:
        self.waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        super().__init__(self.waiting)
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # Rendered in the thread: whatever is filled into a message here is a value that does not change.
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        if self.waiting.qsize() < MAX_WAITING:
            self.waiting.put(record)
        else:
            self.dropped += 1


def _formatter(name: str, stream: TextIO, worker: str | None = None) -> logging.Formatter:
    terminal = stream.isatty()
    if name == "console" or (name == "auto" and terminal):
        # Its own choice prints the variables of each frame, tokens and prompts among them.
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=plain)
        return _Formatter([console], lambda event: str(console(None, event["level"], event)), worker)
    last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    return _Formatter(last, _to_json, worker)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Everything goes through structlog's processors, but the lines of requests."""

    def __init__(self, last: list[Any], render: Callable[[Event], str], worker: str | None) -> None:
        super().__init__(processors=[self._describe, self.remove_processors_meta, *last])
        self._render = render
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, _Line):
            return self._render(self._with_origin(record.msg.event(), record))
        return super().format(record)

    def _describe(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Name, level and time of the record, whether a library wrote it or we did."""
        return self._with_origin(event, event["_record"])

    def _with_origin(self, event: E, record: logging.LogRecord) -> E:
        event["logger"] = record.name
        event["level"] = record.levelname.lower()
        event["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        if self._worker is not None:
            event["worker"] = self._worker
        return event


_to_json: Final = json.JSONEncoder(ensure_ascii=False).encode


class Asked(Protocol):
    """Of a request, what a line may say beside its receipt."""

    @property
    def call(self) -> ModelCall: ...


@frozen
class _Line:
    """The message of a record: rendered by whoever writes it, not by whoever logs it."""

    receipt: ReceiptRow
    prompt: str | None

    def event(self) -> Event:
        event = _fields(self.receipt)
        if self.prompt is not None:
            event["prompt"] = self.prompt
        event["event"] = "request"
        return event

    def __str__(self) -> str:
        return f"request {self.receipt.request_id}: {self.receipt.outcome}"


@define(eq=False)
class RequestLog:
    """One line for each request that has ended."""

    config: LoggingConfig
    _log: logging.Logger = field(factory=lambda: logging.getLogger("arbstr.request"))

    def finished(self, request: Asked, receipt: ReceiptRow) -> None:
        """Write the line: a warning when the request failed by a provider's fault or ours, else info."""
        grave = receipt.http_status >= 500 or receipt.outcome == "stream_incomplete"
        level = logging.WARNING if grave else logging.INFO
        if not self.config.log_requests or not self._log.isEnabledFor(level):
            return
        prompt = request.call.last_user_text[:MAX_PROMPT_CHARACTERS] if self.config.log_prompts else None
        line: Any = _Line(receipt, prompt)
        self._log.handle(logging.LogRecord(self._log.name, level, __file__, 0, line, None, None))


def _fields(receipt: ReceiptRow) -> Event:
    """What a line says; what is not known is left out."""
    first_byte_us = receipt.attempts[-1].ttfb_us if receipt.attempts else None
    fields = {
        "request_id": receipt.request_id,
        "correlation_id": receipt.correlation_id,
        "agent": receipt.agent_id,
        "endpoint": receipt.endpoint,
        "model": receipt.model,
        "provider": receipt.provider,
        "policy": receipt.policy,
        "tier": receipt.tier,
        "stream": receipt.stream,
        "outcome": receipt.outcome,
        "status": receipt.http_status,
        "error": receipt.error,
        "attempts": len(receipt.attempts),
        "prompt_tokens": receipt.prompt_tokens,
        "cached_tokens": receipt.cached_tokens,
        "completion_tokens": receipt.completion_tokens,
        "estimated": receipt.estimated or None,
        "cost_msat": receipt.cost_msat,
        "saved_msat": receipt.saved_median_msat,
        "duration_ms": receipt.duration_us // 1_000,
        "ttfb_ms": None if first_byte_us is None else first_byte_us // 1_000,
    }
    return {name: value for name, value in fields.items() if value is not None}
