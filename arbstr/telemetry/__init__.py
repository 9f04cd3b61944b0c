"""What goes on inside, for those who watch: metrics, log lines and traces. It looks on; nothing depends on it.

Metrics and spans are made from receipts, after a request has ended, so that they cost its answer nothing.
"""

from arbstr.telemetry._logs import Logs, RequestLog, start_logging
from arbstr.telemetry._metrics import Metrics, OpenHolds, Settlements, Surroundings
from arbstr.telemetry._traces import Tracing, TracingUnavailable

__all__ = [
    "Logs",
    "Metrics",
    "OpenHolds",
    "RequestLog",
    "Settlements",
    "Surroundings",
    "Tracing",
    "TracingUnavailable",
    "start_logging",
]
