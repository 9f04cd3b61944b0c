"""Line numbers for keys of a TOML text, which ``tomllib`` does not give.

This is no parser: it walks over text that ``tomllib`` has accepted, notes where headers, keys and array elements
start, and knows just enough of strings and brackets not to be fooled by them. Where it loses its way it stops, and
what it has not seen is answered with the line of the nearest table or key around it.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from contextlib import suppress

from arbstr.config._problems import KeyPath

_BLANK = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_BASIC_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL_STRING = re.compile(r"'[^'\n]*'")
_LONG_BASIC_STRING = re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}', re.DOTALL)
_LONG_LITERAL_STRING = re.compile(r"'''(?:[^']|'(?!''))*'{3,5}")
_STRINGS = (_LONG_BASIC_STRING, _LONG_LITERAL_STRING, _BASIC_STRING, _LITERAL_STRING)
_SCALAR = re.compile(r"[^,\]}#\n]+")
_KEY = re.compile(r"""(?:[^"'=\]\n]|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')+""")


class Locator:
    """Answers on which line a key stands. ``text`` must be valid TOML; otherwise answers are missing, not wrong."""

    def __init__(self, text: str) -> None:
        scan = _Scan(text.replace("\r\n", "\n"))
        with suppress(_Lost, RecursionError):  # what was seen so far stays right; the rest falls back
            scan.document()
        self._lines = scan.lines

    def line_of(self, path: KeyPath) -> int | None:
        """Line (from 1) of the key, else of the closest table or key around it, else None."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None


class _Lost(Exception):
    """The text is not what was expected here."""


class _Scan:
    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._elements: dict[KeyPath, int] = {}
        """How many ``[[headers]]`` each array of tables has had."""

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip_blank() < len(self._text):
            table = self._header() if self._next("[") else self._pair(table)

    def _header(self) -> KeyPath:
        """Walk over ``[a.b]`` or ``[[a.b]]``; return the path of the table it opens."""
        line, brackets = self._line(), 2 if self._next("[[") else 1
        self._at += brackets
        *parents, name = self._key()
        self._expect("]" * brackets)
        path: KeyPath = ()
        for part in parents:
            path += (part,)
            self.lines.setdefault(path, line)
            if path in self._elements:
                path += (self._elements[path] - 1,)
        path += (name,)
        if brackets == 2:
            self.lines.setdefault(path, line)
            self._elements[path] = self._elements.get(path, 0) + 1
            path += (self._elements[path] - 1,)
        self.lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> KeyPath:
        """Walk over ``key = value`` in this table; return the table."""
        line, path = self._line(), table
        for part in self._key():
            path += (part,)
            self.lines.setdefault(path, line)
        self._expect("=")
        self._value(path)
        return table

    def _value(self, path: KeyPath) -> None:
        self._skip_blank()
        if self._next("["):
            self._group(path, "]")
        elif self._next("{"):
            self._group(path, "}")
        else:
            patterns = _STRINGS if self._next('"') or self._next("'") else (_SCALAR,)
            self._skip(*patterns)

    def _group(self, path: KeyPath, close: str) -> None:
        """Walk over an array or an inline table."""
        self._at += 1
        element = 0
        while True:
            self._skip_blank()
            if self._next(close):
                self._at += 1
                return
            if self._next(","):
                self._at += 1
            elif close == "}":
                self._pair(path)
            else:
                self.lines[(*path, element)] = self._line()
                self._value((*path, element))
                element += 1

    def _key(self) -> list[str]:
        """Walk over a bare, quoted or dotted key; return its parts, read by ``tomllib`` itself."""
        start = self._at
        self._skip(_KEY)
        try:
            table: object = tomllib.loads(f"{self._text[start : self._at]} = 0")
        except tomllib.TOMLDecodeError as error:
            raise _Lost from error
        parts = []
        while isinstance(table, dict):
            ((part, table),) = table.items()
            parts.append(part)
        return parts

    def _skip(self, *patterns: re.Pattern[str]) -> None:
        for pattern in patterns:
            if match := pattern.match(self._text, self._at):
                self._at = match.end()
                return
        raise _Lost

    def _skip_blank(self) -> int:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._at

    def _next(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _expect(self, text: str) -> None:
        if not self._next(text):
            raise _Lost
        self._at += len(text)

    def _line(self) -> int:
        return bisect_right(self._line_starts, self._at)
