"""Fixtures of the black-box suite."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tests.contract.program import Start, World, started


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """``program.started`` in a fresh directory, for a program that the tests of a module share."""

    def start_one(*arguments: Any, **options: Any) -> contextlib.AbstractContextManager[World]:
        return started(tmp_path_factory.mktemp("contract"), *arguments, **options)

    return start_one
