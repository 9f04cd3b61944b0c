"""On what were numbers made? Facts that matter for CPU time and that identify nobody."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def facts() -> dict[str, str | int]:
    """CPU model, cores, kernel release and Python version."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Of arbstr and of the packages that its speed depends on."""
    return {name: version(name) for name in ("arbstr", "httptools", "httpx", "hypercorn", "trio")}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
