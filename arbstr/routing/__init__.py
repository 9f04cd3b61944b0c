"""Who may answer a request, and in which order: pure functions over values.

What is asked for (``Demand``) meets what is on offer (``Offers``) under the operator's policies; out come the
candidates in order and a reason for everybody else. Nothing here waits or reads a clock; only the estimator remembers.
"""

from arbstr.routing._complexity import Scorer
from arbstr.routing._demand import Demand, demand_of, rule_for
from arbstr.routing._estimate import EXPECTED_COMPLETION_TOKENS, Estimator, FixedEstimate
from arbstr.routing._offers import LeftOut, LeftOutReason, Offer, Offers
from arbstr.routing._router import Router
from arbstr.routing._running_mean import RunningMean
from arbstr.routing._savings import Saved, savings
from arbstr.routing._select import Candidate, Selection, select

__all__ = [
    "EXPECTED_COMPLETION_TOKENS",
    "Candidate",
    "Demand",
    "Estimator",
    "FixedEstimate",
    "LeftOut",
    "LeftOutReason",
    "Offer",
    "Offers",
    "Router",
    "RunningMean",
    "Saved",
    "Scorer",
    "Selection",
    "demand_of",
    "rule_for",
    "savings",
    "select",
]
