"""Who may answer a request, and in which order: pure functions over values.

What is asked for (``Demand``) meets what is on offer (``Offer``) under the operator's policies; out come the candidates
in order and a reason for everybody else. Nothing here waits, reads a clock or remembers.
"""

from arbstr.routing._demand import Demand, demand_of
from arbstr.routing._estimate import EXPECTED_COMPLETION_TOKENS, Estimator, FixedEstimate
from arbstr.routing._router import Router
from arbstr.routing._savings import Saved, savings
from arbstr.routing._select import Candidate, LeftOut, Offer, Selection, select

__all__ = [
    "EXPECTED_COMPLETION_TOKENS",
    "Candidate",
    "Demand",
    "Estimator",
    "FixedEstimate",
    "LeftOut",
    "Offer",
    "Router",
    "Saved",
    "Selection",
    "demand_of",
    "savings",
    "select",
]
