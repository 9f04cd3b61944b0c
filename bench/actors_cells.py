"""The operations that are measured side by side: each takes a count and returns seconds for one.

Runs as a process of its own, with no more loaded than a user of ``actors`` would have: ``python -m bench.actors_cells``
prints one JSON object, operation by contender by round.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import Any

import pykka
import trio
import trio.testing

from actors import ActorSystem, TrioActor, TrioActorRef

Cell = Callable[[int], float]
"""Does its operation that many times; preparation and clean-up are not in the seconds."""

THREADING = "pykka.ThreadingActor"
TRIO = "TrioActor"
CHANNELS = "two channels"
CHANNELS_DEADLINE = "two channels, deadline"

ASK, TELL, START, BLOCKING_ASK = "ask", "tell and drain", "start to first reply", "blocking ask from a thread"

DEADLINE_S = 5.0
DRAIN_BOUND_S = 60.0


class ThreadEcho(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> Any:
        return message


class TrioEcho(TrioActor):
    inbox_capacity = 1_000_000  # tell and drain queues them all before the first is handled
    burst = 32

    def on_receive(self, message: Any) -> Any:
        return message


class ChannelEcho:
    """The least that can answer: a task that reads one channel and writes another."""

    def __init__(self, capacity: int = 1) -> None:
        self.requests, self._inbox = trio.open_memory_channel[Any](capacity)
        self._outbox, self.replies = trio.open_memory_channel[Any](1)

    async def run(self) -> None:
        async for message in self._inbox:
            await self._outbox.send(message)

    async def swallow(self, last: int) -> None:
        async for message in self._inbox:
            if message == last:
                await self._outbox.send(message)

    async def ask(self, message: Any) -> Any:
        await self.requests.send(message)
        return await self.replies.receive()

    async def ask_by(self, message: Any) -> Any:
        with trio.fail_after(DEADLINE_S):
            return await self.ask(message)


@asynccontextmanager
async def trio_echo() -> AsyncIterator[TrioActorRef[TrioEcho]]:
    async with ActorSystem.run() as system:
        ref = system.start(TrioEcho)
        await ref.request("warm")
        yield ref


@asynccontextmanager
async def channel_echo() -> AsyncIterator[ChannelEcho]:
    echo = ChannelEcho()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo.run)
        await echo.ask("warm")
        yield echo
        nursery.cancel_scope.cancel()


# -- ask: thread to thread, or task to task


async def _repeat(ask: Callable[[Any], Awaitable[Any]], count: int) -> float:
    begun = perf_counter()
    for number in range(count):
        await ask(number)
    return (perf_counter() - begun) / count


def _repeat_blocking(ask: Callable[[Any], Any], count: int) -> float:
    begun = perf_counter()
    for number in range(count):
        ask(number)
    return (perf_counter() - begun) / count


def ask_threading(count: int) -> float:
    ref = ThreadEcho.start()
    ref.ask("warm")
    took = _repeat_blocking(ref.ask, count)
    ref.stop()
    return took


def ask_trio(count: int) -> float:
    async def main() -> float:
        async with trio_echo() as ref:
            return await _repeat(ref.request, count)  # its deadline is on by default, as many seconds

    return trio.run(main)


def ask_channels(count: int) -> float:
    async def main() -> float:
        async with channel_echo() as echo:
            return await _repeat(echo.ask, count)

    return trio.run(main)


def ask_channels_deadline(count: int) -> float:
    async def main() -> float:
        async with channel_echo() as echo:
            return await _repeat(echo.ask_by, count)

    return trio.run(main)


# -- tell all, then wait until the last has been handled


def tell_threading(count: int) -> float:
    ref = ThreadEcho.start()
    ref.ask("warm")
    begun = perf_counter()
    for number in range(count):
        ref.tell(number)
    ref.ask("last", timeout=DRAIN_BOUND_S)
    took = perf_counter() - begun
    ref.stop()
    return took / count


def tell_trio(count: int) -> float:
    async def main() -> float:
        async with trio_echo() as ref:
            begun = perf_counter()
            for number in range(count):
                ref.tell(number)
            await ref.request("last", timeout_s=DRAIN_BOUND_S)
            return (perf_counter() - begun) / count

    return trio.run(main)


def tell_channels(count: int) -> float:
    async def main() -> float:
        echo = ChannelEcho(capacity=count)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo.swallow, count - 1)
            await trio.testing.wait_all_tasks_blocked()
            begun = perf_counter()
            for number in range(count):
                echo.requests.send_nowait(number)
            await echo.replies.receive()
            took = perf_counter() - begun
            nursery.cancel_scope.cancel()
        return took / count

    return trio.run(main)


# -- start one and have its first reply, beside all that were started before


def start_threading(count: int) -> float:
    refs = []
    begun = perf_counter()
    for number in range(count):
        refs.append(ref := ThreadEcho.start())
        ref.ask(number)
    took = perf_counter() - begun
    for ref in refs:
        ref.stop()
    return took / count


def start_trio(count: int) -> float:
    async def main() -> float:
        async with ActorSystem.run() as system:
            begun = perf_counter()
            for number in range(count):
                await system.start(TrioEcho).request(number)
            return (perf_counter() - begun) / count

    return trio.run(main)


def start_channels(count: int) -> float:
    async def main() -> float:
        async with trio.open_nursery() as nursery:
            begun = perf_counter()
            for number in range(count):
                echo = ChannelEcho()
                nursery.start_soon(echo.run)
                await echo.ask(number)
            took = perf_counter() - begun
            nursery.cancel_scope.cancel()
        return took / count

    return trio.run(main)


# -- a thread asks and blocks; the actor lives elsewhere


def blocking_trio(count: int) -> float:
    with ActorSystem.in_thread() as system:
        ref = system.start(TrioEcho)
        ref.ask("warm")
        return _repeat_blocking(ref.ask, count)


def blocking_channels(count: int) -> float:
    def work(echo: ChannelEcho) -> float:
        return _repeat_blocking(lambda number: trio.from_thread.run(echo.ask, number), count)

    async def main() -> float:
        async with channel_echo() as echo:
            return await trio.to_thread.run_sync(work, echo)

    return trio.run(main)


CELLS: Mapping[str, Mapping[str, Cell]] = {
    ASK: {
        THREADING: ask_threading,
        TRIO: ask_trio,
        CHANNELS_DEADLINE: ask_channels_deadline,
        CHANNELS: ask_channels,
    },
    TELL: {THREADING: tell_threading, TRIO: tell_trio, CHANNELS: tell_channels},
    START: {THREADING: start_threading, TRIO: start_trio, CHANNELS: start_channels},
    BLOCKING_ASK: {THREADING: ask_threading, TRIO: blocking_trio, CHANNELS: blocking_channels},
}
COUNTS: Mapping[str, int] = {ASK: 2_000, TELL: 20_000, START: 500, BLOCKING_ASK: 1_000}


@contextmanager
def no_garbage_of_others() -> Iterator[None]:
    """What came before is neither counted nor collected in the cell that is being measured."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def measure(rounds: int, scale: float = 1.0) -> dict[str, dict[str, list[float]]]:
    """Seconds per operation, in interleaved rounds, so that drift of the machine meets all alike; one more warms up."""
    took: dict[str, dict[str, list[float]]] = {
        operation: {name: [] for name in CELLS[operation]} for operation in CELLS
    }
    for turn in range(rounds + 1):
        for operation, contenders in CELLS.items():
            for name, cell in contenders.items():
                with no_garbage_of_others():
                    seconds = cell(max(1, round(COUNTS[operation] * scale)))
                if turn:
                    took[operation][name].append(seconds)
    return took


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, required=True)
    options.add_argument("--scale", type=float, default=1.0)
    chosen = options.parse_args()
    print(json.dumps(measure(chosen.rounds, chosen.scale)))
