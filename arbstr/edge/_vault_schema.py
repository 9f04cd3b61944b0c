"""What the vault's callers may send, as data: shapes that read values and say what is wrong in the contract's words.

Contract: vault, section 3.3. Every issue of one part (params, body or query string) is found and they are reported
together. Fields that no shape knows are dropped. Lengths of texts are in UTF-16 units, as the predecessor counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from attrs import field, frozen

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that all who read JSON agree on."""
MAX_ISSUES: Final = 20
"""Of one part that are told; a map of a thousand wrong values has a thousand."""


@frozen
class Missing:
    """What is not there; ``null`` is something else."""


MISSING: Final = Missing()


class Invalid(Exception):
    """A part does not have its shape; ``message`` lists the issues."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@frozen
class Issues:
    """Collects what is wrong with one part (``body``, ``params``, ``querystring``, ``headers``)."""

    part: str
    found: list[str] = field(factory=list)

    def add(self, path: Sequence[str], text: str) -> None:
        self.found.append(f"{self.part}/{'/'.join(path)} {text}")

    def wrong_type(self, path: Sequence[str], expected: str, value: object) -> None:
        self.add(path, f"Invalid input: expected {expected}, received {type_name(value)}")


class Shape(Protocol):
    """Reads one value. What it gives back for a value with issues means nothing."""

    def read(self, value: object, path: tuple[str, ...], issues: Issues) -> object: ...


def type_name(value: object) -> str:
    """The type of a JSON value, as JavaScript has it."""
    if value is MISSING:
        return "undefined"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "NaN" if value != value else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def length_of(text: str) -> int:
    """UTF-16 units."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


