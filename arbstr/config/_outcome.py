"""Word of what came of reading the configuration again: a small file beside the database.

Whoever asks a running program to (a signal has no answer) finds it there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import asdict, frozen


@frozen
class ReloadOutcome:
    """What came of reading the configuration for the ``generation``-th time; the first is the start."""

    generation: int
    pid: int
    at_ns: int
    problems: tuple[str, ...] = ()
    """Why nothing was changed; empty when it was."""
    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    """Changed in the file, and without effect until the program starts again."""
    addresses: tuple[str, ...] = ()
    """Where the program listens, as ``http://host:port``."""


def outcome_file(database: Path) -> Path:
    return database.with_name(database.name + ".reload")


def read_outcome(database: Path) -> ReloadOutcome | None:
    """The last outcome that was written; None when there is none or it is unreadable."""
    try:
        found: dict[str, Any] = json.loads(outcome_file(database).read_text())
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
        return ReloadOutcome(**fields)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_outcome(database: Path, outcome: ReloadOutcome) -> None:
    """Whole or not at all, for whoever reads at the same time. Raises OSError."""
    path = outcome_file(database)
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(asdict(outcome)))
    draft.replace(path)
