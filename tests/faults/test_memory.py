"""A provider that sends without end fills neither our memory nor, for we hang up, its own line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import trio

from tests.contract.upstream import Upstream
from tests.faults.rig import BOUND_S, FrontEnd, play
from tests.faults.table import LONG_LINE_BYTES, ROWS, Cell, Mode, Others

MIB = 1 << 20
EVENT_BYTES, ANSWER_BYTES = 1 * MIB, 64 * MIB
"""The most that is kept of an event, and of a plain answer."""
BESIDES = 8 * MIB
"""For everything else, the copies that are made on the way among it."""


@pytest.mark.parametrize(
    ("fault", "mode", "most"),
    [
        ("long_line", Mode.STREAM, EVENT_BYTES),
        ("long_line", Mode.PLAIN, 0),
        ("endless_comment", Mode.STREAM, EVENT_BYTES),
        ("endless_body", Mode.PLAIN, ANSWER_BYTES),
    ],
)
async def test_memory_stays_bounded_when_a_provider_sends_a_hundred_megabytes(
    fault: str, mode: Mode, most: int, upstream: Upstream, front_end: FrontEnd, tmp_path: Path
) -> None:
    assert LONG_LINE_BYTES > ANSWER_BYTES + BESIDES
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        async with play(Cell(ROWS[fault], mode, Others.NOBODY), upstream, front_end, tmp_path) as (_, _, faulty):
            _, peak = tracemalloc.get_traced_memory()
            [call] = faulty.calls()
            assert await trio.to_thread.run_sync(call.left.wait, BOUND_S), "nobody hung up"
    finally:
        tracemalloc.stop()
    assert peak - before < most + BESIDES
