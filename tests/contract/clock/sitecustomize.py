"""Sets the wall clock of a Python program back by ``CONTRACT_CLOCK_BEHIND_S`` seconds; found by way of PYTHONPATH."""

import os
import time

_behind_ns = int(float(os.environ["CONTRACT_CLOCK_BEHIND_S"]) * 1_000_000_000)
_time_ns = time.time_ns
time.time_ns = lambda: _time_ns() - _behind_ns
time.time = lambda: time.time_ns() / 1_000_000_000
