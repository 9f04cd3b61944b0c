"""The table of gateways: what stands beside what, and what is said of a program that could not be measured."""

import sys
from io import StringIO
from pathlib import Path

import pytest
from attrs import evolve
from rich.console import Console

from bench import programs
from bench.cells import ChunkCell, FirstByteCell, PlainCell
from bench.gateway import Added, GatewayOptions, GatewayReport, Row, added, gateway, print_gateway

PLAIN = PlainCell(0.5, (0.5,), 2.0, 4.0, 100.0, 0.1, 0.2, {})
DIRECT = Row("direct", "", "no", plain=evolve(PLAIN, cpu_ms=None, p99_ms=1.0), ttft=FirstByteCell(5.0, {}))
ARBSTR = Row("arbstr", "1", "to the msat", plain=PLAIN, ttft=FirstByteCell(6.5, {}), gaps=ChunkCell(40.0, (40.0,), {}))


def test_times_stand_beside_the_answerer_and_cpu_beside_arbstr_when_both_were_measured() -> None:
    slow = Row("slow", "2", "no", plain=evolve(PLAIN, cpu_ms=6.0, p99_ms=90.0), gaps=ChunkCell(20.0, (20.0,), {}))

    beside = added([DIRECT, slow, ARBSTR])

    assert beside["slow"] == Added(ttft_ms=None, p99_ms=89.0, cpu_ratio=12.0, gaps_ratio=0.5, burst_ratio=None)
    assert beside["arbstr"] == Added(ttft_ms=1.5, p99_ms=3.0, cpu_ratio=1.0, gaps_ratio=1.0, burst_ratio=None)
    assert "direct" not in beside


def test_nothing_is_made_up_when_what_it_would_stand_beside_was_not_measured() -> None:
    assert added([ARBSTR])["arbstr"] == Added(None, None, 1.0, 1.0, None)


def test_what_failed_and_what_is_absent_is_said_when_the_table_is_printed() -> None:
    broken = Row("broken", "3", "no", failure="did not start")
    odd = Row("odd", "4", "no", plain=evolve(PLAIN, failures={"http 500": 2}))
    report = GatewayReport((DIRECT, broken, odd), added([DIRECT, broken, odd]), ("litellm",), ("arbstr: wrong",))
    out = Console(width=200, record=True, file=StringIO())

    print_gateway(report, out)

    text = out.export_text()
    assert "broken 3 (FAILED)" in text
    assert "did not start" in text
    assert "odd 4 (2 failed)" in text
    assert "not installed: litellm (python -m bench peers --install litellm)" in text
    assert "PROBLEM: arbstr: wrong" in text
    assert not report.clean


def test_peers_are_absent_when_their_folder_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.nginx.BINARIES", ())

    assert programs.find(tmp_path, tuple(programs.PEERS)) == ([], list(programs.PEERS))


async def test_a_program_is_told_of_with_its_last_words_when_it_ends_at_once(tmp_path: Path) -> None:
    def command(port: int, upstream: str, directory: Path) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no such model')"]

    program = programs.Program("broken", "1", "no", command)
    with pytest.raises(programs.ChildFailed, match="no such model"):
        async with programs.running(program, "http://127.0.0.1:1", tmp_path / "broken"):
            pass


@pytest.mark.live
async def test_every_cell_is_filled_and_books_are_right_when_arbstr_is_measured() -> None:
    options = GatewayOptions(("direct", "arbstr-process"), rounds=1, seconds=0.4, streams=2, open_streams=5)

    report = await gateway(options)

    assert report.problems == ()
    assert [row.name for row in report.rows] == ["direct", "arbstr, process"]
    for row in report.rows[1:]:
        assert row.failure == ""
        assert row.failures == {}
        assert row.start_s
        assert row.plain is not None
        assert row.plain.cpu_ms
        assert row.gaps is not None
        assert row.gaps.cpu_us is not None
        assert row.burst is not None
        assert row.memory is not None
        assert row.memory.open_mb
        assert report.added[row.name].ttft_ms is not None
