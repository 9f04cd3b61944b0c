"""``arbstr serve``: read the configuration, hand it to the assembly, return its exit code.

The assembly says the warnings, and why it cannot run.
"""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen

from arbstr.config import Config, load, loads, mock_config, read_text, with_listen, with_workers


def run(arguments: Namespace) -> int:
    file = None if arguments.mock else ConfigFile(arguments)
    config = None if file is None else file()
    from arbstr.assembly import serve  # takes a second; a wrong file is reported without it

    with ExitStack() as stack:
        if config is None:
            # Made last: a signal that ends the program before the assembly heeds it leaves no directory behind.
            directory = stack.enter_context(TemporaryDirectory(prefix="arbstr-mock-"))
            config = _overridden(mock_config(Path(directory) / "arbstr-mock.db"), arguments)
        return serve(config, mock=arguments.mock, read=file)


@frozen
class ConfigFile:
    """The file that the command line names, also when the program is told to read it again (``assembly.ConfigSource``).

    Each raises ConfigError.
    """

    arguments: Namespace

    def __call__(self) -> Config:
        return _overridden(load(self.arguments.config, os.environ), self.arguments)

    def text(self) -> str:
        return read_text(self.arguments.config)

    def parse(self, text: str) -> Config:
        return _overridden(loads(text, source=str(self.arguments.config), environ=os.environ), self.arguments)


def _overridden(config: Config, arguments: Namespace) -> Config:
    if arguments.listen is not None:
        config = with_listen(config, arguments.listen, source="--listen")
    return config if arguments.workers is None else with_workers(config, arguments.workers)
