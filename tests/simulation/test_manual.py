"""docs/simulation.md says what there is."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from arbstr.sim import _seams
from arbstr.sim.__main__ import main
from arbstr.sim._events import KINDS, Setting
from arbstr.sim._vault_events import KINDS as OF_THE_VAULT

MANUAL = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text("utf-8")


def table(heading: str) -> list[str]:
    """The first cells of the first table under a heading."""
    section = MANUAL.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| (`[^|]+?) \|", section, re.MULTILINE)


def test_every_kind_of_event_is_in_the_manual_and_no_other() -> None:
    dice, setting = random.Random(1), Setting(2, ("p", "q"), ("lightning",))
    drawn = {type(draw(dice, setting)).__name__ for draw, _, _ in (*KINDS, *OF_THE_VAULT) for _ in range(50)}
    assert set(re.findall(r"`(\w+)`", " ".join(table("What a seed draws")))) == drawn


def test_every_option_is_in_the_manual_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    offered = set(re.findall(r"--\w+", capsys.readouterr().out)) - {"--help"}
    listed = set(re.findall(r"^\| `(--\w+)", MANUAL, re.MULTILINE))
    assert listed == offered
    assert set(re.findall(r"--\w+", MANUAL)) == offered


def test_every_seam_is_in_the_manual() -> None:
    source = Path(_seams.__file__).read_text("utf-8")
    replaced = {f"{module}.{name}" for module, name in re.findall(r"patch\.object\((\w+), \"(\w+)\"", source)}
    assert replaced
    assert replaced <= set(re.findall(r"`([\w.]+)`", " ".join(table("Why it repeats itself"))))
