"""OpenTelemetry spans: one for each request, one for each call to a provider, made when the request has ended.

The ids are drawn at its beginning, so that the request's span is a child of the caller's and the parent of the
provider's (W3C Trace Context). Needs the extra ``arbstr[otel]``; where spans go is told by the ``OTEL_*`` variables.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

import arbstr
from arbstr.config import TelemetryConfig
from arbstr.requests import ModelRequest
from arbstr.store import AttemptRow, ReceiptRow

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

MAX_BEGUN = 100_000
"""Requests whose end is awaited; more than can be under way."""
FLUSH_MS = 3_000

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class TracingUnavailable(RuntimeError):
    """``[telemetry] traces`` is on and the libraries for it are not installed."""


@frozen
class _Begun:
    """The ids of a request's span. ``parent`` is the caller's traceparent, if it sent one."""

    trace_id: int
    span_id: int
    parent: str | None


class Tracing:
    """The spans of one process. Used on one thread; exporting is on another. ``exporter`` None: OTLP over HTTP."""

    def __init__(self, config: TelemetryConfig, exporter: SpanExporter | None = None) -> None:
        try:
            self._provider, self._ids = _provider(config, exporter)
        except ImportError as error:
            raise TracingUnavailable(
                f"[telemetry] traces needs the extra otel ({error}); install it with: pip install 'arbstr[otel]'"
            ) from error
        self._tracer = self._provider.get_tracer("arbstr", arbstr.__version__)
        self._begun: OrderedDict[str, _Begun] = OrderedDict()

    def begin(self, request: ModelRequest) -> ModelRequest:
        """The request as it goes on: its traceparent names the span that it is going to have."""
        found = _TRACEPARENT.match(request.traceparent or "")
        span_id = self._ids.random.generate_span_id()
        trace_id = int(found[1], 16) if found else self._ids.random.generate_trace_id()
        self._begun[request.request_id] = _Begun(trace_id, span_id, request.traceparent if found else None)
        if len(self._begun) > MAX_BEGUN:
            self._begun.popitem(last=False)
        flags = found[3] if found else "01"
        return evolve(request, traceparent=f"00-{trace_id:032x}-{span_id:016x}-{flags}")

    def finished(self, request: ModelRequest, receipt: ReceiptRow) -> None:
        """Make the spans of a request."""
        begun = self._begun.pop(request.request_id, None)
        if begun is None:
            return
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._ids.next = begun
        span = self._tracer.start_span(
            f"{receipt.endpoint} {receipt.model}",
            context=_context_of(begun.parent),
            kind=SpanKind.SERVER,
            start_time=receipt.started_ns,
            attributes=_attributes(receipt),
        )
        inside = set_span_in_context(span)
        for attempt in receipt.attempts:
            self._attempt(attempt, inside)
        _conclude(span, receipt.error if receipt.http_status >= 500 or receipt.outcome != "ok" else None)
        span.end(receipt.started_ns + receipt.duration_us * 1_000)

    def _attempt(self, attempt: AttemptRow, inside: Any) -> None:
        from opentelemetry.trace import SpanKind

        span = self._tracer.start_span(
            attempt.provider, context=inside, kind=SpanKind.CLIENT, start_time=attempt.started_ns
        )
        span.set_attribute("arbstr.provider", attempt.provider)
        span.set_attribute("arbstr.outcome", attempt.outcome)
        if attempt.http_status is not None:
            span.set_attribute("http.response.status_code", attempt.http_status)
        if attempt.ttfb_us is not None:
            span.add_event("first byte", timestamp=attempt.started_ns + attempt.ttfb_us * 1_000)
        _conclude(span, attempt.error)
        span.end(attempt.started_ns + attempt.duration_us * 1_000)

    def close(self) -> None:
        """Send what waits, for at most a few seconds. Blocks."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()


def _provider(config: TelemetryConfig, exporter: SpanExporter | None) -> tuple[TracerProvider, Any]:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    ids = _ids()
    provider = TracerProvider(
        resource=Resource.create({"service.name": config.service_name, "service.version": arbstr.__version__}),
        id_generator=ids,
        shutdown_on_exit=False,
    )
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, ids


def _ids() -> Any:
    """A generator of ids that gives those drawn before, once, when there are some."""
    from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

    class Ids(IdGenerator):
        def __init__(self) -> None:
            self.random = RandomIdGenerator()
            self.next: _Begun | None = None

        def generate_span_id(self) -> int:
            begun, self.next = self.next, None
            return self.random.generate_span_id() if begun is None else begun.span_id

        def generate_trace_id(self) -> int:
            return self.random.generate_trace_id() if self.next is None else self.next.trace_id

    return Ids()


def _context_of(traceparent: str | None) -> Any:
    """The caller's span as a parent; an empty context without one, so that no other span becomes it."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if traceparent is None:
        return Context()
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())


def _attributes(receipt: ReceiptRow) -> dict[str, str | int | float | bool]:
    """OpenTelemetry's names for what generative models do, and ours for what they cost."""
    attributes = {
        "gen_ai.operation.name": receipt.endpoint,
        "gen_ai.request.model": receipt.model,
        "gen_ai.response.model": receipt.upstream_model,
        "gen_ai.usage.input_tokens": receipt.prompt_tokens,
        "gen_ai.usage.output_tokens": receipt.completion_tokens,
        "http.response.status_code": receipt.http_status,
        "arbstr.request_id": receipt.request_id,
        "arbstr.correlation_id": receipt.correlation_id,
        "arbstr.agent": receipt.agent_id,
        "arbstr.provider": receipt.provider,
        "arbstr.policy": receipt.policy,
        "arbstr.tier": receipt.tier,
        "arbstr.stream": receipt.stream,
        "arbstr.outcome": receipt.outcome,
        "arbstr.cost_msat": receipt.cost_msat,
        "arbstr.saved_msat": receipt.saved_median_msat,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _conclude(span: Any, error: str | None) -> None:
    if error is not None:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, error))
