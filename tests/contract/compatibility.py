"""Makes docs/compatibility.md of the table of cases: ``python tests/contract/compatibility.py [--check]``.

``--check`` changes nothing and exits with 1 when the page is not what it would be made to.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"

if __name__ == "__main__":  # as a script it has its own folder on the path, not that of the project
    sys.path.insert(0, str(ROOT))

from tests.contract.cases import CASES, SECTIONS, Case, Verdict  # noqa: E402 - after the path is set

INTRODUCTION = """\
# Compatibility

arbstr keeps what its predecessor had on the wire: routes, headers, bodies, statuses, and the names in the
configuration. Where it does otherwise there is a reason. This page goes through the 117 black-box cases in which the
predecessor's behaviour is written down, and says for each what arbstr does. It is made by
`python tests/contract/compatibility.py` from the table that also names the test of each case, a file and a function
under `tests/contract/core` without their `test_`.

| Verdict | Cases | |
|---|---|---|
| {counts}

A number like Q7 names an entry of the predecessor's list of defects; each is mended. The prices of the cases are sats
per 1,000,000 tokens, which arbstr reads with `rate_unit = "sats_per_1m_tokens"`.

The cases run against any implementation: `ARBSTR_CONTRACT_COMMAND="python -m arbstr serve -c {{config}}"
pytest tests/contract/core`. They start the program, speak HTTP to it, and play its providers.
"""

MEANING = {
    Verdict.SAME: "the same result",
    Verdict.MENDED: "a listed defect of the predecessor, mended",
    Verdict.DECIDED: "no listed defect, but decided otherwise here",
    Verdict.ACCOUNTS: "about a vault in another process; told and tested with accounts in this one",
}


def page() -> str:
    counts = Counter(case.verdict for case in CASES)
    rows = "\n| ".join(f"{verdict} | {counts[verdict]} | {meaning} |" for verdict, meaning in MEANING.items())
    parts = [INTRODUCTION.format(counts=rows)]
    for title, first, last in SECTIONS:
        parts.append(f"## {title}\n\n| | Case | Predecessor | arbstr | Verdict | Test |\n|---|---|---|---|---|---|")
        parts[-1] += "".join(f"\n{_row(case)}" for case in CASES if first <= case.number <= last) + "\n"
    return "\n".join(parts)


def _row(case: Case) -> str:
    cells = (str(case.number), case.what, case.predecessor, case.ours, _verdict(case), _tests(case))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _verdict(case: Case) -> str:
    return " ".join((case.verdict, ", ".join(f"Q{quirk}" for quirk in case.quirks))).strip()


def _tests(case: Case) -> str:
    """Each name once with its file; ``test_`` is left out everywhere, for it is said by the column."""
    if not case.tests:
        return f"none: {case.why_none}"
    return "<br>".join(f"`{one.replace('::test_', '::')}`" for one in case.tests)


def main() -> int:
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
