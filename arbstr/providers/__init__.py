"""Providers: who may send to them, how they have been doing, and the one way out to them."""

from arbstr.providers._actor import ProviderActor
from arbstr.providers._breaker import Admission, Breaker, BreakerState, Outcome
from arbstr.providers._directory import Directory
from arbstr.providers._fleet import Fleet
from arbstr.providers._http1_transport import Http1Transport
from arbstr.providers._latency import LatencyStats, LatencySummary
from arbstr.providers._messages import (
    Acquire,
    Check,
    Configure,
    Describe,
    Permit,
    ProviderView,
    Report,
    Retire,
    Shut,
)
from arbstr.providers._mock import MockProfile, MockTransport
from arbstr.providers._models import DiscoveredModel, UndecodableModels, parse_models
from arbstr.providers._recent import RecentCounts
from arbstr.providers._transport import PooledTransport, build_transport
from arbstr.providers._upstream import FailureKind, Upstream, UpstreamAnswer, UpstreamFailure

__all__ = [
    "Acquire",
    "Admission",
    "Breaker",
    "BreakerState",
    "Check",
    "Configure",
    "Describe",
    "Directory",
    "DiscoveredModel",
    "FailureKind",
    "Fleet",
    "Http1Transport",
    "LatencyStats",
    "LatencySummary",
    "MockProfile",
    "MockTransport",
    "Outcome",
    "Permit",
    "PooledTransport",
    "ProviderActor",
    "ProviderView",
    "RecentCounts",
    "Report",
    "Retire",
    "Shut",
    "UndecodableModels",
    "Upstream",
    "UpstreamAnswer",
    "UpstreamFailure",
    "build_transport",
    "parse_models",
]
