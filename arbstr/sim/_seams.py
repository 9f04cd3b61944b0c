"""What a machine brings in from outside, decided by a seed: wall clock, ticks, random bytes, random numbers.

The seams are the standard library's own: whoever calls ``time.time_ns()``, ``time.perf_counter_ns()``, ``os.urandom()``
or ``random.random()`` by its module gets what the simulation says, and whoever has imported such a function by its name
does not; a test reads the sources for that. Trio's own clock and the order of its tasks are ``actors.testing``'s.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from attrs import define

EPOCH_NS = 1_800_000_000 * 1_000_000_000
"""The wall clock when a run begins."""


@define(eq=False)
class Machine:
    """``now_s`` is the time of the run; the wall clock is that, and as far off as ``wall_is_off_ns``."""

    now_s: Callable[[], float] = lambda: 0.0
    wall_is_off_ns: int = 0

    def ticks_ns(self) -> int:
        """Never goes back."""
        return int(self.now_s() * 1e9)

    def wall_ns(self) -> int:
        return EPOCH_NS + self.ticks_ns() + self.wall_is_off_ns

    def wall_s(self) -> float:
        return self.wall_ns() / 1e9


@contextmanager
def seeded_machine(seed: int) -> Iterator[Machine]:
    """For the time of the block, one at a time in a process. What is replaced is put back."""
    machine, dice = Machine(), random.Random(f"machine {seed}")
    state = random.getstate()
    random.seed(f"random {seed}")
    try:
        with (
            mock.patch.object(time, "time", machine.wall_s),
            mock.patch.object(time, "time_ns", machine.wall_ns),
            mock.patch.object(time, "perf_counter_ns", machine.ticks_ns),
            mock.patch.object(os, "urandom", dice.randbytes),
        ):
            yield machine
    finally:
        random.setstate(state)
