"""Which peers are installed, and how are they? By package name from pip, npm and apt, each into a folder of its own.

Nothing outside of that folder changes: Debian's nginx is fetched and unpacked, not installed, and no service starts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import trio
from attrs import frozen

from bench import machine, programs, render
from bench.process import ChildFailed

INSTALL_S = 900.0

PYTHON_PACKAGES = {
    "aiohttp": ("aiohttp[speedups]", "uvloop"),
    "starlette": ("starlette", "httpx", "uvicorn[standard]"),
    "litellm": ("litellm[proxy]", "uvloop", "httptools"),
}
"""By peer. LiteLLM's own installation, with the loop and the parser that make uvicorn fast."""

NODE_PACKAGES = {
    "portkey": {
        "private": True,
        "dependencies": {"@portkey-ai/gateway": "*"},
        "overrides": {"@hono/node-server": "1.13.8"},
    }
}
"""Files package.json. With a later server under it (1.14.2 and 1.19.19 were tried) the gateway 1.15.2 answers every
stream with 500, because it changes headers that may not be changed."""

DEBIAN_PACKAGES = {"nginx": ("nginx", "nginx-common")}


@frozen
class Found:
    """One peer; ``version`` is None when it is not installed."""

    name: str
    program: str
    version: str | None


@frozen
class PeersReport:
    peers: tuple[Found, ...]


def steps(name: str, folder: Path) -> list[list[str]]:
    """The commands, run in its folder, that install a peer of ``programs.PEERS`` there."""
    if name in PYTHON_PACKAGES:
        python = str(folder / "bin" / "python")
        return [
            [sys.executable, "-m", "venv", str(folder)],
            [python, "-m", "pip", "install", "--quiet", "--upgrade", *PYTHON_PACKAGES[name]],
        ]
    if name in NODE_PACKAGES:
        return [["npm", "install", "--silent", "--no-audit", "--no-fund"]]
    return [["apt-get", "download", "-qq", *DEBIAN_PACKAGES[name]]]


async def install(name: str, into: Path) -> None:
    """Fetch and install one peer. Raises ChildFailed with the end of what the failing command said."""
    folder = trio.Path(into) / name
    await folder.mkdir(parents=True, exist_ok=True)
    if name in NODE_PACKAGES:
        await (folder / "package.json").write_text(json.dumps(NODE_PACKAGES[name]))
    for command in steps(name, Path(folder)):
        await _run(command, Path(folder))
    if name in DEBIAN_PACKAGES:
        for package in await folder.glob("*.deb"):
            await _run(["dpkg-deb", "--extract", str(package), str(folder)], Path(folder))


async def _run(command: Sequence[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise ChildFailed(f"{command[0]} is needed for that and not installed")
    with trio.move_on_after(INSTALL_S):
        done = await trio.run_process(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_stdout=True, capture_stderr=True, check=False
        )
        if done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
            raise ChildFailed(f"`{' '.join(command)}` ended with {done.returncode}: {said}")
        return
    raise ChildFailed(f"`{' '.join(command)}` took more than {INSTALL_S:g} s")


def found(into: Path) -> PeersReport:
    """What is there."""
    peers = {name: make(into) for name, make in programs.PEERS.items()}
    return PeersReport(
        tuple(Found(name, each.name if each else name, each.version if each else None) for name, each in peers.items())
    )


async def main(names: Sequence[str], into: Path, json_file: Path | None) -> int:
    """The verb: install what was asked for, then list. Raises ChildFailed when something could not be installed."""
    for name in names:
        print(f"installing {name}", file=sys.stderr)
        await install(name, into)
    report = found(into)
    for each in report.peers:
        print(f"{each.name}: {each.version or 'not installed'}")
    if json_file is not None:
        render.write_json(json_file, "peers", machine.facts(), report)
    return 0
