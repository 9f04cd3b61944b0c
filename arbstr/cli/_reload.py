"""``arbstr reload``: have the arbstr that runs read its configuration again, and say what came of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from arbstr.cli._errors import Refused
from arbstr.cli._output import note
from arbstr.config import load_database

if TYPE_CHECKING:
    from arbstr.assembly import Outcome

WAIT_S = 120.0
"""For the word of the program: providers that are new may take a while to list their models."""
POLL_S = 0.05


def run(arguments: Namespace) -> int:
    """The file names the database, the database's lock names the process, and that one reads its own file again."""
    from arbstr.assembly import read_outcome
    from arbstr.store import holder_of

    database, _ = load_database(arguments.config)
    pid = holder_of(database.path)
    if pid is None:
        raise Refused(f"no arbstr runs on {database.path}; start one with: arbstr serve")
    before = read_outcome(database.path)
    if before is None or before.pid != pid:
        raise Refused(f"the arbstr that runs on {database.path} is still starting; try again")
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise Refused(f"the arbstr that runs, process {pid}, cannot be told: {error.strerror}") from error
    return _report(_await_word(database.path, before))


def _await_word(database: Path, before: Outcome) -> Outcome:
    from arbstr.assembly import read_outcome
    from arbstr.store import holder_of

    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        outcome = read_outcome(database)
        if outcome is not None and outcome.pid == before.pid and outcome.generation > before.generation:
            return outcome
        if holder_of(database) != before.pid:
            raise Refused("arbstr has ended meanwhile; its log says why")
        time.sleep(POLL_S)
    raise Refused(f"arbstr has not said what came of it within {WAIT_S:g} s; its log may")


def _report(outcome: Outcome) -> int:
    if outcome.problems:
        for problem in outcome.problems:
            print(f"Configuration error: {problem}", file=sys.stderr)
        print("Error: the configuration stays as it was", file=sys.stderr)
        return 1
    print(f"Configuration read again. Changed: {', '.join(outcome.changed) or 'nothing'}")
    if outcome.needs_restart:
        note(f"Without effect until arbstr starts again: {', '.join(outcome.needs_restart)}")
    return 0
