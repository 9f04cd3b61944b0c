"""How much memory do live actors take? ``python -m bench.actors_memory CONTENDER COUNT`` starts them, each with its
first message handled, and prints the resident bytes before and after as JSON. One process per contender: what an
allocator has once taken it keeps."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import trio

from actors import ActorSystem
from bench.actors_cells import CHANNELS, THREADING, TRIO, ChannelEcho, ThreadEcho, TrioEcho

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def threading_actors(count: int) -> tuple[int, int]:
    ThreadEcho.start().stop()  # what the first one loads belongs to none of them
    before = resident_bytes()
    refs = [ThreadEcho.start() for _ in range(count)]
    for ref in refs:
        ref.ask("hello")
    after = resident_bytes()
    for ref in refs:
        ref.stop(block=False)
    return before, after


def trio_actors(count: int) -> tuple[int, int]:
    async def main() -> tuple[int, int]:
        async with ActorSystem.run() as system:
            await system.start(TrioEcho).request("hello")
            before = resident_bytes()
            for ref in [system.start(TrioEcho) for _ in range(count)]:
                await ref.request("hello")
            return before, resident_bytes()

    return trio.run(main)


def channel_tasks(count: int) -> tuple[int, int]:
    async def main() -> tuple[int, int]:
        async with trio.open_nursery() as nursery:
            before = resident_bytes()
            echoes = [ChannelEcho() for _ in range(count)]
            for echo in echoes:
                nursery.start_soon(echo.run)
            for echo in echoes:
                await echo.ask("hello")
            after = resident_bytes()
            nursery.cancel_scope.cancel()
        return before, after

    return trio.run(main)


CONTENDERS: Mapping[str, Callable[[int], tuple[int, int]]] = {
    THREADING: threading_actors,
    TRIO: trio_actors,
    CHANNELS: channel_tasks,
}


if __name__ == "__main__":
    print(json.dumps(CONTENDERS[sys.argv[1]](int(sys.argv[2]))))
