"""Traces as they are read, and the generator that stands in for one."""

import gzip
from pathlib import Path
from statistics import median

import pytest

from bench.trace import Arrival, TraceError, generate, read_trace

HEADER = "t_s,input_tokens,output_tokens,label\n"


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_reads_arrivals_from_zero_when_the_trace_starts_later(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, HEADER + "0.94,22,477,r1-c35\n1.85,1522,652,r1-c65\n")

    first, second = read_trace(path, limit=10)

    assert first == Arrival(0.0, 22, 477, "r1-c35")
    assert second.t_s == pytest.approx(0.91)
    assert (second.input_tokens, second.output_tokens, second.label) == (1522, 652, "r1-c65")


def test_reads_no_more_than_the_limit_when_the_trace_is_longer(tmp_path: Path) -> None:
    path = write(tmp_path / "trace.csv", HEADER + "0,1,1,a\n" * 5 + "not a row\n")

    assert len(read_trace(path, limit=5)) == 5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("t,input,output\n", ":1: columns are t,input,output"),
        ("", ":1: columns are missing"),
        (HEADER, "no rows"),
        (HEADER + "0,1,1,a\n1,x,1,a\n", ":3: invalid literal"),
        (HEADER + "0,1,1\n", ":2: not enough values"),
        (HEADER + "0,0,1,a\n", ":2: input_tokens must be at least 1, got 0"),
        (HEADER + "5,1,1,a\n4,1,1,a\n", ":3: t_s 4 lies before"),
        (HEADER + "nan,1,1,a\n", ":2: t_s nan"),
    ],
)
def test_says_file_line_and_fault_when_a_trace_cannot_be_replayed(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path / "trace.csv", text)

    with pytest.raises(TraceError, match=f"trace.csv.*{complaint}"):
        read_trace(path, limit=10)


def test_says_so_when_a_trace_is_not_there_or_is_not_gzip(tmp_path: Path) -> None:
    (tmp_path / "bad.csv.gz").write_text("plain text")

    for name in ("missing.csv", "bad.csv.gz"):
        with pytest.raises(TraceError, match="cannot be read"):
            read_trace(tmp_path / name, limit=1)


def test_generates_the_same_arrivals_when_the_seed_is_the_same() -> None:
    assert generate(200, seed=7) == generate(200, seed=7)
    assert generate(200, seed=7) != generate(200, seed=8)
    assert generate(50, seed=7) == generate(200, seed=7)[:50]


def test_generates_the_stated_medians_and_rate_when_there_are_many() -> None:
    arrivals = generate(5_000, seed=3, arrivals_per_s=20.0)

    assert median(a.input_tokens for a in arrivals) == pytest.approx(500, rel=0.1)
    assert median(a.output_tokens for a in arrivals) == pytest.approx(150, rel=0.1)
    assert 5_000 / arrivals[-1].t_s == pytest.approx(20, rel=0.1)
    assert arrivals == sorted(arrivals, key=lambda a: a.t_s)
