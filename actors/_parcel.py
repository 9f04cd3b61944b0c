"""A place in an inbox for what is only decided when its turn comes.

A tick whose timer has been cancelled meanwhile, or the end of somebody who is not watched any more, is then nothing at
all: what was revoked is never handled, even if it was queued already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pykka.messages import _ActorStop

__all__ = ["NOTHING", "Parcel", "is_of_the_system"]

NOTHING: Final = object()
"""What a parcel holds that has been revoked."""


class Parcel:
    """``open`` is called by the actor's task, once, and returns the message or ``NOTHING``."""

    __slots__ = ("open", "passes_bound")

    def __init__(self, open: Callable[[], Any], *, passes_bound: bool) -> None:
        self.open = open
        self.passes_bound = passes_bound


def is_of_the_system(message: object) -> bool:
    """It passes the bound of an inbox and is never dropped to make room: a stop, an end that was watched for."""
    kind = type(message)
    return kind is _ActorStop or (kind is Parcel and message.passes_bound)  # type: ignore[attr-defined]  # a Parcel
