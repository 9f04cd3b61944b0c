"""Messages that name the type of their answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

__all__ = ["Ask", "Untyped"]

R_co = TypeVar("R_co", covariant=True)


class Ask(Generic[R_co]):
    """Base of message classes whose answer has a known type, for the type checker of whoever asks.

    With ``class Deposit(Ask[int])``, ``await ref.request(Deposit(...))`` is an int, ``ref.ask(Deposit(...),
    block=False)`` a future of one. A promise of the message, not a check: nothing looks at what the handler returns.
    Any other message is answered with Any.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        # Not true, and that is the point: every object fits _Sized but this, so that an Ask is never Untyped.
        def __sizeof__(self) -> str: ...  # type: ignore[override]


class _Sized(Protocol):
    def __sizeof__(self) -> int: ...


# Whatever is no Ask. Were it Any, then mypy would take an Ask in a place that wants another type than it names for an
# untyped message, and would find no mistake.
Untyped: TypeAlias = _Sized | type[Any] | None
