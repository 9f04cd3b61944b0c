"""``python -m arbstr.sim``: many seeds on all cores, or one in full. Exits with 1 when a law was broken."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from arbstr.sim._scenario import draw
from arbstr.sim._shrink import shrink
from arbstr.sim._world import Report, run

PIECE = 25
"""Seeds that one worker takes at a time."""
MAX_FAILED = 5
"""Seeds that fail before the others are left alone."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arbstr.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, metavar="N", help="how many seeds to run (default: 1000)")
    parser.add_argument("--first", type=int, default=0, metavar="S", help="the first of them (default: 0)")
    parser.add_argument("--seed", type=int, metavar="S", help="run only this one, and print its story and its log")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="processes (default: cores)")
    parser.add_argument("--log", action="store_true", help="with --seed: print the log as well")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options.seed, with_log=options.log)
    return _many(range(options.first, options.first + options.seeds), max(1, options.jobs))


def _one(seed: int, *, with_log: bool) -> int:
    report = run(draw(seed))
    print(*report.scenario.story(), sep="\n")
    if with_log:
        print(*report.log, sep="\n")
    _say(report)
    return 1 if report.wrong else 0


def _say(report: Report) -> None:
    if not report.wrong:
        print(f"seed {report.scenario.seed}: nothing is wrong")
        return
    small = shrink(report)
    print(f"seed {report.scenario.seed} is wrong:", *report.wrong, sep="\n  ")
    print(f"the same with {len(small.scenario.events)} of {len(report.scenario.events)} events:")
    print(*small.scenario.story(), *[f"  {text}" for text in small.wrong], sep="\n")
    print(f"again: python -m arbstr.sim --seed {report.scenario.seed} --log")


def _many(seeds: range, jobs: int) -> int:
    begun = time.monotonic()
    counts: Counter[str] = Counter()
    ran = 0
    failed: list[int] = []
    for wrong, happened, size in _results(seeds, jobs):
        ran += size
        failed += wrong
        counts.update(happened)
        if len(failed) >= MAX_FAILED:
            break
    seconds = time.monotonic() - begun
    print(f"{ran} seeds in {seconds:.1f} s, {ran / seconds:.1f} a second, {len(failed)} wrong")
    print(", ".join(f"{number} {what}" for what, number in counts.most_common()))
    for seed in failed[:MAX_FAILED]:
        _say(run(draw(seed)))
    return 1 if failed else 0


def _results(seeds: range, jobs: int) -> Iterator[tuple[list[int], Counter[str], int]]:
    pieces = [seeds[start : start + PIECE] for start in range(0, len(seeds), PIECE)]
    if jobs == 1:
        yield from map(_piece, pieces)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(_piece, pieces)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _piece(seeds: range) -> tuple[list[int], Counter[str], int]:
    """Which of these are wrong, and how much of each thing happened."""
    failed, counts = [], Counter[str]()
    for seed in seeds:
        report = run(draw(seed))
        counts.update(report.counts)
        if report.wrong:
            failed.append(seed)
    return failed, counts, len(seeds)


if __name__ == "__main__":
    sys.exit(main())
