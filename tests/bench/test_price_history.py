"""The replay of a price history, on histories made up for it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from bench.price_history import Verdicts, main, read_history, replay
from bench.prices import PriceListError

HEADER = "source,unix,utc,family,provider,model_id,usd_in_per_m,usd_out_per_m,event,suspect\n"
HONEST = [("a", "1"), ("b", "1.1"), ("c", "0.9")]


def line(
    unix: int, provider: str, usd: str, event: str = "new", suspect: int = 0, *, source: str = "s", model: str = ""
) -> str:
    return f"{source},{unix},then,fam,{provider},{model or f'{provider}/m'},{usd},{usd},{event},{suspect}\n"


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "history.csv"
    path.write_text(HEADER + "".join(lines))
    return path


def replayed(tmp_path: Path, *lines: str) -> Verdicts:
    return replay(read_history(written(tmp_path, *lines)))


def counts(verdicts: Verdicts) -> tuple[int, int, int, int, int]:
    return verdicts.caught, verdicts.missed, verdicts.honest, verdicts.hit, verdicts.alone


def market() -> list[str]:
    return [line(n, provider, usd) for n, (provider, usd) in enumerate(HONEST)]


def test_a_wrong_row_is_caught_when_three_others_stand_in_the_book(tmp_path: Path) -> None:
    verdicts = replayed(tmp_path, *market(), line(9, "d", "1000", "new", 1))

    assert (counts(verdicts), verdicts.clean) == ((1, 0, 0, 0, 3), True)


def test_the_goal_is_missed_when_a_wrong_row_passes(tmp_path: Path) -> None:
    verdicts = replayed(tmp_path, *market(), line(9, "d", "2", "new", 1))

    assert (counts(verdicts), verdicts.clean) == ((0, 1, 0, 0, 3), False)
    assert verdicts.missed_rows == ["fam at d (d/m)"]


def test_the_goal_is_missed_when_an_honest_row_is_quarantined(tmp_path: Path) -> None:
    verdicts = replayed(tmp_path, *market(), line(9, "d", "50"))

    assert (counts(verdicts), verdicts.clean) == ((0, 0, 0, 1, 3), False)
    assert verdicts.hit_rows[0].startswith("fam at d (d/m): input rate 50 is 50 times above 1, the median of")


def test_a_row_is_judged_by_the_book_of_its_time_when_a_host_has_left(tmp_path: Path) -> None:
    gone = line(5, "", "0.9", "removed", model="c/m")

    assert replayed(tmp_path, *market(), gone, line(9, "d", "1000", "new", 1)).alone == 4


def test_only_the_named_listing_goes_when_another_source_has_the_same(tmp_path: Path) -> None:
    twin = line(4, "c", "1", source="t")
    gone = line(5, "", "0.9", "removed", model="c/m")

    assert counts(replayed(tmp_path, *market(), twin, gone, line(9, "d", "1", "new"))) == (0, 0, 1, 0, 4)


def test_a_change_replaces_the_price_when_it_comes_later_in_the_file_but_earlier_in_time(tmp_path: Path) -> None:
    verdicts = replayed(tmp_path, line(9, "d", "1", "change"), *market(), line(5, "d", "1000", "new", 1))

    assert counts(verdicts) == (1, 0, 1, 0, 3)


def test_hosts_are_counted_when_one_has_several_listings(tmp_path: Path) -> None:
    more = line(5, "c", "0.8", model="c/turbo")

    assert replayed(tmp_path, *market()[1:], more, line(9, "d", "1000", "new", 1)).alone == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HEADER, "no rows"),
        ("source,unix\ns,1\n", "2: no family"),
        (HEADER + line(1, "a", "x"), "2: a time or a price"),
        (HEADER + line(1, "a", "nan"), "2: a time or a price"),
        (HEADER + line(1, "a", "1e99"), "2: a time or a price"),
        (HEADER + line(1, "a", "1", "sold"), "2: event 'sold'"),
        (HEADER + line(1, "a", "1", "new", 7), "suspect '7'"),
        (HEADER + "s,1\n", "2: no family"),
    ],
)
def test_a_history_is_refused_when_it_cannot_be_read(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(PriceListError, match=problem):
        read_history(path)


def test_a_history_is_refused_when_it_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PriceListError, match="cannot be read"):
        read_history(tmp_path / "none.csv.gz")


async def test_the_verb_ends_with_0_or_1_when_the_goal_is_reached_or_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, report = tmp_path / "good.csv.gz", tmp_path / "bad.csv.gz", tmp_path / "report.json"
    good.write_bytes(gzip.compress((HEADER + "".join(market()) + line(9, "d", "1000", "new", 1)).encode()))
    bad.write_bytes(gzip.compress((HEADER + "".join(market()) + line(9, "d", "1", "new", 1)).encode()))

    assert await main(good, report) == 0
    assert "1 of 1 caught" in capsys.readouterr().out
    assert json.loads(report.read_text())["report"]["caught"] == 1
    assert await main(bad, None) == 1
    assert "MISSED" in capsys.readouterr().out
