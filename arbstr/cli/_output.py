"""Tables: rich on a terminal, plain aligned text in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def on_terminal() -> bool:
    """Whether a person reads the output."""
    return sys.stdout.isatty()


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: frozenset[str] = frozenset()
) -> None:
    """Print rows under headers; columns named in ``numbers`` are set to the right. Cells are plain text."""
    if on_terminal():
        _print_rich(headers, rows, numbers)
    else:
        _print_plain(headers, list(rows), numbers)


def _print_rich(headers: Sequence[str], rows: Iterable[Sequence[str]], numbers: frozenset[str]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # narrow, so that ids are not folded in 80 columns
    for header in headers:
        table.add_column(header, justify="right" if header in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a name with brackets in it is no markup
    Console().print(table)


def _print_plain(headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: frozenset[str]) -> None:
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        cells = [
            cell.rjust(width) if header in numbers else cell.ljust(width)
            for cell, width, header in zip(line, widths, headers, strict=True)
        ]
        print("  ".join(cells).rstrip())


def printable(text: str, *, limit: int = 60) -> str:
    """Text that others chose, as it can be shown: on one line, without control characters, and cut."""
    shown = text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:limit])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def print_json(value: object) -> None:
    """One document, for programs; amounts are integers of msat."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: object) -> None:
    """One document on one line, written at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def note(text: str) -> None:
    """Something to know, beside the output."""
    print(text, file=sys.stderr)
