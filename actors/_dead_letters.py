"""Messages that ended unhandled, for whoever wants to know.

A dead letter is no error by itself: where a sender or an asker could be told, they were. What is *not* one: a message
refused with InboxFull or AskTimeout before it was queued (its sender still has it), a message whose handler raised, and
what the system sends itself (stop).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from trio.lowlevel import enable_ki_protection

__all__ = ["DeadLetter", "DeadLetters", "Reason", "Recipient"]

_logger = logging.getLogger("pykka")

_RECENT = 100

Reason = Literal["dead", "stopped", "dropped", "abandoned", "full"]


class Recipient(NamedTuple):
    """Who did not handle it. No ref, so that a letter keeps nothing alive but its message."""

    urn: str
    class_name: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message nobody handled.

    ``reason``: ``dead``, sent to an actor that had stopped, or stopped while the sender waited for room; ``stopped``,
    still queued when its actor stopped; ``dropped``, pushed out of a full inbox by a later one (DROP_OLDEST);
    ``abandoned``, an ask skipped because its asker was gone; ``full``, a timer's message that found no room.
    """

    message: Any
    recipient: Recipient
    reason: Reason


class DeadLetters:
    """Of one actor system. Any thread.

    ``recent`` keeps the last 100 letters, and with them their messages; the counts are of all.
    """

    def __init__(self) -> None:
        # Held for a few bytecodes and never while a subscriber runs.
        self._lock = threading.Lock()
        self._recent: deque[DeadLetter] = deque(maxlen=_RECENT)
        self._counts: dict[Reason, int] = dict.fromkeys(get_args(Reason), 0)
        self._subscribers: tuple[Callable[[DeadLetter], object], ...] = ()
        self._telling: set[int] = set()  # threads that are calling a subscriber

    @property
    def recent(self) -> tuple[DeadLetter, ...]:
        """The last letters, oldest first."""
        with self._lock:
            return tuple(self._recent)

    @property
    def counts(self) -> dict[Reason, int]:
        """Letters since the system started, by reason; every reason is there."""
        with self._lock:
            return dict(self._counts)

    @property
    def total(self) -> int:
        """Letters since the system started."""
        return sum(self.counts.values())

    def subscribe(self, callback: Callable[[DeadLetter], object]) -> Callable[[], None]:
        """Have ``callback`` called with each letter from now on; returns what ends that (harmless twice).

        It is called at once, in the thread that found the letter, often the one that runs Trio and sometimes in the
        middle of an actor's end: be quick, never block. What it raises is logged and does no harm. A letter that it
        causes itself is counted, but not told to anybody.
        """
        told = _Subscriber(callback)
        with self._lock:
            self._subscribers = (*self._subscribers, told)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(each for each in self._subscribers if each is not told)

        return unsubscribe

    @enable_ki_protection
    def add(self, letter: DeadLetter) -> None:
        """For inboxes and actors. Never raises."""
        with self._lock:
            self._recent.append(letter)
            self._counts[letter.reason] += 1
            subscribers = self._subscribers
        if _logger.isEnabledFor(logging.DEBUG):  # the type only: what is in a message is nobody's business here
            kind, (urn, class_name) = type(letter.message).__name__, letter.recipient
            _logger.debug(f"Dead letter ({letter.reason}): {kind} for {class_name} ({urn})")
        if subscribers:
            self._tell(subscribers, letter)

    def _tell(self, subscribers: tuple[Callable[[DeadLetter], object], ...], letter: DeadLetter) -> None:
        thread = threading.get_ident()
        if thread in self._telling:
            return
        self._telling.add(thread)
        try:
            for subscriber in subscribers:
                subscriber(letter)
        finally:
            self._telling.discard(thread)


class _Subscriber:
    """One subscription: the same callback may be subscribed twice, and each ends on its own."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[DeadLetter], object]) -> None:
        self._callback = callback

    def __call__(self, letter: DeadLetter) -> None:
        try:
            self._callback(letter)
        except Exception:  # the sender is not to blame, and an actor's end must answer those who still wait
            _logger.exception("A subscriber to dead letters raised:")
