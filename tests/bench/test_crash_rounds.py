"""What one round of kill and restart is judged by."""

from bench.client import Ask, Outcome
from bench.crash import CrashReport, Round, judge_round
from bench.money import MoneyReport

OK = Outcome(Ask(0, 1, 1, False), "ok", cost_msat=10)
CUT_OFF = Outcome(Ask(1, 1, 1, False), "connection", "closed before an answer")


def books(spent_msat: int, *problems: str) -> MoneyReport:
    return MoneyReport(
        deposited_msat=1_000,
        spent_msat=spent_msat,
        debt_msat=0,
        receipts_msat=spent_msat,
        told_msat=0,
        open_holds=0,
        problems=problems,
    )


def judged(spent_msat: int, *problems: str, told_msat: int = 10, before_msat: int = 0) -> Round:
    return judge_round(1, 0.5, [OK, CUT_OFF], told_msat, books(spent_msat, *problems), before_msat)


def test_is_clean_when_everything_told_is_in_the_books() -> None:
    outcome = judged(110, before_msat=100)

    assert outcome.problems == ()
    assert (outcome.answered, outcome.in_flight, outcome.charged_msat) == (1, 1, 10)


def test_names_the_loss_when_this_round_charged_less_than_it_told() -> None:
    assert judged(109, before_msat=100).problems == ("clients were told of 10 msat, only 9 of them are in the books",)


def test_passes_on_what_the_audit_found_when_the_books_are_wrong() -> None:
    report = CrashReport(1, (judged(10), judged(10, "1 holds are still open")))

    assert not report.clean
    assert report.problems == ("round 1: 1 holds are still open",)


def test_is_not_clean_when_nothing_was_answered_before_the_kill() -> None:
    outcome = judge_round(1, 0.5, [CUT_OFF], 0, books(0), 0)

    assert outcome.problems == ("nothing was answered before the kill: connection",)
