"""An answerer for the tests of the bench, and the way to it."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attrs import frozen

from bench import cells, programs
from bench.generator import LoadSpec


@frozen
class Rig:
    bench: cells.Bench
    direct: programs.Running


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with programs.answerer(tmp_path) as (child, address):
        at = urlsplit(address)
        spec = LoadSpec(str(at.hostname), int(at.port or 0), "m", ())
        yield Rig(cells.Bench(child, tmp_path), programs.Running(programs.direct(), None, spec))
