"""The page about faults against the table that the tests of faults play."""

from __future__ import annotations

from tests.faults.page import PAGE, page
from tests.faults.table import ROWS


def test_page_is_what_its_generator_gives() -> None:
    assert PAGE.read_text() == page(), "run: python tests/faults/page.py"


def test_every_fault_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert [row.name for row in ROWS.values() if row.what.removeprefix("status ") not in text] == []
