"""Is the server up, where does it listen, what CPU has it used, and is it gone? Child processes of the bench.

Every child writes to a file (no pipe can fill and block it) and dies with the bench.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import trio
from attrs import define, field

START_S, STOP_S = 30.0, 30.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ADDRESS = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class ChildFailed(Exception):
    """A child did not come up or go down as it should; the message ends with the last lines of its output."""


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@define
class Child:
    """One process. Use it as an async context manager: it is stopped when the block ends, however it ends."""

    command: Sequence[str]
    log: Path
    stop_s: float = STOP_S
    ends_with: frozenset[int] = frozenset((0, -signal.SIGTERM))
    """Exit codes that are right after SIGTERM."""
    environment: Mapping[str, str] = field(factory=dict)
    """Beside that of the bench."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    async def __aenter__(self) -> Self:
        self._start()
        return self

    def _start(self) -> None:
        # Not trio's open_process: it forks in a worker thread, and "parent" in PR_SET_PDEATHSIG means that thread.
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                list(self.command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **self.environment},
                preexec_fn=_die_with_parent,
            )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True):
            try:
                await self.stop()
            except ChildFailed:
                if error is None:
                    raise

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the child has not been started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def address(self, pattern: re.Pattern[str] = ADDRESS, within_s: float = START_S) -> str:
        """Wait until the output names the address it listens on. Raises ChildFailed when it ends or takes too long."""
        with trio.move_on_after(within_s):
            while True:
                match = pattern.search(self.output())
                if match:
                    return match[1]
                if self.process.poll() is not None:
                    raise ChildFailed(f"ended with {self.process.returncode} before it listened{self.tail()}")
                await trio.sleep(0.01)
        raise ChildFailed(f"did not listen within {within_s:g} s{self.tail()}")

    async def says(self, text: str, within_s: float) -> bool:
        """Wait until that is in the output; False when it ends or takes too long without."""
        with trio.move_on_after(within_s):
            while text not in self.output() and self.process.poll() is None:  # noqa: ASYNC110 - a file wakes nobody
                await trio.sleep(0.02)
        return text in self.output()

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 15) -> str:
        last = self.output().splitlines()[-lines:]
        return "\n  " + "\n  ".join([" ".join(self.command[:4]) + " ...", *last])

    def cpu_s(self) -> float:
        """CPU seconds so far of all its threads, and of all processes below it, to the nanosecond (of children that
        have ended to 10 ms)."""
        return sum(_cpu_s(pid) + ticks / TICKS_PER_S for pid, ticks, _ in self._tree())

    def rss_bytes(self) -> int:
        """Resident memory of the process and of all below it; what they share counts for each."""
        return sum(pages for _, _, pages in self._tree()) * PAGE_BYTES

    def open_files(self) -> int:
        """File descriptors of the process itself."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _tree(self) -> list[tuple[int, int, int]]:
        """Id, ticks of children that have ended, and resident pages, of the process and all below it."""
        stats = _process_table()
        below = {self.pid}
        while more := {pid for pid, (parent, _, _) in stats.items() if parent in below} - below:
            below |= more
        return [(pid, *stats[pid][1:]) for pid in below if pid in stats]

    async def wait(self) -> int:
        """Until it ends by itself; its exit code."""
        if self.process.poll() is None:
            await self._wait()
        return self.process.returncode

    async def stop(self) -> None:
        """SIGTERM and wait; SIGKILL when that takes longer than ``stop_s``. Raises ChildFailed unless it ended as it
        should. Does nothing to a child that has ended."""
        if self.process.poll() is not None:
            return
        self.process.terminate()
        with trio.move_on_after(self.stop_s) as patience:
            await self._wait()
        if patience.cancelled_caught:
            await self.kill()
            raise ChildFailed(f"did not stop within {self.stop_s:g} s of SIGTERM{self.tail()}")
        if self.process.returncode not in self.ends_with:
            raise ChildFailed(f"ended with {self.process.returncode} after SIGTERM{self.tail()}")

    async def _wait(self) -> None:
        """Until it has ended. Cancelling this waits no longer and does nothing to the process."""
        descriptor = os.pidfd_open(self.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        self.process.wait()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Harmless when it has ended."""
        if self.process.poll() is not None:
            return
        self.process.kill()
        with trio.CancelScope(shield=True):
            await self._wait()


def _process_table() -> dict[int, tuple[int, int, int]]:
    """Parent, ticks of ended children and resident pages of every process, by its id (proc(5))."""
    table = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                table[int(folder.name)] = (int(fields[1]), int(fields[13]) + int(fields[14]), int(fields[21]))
    return table


def _cpu_s(pid: int) -> float:
    """Of all threads of a process, those that have ended too; 0 when it has ended meanwhile."""
    try:
        # The clock that clock_getcpuclockid(3) gives for another process, for which Python has no function.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def free_port() -> int:
    """Of 127.0.0.1, a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def arbstr_command() -> list[str]:
    """The program that belongs to this Python."""
    script = Path(sys.executable).with_name("arbstr")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "import sys; from arbstr.cli import main; sys.exit(main())"]
