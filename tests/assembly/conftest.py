"""The market of the request tests, and logging put back as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from tests.requests.conftest import clock, deposited, held_accounts, world

__all__ = ["clock", "deposited", "held_accounts", "world"]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("pykka").setLevel(logging.NOTSET)
    structlog.reset_defaults()
