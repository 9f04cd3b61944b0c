"""JSON objects whose bytes must survive: where each member stands, and how to change one without touching the others.

The standard library's scanner reads keys and values; only the commas and colons between the members of one object are
walked here. So ``1.0``, ``1e400`` and ``12345678901234567890`` keep their text, because they are never written again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from json import JSONDecodeError, JSONDecoder, JSONEncoder
from typing import NamedTuple, NoReturn

_skip_space = re.compile(r"[ \t\n\r]*").match
_plain_key = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*').match  # a key without escapes, up to its value
_separator = re.compile(r"[ \t\n\r]*(,[ \t\n\r]*|\})").match

MAX_MEMBERS = 1_024
"""Bound on the members of an object that is walked here: OpenAI's chat request has about forty."""


class Member(NamedTuple):
    """One member of an object; ``begin`` and ``end`` are the character span of its value."""

    key: str
    value: object
    begin: int
    end: int


class Edit(NamedTuple):
    """Put ``text`` in place of the characters from ``begin`` to ``end``."""

    begin: int
    end: int
    text: str


class ConstantRefused(ValueError):
    """``NaN``, ``Infinity`` or ``-Infinity``: Python's json reads them, RFC 8259 does not know them."""


class TooManyMembers(Exception):
    """An object has more than ``MAX_MEMBERS`` members."""


def refuse_constant(name: str) -> NoReturn:
    """The ``parse_constant`` of a strict decoder."""
    raise ConstantRefused(name)


STRICT = JSONDecoder(parse_constant=refuse_constant)
"""RFC 8259 only. Integers beyond Python's digit limit raise ValueError."""

LENIENT = JSONDecoder(parse_int=float)
"""For finding places in what a provider said: integers are not needed, so none can be too long."""


_encoder = JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def skip_space(text: str, at: int) -> int:
    match = _skip_space(text, at)
    assert match is not None  # the pattern matches the empty string
    return match.end()


def scan_object(
    text: str, at: int, decoder: JSONDecoder = STRICT, special: Mapping[str, JSONDecoder] | None = None
) -> tuple[list[Member], int]:
    """Read the object whose ``{`` is at ``at``; give its members, in order, and the index after its ``}``.

    ``special`` names decoders for the values of some keys. Raises JSONDecodeError, ConstantRefused, ValueError
    (integer too long), TooManyMembers and RecursionError (nested too deeply).
    """
    decoders = special or {}
    found: list[Member] = []
    at = skip_space(text, at + 1)
    if text[at : at + 1] == "}":
        return found, at + 1
    while len(found) < MAX_MEMBERS:
        plain = _plain_key(text, at)
        key, begin = (plain[1], plain.end()) if plain else _scan_key(text, at, decoder)
        value, end = decoders.get(key, decoder).raw_decode(text, begin)
        found.append(Member(key, value, begin, end))
        separator = _separator(text, end)
        if separator is None:
            raise JSONDecodeError("Expecting ',' delimiter", text, skip_space(text, end))
        at = separator.end()
        if separator[1] == "}":
            return found, at
    raise TooManyMembers


def _scan_key(text: str, at: int, decoder: JSONDecoder) -> tuple[str, int]:
    """A key with escapes in it, and the index of its value; or the reason why there is none."""
    if text[at : at + 1] != '"':
        raise JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
    key, at = decoder.raw_decode(text, at)
    at = skip_space(text, at)
    if text[at : at + 1] != ":":
        raise JSONDecodeError("Expecting ':' delimiter", text, at)
    return key, skip_space(text, at + 1)


def set_member(found: list[Member], at: int, key: str, value_json: str) -> list[Edit]:
    """The edits that give the object at ``at``, with the members ``found``, this value for ``key``.

    A member that is there keeps its place (each of them, should it be there twice); a new one comes first.
    """
    edits = [Edit(member.begin, member.end, value_json) for member in found if member.key == key]
    if not edits:
        comma = "," if found else ""
        edits.append(Edit(at + 1, at + 1, f"{dumps_text(key)}:{value_json}{comma}"))
    return edits


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """Apply edits that are in ascending order and do not overlap."""
    pieces: list[str] = []
    at = 0
    for edit in edits:
        pieces += (text[at : edit.begin], edit.text)
        at = edit.end
    pieces.append(text[at:])
    return "".join(pieces)


def dumps_text(value: object) -> str:
    """Compact JSON; non-ASCII characters stay as they are. Raises ValueError for NaN and infinities."""
    return _encoder.encode(value)


def encode(text: str) -> bytes:
    """UTF-8; half a surrogate pair becomes its ``\\udXXX`` escape, which inside a JSON string is the same character."""
    return text.encode("utf-8", "backslashreplace")


def dumps(value: object) -> bytes:
    """Compact JSON as UTF-8. Raises ValueError for NaN and infinities."""
    return encode(dumps_text(value))


def utf8_len(text: str) -> int:
    """Bytes of ``text`` in UTF-8; half a surrogate pair, which a JSON escape can make, counts as three."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def read_object(data: bytes, decoder: JSONDecoder = LENIENT) -> tuple[str, int, list[Member]] | None:
    """Text, index of the ``{`` and members of a body that is one JSON object; None for everything else."""
    try:
        text = data.decode("utf-8")
        at = skip_space(text, 0)
        if text[at : at + 1] != "{":
            return None
        found, end = scan_object(text, at, decoder)
    except (ValueError, TooManyMembers, RecursionError):
        return None
    return (text, at, found) if skip_space(text, end) == len(text) else None


def with_member(body: bytes, key: str, value: str, *, sound: bool = False) -> bytes:
    """The JSON object ``body`` with the top-level string member ``key`` set to ``value``, all other bytes untouched.

    Whatever is not a JSON object is given back as it is. ``sound``: the caller has read it, and it is one that is not
    empty.
    """
    if key.isidentifier() and key.isascii() and key.encode() not in body and b"\\u" not in body:
        if sound:
            return _inserted(body, key, value, b",")
        return _with_new_member(body, key, value)
    read = read_object(body)
    if read is None:
        return body
    text, at, found = read
    return encode(apply_edits(text, set_member(found, at, key, dumps_text(value))))


def _with_new_member(body: bytes, key: str, value: str) -> bytes:
    """The same where ``key`` cannot be there, escaped or not: no need to know where the members stand."""
    try:
        found = LENIENT.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return body
    if not isinstance(found, dict):
        return body
    return _inserted(body, key, value, b"," if found else b"")


def _inserted(body: bytes, key: str, value: str, comma: bytes) -> bytes:
    at = body.find(b"{") + 1
    return b"".join((body[:at], b'"', key.encode(), b'":', dumps(value), comma, body[at:]))
