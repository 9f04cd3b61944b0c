"""Reading the configuration again: all of it or nothing, and word of what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import define, evolve, field

from actors import AskTimeout
from arbstr.assembly import Reloader
from arbstr.config import (
    Config,
    ConfigError,
    DatabaseConfig,
    Problem,
    RoutingConfig,
    ServerConfig,
    outcome_file,
    read_outcome,
)


@define
class Parts:
    """What takes a configuration, and refuses the one it is told to refuse."""

    used: list[Config] = field(factory=list)
    refuses: Config | None = None

    async def use(self, config: Config) -> None:
        if config == self.refuses:
            raise AskTimeout("nobody answered")
        self.used.append(config)


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def running(tmp_path: Path) -> Config:
    return Config(database=DatabaseConfig(path=tmp_path / "books.db"))


def raising(error: Exception) -> Callable[[], Config]:
    def read() -> Config:
        raise error

    return read


async def test_every_part_uses_what_can_change_when_the_file_is_read_again(running: Config, parts: Parts) -> None:
    wanted = evolve(running, routing=RoutingConfig(retries=0), server=ServerConfig(listen="127.0.0.1:9"))
    reloader = Reloader(running, lambda: wanted, parts.use)
    outcome = await reloader.reload()
    assert outcome.problems == ()
    assert outcome.changed == ("routing",)
    assert outcome.needs_restart == ("server.listen",)
    assert parts.used == [evolve(running, routing=RoutingConfig(retries=0))]
    assert reloader.config == parts.used[0]


async def test_nothing_changes_when_the_file_has_a_problem(running: Config, parts: Parts) -> None:
    problem = Problem("c.toml", 3, "server.listen", "is nonsense")
    reloader = Reloader(running, raising(ConfigError([problem])), parts.use)
    outcome = await reloader.reload()
    assert outcome.problems == (str(problem),)
    assert parts.used == []
    assert reloader.config is running


async def test_the_former_configuration_is_used_again_when_a_part_does_not_take_the_new_one(
    running: Config, parts: Parts
) -> None:
    parts.refuses = evolve(running, routing=RoutingConfig(retries=0))
    reloader = Reloader(running, lambda: parts.refuses or running, parts.use)
    outcome = await reloader.reload()
    assert "nobody answered" in outcome.problems[0]
    assert parts.used == [running]
    assert reloader.config is running


async def test_it_says_so_when_there_is_no_file(running: Config, parts: Parts) -> None:
    assert "no configuration file" in (await Reloader(running, None, parts.use).reload()).problems[0]


async def test_word_of_each_outcome_is_left_beside_the_database(running: Config, parts: Parts) -> None:
    reloader = Reloader(running, lambda: running, parts.use)
    await reloader.announce()
    first = read_outcome(running.database.path)
    outcome = await reloader.reload()
    assert first is not None
    assert (first.generation, outcome.generation) == (1, 2)
    assert read_outcome(running.database.path) == outcome


async def test_the_configuration_is_used_all_the_same_when_no_word_can_be_left(running: Config, parts: Parts) -> None:
    outcome_file(running.database.path).mkdir()
    outcome = await Reloader(running, lambda: running, parts.use).reload()
    assert outcome.problems == ()
    assert parts.used == [running]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"generation": 1}', json.dumps({"unknown": 1})])
def test_no_outcome_is_read_when_the_file_is_unreadable(tmp_path: Path, text: str) -> None:
    outcome_file(tmp_path / "a.db").write_text(text)
    assert read_outcome(tmp_path / "a.db") is None
    assert read_outcome(tmp_path / "missing.db") is None
