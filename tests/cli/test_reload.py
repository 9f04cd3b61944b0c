"""``arbstr reload``: who is told, and what is said of the outcome."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict

from arbstr.assembly import Outcome, outcome_file
from arbstr.cli import _reload
from arbstr.store import Store

CONFIG = "[database]\npath = 'books.db'\n"


class Running:
    """An arbstr as far as its database shows it: in this process, and it answers a signal as it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store.open(path, durability="process")
        self.answer: dict[str, Any] | None = {}
        self.generation = 1
        self.say()

    def say(self, **fields: Any) -> None:
        import json

        outcome = Outcome(self.generation, os.getpid(), 0, **fields)
        outcome_file(self.path).write_text(json.dumps(asdict(outcome)))

    def hear(self, pid: int, number: int) -> None:
        assert (pid, number) == (os.getpid(), signal.SIGHUP)
        self.generation += 1
        if self.answer is None:
            self.store.close()
        else:
            self.say(**self.answer)


@pytest.fixture
def running(write: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    config: Path = write(CONFIG)
    program = Running(config.parent / "books.db")
    monkeypatch.setattr(_reload.os, "kill", program.hear)
    monkeypatch.chdir(config.parent)
    yield program
    program.store.close()


def test_what_has_changed_is_named_when_the_file_was_taken(run: Callable, running: Running) -> None:
    running.answer = {"changed": ("providers", "routing"), "needs_restart": ("server.listen",)}
    result = run("reload")
    assert result.code == 0
    assert "Changed: providers, routing" in result.out
    assert "until arbstr starts again: server.listen" in result.err


def test_the_problems_are_told_when_the_file_was_refused(run: Callable, running: Running) -> None:
    running.answer = {"problems": ("config.toml:3: server.listen: is nonsense",)}
    result = run("reload")
    assert result.code == 1
    assert "Configuration error: config.toml:3" in result.err
    assert "stays as it was" in result.err


def test_it_says_so_when_the_program_has_ended_meanwhile(run: Callable, running: Running) -> None:
    running.answer = None
    result = run("reload")
    assert result.code == 1
    assert "has ended" in result.err


def test_it_says_so_when_the_program_is_still_starting(run: Callable, running: Running) -> None:
    outcome_file(running.path).unlink()
    result = run("reload")
    assert (result.code, "still starting" in result.err) == (1, True)


def test_it_says_so_when_nobody_runs(run: Callable, write: Callable) -> None:
    write(CONFIG)
    result = run("reload")
    assert (result.code, "no arbstr runs" in result.err) == (1, True)
