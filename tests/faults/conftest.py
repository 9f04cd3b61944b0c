"""The scripted provider, and the front ends in front of the market."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.upstream import Upstream
from tests.faults.rig import FRONT_ENDS, FrontEnd


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture(params=FRONT_ENDS)
def front_end(request: pytest.FixtureRequest) -> FrontEnd:
    return FRONT_ENDS[request.param]
