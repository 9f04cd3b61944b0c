"""Times as people type and read them. Inside they are integer nanoseconds UTC."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from datetime import datetime

from attrs import frozen

from arbstr.cli._errors import Refused

_S = 1_000_000_000
RANGES = {
    "last_1h": 3_600 * _S,
    "last_24h": 24 * 3_600 * _S,
    "last_7d": 7 * 24 * 3_600 * _S,
    "last_30d": 30 * 24 * 3_600 * _S,
}
DEFAULT_RANGE = "last_7d"

_TIME = re.compile(
    r"""(?P<date> [0-9]{4}-[0-9]{2}-[0-9]{2} )
    ( [Tt\ ] (?P<time> [0-9]{2}:[0-9]{2} (:[0-9]{2} (\.(?P<fraction> [0-9]{1,9}))? )? )
      (?P<zone> [Zz] | [+-][0-9]{2}:[0-9]{2} )? )?""",
    re.VERBOSE,
)


@frozen
class Period:
    """Nanoseconds UTC, both inclusive."""

    since_ns: int
    until_ns: int


def parse_time_ns(text: str) -> int:
    """RFC 3339, exact to the nanosecond; or ``2026-07-31``, with a time or without, in the zone of this machine.

    Raises ValueError naming the text and what to write.
    """
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        clock = (match["time"] or "00:00").partition(".")[0]
        whole = datetime.fromisoformat(f"{match['date']}T{clock}{match['zone'] or ''}".upper())
        seconds = int(whole.timestamp())  # without a zone: local
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f'{text!r} is not a time; write 2026-07-31T12:00:00Z, or in local time 2026-07-31 or "2026-07-31 12:00"'
        ) from None
    return seconds * _S + int((match["fraction"] or "").ljust(9, "0"))


def period_of(arguments: Namespace) -> Period:
    """From ``--since``, or as long before the end as ``--range`` says, to ``--until`` or now. Raises Refused."""
    until_ns = time.time_ns() if arguments.until is None else arguments.until
    if arguments.since is None:
        return Period(until_ns - RANGES[arguments.range or DEFAULT_RANGE], until_ns)
    if arguments.since > until_ns:
        end = "now" if arguments.until is None else "--until"
        raise Refused(f"--since is later than {end}; write the earlier time first")
    return Period(arguments.since, until_ns)


def show_time(at_ns: int) -> str:
    """``2026-07-31 12:00:00`` in the zone of this machine."""
    return datetime.fromtimestamp(at_ns // _S).strftime("%Y-%m-%d %H:%M:%S")
