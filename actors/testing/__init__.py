"""For tests of programs made of actors: rigs, probes, virtual time, faults.

Nothing here needs pytest; ``actors.testing.pytest_plugin`` has the fixtures. ``docs/actors/testing.md`` is the manual.
"""

from actors.testing._deterministic import deterministic
from actors.testing._faults import Crash, Delay, Drop, Fault, Faults, InjectedCrash
from actors.testing._letters import recorded_dead_letters
from actors.testing._probe import Probe
from actors.testing._rig import Failure, RefsLeftBehind, Rig, no_refs_left_behind, running_system

__all__ = [
    "Crash",
    "Delay",
    "Drop",
    "Failure",
    "Fault",
    "Faults",
    "InjectedCrash",
    "Probe",
    "RefsLeftBehind",
    "Rig",
    "deterministic",
    "no_refs_left_behind",
    "recorded_dead_letters",
    "running_system",
]
