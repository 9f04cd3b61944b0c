"""The reference of ``actors`` is what its docstrings say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import actors
import actors.testing

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "actors" / "reference.md"


def test_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, REFERENCE.with_suffix(".py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_has_an_entry() -> None:
    entries = set(re.findall(r"^### (\w+)$", REFERENCE.read_text("utf-8"), re.MULTILINE))
    assert entries == {*actors.__all__, *actors.testing.__all__}
