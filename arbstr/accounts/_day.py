"""The rolling day of one agent: what was charged in the last 86,400,000 ms, to the nanosecond and to the msat.

Knows no clock: whoever asks says what time it is. An entry counts while it is strictly newer than the edge (contract:
vault, section 7.3). What is still held is not in here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from arbstr.store import DAY_NS

MAX_ENTRIES = 16_384
"""Above it neighbours are merged: 1 MB per agent that ends more holds than that in a day."""


class Day:
    """Charges by the time they ended. Adding and asking cost O(1) amortised, and memory is bounded.

    When there are too many entries, every two neighbours become one at the time of the newer: what it says may then be
    more than the truth for as long as those two lie apart, never less. A clock that steps back does the same.
    """

    __slots__ = ("_entries", "_max_entries", "_total_msat")

    def __init__(self, spends: Iterable[tuple[int, int]] = (), max_entries: int = MAX_ENTRIES) -> None:
        self._entries: deque[tuple[int, int]] = deque()
        self._max_entries = max_entries
        self._total_msat = 0
        for at_ns, amount_msat in spends:
            self.add(at_ns, amount_msat)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, at_ns: int, amount_msat: int) -> None:
        """Count a charge. One older than the last counts as long as that does."""
        if not amount_msat:
            return
        if self._entries and at_ns < self._entries[-1][0]:
            at_ns = self._entries[-1][0]
        self._entries.append((at_ns, amount_msat))
        self._total_msat += amount_msat
        if len(self._entries) > self._max_entries:
            self._merge()

    def spent_msat(self, now_ns: int) -> int:
        """The sum of what ended strictly later than a day before ``now_ns``."""
        entries, edge_ns = self._entries, now_ns - DAY_NS
        while entries and entries[0][0] <= edge_ns:
            self._total_msat -= entries.popleft()[1]
        return self._total_msat

    def _merge(self) -> None:
        pairs = list(self._entries)
        odd = [pairs.pop()] if len(pairs) % 2 else []
        merged = [(newer[0], older[1] + newer[1]) for older, newer in zip(pairs[::2], pairs[1::2], strict=True)]
        self._entries = deque(merged + odd)
