"""Children of the bench: their address, their CPU time, their end. The children are small Python programs."""

import sys
from pathlib import Path

import pytest
import trio

from bench.process import Child, ChildFailed

LISTENING = "print('noise'); print('INFO listening on http://127.0.0.1:4711'); "
SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "


def child(tmp_path: Path, program: str, stop_s: float = 20.0) -> Child:
    return Child([sys.executable, "-S", "-c", program], tmp_path / "log", stop_s)


async def test_finds_the_address_and_stops_when_a_child_listens(tmp_path: Path) -> None:
    async with child(tmp_path, LISTENING + SLEEP) as process:
        assert await process.address() == "http://127.0.0.1:4711"
        assert process.cpu_s() >= 0
        assert process.process.poll() is None

    assert process.process.returncode is not None


async def test_shows_the_last_output_when_a_child_ends_before_it_listens(tmp_path: Path) -> None:
    async with child(tmp_path, "raise SystemExit('no such file')") as process:
        with pytest.raises(ChildFailed, match=r"ended with 1 before it listened[^$]*no such file"):
            await process.address()


async def test_gives_up_when_a_child_never_listens(tmp_path: Path) -> None:
    async with child(tmp_path, SLEEP) as process:
        with pytest.raises(ChildFailed, match=r"did not listen within 0\.05 s"):
            await process.address(within_s=0.05)


async def test_kills_and_complains_when_a_child_does_not_stop(tmp_path: Path) -> None:
    async with child(tmp_path, STUBBORN + LISTENING + SLEEP, stop_s=0.05) as process:
        await process.address()
        with pytest.raises(ChildFailed, match="did not stop within"):
            await process.stop()

    assert process.process.returncode == -9


async def test_complains_when_a_child_stops_with_an_error(tmp_path: Path) -> None:
    program = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); " + LISTENING + SLEEP
    with pytest.raises(ChildFailed, match="ended with 3 after SIGTERM"):
        async with child(tmp_path, program) as process:
            await process.address()


async def test_leaves_no_child_behind_when_it_is_cancelled(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery, child(tmp_path, LISTENING + SLEEP) as process:
        await process.address()
        nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()

    assert process.process.returncode is not None


async def test_is_quiet_when_a_child_was_killed(tmp_path: Path) -> None:
    async with child(tmp_path, LISTENING + SLEEP) as process:
        await process.address()
        await process.kill()
        await process.kill()

    assert process.process.returncode == -9
