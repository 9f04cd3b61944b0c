"""Values that the type checker keeps from being changed, and that are made as cheaply as any other.

attrs refuses the change at run time too, and its own ``__init__`` then has to go around that refusal, for each field: a
row of eight fields costs seven times as much. A reservation and its end make a dozen of them, of a hundred fields.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen
else:
    from attrs import define

    frozen = functools.partial(define, unsafe_hash=True)

__all__ = ["frozen"]
