"""Makes docs/faults.md of the table of faults: ``python tests/faults/page.py [--check]``.

Of what is expected, not of what was seen: the tests compare that with what happens. ``--check`` changes nothing and
exits with 1 when the page is not what it would be made to.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"

if __name__ == "__main__":  # as a script it has its own folder on the path, not that of the project
    sys.path.insert(0, str(ROOT))

from tests.faults.table import (  # noqa: E402 - after the path is set
    FAULTY_RATES,
    HEALTHY_RATES,
    MAX_TOKENS,
    PROMPT_COUNTED,
    REPORTED,
    RETRIES,
    SECTIONS,
    End,
    Expected,
    Mode,
    Pair,
    Row,
    Section,
    cells,
    cost,
)

INTRODUCTION = """\
# Faults

What becomes of a request when the provider that it goes to fails. Each line is played against the whole core, from the
front end to the books, by a test in `tests/faults`: {count} cells, every fault for a plain and for a streamed request,
with nobody else to turn to and with a healthy provider behind the faulty one. This page is made by
`python tests/faults/page.py` from the table that those tests read.

Nothing here is a truncation that looks like an answer: a stream that is not complete ends with an error event and
without `[DONE]`, and a plain answer is only given whole. Whoever gets an answer, or a part of one, pays for it once, to
the provider that it came from; whoever gets an error pays nothing. In every cell no hold is left open, every permit is
back, there is one receipt and it is for what the account was charged, and the books are clean.

The faulty provider costs {faulty}, the healthy one {healthy}; so the
faulty one is asked first. An answer reports {used}, which is {cheap} msat to the one and {dear} to the other. Where
nobody reports them, {prompt} are counted for the prompt and one for each piece of the completion, and the charge is
estimated. The client allows {limit} tokens, `retries` is {retries}, and a circuit opens at the third failure.

- **Request**: plain or streamed.
- **Else**: who else could answer. Where the same provider is asked again, also what comes of it when the fault has
  passed by then.
- **Client**: the status, and how the answer ends: complete (a stream: with `[DONE]`), an error as the whole answer, or
  a stream that begins and then ends with an error event.
- **Circuit**: the faulty provider's afterwards, and its failures in a row.
- **Billed**: msat.
- **Calls**: how each call of the faulty provider ended, in the words of the receipt.
"""

HEADER = """\
| Fault | Request | Else | Client | Circuit | Billed | Calls |
|---|---|---|---|---|---|---|
"""

Line = tuple[str, ...]


def page() -> str:
    introduction = INTRODUCTION.format(
        count=sum(1 for _ in cells()),
        faulty="{} msat per prompt token and {} per completion token".format(*FAULTY_RATES),
        healthy="{} and {}".format(*HEALTHY_RATES),
        used="{} and {} tokens".format(*REPORTED),
        cheap=cost(FAULTY_RATES, REPORTED),
        dear=cost(HEALTHY_RATES, REPORTED),
        prompt=PROMPT_COUNTED,
        limit=MAX_TOKENS,
        retries=RETRIES,
    )
    return "\n".join((introduction, *map(_section, SECTIONS)))


def _section(section: Section) -> str:
    """Faults that follow each other and come to the same share their lines."""
    lines = []
    for shared, rows in groupby(section.rows, key=_lines):
        fault = _joined([row.what for row in rows])
        for line in shared:
            lines.append(f"| {' | '.join((fault, *line))} |\n")
            fault = ""
    return f"## {section.title}\n\n{HEADER}{''.join(lines)}"


def _joined(faults: list[str]) -> str:
    """Several statuses are one list of them."""
    first, *others = faults
    if first.startswith("status "):
        return ", ".join((first, *(fault.removeprefix("status ") for fault in others)))
    return "; ".join(faults)


def _lines(row: Row) -> tuple[Line, ...]:
    """What comes of a fault; what is the same for both kinds of request, or whoever else is there, is said once."""
    by_mode = {mode.value: _whoever_else(row.expected[mode]) for mode in Mode if mode in row.expected}
    if len(by_mode) == len(Mode) and len(set(by_mode.values())) == 1:
        by_mode = {"either": next(iter(by_mode.values()))}
    return tuple((mode, *line) for mode, lines in by_mode.items() for line in lines)


def _whoever_else(pair: Pair) -> tuple[Line, ...]:
    lines = {others.value: _cells(expected) for others, expected in pair.by_others.items()}
    if len(set(lines.values())) == 1:
        lines = {"anybody or nobody": next(iter(lines.values()))}
    return tuple((others, *line) for others, line in lines.items())


def _cells(expected: Expected) -> Line:
    failures = f"{expected.breaker}, {expected.failures}"
    return _client(expected), failures, _billed(expected), _calls(expected)


def _client(expected: Expected) -> str:
    match expected.end:
        case End.COMPLETE:
            return f"{expected.status}, complete" + (", from the healthy provider" if expected.rescued else "")
        case End.ERROR_EVENT:
            return f"{expected.status}, a beginning, error event `{expected.reason}`"
    if expected.is_passed_on:
        return "the same status, the provider's own error"
    after = "" if expected.retry_after is None else f", `Retry-After: {expected.retry_after}`"
    return f"{expected.status} `{expected.reason}`{after}"


def _billed(expected: Expected) -> str:
    return f"{expected.charged:,}" + (" estimated" if expected.estimated else "")


def _calls(expected: Expected) -> str:
    tries = ["the status" if one.startswith("status ") else one for one in expected.tries]
    return "; ".join(tries)


def main() -> int:
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
