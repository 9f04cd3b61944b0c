"""Reading the configuration again while the program runs: all of it or nothing, and word of what came of it.

Whoever asks (a signal has no answer) finds the outcome in a small file beside the database.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable

import attrs
import trio
from attrs import define

from actors import ActorDeadError, AskTimeout, InboxFull
from arbstr.config import Config, ConfigError, ReloadOutcome, reloaded, write_outcome

logger = logging.getLogger("arbstr")


@define(eq=False)
class Reloader:
    """``read`` gives the configuration anew, or raises ConfigError; None when there is no file to read. ``apply`` has
    every part use it. ``config`` is what is in use."""

    config: Config
    read: Callable[[], Config] | None
    apply: Callable[[Config], Awaitable[None]]
    addresses: tuple[str, ...] = ()
    generation: int = 1

    async def announce(self) -> None:
        """Leave word of the start."""
        await self._leave_word(ReloadOutcome(self.generation, os.getpid(), time.time_ns()))

    async def reload(self) -> ReloadOutcome:
        """Read, check, apply. A file with a problem changes nothing. Requests under way end as they began."""
        self.generation += 1
        try:
            outcome = await self._reload()
        except ConfigError as error:
            outcome = self._refused(tuple(map(str, error.problems)))
        await self._leave_word(outcome)
        return outcome

    async def _reload(self) -> ReloadOutcome:
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
        return ReloadOutcome(
            self.generation, os.getpid(), time.time_ns(), changed=result.changed, needs_restart=result.needs_restart
        )

    async def _go_back(self) -> None:
        """Some parts may have taken what others refused."""
        try:
            await self.apply(self.config)
        except (ActorDeadError, AskTimeout, InboxFull, ValueError) as error:
            logger.error("nor could the former configuration be applied again: %s", error)

    def _refused(self, problems: tuple[str, ...]) -> ReloadOutcome:
        for problem in problems:
            logger.error("the configuration stays as it is: %s", problem)
        return ReloadOutcome(self.generation, os.getpid(), time.time_ns(), problems=problems)

    async def _leave_word(self, outcome: ReloadOutcome) -> None:
        outcome = attrs.evolve(outcome, addresses=self.addresses)
        try:
            await trio.to_thread.run_sync(write_outcome, self.config.database.path, outcome)
        except OSError as error:
            logger.warning("the outcome of reading the configuration cannot be written: %s", error)
