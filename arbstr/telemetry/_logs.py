"""Structured logs: JSON or for people, one line for each request, never a prompt unless asked, never a secret.

Whoever logs only puts a record into a bounded queue; a thread renders and writes it. A full pipe or a slow terminal
costs lines, which are counted, and never holds up the event loop.
"""

from __future__ import annotations

import atexit
import logging
import queue
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any, Protocol, TextIO

import structlog
from attrs import define, field

from arbstr.config import LoggingConfig
from arbstr.store import ReceiptRow
from arbstr.wire import ModelCall

MAX_WAITING = 10_000
"""Lines that wait for the writing thread; further ones are dropped and counted."""
MAX_PROMPT_CHARACTERS = 2_000

_QUIET = ("pykka", "httpx", "httpcore", "hpack", "hypercorn")
"""Libraries that would name every address, header and actor."""

Event = dict[str, Any]


def start_logging(config: LoggingConfig, stream: TextIO | None = None) -> Logs:
    """Set up logging for the whole process, to stderr by default; what waits is written at exit."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logs = Logs(sys.stderr if stream is None else stream)
    logs.configure(config)
    atexit.register(logs.stop)
    return logs


class Logs:
    """The way of log records to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._handler = logging.StreamHandler(stream)
        self._queue = _Dropping()
        self._listener = QueueListener(self._queue.waiting, self._handler)
        self._listener.start()
        self._running = True
        logging.getLogger().handlers[:] = [self._queue]

    def configure(self, config: LoggingConfig) -> None:
        """Level and format from now on; may be called again."""
        self._handler.setFormatter(_formatter(config.format, self._handler.stream))
        logging.getLogger().setLevel(config.level.upper())

    def stop(self) -> None:
        """Write what waits and end the thread; what is logged later is written at once. A second time does nothing."""
        if not self._running:
            return
        self._running = False
        logging.getLogger().handlers[:] = [self._handler]
        self._listener.stop()
        if self._queue.dropped:
            logging.getLogger("arbstr").warning("%d log lines were dropped: they came too fast", self._queue.dropped)


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


def _formatter(name: str, stream: TextIO) -> logging.Formatter:
    terminal = stream.isatty()
    last: list[Any]
    if name == "console" or (name == "auto" and terminal):
        # Its own choice prints the variables of each frame, tokens and prompts among them.
        last = [structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    tidy = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(processors=[_describe, tidy, *last])


def _describe(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name, level and time of the record, whether a library wrote it or we did."""
    record: logging.LogRecord = event["_record"]
    event["logger"] = record.name
    event["level"] = record.levelname.lower()
    event["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    return event


class Asked(Protocol):
    """Of a request, what a line may say beside its receipt."""

    @property
    def call(self) -> ModelCall: ...


@define(eq=False)
class RequestLog:
    """One line for each request that has ended."""

    config: LoggingConfig
    _log: Any = field(factory=lambda: structlog.get_logger("arbstr.request"))

    def finished(self, request: Asked, receipt: ReceiptRow) -> None:
        """Write the line: a warning when the request failed by a provider's fault or ours, else info."""
        if not self.config.log_requests:
            return
        fields = _fields(receipt)
        if self.config.log_prompts:
            fields["prompt"] = request.call.last_user_text[:MAX_PROMPT_CHARACTERS]
        if receipt.http_status >= 500 or receipt.outcome == "stream_incomplete":
            self._log.warning("request", **fields)
        else:
            self._log.info("request", **fields)


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
