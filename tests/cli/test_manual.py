"""The manual of the command line names every verb and option."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest

from arbstr.cli._main import _parser

MANUAL = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def words(parser: ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action.choices, dict):
            for name, verb in action.choices.items():
                yield name
                yield from words(verb)


@pytest.mark.parametrize("word", sorted(set(words(_parser()))))
def test_every_verb_and_option_is_in_the_manual(word: str) -> None:
    assert word in MANUAL
