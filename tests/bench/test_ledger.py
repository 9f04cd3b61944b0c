"""The measurement of the ledger: right books, every cell, and ratios made within a round."""

from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from arbstr.store import Store
from bench import ledger
from bench.ledger_cells import ACTORS, NAIVE, ROWS_PER_PAIR, Round, by_actors, fill, naive, new_books


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "books.db"
    fill(path, new_books(path, 3), 10 * ROWS_PER_PAIR)
    return path


def test_the_past_is_made_of_right_books(database: Path) -> None:
    report = Store.check(database)
    assert (report.problems, len(report.agents), report.open_holds) == ((), 3, 0)
    assert report.spent_msat == report.receipts_msat == 10 * 30_000


async def test_both_ways_leave_the_same_rows(database: Path) -> None:
    (by_actor,) = await by_actors(database, "process", 4, 20, 1)
    between = Store.check(database)
    (one_by_one,) = await trio.to_thread.run_sync(naive, database, "process", 20, 1)
    after = Store.check(database)
    assert between.problems == after.problems == ()
    assert by_actor.pairs == one_by_one.pairs == 20
    assert after.spent_msat - between.spent_msat == (20 + 20) * 30_000  # as many again to warm up
    assert between.spent_msat == (10 + 500 + 20) * 30_000


def rounds(wanted: tuple[ledger.Spec, ...], **cpu_s: float) -> list[list[Round]]:
    """Two of each, the second on a machine that is half as fast."""
    found = []
    for spec in wanted:
        base = cpu_s.get(f"rows_{spec.rows}_agents_{spec.agents}", 0.01)
        found.append([Round(100, 0.02 * slow, base * slow) for slow in (1, 2)])
    return found


def test_growth_is_what_many_cost_beside_few_in_the_same_round() -> None:
    wanted = ledger.specs(1.0)
    report = ledger.report_of(wanted, rounds(wanted, rows_1000000_agents_1=0.012))
    assert list(report.growth.values()) == [1.2, 1.0, 1.0]
    assert report.beside_naive == {"full": 1.0, "process": 1.0}
    assert any("1000000 rows and 1 agents" in missed for missed in report.missed)


def test_goals_are_met_when_it_is_fast_and_flat() -> None:
    wanted = ledger.specs(1.0)
    fast = [[Round(12_000, 2.0, 1.2)] for _ in wanted]
    assert ledger.report_of(wanted, fast).missed == ()
    slow = [[evolve(each[0], wall_s=4.0)] for each in fast]
    assert "3000 pairs/s" in ledger.report_of(wanted, slow).missed[0]


def test_every_number_in_flight_is_measured_at_both_durabilities() -> None:
    few = {(spec.way, spec.durability, spec.in_flight) for spec in ledger.specs(1.0)}
    assert few == {
        (way, durability, in_flight)
        for durability in ("full", "process")
        for way, in_flight in ((NAIVE, 1), (ACTORS, 1), (ACTORS, 32), (ACTORS, 512))
    }
    assert len(ledger.specs(1.0)) == len(set(ledger.specs(1.0))) == 11


async def test_the_verb_prints_and_writes_what_it_found(tmp_path: Path, capsys: Any) -> None:
    await ledger.main(ledger.LedgerOptions(rounds=1, scale=0.001), tmp_path / "report.json")
    assert "one transaction per call" in capsys.readouterr().out
    assert '"bench": "ledger"' in (tmp_path / "report.json").read_text()
