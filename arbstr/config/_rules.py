"""What a value of the configuration may be. Each rule raises ValueError naming the value and the fix, or returns.

The classes of ``_schema`` apply them wherever a value is made; the loader applies the same ones key by key, so that it
can report everything that is wrong with a file at once. Knows nothing of files.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable
from datetime import date, time
from decimal import Decimal
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from attrs import Attribute, frozen

MAX_RATE = 1_000_000_000
"""Sats per unit. A bitcoin for a thousand tokens is a slip of the pen, and what is absurd is not bought (M9)."""
MAX_DECIMALS = 18
"""Bound on the digits after the point, so that an exponent in a file cannot fill the memory."""
MAX_DURATION_S = 86_400.0
MAX_NAME_LENGTH = 128

MOCK_PARAMETERS: dict[str, tuple[type, float, float]] = {
    "ttft_ms": (float, 0, 600_000),
    "tokens_per_s": (float, 0, 1_000_000),
    "fail": (float, 0, 1),
    "cut": (float, 0, 1),
    "hang": (float, 0, 1),
    "status": (int, 400, 599),
    "seed": (int, 0, 2**63 - 1),
}
"""Query parameters of a ``mock:`` URL: type, lowest and highest value."""


@frozen
class Rule:
    """A check of one value, usable as an attrs validator (which adds the field's name to the message)."""

    check: Callable[[Any], None]

    def __call__(self, instance: object, attribute: Attribute[Any], value: object) -> None:
        try:
            self.check(value)
        except ValueError as error:
            raise ValueError(f"{attribute.name}: {error}") from None


def shown(value: object) -> str:
    """A value as TOML would write it, at most 80 characters of it."""
    match value:
        case bool():
            text = str(value).lower()
        case str():
            text = json.dumps(value, ensure_ascii=False)
        case list() | tuple():
            text = f"[{', '.join(map(shown, value))}]"
        case dict():
            text = "{…}" if value else "{}"
        case date() | time():
            text = value.isoformat()
        case int() if value.bit_length() > 512:  # str() of a huge integer is refused by Python itself
            text = "a very large integer"
        case _:
            text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def one_of(words: Iterable[str]) -> Callable[[str], None]:
    """One of these words; the message lists them and names the closest."""
    valid = tuple(words)

    def check(value: str) -> None:
        if value not in valid:
            near = suggestion(value, valid)
            hint = f'; did you mean "{near}"?' if near else ""
            raise ValueError(f"{shown(value)} is not one of {', '.join(valid)}{hint}")

    return check


def whole(low: int, high: int) -> Callable[[int], None]:
    """An integer within bounds, both included."""

    def check(value: int) -> None:
        if not low <= value <= high:
            raise ValueError(f"{shown(value)} is out of range; write an integer from {low} to {high}")

    return check


def seconds(low: float = 0.001, high: float = MAX_DURATION_S) -> Callable[[float], None]:
    """A finite duration within bounds, both included."""

    def check(value: float) -> None:
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"{value:g} is out of range; write seconds from {low:g} to {high:g}")

    return check


def number(low: float, high: float) -> Callable[[float], None]:
    """A finite number within bounds, both included."""

    def check(value: float) -> None:
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"{value:g} is out of range; write a number from {low:g} to {high:g}")

    return check


def optional(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """None, or what the check allows."""

    def check_unless_none(value: object) -> None:
        if value is not None:
            check(value)

    return check_unless_none


def rate(value: int | Decimal) -> None:
    """A price: finite, not negative, not absurd."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"{value} is not a finite number; write an amount of sats")
        exponent = value.as_tuple().exponent
        assert isinstance(exponent, int)
        if not -MAX_DECIMALS <= exponent <= 9:
            raise ValueError(f"{value} is out of range; write at most {MAX_DECIMALS} decimals, at most {MAX_RATE} sats")
    if value < 0:
        raise ValueError(f"{shown(value)} is negative; write 0 or more sats")
    if value > MAX_RATE:
        raise ValueError(f"{shown(value)} is out of range; write at most {MAX_RATE} sats")


def name(value: str) -> None:
    """Visible text of a bounded length, without white space at its ends."""
    if not value or not value.isprintable() or value != value.strip() or len(value) > MAX_NAME_LENGTH:
        raise ValueError(f"{shown(value)} is not a name; write 1 to {MAX_NAME_LENGTH} visible characters")


def name_or_empty(value: str) -> None:
    if value:
        name(value)


def provider_name(value: str) -> None:
    """A name that also fits into an HTTP header."""
    name(value)
    if not value.isascii():
        raise ValueError(f"{shown(value)} goes into HTTP headers; write it with ASCII characters only")


def names(values: Iterable[str]) -> None:
    for value in values:
        name(value)


def unique(values: Iterable[str]) -> None:
    """No name twice."""
    for _later, _first, value in repeated(values):
        raise ValueError(f"{shown(value)} is there twice; names must differ")


def repeated(values: Iterable[str]) -> list[tuple[int, int, str]]:
    """(position, position of the first, value) of each value that was there before."""
    first: dict[str, int] = {}
    return [(n, first[value], value) for n, value in enumerate(values) if first.setdefault(value, n) != n]


def keywords(values: Iterable[str]) -> None:
    for value in values:
        if not value.strip():
            raise ValueError(f"{shown(value)} would match every message; write a word or remove it")


def listen_address(value: str) -> None:
    """``host:port``; port 0 lets the system choose, an IPv6 address stands in brackets."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9._-]+):([0-9]{1,5})", value)
    if match is None or int(match[2]) > 65_535:
        raise ValueError(f'{shown(value)} is not host:port; write for example "127.0.0.1:8080"')


