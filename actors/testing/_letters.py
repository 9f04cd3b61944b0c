"""All dead letters of a part of a test: the system itself keeps only the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from actors._system import ActorSystem

if TYPE_CHECKING:
    from actors._dead_letters import DeadLetter

__all__ = ["recorded_dead_letters"]


@contextmanager
def recorded_dead_letters(system: ActorSystem) -> Iterator[list[DeadLetter]]:
    """The dead letters of ``system`` while the block lasts, in a list that grows and stays readable after it."""
    letters: list[DeadLetter] = []
    unsubscribe = system.dead_letters.subscribe(letters.append)
    try:
        yield letters
    finally:
        unsubscribe()
