"""A Trio run that a seed decides: virtual time, and an order of tasks that is the same each time.

The only place that uses two private names of Trio: the random source of its scheduler, and the switch that makes the
scheduler's order depend on nothing else. A test holds them to what is promised here.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import trio
import trio.testing

__all__ = ["deterministic"]

P = ParamSpec("P")
T = TypeVar("T")


def deterministic(seed: int) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, T]]:
    """Make an async function a plain one that runs in a Trio run of its own, decided by ``seed``.

    Time is virtual: it stands still while a task can run and jumps to the next deadline when none can. Tasks that could
    run at the same time are shuffled by the seed. So two runs with the same seed differ only by what the function
    brings in from outside: threads, sockets, the machine's clock, ``random`` without a seed, URNs of actors.

    A decorator for tests, ``@deterministic(7)``, or for loops: ``deterministic(seed)(scenario)(*args)``. One run at a
    time in a process; what it switches in Trio is put back at the end.
    """

    def decorate(async_fn: Callable[P, Awaitable[T]]) -> Callable[P, T]:
        @functools.wraps(async_fn)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with _scheduler_seeded(seed):
                clock = trio.testing.MockClock(autojump_threshold=0)
                return trio.run(functools.partial(async_fn, *args, **kwargs), clock=clock)

        return run

    return decorate


@contextmanager
def _scheduler_seeded(seed: int) -> Iterator[None]:
    scheduler: Any = trio._core._run
    switch, state = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._r.setstate(state)
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = switch