def header_text(value: str) -> None:
    """A secret that can travel in an HTTP header. The value is not part of the message."""
    if not (value.isascii() and (value.isprintable() or not value)) or value != value.strip():
        raise ValueError(
            "holds white space at an end, a line break or a character outside ASCII (value not shown); "
            "write the key alone on one line"
        )


def provider_url(value: str) -> None:
    """``http:`` and ``https:`` for real providers, ``mock:`` for pretended ones."""
    if not value:  # in the words that operators of the predecessor look for
        raise ValueError(f"Configuration validation error: empty URL; write for example {_EXAMPLE_URL}")
    try:
        url = urlsplit(value)
        _ = url.port  # raises for a port that is none
    except ValueError as error:
        raise ValueError(f"{_shown_url(value)} is not a URL ({error}); write for example {_EXAMPLE_URL}") from None
    if url.scheme == "mock":
        _mock_url(value, url)
        return
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{_shown_url(value)} must start with http://, https:// or mock://, like {_EXAMPLE_URL}")
    if not url.hostname or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"{_shown_url(value)} is not a URL; write for example {_EXAMPLE_URL}")
    if url.username is not None or url.password is not None:
        raise ValueError(f"{_shown_url(value)} holds a user or password; write the key into api_key")
    if url.query or url.fragment or value.endswith(("?", "#")):
        raise ValueError(f"{_shown_url(value)} has a query or fragment; write the base URL, like {_EXAMPLE_URL}")


def vault_url(value: str) -> None:
    """``http:`` or ``https:``, where a vault listens."""
    provider_url(value)
    if value.startswith("mock:"):
        raise ValueError(f'{_shown_url(value)} is no vault; write for example "http://127.0.0.1:8090"')


def webhook_url(value: str) -> None:
    """``http:`` or ``https:``, with a query if need be. It may hold a key, so no message shows it."""
    try:
        url = urlsplit(value)
        _ = url.port  # raises for a port that is none
    except ValueError:
        url = None
    plain = value.isascii() and value.isprintable() and " " not in value
    if url is None or url.scheme not in ("http", "https") or not url.hostname or not plain or url.fragment:
        raise ValueError('is not a URL (value not shown); write for example "https://ops.example.com/arbstr"')


def proxy_url(value: str) -> None:
    """Of an HTTP proxy. It may hold a password, so the value is not part of the message."""
    try:
        url = urlsplit(value)
        _ = url.port  # raises for a port that is none
    except ValueError:
        url = urlsplit("")
    if (
        url.scheme not in ("http", "https")
        or not url.hostname
        or not (value.isascii() and value.isprintable() and " " not in value)
        or url.path not in ("", "/")
        or url.query
        or url.fragment
    ):
        raise ValueError('is not the URL of an HTTP proxy (value not shown); write it like "http://proxy.example:3128"')


_EXAMPLE_URL = '"https://api.example.com/v1"'


def _shown_url(value: str) -> str:
    """The URL without the parts in which people put keys."""
    text = re.sub(r"//[^/?#]*@", "//…@", value)
    return shown(text if text.startswith("mock:") else re.sub(r"[?#].+", "?…", text, flags=re.DOTALL))


def _mock_url(value: str, url: SplitResult) -> None:
    if not url.netloc or url.path not in ("", "/") or url.fragment or not value.isprintable():
        raise ValueError(f'{_shown_url(value)} is not a mock URL; write for example "mock://slow?ttft_ms=500"')
    try:
        parameters = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query), max_num_fields=32)
    except ValueError:
        raise ValueError(f'{_shown_url(value)} has a bad query; write it like "?ttft_ms=500&fail=0.1"') from None
    for _later, _first, key in repeated(key for key, _ in parameters):
        raise ValueError(f"{_shown_url(value)} has the mock parameter {key} twice; write it once")
    for key, text in parameters:
        _mock_parameter(key, text)


def _mock_parameter(key: str, text: str) -> None:
    if key not in MOCK_PARAMETERS:
        near = suggestion(key, MOCK_PARAMETERS)
        hint = f"; did you mean {near}?" if near else f"; known are {', '.join(MOCK_PARAMETERS)}"
        raise ValueError(f"{shown(key)} is no mock parameter{hint}")
    kind, low, high = MOCK_PARAMETERS[key]
    pattern = r"[0-9]{1,19}" if kind is int else r"[0-9]{1,9}(\.[0-9]{1,9})?"
    if not re.fullmatch(pattern, text) or not low <= kind(text) <= high:
        word = "an integer" if kind is int else "a number"
        raise ValueError(f"mock parameter {key} = {shown(text)} is out of range; write {word} from {low:g} to {high:g}")
