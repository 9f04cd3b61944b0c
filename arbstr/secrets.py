"""A type for values that must not be printed. This module imports nothing of ours."""

from __future__ import annotations

from hmac import compare_digest
from typing import final


@final
class Secret:
    """Text whose ``repr`` and ``str`` are blank; ``reveal()`` is the only way to the value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself, for the one place that sends it on."""
        return self._value

    def matches(self, other: str) -> bool:
        """Compare in constant time."""
        return compare_digest(self._value.encode(), other.encode())

    def masked(self) -> str:
        """First six characters for recognition, the rest hidden; short values are hidden whole."""
        return "[REDACTED]" if len(self._value.encode()) < 10 else f"{self._value[:6]}...***"

    def __repr__(self) -> str:
        return "Secret([REDACTED])"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.matches(other._value)

    def __hash__(self) -> int:
        return hash(self._value)
