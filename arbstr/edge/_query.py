"""Query strings: bytes in, checked values out (contract sections 4.8 and 4.9). Pure.

Parameters that nobody reads are ignored; one that is read must not be repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from urllib.parse import parse_qsl

from attrs import frozen

from arbstr.errors import InvalidRequest

MAX_QUERY_BYTES: Final = 8_192
MAX_PARAMETERS: Final = 100

_SECOND_NS: Final = 1_000_000_000
_MAX_NS: Final = 2**63 - 1
"""What the store can hold: times from 1677 to 2262. Others are moved to the nearer end."""
_MAX_NUMBER: Final = 2**32 - 1

RANGES: Final = {"last_1h": 3_600, "last_24h": 86_400, "last_7d": 604_800, "last_30d": 2_592_000}
"""Seconds."""

_timestamp = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,30}))?(?:([+-])(\d\d):(\d\d)|[Zz])", re.ASCII
).fullmatch
_number = re.compile(r"\d{1,10}", re.ASCII).fullmatch
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")


@frozen
class Window:
    """From when to when, inclusive, in nanoseconds since 1970 UTC."""

    since_ns: int
    until_ns: int


class Query:
    """The parameters of one request. Raises InvalidRequest (400) for what is no query string."""

    def __init__(self, raw: bytes, known: Iterable[str]) -> None:
        if len(raw) > MAX_QUERY_BYTES:
            raise _refusal(f"the query string is longer than {MAX_QUERY_BYTES} bytes", None)
        try:
            pairs = parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
            )
        except UnicodeDecodeError:
            raise _refusal("the query string is not percent-encoded UTF-8", None) from None
        except ValueError:
            raise _refusal(f"the query string has more than {MAX_PARAMETERS} parameters", None) from None
        self._values: dict[str, str] = {}
        names = frozenset(known)
        for name, value in pairs:
            if name in names:
                if name in self._values:
                    raise _refusal(f"the parameter {name} is given twice; leave one", name)
                self._values[name] = value

    def text(self, name: str) -> str | None:
        return self._values.get(name)

    def _read(self, name: str, read: Callable[[str], T | None], rule: str) -> T | None:
        """None when it is absent; ``read`` gives None for what it cannot read."""
        value = self._values.get(name)
        if value is None:
            return None
        found = read(value)
        if found is None:
            raise _refusal(f"{name} must be {rule}, not {value[:40]!r}", name)
        return found

    def flag(self, name: str) -> bool | None:
        return self._read(name, {"true": True, "false": False}.get, "true or false")

    def number(self, name: str, default: int) -> int:
        """An integer that fits into 32 bits."""
        found = self._read(name, _number_of, f"an integer from 0 to {_MAX_NUMBER}")
        return default if found is None else found

    def choice(self, name: str, options: tuple[str, ...], default: str, *, any_case: bool = True) -> str:
        """One of ``options``, which are lower case."""
        value = self._values.get(name, default)
        chosen = value.lower() if any_case else value
        if chosen not in options:
            raise _refusal(f"{name} must not be {value[:40]!r}. Valid options: {', '.join(options)}", name)
        return chosen

    def window(self, now_ns: int) -> Window:
        """``since`` and ``until``, else what ``range`` says of the time before now."""
        since_ns = self._read("since", _ns_of, "a time like 2026-01-31T12:00:00Z (RFC 3339)")
        until_ns = self._read("until", _ns_of, "a time like 2026-01-31T12:00:00Z (RFC 3339)")
        if since_ns is None:
            name = self._values.get("range", "last_7d")
            if name not in RANGES:
                message = f"range must not be {name[:40]!r}. Valid options: {', '.join(RANGES)}"
                raise _refusal(message, "range")
            since_ns = now_ns - RANGES[name] * _SECOND_NS
        return Window(since_ns, now_ns if until_ns is None else until_ns)


def _refusal(message: str, param: str | None) -> InvalidRequest:
    return InvalidRequest(f"Invalid request: {message}", reason="invalid_parameter", param=param)


def _number_of(text: str) -> int | None:
    number = int(text) if _number(text) else None
    return number if number is not None and number <= _MAX_NUMBER else None


def _ns_of(text: str) -> int | None:
    """RFC 3339 with an offset; digits beyond nanoseconds are cut off."""
    match = _timestamp(text)
    if match is None:
        return None
    date, time, fraction, sign, hours, minutes = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{time}+00:00")
    except ValueError:  # the 30th of February
        return None
    offset_s = 0
    if sign is not None:
        if int(hours) > 23 or int(minutes) > 59:
            return None
        offset_s = (int(hours) * 3_600 + int(minutes) * 60) * (-1 if sign == "-" else 1)
    seconds = (moment - _EPOCH) // timedelta(seconds=1) - offset_s
    return max(-_MAX_NS, min(seconds * _SECOND_NS + int((fraction or "")[:9].ljust(9, "0")), _MAX_NS))


def time_text(at_ns: int) -> str:
    """RFC 3339 in UTC with the offset ``+00:00`` and as many digits as it takes: none, 3, 6 or 9."""
    seconds, rest = divmod(at_ns, _SECOND_NS)
    whole = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{rest:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{whole}.{digits}+00:00" if digits else f"{whole}+00:00"
