"""The manual of the HTTP interface against the code: every reason, header and path that exists, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

from arbstr.edge import ROUTES
from arbstr.edge._analytics import REQUESTS_PARAMETERS, STATS_PARAMETERS
from arbstr.edge._openapi import document

ROOT = Path(__file__).resolve().parents[2]
MANUAL = (ROOT / "docs" / "api.md").read_text()
VAULT_REASONS = (ROOT / "docs" / "vault.md").read_text().partition("### Reasons")[2].partition("\n## ")[0]
"""Why an account refuses."""
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "arbstr").rglob("*.py")))


def manual_reasons() -> set[str]:
    rows = re.findall(r"^\| (?:\d{3}|4xx) \| [^|]+ \| ([^|]+) \|", MANUAL, re.MULTILINE)
    rows += re.findall(r"^\| \d{3} \| ([^|]+) \|", VAULT_REASONS, re.MULTILINE)
    return {reason for row in rows for reason in re.findall(r"`([a-z_]+)`", row)}


def code_reasons() -> set[str]:
    named = set(re.findall(r'\breason(?:: str)? ?= ?"([a-z_]+)"', SOURCE))
    return named | set(re.findall(r'reason="[a-z_]+" if \w+ else "([a-z_]+)"', SOURCE))


def test_every_reason_of_an_error_is_in_the_manual_and_no_other() -> None:
    # between a provider's actor and a request, or between an account and a payment; no client sees them
    internal = {"breaker_open", "probing", "busy", "payment_moved", "not_expired"}
    ends = {"already_settled", "already_released"}  # put together of two words
    assert (code_reasons() - internal) | ends == manual_reasons()


def test_every_header_of_ours_is_in_the_manual() -> None:
    sent = set(re.findall(r"\bb\"(x-arbstr-[a-z-]+)\"", SOURCE))
    assert sent <= set(re.findall(r"x-arbstr-[a-z-]+", MANUAL))
    assert set(re.findall(r"`(x-arbstr-[a-z-]+)[`:]", MANUAL)) <= sent


def rows_below(heading: str) -> list[list[str]]:
    """The cells of the first table after these words, without its head."""
    table = re.search(r"(?:^\|.*\n)+", MANUAL[MANUAL.index(heading) :], re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:]]


def test_every_route_is_in_the_manual_with_its_method_and_no_other() -> None:
    documented = re.findall(r"^\| `(GET|POST)` \| `([^`]+)`", MANUAL, re.MULTILINE)
    assert documented == [(route.methods[0], route.path) for route in ROUTES]


def test_who_sees_what_is_in_the_manual_as_it_is() -> None:
    roles = ("anonymous", "client", "agent", "admin")
    said = {path: row[1:] for row in rows_below("Who sees what") for path in re.findall(r"`(/[^`]+)`", row[0])}
    for route in ROUTES:
        for role, words in zip(roles, said.get(route.path, ["yes"] * 4), strict=True):
            allowed = route.roles is None or role in route.roles
            assert words.startswith("no,") is not allowed, (route.path, role)
        if route.path in said and route.roles is None:
            assert said[route.path] == ["yes"] * 4


def test_every_parameter_of_a_query_is_in_the_manual_and_no_other() -> None:
    said = {name for row in rows_below("| Parameter | Of |") for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert said == {*STATS_PARAMETERS, *REQUESTS_PARAMETERS}


def test_every_header_of_the_openapi_document_is_in_the_manual() -> None:
    named = set(re.findall(r'"(x-(?:arbstr|ratelimit)-[a-z-]+|retry-after)"', json.dumps(document())))
    assert named <= set(re.findall(r"`([a-z-]+)(?:: [^`]*)?`", MANUAL))
