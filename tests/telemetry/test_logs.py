from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from arbstr.config import LoggingConfig
from arbstr.secrets import Secret
from arbstr.telemetry import Logs, RequestLog, _logs, start_logging
from tests.telemetry.conftest import receipt, request

Start = Callable[..., tuple[Logs, io.StringIO]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Logging as configured, to a text in memory; everything is put back afterwards."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    started: list[Logs] = []

    def begin(stream: io.StringIO | None = None, **config: Any) -> tuple[Logs, io.StringIO]:
        stream = stream or io.StringIO()
        logs = start_logging(LoggingConfig(**config), stream)
        started.append(logs)
        return logs, stream

    yield begin
    for logs in started:
        logs.stop()
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_library_and_we_write_the_same_shape_when_the_format_is_json(start: Start) -> None:
    logs, stream = start()
    logging.getLogger("some.library").warning("took %d s", 3)
    structlog.get_logger("arbstr.x").info("hello", provider="ä")
    logs.stop()
    first, second = lines(stream)
    assert (first["event"], first["logger"], first["level"]) == ("took 3 s", "some.library", "warning")
    assert (second["event"], second["logger"], second["provider"]) == ("hello", "arbstr.x", "ä")
    assert first["timestamp"].endswith("Z")
    assert set(first) == {"event", "logger", "level", "timestamp"}


def test_a_line_is_for_people_when_the_format_is_console(start: Start) -> None:
    logs, stream = start(format="console")
    structlog.get_logger("arbstr.x").info("hello", provider="alpha")
    logs.stop()
    assert "hello" in stream.getvalue()
    assert "provider=alpha" in stream.getvalue()
    assert "{" not in stream.getvalue()


@pytest.mark.parametrize("format", ["console", "json"])
def test_no_variables_are_told_when_an_exception_is_logged(start: Start, format: str) -> None:
    def authenticate(token: str) -> None:
        raise ValueError("of this kind")

    logs, stream = start(format=format)
    try:
        authenticate("vtk_" + "0" * 26)
    except ValueError:
        logging.getLogger("arbstr.x").exception("it failed")
    logs.stop()
    assert "of this kind" in stream.getvalue()
    assert "0" * 26 not in stream.getvalue()


def test_an_exception_is_in_the_line_when_it_is_logged(start: Start) -> None:
    logs, stream = start()
    try:
        raise ValueError("of this kind")
    except ValueError:
        logging.getLogger("arbstr").exception("it failed")
    logs.stop()
    (line,) = lines(stream)
    assert "ValueError: of this kind" in line["exception"]


def test_level_and_format_change_when_they_are_configured_again(start: Start) -> None:
    logs, stream = start(level="warning")
    structlog.get_logger("arbstr.x").info("unseen")
    logs.configure(LoggingConfig(level="debug"))
    structlog.get_logger("arbstr.x").debug("seen")
    logs.stop()
    assert [line["event"] for line in lines(stream)] == ["seen"]


class Stuck(io.StringIO):
    """A pipe that nobody reads, until somebody does."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.freed = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.freed.wait(60)
        return super().write(text)


def test_lines_are_dropped_and_counted_when_nobody_takes_them(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_logs, "MAX_WAITING", 5)
    stuck = Stuck()
    logs, _ = start(stuck)
    log = logging.getLogger("arbstr")
    log.info("the first")
    assert stuck.entered.wait(60)
    for number in range(8):
        log.info("line %d", number)
    stuck.freed.set()
    logs.stop()
    events = [line["event"] for line in lines(stuck)]
    assert events[0] == "the first"
    assert "3 log lines were dropped" in events[-1]


def test_a_line_tells_what_a_request_came_to_and_nothing_of_its_prompt(start: Start) -> None:
    logs, stream = start()
    RequestLog(LoggingConfig()).finished(request(), receipt())
    logs.stop()
    (line,) = lines(stream)
    told = ("event", "level", "request_id", "provider", "cost_msat", "saved_msat", "duration_ms", "ttfb_ms")
    assert [line[name] for name in told] == ["request", "info", "r-1", "alpha", 35, 5, 50, 20]
    assert "secret" not in stream.getvalue()
    assert "policy" not in line


def test_the_line_of_a_request_is_for_people_when_the_format_is_console(start: Start) -> None:
    logs, stream = start(format="console")
    RequestLog(LoggingConfig()).finished(request(), receipt())
    logs.stop()
    assert "provider=alpha" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_no_line_of_a_request_is_written_when_the_level_is_above_it(start: Start) -> None:
    logs, stream = start(level="warning")
    RequestLog(LoggingConfig()).finished(request(), receipt(request_id="r-2"))
    RequestLog(LoggingConfig()).finished(request(), receipt(request_id="r-3", outcome="failed", http_status=502))
    logs.stop()
    assert [line["request_id"] for line in lines(stream)] == ["r-3"]


def test_the_other_lines_are_written_when_one_cannot_be_rendered(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    stuck = Stuck()
    logs, _ = start(stuck)
    log = logging.getLogger("arbstr")
    log.info("the first")
    assert stuck.entered.wait(60)
    log.info("%d", "not a number")
    log.info("the last")
    stuck.freed.set()
    logs.stop()
    assert [line["event"] for line in lines(stuck)] == ["the first", "the last"]
    assert "not a number" in capsys.readouterr().err


def test_the_prompt_is_in_the_line_when_that_was_asked_for(start: Start) -> None:
    logs, stream = start()
    RequestLog(LoggingConfig(log_prompts=True)).finished(request(text="x" * 3_000), receipt())
    logs.stop()
    assert lines(stream)[0]["prompt"] == "x" * 2_000


def test_no_line_is_written_when_requests_are_not_to_be_logged(start: Start) -> None:
    logs, stream = start()
    RequestLog(LoggingConfig(log_requests=False)).finished(request(), receipt())
    logs.stop()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"http_status": 502, "outcome": "failed"}, "warning"),
        ({"outcome": "stream_incomplete"}, "warning"),
        ({"http_status": 402, "outcome": "failed"}, "info"),
    ],
)
def test_a_line_is_a_warning_when_it_was_not_the_callers_fault(
    start: Start, fields: dict[str, Any], level: str
) -> None:
    logs, stream = start()
    RequestLog(LoggingConfig()).finished(request(), receipt(**fields))
    logs.stop()
    assert lines(stream)[0]["level"] == level


def test_a_secret_is_blank_when_somebody_logs_it(start: Start) -> None:
    logs, stream = start()
    structlog.get_logger("arbstr").info("key", key=Secret("sk-very-secret"))
    logging.getLogger("arbstr").info("key %s", Secret("sk-very-secret"))
    logs.stop()
    assert "very" not in stream.getvalue()
