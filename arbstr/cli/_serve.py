"""``arbstr serve``: read the configuration, hand it to the assembly, return its exit code.

The assembly says the warnings, and why it cannot run.
"""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from arbstr.config import Config, load, mock_config, with_listen


def run(arguments: Namespace) -> int:
    read = None if arguments.mock else partial(_read, arguments)
    config = None if read is None else read()
    from arbstr.assembly import serve  # takes a second; a wrong file is reported without it

    with ExitStack() as stack:
        if config is None:
            # Made last: a signal that ends the program before the assembly heeds it leaves no directory behind.
            directory = stack.enter_context(TemporaryDirectory(prefix="arbstr-mock-"))
            config = _listening(mock_config(Path(directory) / "arbstr-mock.db"), arguments)
        return serve(config, mock=arguments.mock, read=read)


def _read(arguments: Namespace) -> Config:
    """Also when the program is told to read it again. Raises ConfigError."""
    return _listening(load(arguments.config, os.environ), arguments)


def _listening(config: Config, arguments: Namespace) -> Config:
    if arguments.listen is None:
        return config
    return with_listen(config, arguments.listen, source="--listen")