@frozen
class Integer:
    """An int; ``1.0`` is 1. ``positive`` and ``minimum`` say the same of 1 and 0 in different words.

    ``from_text``: of a query string, where a number is what JavaScript makes of the text.
    """

    minimum: int | None = None
    maximum: int | None = None
    positive: bool = False
    from_text: bool = False

    def read(self, value: object, path: tuple[str, ...], issues: Issues) -> object:
        if self.from_text:
            value = number_of(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            issues.wrong_type(path, "number", value)
            return None
        if isinstance(value, float):
            if not math.isfinite(value):
                issues.wrong_type(path, "number", value)
                return None
            if not value.is_integer():
                issues.add(path, "Invalid input: expected int, received number")
                return None
            value = int(value)
        self._check_range(value, path, issues)
        return value

    def _check_range(self, value: int, path: tuple[str, ...], issues: Issues) -> None:
        if value > MAX_SAFE_INTEGER:
            issues.add(path, f"Too big: expected int to be <={MAX_SAFE_INTEGER}")
        elif value < -MAX_SAFE_INTEGER:
            issues.add(path, f"Too small: expected int to be >=-{MAX_SAFE_INTEGER}")
        if self.positive and value <= 0:
            issues.add(path, "Too small: expected number to be >0")
        if self.minimum is not None and value < self.minimum:
            issues.add(path, f"Too small: expected number to be >={self.minimum}")
        if self.maximum is not None and value > self.maximum:
            issues.add(path, f"Too big: expected number to be <={self.maximum}")


@frozen
class Text:
    """A text of so many UTF-16 units that begins with ``prefix``."""

    minimum: int = 0
    maximum: int | None = None
    prefix: str = ""

    def read(self, value: object, path: tuple[str, ...], issues: Issues) -> object:
        if not isinstance(value, str):
            issues.wrong_type(path, "string", value)
            return None
        length = length_of(value)
        if length < self.minimum:
            issues.add(path, f"Too small: expected string to have >={self.minimum} characters")
        if self.maximum is not None and length > self.maximum:
            issues.add(path, f"Too big: expected string to have <={self.maximum} characters")
        if not value.startswith(self.prefix):
            issues.add(path, f'Invalid string: must start with "{self.prefix}"')
        return value


@frozen
class Choice:
    options: tuple[str, ...]

    def read(self, value: object, path: tuple[str, ...], issues: Issues) -> object:
        if not isinstance(value, str) or value not in self.options:
            issues.add(path, "Invalid option: expected one of " + "|".join(f'"{option}"' for option in self.options))
        return value


@frozen
class Flag:
    def read(self, value: object, path: tuple[str, ...], issues: Issues) -> object:
        if not isinstance(value, bool):
            issues.wrong_type(path, "boolean", value)
        return value


@frozen
class TextList:
    """Texts without repetitions, as a tuple in order."""

    each: Text
    maximum: int

    def read(self, value: object, path: tuple[str, ...], issues: Issues) -> object:
        if not isinstance(value, list):
            issues.wrong_type(path, "array", value)
            return ()
        if len(value) > self.maximum:
            issues.add(path, f"Too big: expected array to have <={self.maximum} items")
            return ()
        read = [self.each.read(item, (*path, str(position)), issues) for position, item in enumerate(value)]
        return tuple(dict.fromkeys(read))


@frozen
class TextMap:
    """An object of texts by texts."""

    key: Text
    value: Text
    maximum: int

    def read(self, value: object, path: tuple[str, ...], issues: Issues) -> object:
        if not isinstance(value, dict):
            issues.wrong_type(path, "record", value)
            return {}
        if len(value) > self.maximum:
            issues.add(path, f"Too big: expected record to have <={self.maximum} entries")
            return {}
        for name, text in value.items():
            if length_of(name) > (self.key.maximum or 0):
                issues.add(path, f"Too big: expected keys to have <={self.key.maximum} characters")
            self.value.read(text, (*path, name[:100]), issues)
        return value


@frozen
class Maybe:
    """What may be left out; ``null`` is not that, unless ``nullable`` says so."""

    shape: Shape
    default: object = None
    nullable: bool = False

    def read(self, value: object, path: tuple[str, ...], issues: Issues) -> object:
        if value is MISSING or (self.nullable and value is None):
            return self.default
        return self.shape.read(value, path, issues)


@frozen
class Nullable:
    """What must be there, and may be ``null``."""

    shape: Shape

    def read(self, value: object, path: tuple[str, ...], issues: Issues) -> object:
        return None if value is None else self.shape.read(value, path, issues)


@frozen
class Object:
    """An object with these fields, in whose order issues are told; others are dropped."""

    fields: Mapping[str, Shape] = field(factory=dict)

    def read(self, value: object, path: tuple[str, ...], issues: Issues) -> dict[str, object]:
        if not isinstance(value, dict):
            issues.wrong_type(path, "object", value)
            return {}
        return {
            name: shape.read(value.get(name, MISSING), (*path, name), issues) for name, shape in self.fields.items()
        }


def read_part(part: str, shape: Object, value: object) -> dict[str, object]:
    """The checked fields. Raises Invalid."""
    issues = Issues(part)
    read = shape.read(value, (), issues)
    if issues.found:
        raise Invalid(", ".join(issues.found[:MAX_ISSUES]))
    return read


_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BASES = ((re.compile(r"0[xX][0-9a-fA-F]+"), 16), (re.compile(r"0[oO][0-7]+"), 8), (re.compile(r"0[bB][01]+"), 2))
_MAX_DIGITS = 400
"""Longer texts are no number: a double has no more."""


def number_of(value: object) -> object:
    """What JavaScript's ``Number()`` makes of a text: nothing is 0, what is no number is NaN."""
    if value is MISSING or not isinstance(value, str):
        return math.nan
    text = value.strip()
    if not text:
        return 0
    if len(text) > _MAX_DIGITS:
        return math.nan
    for pattern, base in _BASES:
        if pattern.fullmatch(text):
            return int(text, base)
    if not _DECIMAL.fullmatch(text):
        return math.nan
    return int(text) if text.lstrip("+-").isdigit() else float(text)
