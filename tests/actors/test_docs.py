"""Every example of the manual runs: programs print what stands below them, tests pass under the package's plugin."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MANUAL = ROOT / "docs" / "actors"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A fenced block of Python. ``output``: the text block right below it, if there is one."""

    file: str
    line: int
    code: str
    output: str | None

    @property
    def is_test(self) -> bool:
        return "def test_" in self.code

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def _examples() -> list[Example]:
    found: list[Example] = []
    for path in sorted(MANUAL.glob("*.md")):
        text = path.read_text("utf-8")
        blocks = list(BLOCK.finditer(text))
        for block, below in zip(blocks, [*blocks[1:], None], strict=False):
            if block[1] != "python":
                continue
            belongs = below is not None and below[1] == "text" and not text[block.end() : below.start()].strip()
            line = text.count("\n", 0, block.start()) + 2
            found.append(Example(path.name, line, block[2], below[2] if below is not None and belongs else None))
    return found


EXAMPLES = _examples()
PROGRAMS = [each for each in EXAMPLES if not each.is_test]
TESTS = [each for each in EXAMPLES if each.is_test]


def test_manual_has_examples_on_every_page() -> None:
    assert {each.file for each in EXAMPLES} == {"README.md", "pykka.md", "supervision.md", "testing.md"}


@pytest.mark.parametrize("example", PROGRAMS, ids=str)
def test_program_prints_what_the_manual_says(example: Example) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example.code, str(example), "exec"), {"__name__": "__main__"})
    assert printed.getvalue() == (example.output or "")


def _run_as_a_project(directory: Path, examples: list[Example]) -> str:
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\naddopts = -p no:cacheprovider -q\n")
    (directory / "conftest.py").write_text('pytest_plugins = ["actors.testing.pytest_plugin"]\n')
    for example in examples:
        name = str(example).replace(".", "_").replace(":", "_")
        (directory / f"test_{name}.py").write_text(example.code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout


def test_tests_of_the_manual_pass_when_a_project_has_just_the_plugin(tmp_path: Path) -> None:
    wanted = sum(example.code.count("def test_") for example in TESTS)
    output = _run_as_a_project(tmp_path, TESTS)
    assert re.search(rf"^{wanted} passed", output, re.MULTILINE), output


def test_rig_of_three_supervised_actors_takes_less_than_thirty_lines_and_no_trio() -> None:
    rig = next(example.code for example in TESTS if example.file == "README.md")
    assert len(rig.splitlines()) < 30
    assert "Supervisor" in rig
    assert not re.search(r"\btrio\b|\basync\b|\bawait\b", rig)


def test_test_of_the_manual_fails_when_the_failure_is_not_declared(tmp_path: Path) -> None:
    rig = next(example for example in TESTS if example.file == "README.md")
    undeclared = re.sub(r"^.*expect_failure.*\n", "", rig.code, flags=re.MULTILINE)
    output = _run_as_a_project(tmp_path, [Example(rig.file, rig.line, undeclared, None)])
    assert "1 failed" in output
    assert "TypeError" in output


def test_links_of_the_manual_lead_somewhere() -> None:
    for path in MANUAL.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
            assert target.startswith("https://") or (path.parent / target).exists(), f"{path.name}: {target}"
