"""How often Python looks for garbage in cycles while the program runs: seldom.

Nearly everything here ends by reference count. What the collector looks at instead is what is alive: every request in
flight outlives Python's usual 700 allocations and is taken for long-lived, and each time there are enough of those, all
objects of all accounts are gone through. With 10,000 accounts that was more than half of the price of a reservation.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

ALLOCATIONS = 50_000
"""Between two looks at what is young: 500 requests in flight come and go in between. A look takes a few ms at most."""


@contextlib.contextmanager
def relaxed_collector() -> Iterator[None]:
    """Look seldom, and not at what is there already: modules and configuration, which stay."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
