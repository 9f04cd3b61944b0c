"""``arbstr serve``: read the configuration, hand it to the assembly, return its exit code."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from arbstr.cli._errors import Refused, store_errors
from arbstr.cli._output import note
from arbstr.config import Config, load, mock_config, with_listen


def run(arguments: Namespace) -> int:
    with _config(arguments) as config:
        if arguments.listen is not None:
            config = with_listen(config, arguments.listen, source="--listen")
        for warning in config.warnings:
            note(f"Warning: {warning}")
        return _serve(config, mock=arguments.mock)


@contextmanager
def _config(arguments: Namespace) -> Iterator[Config]:
    """The file's configuration; for ``--mock`` one whose database lives as long as the program."""
    if not arguments.mock:
        yield load(arguments.config, os.environ)
        return
    with TemporaryDirectory(prefix="arbstr-mock-") as directory:
        yield mock_config(Path(directory) / "arbstr-mock.db")


def _serve(config: Config, *, mock: bool) -> int:
    from arbstr.assembly import serve

    try:
        with store_errors(config.database.path):
            code: int = serve(config, mock=mock)
            return code
    except OSError as error:  # the address is taken, or is none of this machine
        raise Refused(f"cannot serve on {config.server.listen}: {error}") from error
