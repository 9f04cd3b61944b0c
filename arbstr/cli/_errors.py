"""How the verbs say no."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Refused(Exception):
    """Ends the command with exit code 1; the text is what the user reads after ``Error: ``."""


@contextmanager
def store_errors() -> Iterator[None]:
    """What the store refuses, as the end of the command; its own words name the file and, if in use, the process."""
    from arbstr.store import StoreError

    try:
        yield
    except StoreError as error:
        raise Refused(str(error)) from error
