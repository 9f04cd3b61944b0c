"""When do requests arrive, and how long are they? Recorded traces, or a seeded generator with stated distributions."""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from attrs import field, frozen

COLUMNS = ("t_s", "input_tokens", "output_tokens", "label")

INPUT_MEDIAN, INPUT_SIGMA, INPUT_MAX = 500.0, 1.2, 8_192
OUTPUT_MEDIAN, OUTPUT_SIGMA, OUTPUT_MAX = 150.0, 0.9, 4_096
ARRIVALS_PER_S = 1.0
BURST_SHAPE = 0.5
"""Shape of the gamma between arrivals: 1 is Poisson, 0.5 has twice its variance (bursts)."""


class TraceError(Exception):
    """A trace that cannot be replayed; the message says file, line and what is wrong with it."""


@frozen
class Arrival:
    """One request of a trace. ``t_s`` counts from the first request of the trace, at the trace's own speed."""

    t_s: float
    input_tokens: int = field()
    output_tokens: int = field()
    label: str

    @input_tokens.validator
    @output_tokens.validator
    def _at_least_one(self, attribute: object, value: int) -> None:
        if value < 1:
            raise ValueError(f"{getattr(attribute, 'name', 'tokens')} must be at least 1, got {value}")


def read_trace(path: Path, limit: int) -> list[Arrival]:
    """Read at most ``limit`` arrivals from a csv or csv.gz file with the columns ``COLUMNS``, earliest first.

    Times are shifted so that the first arrival is at 0. Raises TraceError.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="") as file:
            arrivals = list(islice(_rows(path, csv.reader(file)), limit))
    except (OSError, EOFError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from None
    if not arrivals:
        raise TraceError(f"{path}: no rows below the header")
    return _from_zero(arrivals)


def _rows(path: Path, rows: Iterator[list[str]]) -> Iterator[Arrival]:
    header = tuple(next(rows, []))
    if header != COLUMNS:
        raise TraceError(f"{path}:1: columns are {','.join(header) or 'missing'}, expected {','.join(COLUMNS)}")
    last = float("-inf")
    for number, row in enumerate(rows, 2):
        try:
            t_s, prompt, completion, label = row
            arrival = Arrival(float(t_s), int(prompt), int(completion), label)
        except ValueError as error:
            raise TraceError(f"{path}:{number}: {error}") from None
        if not last <= arrival.t_s < float("inf"):
            raise TraceError(f"{path}:{number}: t_s {t_s} lies before the row above or is not finite")
        last = arrival.t_s
        yield arrival


def _from_zero(arrivals: list[Arrival]) -> list[Arrival]:
    start = arrivals[0].t_s
    return [Arrival(a.t_s - start, a.input_tokens, a.output_tokens, a.label) for a in arrivals]


def generate(count: int, seed: int, *, arrivals_per_s: float = ARRIVALS_PER_S) -> list[Arrival]:
    """Draw ``count`` arrivals; the same seed gives the same list.

    Lengths are lognormal (medians and sigmas above, cut to 1..MAX, input and output independent); gaps between arrivals
    are gamma with shape ``BURST_SHAPE`` and mean ``1 / arrivals_per_s``.
    """
    draw = random.Random(seed)
    t_s, arrivals = 0.0, []
    for _ in range(count):
        arrivals.append(
            Arrival(
                t_s,
                _length(draw, INPUT_MEDIAN, INPUT_SIGMA, INPUT_MAX),
                _length(draw, OUTPUT_MEDIAN, OUTPUT_SIGMA, OUTPUT_MAX),
                "generated",
            )
        )
        t_s += draw.gammavariate(BURST_SHAPE, 1 / (BURST_SHAPE * arrivals_per_s))
    return arrivals


def _length(draw: random.Random, median: float, sigma: float, longest: int) -> int:
    return min(longest, max(1, round(median * draw.lognormvariate(0.0, sigma))))
