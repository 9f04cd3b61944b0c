"""Makes docs/compatibility.md of the tables of cases: ``python tests/contract/compatibility.py [--check]``.

``--check`` changes nothing and exits with 1 when the page is not what it would be made to.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"

if __name__ == "__main__":  # as a script it has its own folder on the path, not that of the project
    sys.path.insert(0, str(ROOT))

from tests.contract import vault_cases  # noqa: E402 - after the path is set
from tests.contract.cases import CASES, SECTIONS, Case, Verdict  # noqa: E402
from tests.contract.vault_cases import WEAKNESSES, Weakness  # noqa: E402

INTRODUCTION = """\
# Compatibility

arbstr keeps what its predecessor had on the wire: routes, headers, bodies, statuses, and the names in the
configuration. Where it does otherwise there is a reason. This page goes through the 117 black-box cases in which the
predecessor's behaviour is written down, and says for each what arbstr does. It is made by
`python tests/contract/compatibility.py` from the table that also names the test of each case, a file and a function
under `tests/contract/core` without their `test_`. [The vault](#the-vault) follows.

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
    Verdict.ACCOUNTS: "about a vault in another process; told of accounts in this one, and tested with both",
}


VAULT = """\
# The vault

The same for the 90 black-box cases of the predecessor's vault; their tests are under `tests/contract/vault`. A number
like W7 names an entry of the list of weaknesses that ends this page.

| Verdict | Cases | |
|---|---|---|
| {counts}
"""

WEAKNESSES_TITLE = """\
## Weaknesses of the predecessor's vault

Each with the test that shows it gone. Where it cannot occur yet, the reason stands beside the test that shows why.

| | Weakness | Here | Test |
|---|---|---|---|"""

VAULT_MEANING = {
    Verdict.SAME: MEANING[Verdict.SAME],
    Verdict.MENDED: "a listed weakness of the predecessor, mended",
    Verdict.DECIDED: "no listed weakness, but decided otherwise here",
    Verdict.LATER: "about wallets that cannot be configured yet",
}


def page() -> str:
    core = _part(INTRODUCTION, CASES, SECTIONS, MEANING, "Q")
    vault = _part(VAULT, vault_cases.CASES, vault_cases.SECTIONS, VAULT_MEANING, "W")
    weaknesses = "\n".join((WEAKNESSES_TITLE, *map(_weakness, WEAKNESSES))) + "\n"
    return "\n".join((*core, *vault, weaknesses))


def _part(
    introduction: str,
    cases: Sequence[Case],
    sections: Sequence[tuple[str, int, int]],
    meaning: Mapping[Verdict, str],
    letter: str,
) -> list[str]:
    counts = Counter(case.verdict for case in cases)
    rows = "\n| ".join(f"{verdict} | {counts[verdict]} | {words} |" for verdict, words in meaning.items())
    parts = [introduction.format(counts=rows)]
    for title, first, last in sections:
        parts.append(f"## {title}\n\n| | Case | Predecessor | arbstr | Verdict | Test |\n|---|---|---|---|---|---|")
        parts[-1] += "".join(f"\n{_row(case, letter)}" for case in cases if first <= case.number <= last) + "\n"
    return parts


def _row(case: Case, letter: str) -> str:
    tests = _tests(case.tests) or f"none: {case.why_none}"
    return _line(str(case.number), case.what, case.predecessor, case.ours, _verdict(case, letter), tests)


def _weakness(one: Weakness) -> str:
    return _line(f"W{one.number}", one.words, one.reason or "gone", _tests(one.tests))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _verdict(case: Case, letter: str) -> str:
    return " ".join((case.verdict, ", ".join(f"{letter}{quirk}" for quirk in case.quirks))).strip()


def _tests(names: Sequence[str]) -> str:
    """Each name once with its file; ``test_`` is left out everywhere, for it is said by the column."""
    return "<br>".join(f"`{one.replace('::test_', '::')}`" for one in names)


def main() -> int:
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
