"""The page about compatibility against the black-box cases and their tests."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.contract import vault_cases
from tests.contract.cases import CASES, SECTIONS, Verdict
from tests.contract.compatibility import PAGE, ROOT, page
from tests.contract.vault_cases import WEAKNESSES

CORE = ROOT / "tests" / "contract" / "core"
VAULT = CORE.parent / "vault"


def existing_tests(folder: Path = CORE) -> set[str]:
    """``module::function`` as the cases name them."""
    return {
        f"{path.stem.removeprefix('test_')}::{node.name}"
        for path in folder.glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_case_has_exactly_one_entry_in_order() -> None:
    assert [case.number for case in CASES] == list(range(1, 118))
    assert [number for _, first, last in SECTIONS for number in range(first, last + 1)] == list(range(1, 118))


def test_every_named_test_exists() -> None:
    assert {test for case in CASES for test in case.tests} <= existing_tests()


def test_case_without_a_test_says_why_and_no_other_does() -> None:
    assert [case.number for case in CASES if bool(case.tests) == bool(case.why_none)] == []


def test_every_black_box_test_belongs_to_a_case() -> None:
    assert existing_tests() - {test for case in CASES for test in case.tests} == set()


def test_quirk_is_named_exactly_where_something_was_mended() -> None:
    assert [case.number for case in CASES if case.verdict is Verdict.MENDED and not case.quirks] == []
    assert [case.number for case in CASES if case.verdict in (Verdict.SAME, Verdict.DECIDED) and case.quirks] == []
    assert all(1 <= quirk <= 35 for case in CASES for quirk in case.quirks)


def test_every_case_of_the_vault_has_exactly_one_entry_in_order() -> None:
    assert [case.number for case in vault_cases.CASES] == list(range(1, 91))
    numbers = [number for _, first, last in vault_cases.SECTIONS for number in range(first, last + 1)]
    assert numbers == list(range(1, 91))


def test_every_weakness_of_the_vault_has_an_entry_with_a_test() -> None:
    assert [one.number for one in WEAKNESSES] == list(range(1, 40))
    assert [one.number for one in WEAKNESSES if not one.tests] == []


def test_every_test_that_the_vaults_tables_name_exists_and_no_other_does() -> None:
    named = {test for entry in (*vault_cases.CASES, *WEAKNESSES) for test in entry.tests}
    elsewhere = {test for test in named if "/" in test}
    assert named - elsewhere == existing_tests(VAULT)
    for test in elsewhere:
        path, name = test.split("::")
        assert name in {getattr(node, "name", None) for node in ast.parse((ROOT / path).read_text()).body}, test


def test_case_of_the_vault_without_a_test_says_why_and_weaknesses_are_named_where_something_was_mended() -> None:
    assert [case.number for case in vault_cases.CASES if bool(case.tests) == bool(case.why_none)] == []
    mended = [case.number for case in vault_cases.CASES if case.verdict is Verdict.MENDED]
    assert [case.number for case in vault_cases.CASES if case.quirks] == mended
    assert all(1 <= weak <= 39 for case in vault_cases.CASES for weak in case.quirks)


def test_page_is_what_its_generator_gives() -> None:
    assert PAGE.read_text() == page(), "run: python tests/contract/compatibility.py"


def test_black_box_tests_import_nothing_of_the_program() -> None:
    for path in CORE.parent.rglob("*.py"):
        imported = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
        }
        assert not {name for name in imported if name.split(".")[0] in ("arbstr", "actors")}, path
