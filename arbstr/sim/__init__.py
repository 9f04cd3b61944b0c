"""The whole system in one run that a seed decides: virtual time, faults, crashes, and M1 to M10 after every step.

``python -m arbstr.sim --seeds 1000`` runs a thousand; docs/simulation.md is the manual.
"""

from arbstr.sim._scenario import Scenario, draw
from arbstr.sim._shrink import shrink
from arbstr.sim._world import Report, run

__all__ = ["Report", "Scenario", "draw", "run", "shrink"]
