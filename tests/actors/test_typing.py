"""The package as a type checker sees it: example programs under mypy --strict and under pyright's strict mode."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = Path(__file__).with_name("typing_examples")


def _run(*command: str | Path) -> str:
    # Offline: without the variable, pyright looks for a newer one of itself.
    environ = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 2 and more: the checker itself is at a loss
    return done.stdout


def _mypy(example: Path) -> dict[int, str]:
    output = _run(sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--no-error-summary", example)
    found = re.findall(rf"^{re.escape(str(example.relative_to(ROOT)))}:(\d+): error: (.*)$", output, re.MULTILINE)
    assert bool(found) == bool(output.strip()), output  # nothing but errors in this file
    return {int(line): text for line, text in found}


def _pyright(example: Path) -> dict[int, str]:
    report = json.loads(_run(sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, example))
    assert report["summary"]["filesAnalyzed"] == 1
    return {each["range"]["start"]["line"] + 1: each["message"] for each in report["generalDiagnostics"]}


checkers = pytest.mark.parametrize("check", [_mypy, _pyright], ids=["mypy", "pyright"])


@checkers
def test_nothing_is_found_when_a_program_uses_the_package_as_intended(check: Callable[[Path], dict[int, str]]) -> None:
    assert check(EXAMPLES / "clean.py") == {}


@checkers
def test_each_mistake_is_found_and_nothing_else_when_a_program_makes_them(
    check: Callable[[Path], dict[int, str]],
) -> None:
    example = EXAMPLES / "wrong.py"
    marked = {n for n, line in enumerate(example.read_text().splitlines(), 1) if line.endswith("# error")}
    found = check(example)
    assert marked, "the example has lost its marks"
    assert set(found) == marked, found
