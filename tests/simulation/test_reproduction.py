"""A seed is a bug report: it gives the same run each time, in this process and in any other."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arbstr.sim import draw, run

ROOT = Path(__file__).parents[2]
SIMULATED = ("accounts", "providers", "requests", "routing", "sim", "store", "wallets", "wire")
BESIDE = ("arbstr/edge/_vault_services.py",)
FROM_OUTSIDE = {
    "time": {"time", "time_ns", "monotonic", "perf_counter_ns"},
    "os": {"urandom"},
    "random": {"random", "getrandbits", "uniform", "choice", "shuffle", "randrange", "randint"},
    "secrets": {"token_bytes", "token_hex", "token_urlsafe", "randbits"},
}
CODE = """
import hashlib
from arbstr.sim import draw, run
print(hashlib.sha256("\\n".join(line for seed in range(4) for line in run(draw(seed)).log).encode()).hexdigest())
"""


@pytest.mark.parametrize("seed", range(6))
def test_the_log_is_the_same_byte_by_byte_when_a_seed_is_run_twice(seed: int) -> None:
    first, second = run(draw(seed)), run(draw(seed))
    assert len(first.log) > 20
    assert "\n".join(first.log).encode() == "\n".join(second.log).encode()
    assert first.counts == second.counts


def test_the_log_differs_when_the_seed_does() -> None:
    assert run(draw(0)).log != run(draw(1)).log


def test_the_log_is_the_same_when_another_process_hashes_texts_differently() -> None:
    log = "\n".join(line for seed in range(4) for line in run(draw(seed)).log)
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        found = subprocess.run(
            [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        assert found.stdout.strip() == hashlib.sha256(log.encode()).hexdigest()


def test_the_machine_has_its_own_clock_and_chance_again_after_a_run() -> None:
    before = time.time_ns(), time.perf_counter_ns()
    run(draw(0))
    assert before[0] <= time.time_ns() < before[0] + 600 * 10**9
    assert before[1] <= time.perf_counter_ns()
    assert os.urandom(16) != os.urandom(16)


def bound_early(source: str) -> Iterator[str]:
    """Functions of the machine that are kept by their value, where the simulation cannot replace them."""
    tree = ast.parse(source)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in FROM_OUTSIDE:
            yield from (alias.name for alias in node.names if alias.name in FROM_OUTSIDE[node.module])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and id(node) not in called:
            kept = FROM_OUTSIDE.get(node.value.id, set()) & {node.attr}
            yield from (f"{node.value.id}.{name}" for name in kept)


ALLOWED = {
    "arbstr/requests/_plan.py": ["random.random"],  # of the one source that the simulation seeds
    "arbstr/providers/_mock.py": ["time.time"],  # a simulation has providers of its own
    "arbstr/sim/__main__.py": [],
}


def test_nothing_of_the_machine_is_bound_before_the_simulation_can_replace_it() -> None:
    files = [path for room in SIMULATED for path in sorted((ROOT / "arbstr" / room).glob("*.py"))]
    files += [ROOT / path for path in BESIDE]
    found = {path.relative_to(ROOT).as_posix(): list(bound_early(path.read_text("utf-8"))) for path in files}
    assert {path: names for path, names in found.items() if names and names != ALLOWED.get(path)} == {}


@pytest.mark.parametrize(
    "source",
    ["from time import time_ns", "x = field(factory=time.time_ns)", "from os import urandom", "f = time.monotonic"],
)
def test_a_clock_that_is_bound_early_is_found(source: str) -> None:
    assert list(bound_early(source))


@pytest.mark.parametrize("source", ["import time\nx = time.time_ns()", "from time import sleep", "random.seed(1)"])
def test_a_clock_that_is_looked_up_is_not_reported(source: str) -> None:
    assert not list(bound_early(source))
