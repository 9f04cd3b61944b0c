"""What the money check finds in books that are wrong."""

import pytest
from attrs import evolve, frozen

from bench.money import judge


@frozen
class Row:
    name: str = "bench"
    available_msat: int = 600
    held_msat: int = 0
    spent_msat: int = 400
    deposited_msat: int = 1_000
    withdrawn_msat: int = 0
    debt_msat: int = 0


@frozen
class Audit:
    agents: tuple[Row, ...] = (Row(),)
    open_holds: int = 0
    receipts_msat: int = 400
    spent_msat: int = 400
    problems: tuple[str, ...] = ()


def test_is_clean_when_the_books_are_right() -> None:
    report = judge(Audit(), told_msat=390)

    assert report.clean
    assert (report.charged_msat, report.untold_msat) == (400, 10)


def test_counts_debt_as_charged_when_a_settle_was_not_covered() -> None:
    audit = Audit(agents=(Row(available_msat=0, spent_msat=1_000, debt_msat=5),), receipts_msat=1_005, spent_msat=1_000)

    assert judge(audit, told_msat=1_005).clean
    assert judge(audit, told_msat=1_006).problems == ("clients were told of 1006 msat, only 1005 were charged",)


@pytest.mark.parametrize(
    ("row", "audit", "told_msat", "problem"),
    [
        (Row(available_msat=601), Audit(), 0, "bench: available + held + spent is 1001 msat"),
        (
            Row(available_msat=-1, spent_msat=1_001),
            Audit(spent_msat=1_001, receipts_msat=1_001),
            0,
            "-1 msat available",
        ),
        (Row(available_msat=590, held_msat=10), Audit(), 0, "10 msat still held"),
        (Row(), Audit(open_holds=2), 0, "2 holds are still open"),
        (Row(), Audit(receipts_msat=399), 0, "charged 400 msat, receipts say 399"),
        (Row(), Audit(spent_msat=401), 0, "the audit says 401 msat spent"),
        (Row(), Audit(), 401, "told of 401 msat, only 400"),
        (Row(), Audit(problems=("journal",)), 0, "journal"),
    ],
)
def test_names_the_fault_when_the_books_are_wrong(row: Row, audit: Audit, told_msat: int, problem: str) -> None:
    report = judge(evolve(audit, agents=(row,)), told_msat)

    assert not report.clean
    assert len(report.problems) == 1
    assert problem in report.problems[0]
