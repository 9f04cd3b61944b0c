"""The manual of the HTTP interface against the code: every reason, header and path that exists, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANUAL = (ROOT / "docs" / "api.md").read_text()
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "arbstr").rglob("*.py")))


def manual_reasons() -> set[str]:
    rows = re.findall(r"^\| (?:\d{3}|4xx) \| [^|]+ \| ([^|]+) \|", MANUAL, re.MULTILINE)
    return {reason for row in rows for reason in re.findall(r"`([a-z_]+)`", row)}


def code_reasons() -> set[str]:
    named = set(re.findall(r'\breason(?:: str)? ?= ?"([a-z_]+)"', SOURCE))
    return named | set(re.findall(r'reason="[a-z_]+" if \w+ else "([a-z_]+)"', SOURCE))


def test_every_reason_of_an_error_is_in_the_manual_and_no_other() -> None:
    internal = {"breaker_open", "probing", "busy"}  # between a provider's actor and a request; no client sees them
    assert code_reasons() - internal == manual_reasons()


def test_every_header_of_ours_is_in_the_manual() -> None:
    sent = set(re.findall(r"\bb\"(x-arbstr-[a-z-]+)\"", SOURCE))
    assert sent <= set(re.findall(r"x-arbstr-[a-z-]+", MANUAL))
    assert set(re.findall(r"`(x-arbstr-[a-z-]+)[`:]", MANUAL)) <= sent


def test_every_path_is_in_the_manual() -> None:
    routes = set(re.findall(r'^\s+"(/[a-z0-9/]+)": ', (ROOT / "arbstr/edge/_app.py").read_text(), re.MULTILINE))
    routes |= set(re.findall(r'"(/health|/ready)"', SOURCE))
    assert routes == set(re.findall(r"^\| `(?:GET|POST)` \| `([^`]+)`", MANUAL, re.MULTILINE))
