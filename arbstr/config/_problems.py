"""What is wrong with a configuration, as a value: where, which key, and what would fix it.

ConfigError            everything that is wrong with one file, in one go
└── .problems          tuple of Problem
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

KeyPath = tuple[str | int, ...]
"""Way to a value: table and key names as text, positions in an array (from 0) as integers."""


def dotted(path: KeyPath) -> str:
    """Render a path as people write it: ``('providers', 0, 'url') -> 'providers[0].url'``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


@frozen
class Problem:
    """One thing to fix. ``line`` counts from 1; None when the whole file is meant. No secret is ever in it."""

    source: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used. ``problems`` holds all of them, in file order.

    ``__cause__`` is the system's or the parser's own error when the file could not be read or is not TOML.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))
