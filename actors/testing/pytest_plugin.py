"""Fixtures for pytest: ``pytest_plugins = ["actors.testing.pytest_plugin"]`` in the topmost conftest.py.

``actor_system``: for plain tests, a system in a background thread. ``trio_actor_system``: for tests of pytest-trio, a
system in the test's own run. Both are a ``Rig``: what fails in an actor and was not expected fails the test, as a
failure of the test itself, with the actor's traceback.

Besides, every test that leaves actors in Pykka's registry ends with an error, and the next one finds none of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator

import pytest

from actors.testing._rig import Rig, no_refs_left_behind

__all__ = ["actor_system", "trio_actor_system"]


@pytest.fixture(autouse=True)
def _no_refs_left_behind() -> Iterator[None]:
    with no_refs_left_behind():
        yield


@pytest.fixture
def actor_system() -> Iterator[Rig]:
    with Rig.in_thread() as system:
        yield system
    system.judge()  # what the stopping of actors that the test did not stop has brought


@pytest.fixture
async def trio_actor_system() -> AsyncIterator[Rig]:
    async with Rig.run() as system:
        yield system
    system.judge()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Stop and judge while the test still runs: a failing fixture would count as an error beside a test that passed."""
    system = pyfuncitem.funcargs.get("actor_system")
    if not isinstance(system, Rig):
        return (yield)
    try:
        result = yield
    except Exception as error:
        system.stop_all_blocking()
        system.testify(error)
        raise
    system.stop_all_blocking()
    system.judge()
    return result
