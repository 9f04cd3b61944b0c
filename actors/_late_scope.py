"""A cancel scope that is entered only when there is something it could cancel. Knows nothing of actors.

Entering one of Trio's scopes costs 10 µs beside a start and 0.5 kB for as long as it lasts, a sixth of the time of an
actor's start. An actor whose hooks are plain functions awaits nothing but its inbox, and can be told there.
"""

from __future__ import annotations

from types import TracebackType
from typing import Never

import trio
from trio.lowlevel import enable_ki_protection

__all__ = ["LateScope"]


class LateScope:
    """Used as a context manager, once, around a task's work.

    The owner calls ``enter`` before it awaits what is to be cancelled. Until then a cancellation interrupts nothing: the
    owner has to look at ``cancelled`` and to ``give_in``.
    """

    __slots__ = ("_scope", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        self._scope: trio.CancelScope | None = None

    def cancel(self) -> None:
        """Cancel the work. Before it has begun: any thread; then the thread of its run."""
        self.cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    @enable_ki_protection
    def enter(self) -> None:
        """From here to the end of the block this is a scope like any other. Harmless a second time."""
        if self._scope is None:
            self._scope = trio.CancelScope()
            self._scope.__enter__()
            if self.cancelled:
                self._scope.cancel()

    async def give_in(self) -> Never:
        """Raise the Cancelled of a scope that has been cancelled."""
        self.enter()
        await trio.lowlevel.checkpoint()
        raise AssertionError("only what has been cancelled gives in")

    def __enter__(self) -> LateScope:
        return self

    @enable_ki_protection
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self._scope is not None and bool(self._scope.__exit__(kind, error, traceback))
