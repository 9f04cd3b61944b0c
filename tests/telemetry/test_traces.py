from __future__ import annotations

import sys

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from arbstr.config import TelemetryConfig
from arbstr.requests import ModelRequest
from arbstr.store import ReceiptRow
from arbstr.telemetry import Tracing, TracingUnavailable, _traces
from tests.telemetry.conftest import STARTED_NS, attempt, receipt, request

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    return Tracing(TelemetryConfig(traces=True, service_name="my-proxy"), exporter)


def spans_of(
    tracing: Tracing, exporter: InMemorySpanExporter, asked: ModelRequest, ended: ReceiptRow
) -> tuple[ModelRequest, list[ReadableSpan]]:
    begun = tracing.begin(asked)
    tracing.finished(begun, ended)
    return begun, sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)


def test_the_provider_is_told_the_requests_span_and_that_is_a_child_of_the_callers(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    begun, (span, call) = spans_of(tracing, exporter, request(f"00-{TRACE}-{PARENT}-01"), receipt())
    assert span.context is not None
    assert span.parent is not None
    assert call.parent is not None
    assert begun.traceparent == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert call.parent.span_id == span.context.span_id
    assert (span.kind, call.kind) == (SpanKind.SERVER, SpanKind.CLIENT)


def test_a_trace_begins_here_when_the_caller_has_none(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    begun, (span, _) = spans_of(tracing, exporter, request(), receipt())
    assert span.context is not None
    assert span.parent is None
    assert begun.traceparent == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def test_times_and_numbers_are_those_of_the_receipt(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    failed = attempt("beta", "provider_fault", http_status=500, error="status 500", ttfb_us=None)
    _, (span, first, second) = spans_of(
        tracing,
        exporter,
        request(),
        receipt(attempts=(failed, attempt(started_ns=STARTED_NS + 2_000_000))),
    )
    assert (span.start_time, span.end_time) == (STARTED_NS, STARTED_NS + 50_000_000)
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.output_tokens"] == 20
    assert span.attributes["arbstr.cost_msat"] == 35
    assert "arbstr.policy" not in span.attributes
    assert span.resource.attributes["service.name"] == "my-proxy"
    assert (first.name, first.status.status_code) == ("beta", StatusCode.ERROR)
    assert (second.name, second.status.status_code) == ("alpha", StatusCode.UNSET)
    assert second.events[0].timestamp == STARTED_NS + 22_000_000


def test_nothing_is_exported_when_the_caller_does_not_sample(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    begun, spans = spans_of(tracing, exporter, request(f"00-{TRACE}-{PARENT}-00"), receipt())
    assert spans == []
    assert begun.traceparent is not None
    assert begun.traceparent.endswith("-00")


def test_ids_are_new_when_requests_follow_each_other(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    for _ in range(3):
        spans_of(tracing, exporter, request(), receipt())
    ids = [span.context.span_id for span in exporter.get_finished_spans() if span.context]
    assert len(set(ids)) == 6


def test_a_request_that_never_ends_is_forgotten_when_too_many_follow(
    tracing: Tracing, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_traces, "MAX_BEGUN", 0)
    _, spans = spans_of(tracing, exporter, request(), receipt())
    assert spans == []


def test_the_missing_extra_is_named_when_its_libraries_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(TracingUnavailable, match=r"arbstr\[otel\]"):
        Tracing(TelemetryConfig(traces=True))
