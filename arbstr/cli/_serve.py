"""``arbstr serve``: read the configuration, hand it to the assembly, return its exit code.

The assembly says the warnings, and why it cannot run.
"""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from arbstr.config import load, mock_config, with_listen


def run(arguments: Namespace) -> int:
    config = None if arguments.mock else load(arguments.config, os.environ)
    from arbstr.assembly import serve  # takes a second; a wrong file is reported without it

    with ExitStack() as stack:
        if config is None:
            # Made last: a signal that ends the program before the assembly heeds it leaves no directory behind.
            directory = stack.enter_context(TemporaryDirectory(prefix="arbstr-mock-"))
            config = mock_config(Path(directory) / "arbstr-mock.db")
        if arguments.listen is not None:
            config = with_listen(config, arguments.listen, source="--listen")
        return serve(config, mock=arguments.mock)
