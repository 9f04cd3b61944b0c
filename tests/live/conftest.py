"""Fixtures around a started program; see ``program`` for what they give."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.program import Household, Program, RecordingServer, serving
from tests.live.scripted import ScriptedServer
from tests.live.two import Two


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """``arbstr serve --mock``, shared by the tests of one file."""
    with serving("--mock", "-l", "127.0.0.1:0", cwd=tmp_path_factory.mktemp("market")) as program:
        program.wait_for_token()
        yield program


@pytest.fixture
def household(tmp_path: Path) -> Household:
    return Household(tmp_path)


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


@pytest.fixture
def upstream() -> Iterator[RecordingServer]:
    server = RecordingServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def proxied(scripted: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program in front of the scripted provider, with an agent that can pay; its ``token`` is the agent's."""
    household = Household(tmp_path_factory.mktemp("proxied"))
    household.write_config(scripted.provider(), server='admin_token = "boss"')
    token = household.add_agent("rich", "100000000")
    with household.serve() as program:
        program.token = token
        yield program
        assert program.stop() == 0
    assert household.check().open_holds == 0
