"""The right and duty to answer one ask, for a handler that returns before the answer is known."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any, Generic, overload

from actors._future import TrioFuture

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # type checkers bring it along; at run time Python's own will do

    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    R = TypeVar("R")

__all__ = ["Reply"]


class Reply(Generic[R]):
    """Answers once, from any thread or task; may be handed to another task or actor. A ``Reply[int]`` is set to
    an int; a plain ``Reply`` to anything.

    A second answer raises ``queue.Full``. An answer that comes after the actor has stopped (its asker has been told) or
    after the asker has gone away is dropped. For a message that was told, not asked, every answer is dropped.
    """

    __slots__ = ("_future", "_revoked")

    def __init__(self, future: TrioFuture[Any] | None) -> None:
        self._future = future
        self._revoked = False

    @property
    def abandoned(self) -> bool:
        """Nobody waits any more: the asker was cancelled, timed out, has its answer, or there never was one."""
        return self._future is None or self._future.abandoned or self._future.settled

    @overload
    def set(self: Reply[None]) -> None: ...
    @overload
    def set(self, value: R) -> None: ...
    def set(self, value: Any = None) -> None:
        self._answer(value, None)

    def set_exception(self, error: BaseException) -> None:
        self._answer(None, error)

    def revoke(self, error: BaseException | None) -> None:
        """Answer with ``error`` if nobody has; whatever is set later is dropped. Without one: it is ``abandoned``."""
        self._revoked = True
        if error is not None:
            self._answer(None, error)

    def _answer(self, value: Any, error: BaseException | None) -> None:
        if self._future is None:
            return
        try:
            if error is None:
                self._future.set(value)
            else:
                self._future.set_exception((type(error), error, error.__traceback__))
        except queue.Full:
            if not self._revoked:
                raise
