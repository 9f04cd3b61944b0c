"""How is an arbstr set up for a measurement? Its configuration, one funded agent, start and stop."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import trio
from attrs import define, field

from bench.market import MODEL, ProviderEntry, config_text
from bench.process import Child, ChildFailed, arbstr_command

AGENT = "bench"
COMMAND_S = 60.0


@define
class Arbstr:
    """One database and its configuration in a directory of its own; start it as often as needed."""

    directory: Path
    providers: Sequence[ProviderEntry]
    durability: str = "full"
    model: str = MODEL
    max_requests: int = 1_000
    admin_token: str = field(factory=partial(secrets.token_hex, 16))
    """Bearer that may see everything, ``GET /metrics`` too."""
    token: str = field(default="", init=False)
    _starts: int = field(default=0, init=False)

    @property
    def config(self) -> Path:
        return self.directory / "config.toml"

    @property
    def database(self) -> Path:
        return self.directory / "arbstr.db"

    async def create(self, budget_sats: int, *, vault: Mapping[str, object] | None = None) -> None:
        """Write the configuration and make the one agent with that deposit. Raises ChildFailed."""
        self.write(vault=vault)
        output = await self._command("agents", "add", AGENT, "--deposit", str(budget_sats))
        fields = output.strip().splitlines()[-1].split("\t") if output.strip() else []
        if len(fields) != 3:
            raise ChildFailed(f"`arbstr agents add` printed {output!r}, expected agent_id, name and token")
        self.token = fields[2]

    def write(self, *, vault: Mapping[str, object] | None = None) -> None:
        """Write the configuration alone."""
        text = config_text(
            self.providers,
            database=self.database,
            durability=self.durability,
            model=self.model,
            max_requests=self.max_requests,
            admin_token=self.admin_token,
            vault=vault,
        )
        self.directory.mkdir(exist_ok=True)
        self.config.touch(mode=0o600)
        self.config.write_text(text)

    async def _command(self, *words: str) -> str:
        command = [*arbstr_command(), *words, "-c", str(self.config)]
        with trio.move_on_after(COMMAND_S):
            done = await trio.run_process(
                command, stdin=subprocess.DEVNULL, capture_stdout=True, capture_stderr=True, check=False
            )
            if done.returncode != 0:
                raise ChildFailed(
                    f"`{' '.join(words)}` ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}"
                )
            return done.stdout.decode()
        raise ChildFailed(f"`arbstr {' '.join(words)}` did not end within {COMMAND_S:g} s")

    def server(self, verb: str = "serve", listen: str = "127.0.0.1:0") -> Child:
        """The server process, not yet started; its output goes to a file of its own."""
        self._starts += 1
        log = self.directory / f"{verb}-{self._starts:03d}.log"
        command = [*arbstr_command(), verb, "-c", str(self.config), "-l", listen]
        return Child(command, log, ends_with=frozenset((0,)))
