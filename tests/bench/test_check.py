"""The check: a loss is one of ratios, and the stored ones can be read."""

import json
from pathlib import Path

import pytest
from attrs import evolve

from bench.check import LOADS, RATIOS, CheckOptions, CheckReport, check, compare, read_ratios, write_ratios
from bench.process import ChildFailed

COSTS = {
    ("plain", "ours"): [400.0, 300.0, 900.0],
    ("plain", "reference"): [2_000.0, 1_000.0, 1_000.0],
    ("gaps", "ours"): [60.0],
    ("gaps", "reference"): [60.0],
}


def test_the_pair_in_the_middle_counts_when_others_were_disturbed() -> None:
    plain, gaps = compare(COSTS, "reference", "ours", {"plain": 0.3})

    assert (plain.ratio, plain.change, plain.lost) == (0.3, 0.0, False)
    assert (gaps.ratio, gaps.change, gaps.lost) == (1.0, None, False)


@pytest.mark.parametrize(("stored", "lost"), [(0.3, False), (0.262, False), (0.26, True), (3.0, False)])
def test_it_is_lost_when_the_ratio_is_more_than_15_percent_above_the_stored_one(stored: float, lost: bool) -> None:
    plain = compare(COSTS, "reference", "ours", {"plain": stored})[0]

    assert plain.lost is lost
    assert CheckReport("r", (plain,), ()).clean is not lost


def test_a_reference_that_used_nothing_is_an_error_when_it_is_compared_with() -> None:
    with pytest.raises(ChildFailed, match="used no CPU that could be counted under plain"):
        compare({**COSTS, ("plain", "reference"): [1.0, 0.0, 1.0]}, "reference", "ours", {})


@pytest.mark.parametrize("text", ["", "{}", '{"ratios": {"plain": 1}}', '{"ratios": {"plain": "x"}}', "[]"])
def test_the_file_is_named_when_it_holds_no_ratios(text: str, tmp_path: Path) -> None:
    file = tmp_path / "ratios.json"
    file.write_text(text)

    with pytest.raises(ChildFailed, match=r"ratios\.json does not hold a ratio for each of plain, gaps, burst"):
        read_ratios(file)


def test_ratios_are_read_as_they_were_stored_when_they_were_written(tmp_path: Path) -> None:
    plain = compare(COSTS, "reference", "ours", {})[0]
    report = CheckReport("r", tuple(evolve(plain, load=load) for load in LOADS), ())

    write_ratios(tmp_path / "r.json", report)

    assert read_ratios(tmp_path / "r.json") == dict.fromkeys(LOADS, 0.3)


def test_the_ratios_of_the_project_can_be_read() -> None:
    assert all(0 < ratio < 100 for ratio in read_ratios(RATIOS).values())


@pytest.mark.live
async def test_a_loss_is_measured_again_and_then_found_when_the_stored_ratios_are_beyond_reach(tmp_path: Path) -> None:
    file = tmp_path / "ratios.json"
    file.write_text(json.dumps({"ratios": {"plain": 0.0001, "gaps": 1_000, "burst": 1_000}}))

    report = await check(CheckOptions(rounds=1, requests=40, streams=2, ratios=file))

    assert report.problems == ()
    assert not report.clean
    assert {each.load: (each.lost, each.runs) for each in report.compared} == {
        "plain": (True, 2),
        "gaps": (False, 1),
        "burst": (False, 1),
    }
