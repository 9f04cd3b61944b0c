"""How the verbs say no."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Refused(Exception):
    """Ends the command with exit code 1; the text is what the user reads after ``Error: ``."""


@contextmanager
def store_errors(database: Path) -> Iterator[None]:
    """Translate what the store raises into words for a terminal."""
    from arbstr.store import StoreError, StoreInUse

    try:
        yield
    except StoreInUse as error:
        holder = f"process {error.pid}" if error.pid else "another process"
        raise Refused(
            f"{database} is in use by a running arbstr ({holder}); stop it first, or name another database"
        ) from error
    except StoreError as error:
        raise Refused(str(error)) from error
