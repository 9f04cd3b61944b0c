"""Reading the configuration again while the program runs: all of it or nothing, and word of what came of it.

Whoever asks (a signal has no answer) finds the outcome in a small file beside the database.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
from attrs import asdict, define, frozen

from actors import ActorDeadError, AskTimeout, InboxFull
from arbstr.config import Config, ConfigError, reloaded

logger = logging.getLogger("arbstr")


@frozen
class Outcome:
    """What came of reading the configuration for the ``generation``-th time; the first is the start."""

    generation: int
    pid: int
    at_ns: int
    problems: tuple[str, ...] = ()
    """Why nothing was changed; empty when it was."""
    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    """Changed in the file, and without effect until the program starts again."""


def outcome_file(database: Path) -> Path:
    return database.with_name(database.name + ".reload")


def read_outcome(database: Path) -> Outcome | None:
    """The last outcome that was written; None when there is none or it is unreadable."""
    try:
        found: dict[str, Any] = json.loads(outcome_file(database).read_text())
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
        return Outcome(**fields)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


@define(eq=False)
class Reloader:
    """``read`` gives the configuration anew, or raises ConfigError; None when there is no file to read. ``apply`` has
    every part use it. ``config`` is what is in use."""

    config: Config
    read: Callable[[], Config] | None
    apply: Callable[[Config], Awaitable[None]]
    generation: int = 1

    async def announce(self) -> None:
        """Leave word of the start."""
        await self._leave_word(Outcome(self.generation, os.getpid(), time.time_ns()))

    async def reload(self) -> Outcome:
        """Read, check, apply. A file with a problem changes nothing. Requests under way end as they began."""
        self.generation += 1
        try:
            outcome = await self._reload()
        except ConfigError as error:
            outcome = self._refused(tuple(map(str, error.problems)))
        await self._leave_word(outcome)
        return outcome

    async def _reload(self) -> Outcome:
        if self.read is None:
            return self._refused(("there is no configuration file to read again",))
        wanted = await trio.to_thread.run_sync(self.read)
        result = reloaded(self.config, wanted)
        for warning in wanted.warnings:
            logger.warning("%s", warning)
        try:
            await self.apply(result.config)
        except (ActorDeadError, AskTimeout, InboxFull, ValueError) as error:
            await self._go_back()
            return self._refused((f"it could not be applied: {error}",))
        self.config = result.config
        logger.info("configuration read again, changed: %s", ", ".join(result.changed) or "nothing")
        if result.needs_restart:
            logger.warning("without effect until arbstr starts again: %s", ", ".join(result.needs_restart))
        return Outcome(
            self.generation, os.getpid(), time.time_ns(), changed=result.changed, needs_restart=result.needs_restart
        )

    async def _go_back(self) -> None:
        """Some parts may have taken what others refused."""
        try:
            await self.apply(self.config)
        except (ActorDeadError, AskTimeout, InboxFull, ValueError) as error:
            logger.error("nor could the former configuration be applied again: %s", error)

    def _refused(self, problems: tuple[str, ...]) -> Outcome:
        for problem in problems:
            logger.error("the configuration stays as it is: %s", problem)
        return Outcome(self.generation, os.getpid(), time.time_ns(), problems=problems)

    async def _leave_word(self, outcome: Outcome) -> None:
        try:
            await trio.to_thread.run_sync(_write, outcome_file(self.config.database.path), outcome)
        except OSError as error:
            logger.warning("the outcome of reading the configuration cannot be written: %s", error)


def _write(path: Path, outcome: Outcome) -> None:
    """Whole or not at all, for whoever reads at the same time."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(asdict(outcome)))
    draft.replace(path)
