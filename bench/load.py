"""How is load offered? Open loop at the times of a trace, or closed loop at a number of connections."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from math import inf

import trio
from attrs import define, field, frozen

from bench.client import Ask, Client, Outcome, Target
from bench.trace import Arrival

CONCURRENCY = 256

Progress = Callable[[int], None]
"""Called with the number of requests that have ended."""


@frozen
class LoadResult:
    """Outcomes in the order of the asks, and what the offering itself took (seconds)."""

    outcomes: tuple[Outcome, ...]
    wall_s: float
    client_cpu_s: float
    most_at_once: int


def asks_of(arrivals: Sequence[Arrival], *, stream_share: float, seed: int) -> list[Ask]:
    """One ask per arrival; which of them are streams is drawn by seed."""
    draw = random.Random(seed)
    return [
        Ask(index, arrival.input_tokens, arrival.output_tokens, draw.random() < stream_share, arrival.label)
        for index, arrival in enumerate(arrivals)
    ]


@define
class _Run:
    """Outcomes by index while load is offered. What is not there at the end did not finish."""

    client: Client
    progress: Progress
    done: dict[int, Outcome] = field(factory=dict)
    at_once: int = 0
    most_at_once: int = 0

    async def one(self, ask: Ask, delay_s: float) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.done[ask.index] = await self.client.request(ask, delay_s)
        finally:
            self.at_once -= 1
        self.progress(len(self.done))

    def result(self, asks: Sequence[Ask], wall_s: float, cpu_s: float) -> LoadResult:
        outcomes = tuple(self.done.get(ask.index) or Outcome(ask, "unfinished") for ask in asks)
        return LoadResult(outcomes, wall_s, cpu_s, self.most_at_once)


async def open_loop(
    target: Target,
    asks: Sequence[Ask],
    times_s: Sequence[float],
    *,
    concurrency: int = CONCURRENCY,
    timeout_s: float = 120.0,
    bound_s: float = inf,
    progress: Progress = lambda done: None,
) -> LoadResult:
    """Send each ask at its time (seconds from now), at most ``concurrency`` at once, all within ``bound_s``.

    An ask that has to wait for room starts late; its lateness is in ``Outcome.delay_s``, not in its times.
    """
    room = trio.Semaphore(concurrency)

    async def one(ask: Ask, delay_s: float) -> None:
        try:
            await run.one(ask, delay_s)
        finally:
            room.release()

    async def offer() -> None:
        async with trio.open_nursery() as nursery:
            for ask, at_s in zip(asks, times_s, strict=True):
                await trio.sleep_until(start + at_s)
                await room.acquire()
                nursery.start_soon(one, ask, trio.current_time() - start - at_s)

    start, cpu = trio.current_time(), time.process_time()
    async with Client(target, timeout_s) as client:
        run = _Run(client, progress)
        with trio.move_on_after(bound_s):
            await offer()
    return run.result(asks, trio.current_time() - start, time.process_time() - cpu)


async def closed_loop(
    target: Target,
    asks: Sequence[Ask],
    *,
    connections: int,
    timeout_s: float = 60.0,
    bound_s: float = inf,
    progress: Progress = lambda done: None,
) -> LoadResult:
    """Send the asks one after another on each of ``connections``, all within ``bound_s``."""
    waiting = iter(asks)

    async def worker() -> None:
        for ask in waiting:
            await run.one(ask, 0.0)

    start, cpu = trio.current_time(), time.process_time()
    async with Client(target, timeout_s) as client:
        run = _Run(client, progress)
        with trio.move_on_after(bound_s):
            async with trio.open_nursery() as nursery:
                for _ in range(connections):
                    nursery.start_soon(worker)
    return run.result(asks, trio.current_time() - start, time.process_time() - cpu)
