"""One process beside several: what is made of CPU times."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest

from bench.__main__ import parser, verb_of
from bench.process import cpu_s_of_all
from bench.workers import Sample, WorkersOptions, capacity_per_s, cells_of


def sample(*each_ms: float, failed: int = 0) -> Sample:
    return Sample(sum(each_ms), each_ms, 0.3, 100.0, 1.0, 2.0, failed, 0)


def test_one_process_can_use_one_core_and_several_all_of_them() -> None:
    assert capacity_per_s(sample(1.0)) == pytest.approx(1_000)
    assert capacity_per_s(sample(0.0, 0.4, 0.4, 0.4)) == pytest.approx(2_000 / 1.2)


def test_the_busiest_process_is_the_limit_when_it_has_most_of_the_work() -> None:
    assert capacity_per_s(sample(0.0, 0.9, 0.1, 0.1)) == pytest.approx(1_000 / 0.9)


def test_ratios_are_to_one_process_with_as_many_accounts() -> None:
    one, two, bare_one, bare_two = cells_of(
        {
            (True, "one process"): [sample(1.0), sample(3.0), sample(1.2)],
            (True, "2 workers"): [sample(0.0, 0.5, 0.5, 0.5, failed=1)],
            (False, "one process"): [sample(0.5)],
            (False, "2 workers"): [sample(0.0, 0.1, 0.2, 0.2)],
        }
    )
    assert (one.cpu_ms, one.cpu_ms_least, one.cpu_ms_most, one.ratio, one.speedup) == (1.2, 1.0, 3.0, 1.0, 1.0)
    assert (two.cpu_ms, two.busiest_ms, two.ratio, two.failed) == (1.5, 0.5, 1.25, 1)
    assert two.speedup == pytest.approx(1.6, abs=0.01)
    assert (bare_one.ratio, bare_two.ratio) == (1.0, 1.0)


def test_cpu_is_that_of_a_process_and_of_all_that_it_started() -> None:
    code = "import os, sys, time\npid = os.fork()\nprint(flush=True) if not pid else None\nsys.stdin.read(1)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = cpu_s_of_all(process.pid)
        process.kill()
        os.kill(list(found)[1], 9)
    assert len(found) == 2
    assert next(iter(found)) == process.pid


def test_options_are_passed_on() -> None:
    verb = verb_of(parser().parse_args(["workers", "--requests", "7", "--workers", "3"]))
    assert isinstance(verb, partial)
    assert verb.args == (WorkersOptions(requests=7, workers=3), None)
