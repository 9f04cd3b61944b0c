"""The parent of several processes, with children that only speak: what it does with what they say, and with their ends.

``tests/live/test_workers.py`` has the real ones.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field

from arbstr.assembly import _parent as parent_module
from arbstr.assembly._control import FROM_CHILD, FROM_PARENT, Failed, Ready, Stop, Use, Used
from arbstr.assembly._parent import ACCOUNTS, CannotStart, Parent
from arbstr.config import Config, DatabaseConfig, ProviderConfig, ReloadOutcome, ServerConfig, read_outcome
from arbstr.link import FrameReader, LinkMessage, frame
from arbstr.store import holder_of

Act = Callable[["Child", Any], None]


class Child:
    """In the child process: ``act`` is called with each message, and with None at the start."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control

    def say(self, message: LinkMessage) -> None:
        self.control.sendall(frame(FROM_CHILD.encode([(0, message)])))

    def tell_parent(self, number: int) -> None:
        os.kill(os.getppid(), number)

    def run(self, act: Act) -> int:
        reader = FrameReader()
        act(self, None)
        while data := self.control.recv(65_536):
            for payload in reader.feed(data):
                for _, message in FROM_PARENT.decode(payload):
                    if isinstance(message, Stop):
                        return 0
                    act(self, message)
        return 0


@define
class Source:
    """A file that is another one each time it is read."""

    config: Config
    texts: Iterator[str] = field(factory=lambda: iter(["old", "new", "newer"]))

    def __call__(self) -> Config:
        return self.config

    def text(self) -> str:
        return next(self.texts)

    def parse(self, text: str) -> Config:
        return evolve(self.config, providers=(ProviderConfig(text, f"mock://{text}"),))


class Logs:
    def configure(self, config: Any) -> None: ...


@define
class World:
    config: Config
    monkeypatch: pytest.MonkeyPatch
    parent: Parent = field(init=False)

    def run(self, **acts: Act) -> int:
        """``accounts`` and ``worker`` say what the children do; both are ready at once unless told otherwise."""

        def be(parent: Parent, place: int, again: bool, ours: socket.socket, theirs: socket.socket) -> int:
            parent_module._forget_signals()
            ours.close()
            for child in parent._children.values():
                child.control.close()
            act = acts.get("accounts" if place == ACCOUNTS else f"worker{place}", acts.get("worker", ready))
            return Child(theirs).run(act if place != ACCOUNTS else acts.get("accounts", ready))

        self.monkeypatch.setattr(Parent, "_be", be)
        self.parent = Parent(self.config, False, Source(self.config), Logs())  # type: ignore[arg-type]
        with ExitStack() as stack:
            return self.parent.run(stack)

    def outcome(self) -> ReloadOutcome:
        found = read_outcome(self.config.database.path)
        assert found is not None
        return found


def is_first(world: World) -> bool:
    """Of the processes in one place."""
    mark = world.config.database.path.with_name("first")
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def ready(child: Child, message: Any) -> None:
    if message is None:
        child.say(Ready())
    elif isinstance(message, Use):
        child.say(Used(message.generation, None))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.INFO, "arbstr")
    server = ServerConfig(listen="127.0.0.1:0", workers=2)
    return World(Config(server=server, database=DatabaseConfig(path=tmp_path / "a.db")), monkeypatch)


def test_all_have_the_new_configuration_when_nobody_refuses_it(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    def second(child: Child, message: Any) -> None:
        ready(child, message)
        if message is None:
            child.tell_parent(signal.SIGHUP)
        else:
            while world.outcome().generation < 2:  # the others are still to answer
                time.sleep(0.01)
            child.tell_parent(signal.SIGTERM)

    assert world.run(worker2=second) == 0
    assert "listening on http://127.0.0.1:" in capfd.readouterr().out
    assert world.parent.config.providers[0].name == "new"
    assert (world.outcome().generation, world.outcome().changed) == (2, ("providers",))
    assert world.outcome().pid == os.getpid()
    assert holder_of(world.config.database.path) is None


def test_the_former_is_given_back_when_one_refuses_the_new_one(world: World) -> None:
    def second(child: Child, message: Any) -> None:
        if message is None:
            child.say(Ready())
            child.tell_parent(signal.SIGHUP)
        elif message.text == "new":
            child.say(Used(message.generation, "says the test"))
        else:
            assert message.text == "old"
            child.say(Used(message.generation, None))
            child.tell_parent(signal.SIGTERM)

    assert world.run(worker2=second) == 0
    assert world.parent.config is world.config
    assert world.parent._uses == 2
    assert world.outcome().generation == 2
    assert world.outcome().problems == ("it could not be applied: says the test",)


def test_nothing_is_taken_when_one_dies_of_the_new_configuration(world: World) -> None:
    def second(child: Child, message: Any) -> None:
        if message is None:
            child.say(Ready())
            if is_first(world):
                child.tell_parent(signal.SIGHUP)
        elif message.text == "new":
            os._exit(3)
        else:
            child.say(Used(message.generation, None))
            child.tell_parent(signal.SIGTERM)

    assert world.run(worker2=second) == 0
    assert world.parent.config is world.config
    assert world.outcome().problems[0] == "worker 2 has ended meanwhile; try again"


def test_it_says_why_when_the_accounts_cannot_be(world: World) -> None:
    def accounts(child: Child, message: Any) -> None:
        child.say(Failed("the disk is gone, says the test"))
        os._exit(1)

    with pytest.raises(CannotStart, match="the disk is gone, says the test"):
        world.run(accounts=accounts)
    assert holder_of(world.config.database.path) is None


def test_it_ends_when_a_worker_ends_before_it_was_ready(world: World) -> None:
    with pytest.raises(CannotStart, match="worker 2 has ended before it was ready"):
        world.run(worker2=lambda child, message: os._exit(1))


def test_nothing_is_announced_when_it_is_told_to_stop_while_it_starts(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    def accounts(child: Child, message: Any) -> None:
        child.tell_parent(signal.SIGTERM)

    assert world.run(accounts=accounts) == 0
    assert capfd.readouterr().out == ""
    assert list(world.parent._children) == [ACCOUNTS]


def test_one_that_does_not_end_is_killed_when_its_time_is_over(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def deaf(child: Child, message: Any) -> None:
        child.say(Ready())
        child.tell_parent(signal.SIGTERM)
        while True:
            signal.pause()

    world.monkeypatch.setattr(parent_module, "ABORT_S", 0.3)
    world.config = evolve(world.config, server=evolve(world.config.server, shutdown_grace_s=0.0))
    assert world.run(worker2=deaf) == 0
    assert "worker 2 did not end within 0.3 s and is killed" in caplog.text
    assert all(child.ended for child in world.parent._children.values())


def test_one_that_talks_nonsense_is_killed_and_replaced(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def second(child: Child, message: Any) -> None:
        if message is None:
            child.say(Ready())
            if is_first(world):
                child.control.sendall(b"\xff\xff\xff\xff")
            else:
                child.tell_parent(signal.SIGTERM)

    assert world.run(worker2=second) == 0
    assert "worker 2 does not speak as agreed" in caplog.text
    assert caplog.text.count("worker 2 is process") == 2
