"""Judge `actors` by Pykka's own test suite: its sdist, with TrioActor added to the table of runtimes.

The suite is downloaded (or given with --sdist) and changed only in a temporary directory. It is worth repeating, since
Trio shuffles its scheduling on purpose; repeats run several to a process and two processes at a time. Exits with 1 at
the first failure, or when fewer tests passed than the suite is known to have.
Usage: pykka_suite.py [--repeat N] [--sdist FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

PYKKA = "pykka==4.5.0"
PER_RUNTIME = 137
WITHOUT_RUNTIME = 15  # ThreadingActor's own, envelopes, messages
REPEATS_PER_PROCESS = 5
PROCESSES = min(2, os.cpu_count() or 1)
PROCESS_BOUND_S = 600
ROOT = Path(__file__).resolve().parent.parent

RUNTIMES = ("threading", "trio", "trio-async-hooks", "trio-capacity-8", "trio-burst-1", "trio-burst-32")

# Appended to the suite's conftest.py. Sync test bodies drive a Trio run in a background thread: a rig's case.
CONFTEST = '''

# ---- added by .ci/pykka_suite.py

import collections
import dataclasses
import inspect
import json
import os

import trio

from actors import ActorSystem, TrioActor, TrioFuture


class AsyncHooks(TrioActor):
    """Turns every hook of every subclass into a coroutine that gives way before it does its work."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("on_start", "on_stop", "on_failure", "on_receive"):
            setattr(cls, name, _coroutine_of(getattr(cls, name)))


def _coroutine_of(hook):
    async def wrapped(*args):
        await trio.lowlevel.checkpoint()
        result = hook(*args)
        return await result if inspect.iscoroutine(result) else result

    return wrapped


class Capacity8(TrioActor):
    inbox_capacity = 8


class Burst1(TrioActor):
    burst = 1


class Burst32(TrioActor):
    burst = 32


_CLASSES = {
    "trio": TrioActor,
    "trio-async-hooks": AsyncHooks,
    "trio-capacity-8": Capacity8,
    "trio-burst-1": Burst1,
    "trio-burst-32": Burst32,
}
_threading = RUNTIMES["threading"].values[0]
_runtimes = [_threading] + [
    dataclasses.replace(_threading, name=name, actor_class=actor_class, future_class=TrioFuture)
    for name, actor_class in _CLASSES.items()
]


@pytest.fixture(
    scope="session",
    params=[(each, turn) for turn in range(int(os.environ["SUITE_REPEATS"])) for each in _runtimes],
    ids=lambda param: f"{param[0].name}/{param[1]}",
)
def runtime(request):
    return request.param[0]


@pytest.fixture(autouse=True)
def _system(request):
    """A system for each test: one of them ends it, by raising BaseException in a handler."""
    if "runtime" not in request.fixturenames or request.getfixturevalue("runtime") is _threading:
        yield
        return
    try:
        with ActorSystem.in_thread():
            yield
    except BaseException as crash:
        if type(crash) is not BaseException:  # what the suite's handlers raise, and our exit raises again
            raise


@pytest.fixture(autouse=True)
def _logging():
    """The suite leaves its log handlers behind, all of which would see every record of every repeat."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


_outcomes = collections.Counter()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" or report.outcome != "passed":
        callspec = getattr(item, "callspec", None)
        name = callspec.params["runtime"][0].name if callspec and "runtime" in callspec.params else ""
        _outcomes[f"{report.outcome} {name}"] += 1


def pytest_sessionfinish():
    with open(os.environ["SUITE_OUTCOMES"], "w") as file:
        json.dump(_outcomes, file)
'''

INI = "[pytest]\naddopts = -x -q --no-header -p no:cacheprovider --tb=short\n"


def main() -> int:
    options = _options()
    begun, totals = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(PROCESSES) as workers:
        suite, plugins = prepare(Path(scratch), options.sdist)
        chunks = [min(REPEATS_PER_PROCESS, options.repeat - at) for at in range(0, options.repeat, REPEATS_PER_PROCESS)]
        running = {workers.submit(run, suite, plugins, turns, number): turns for number, turns in enumerate(chunks)}
        for done in as_completed(running):
            outcomes, code, output = done.result()
            problems = judge(outcomes, code, running[done])
            totals.update(outcomes)
            if problems:
                workers.shutdown(wait=False, cancel_futures=True)
                print(output, *problems, f"{totals.total()} results before", sep="\n")
                return 1
    for name in (*RUNTIMES, ""):
        print(f"{name or 'without a runtime':18} {totals['passed ' + name]} passed")
    print(f"{options.repeat} repeats, {totals.total()} passed in {time.monotonic() - begun:.0f} s")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run Pykka's own test suite against TrioActor.")
    parser.add_argument("--repeat", type=int, default=1, metavar="N")
    parser.add_argument("--sdist", type=Path, metavar="FILE.tar.gz", help=f"{PYKKA}; default: downloaded")
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error("--repeat must be at least 1")
    return options


def prepare(scratch: Path, sdist: Path | None) -> tuple[Path, Path]:
    """Unpack the suite, extend its table of runtimes, and install what it needs beside it."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if sdist is None:
        subprocess.run(
            [*pip, "download", "--no-binary", ":all:", "--no-deps", PYKKA, "--dest", str(scratch)], check=True
        )
        (sdist,) = scratch.glob("pykka-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch / "unpacked", filter="data")
    (source,) = (scratch / "unpacked").iterdir()
    suite = scratch / "suite"
    suite.mkdir()
    (source / "tests").rename(suite / "tests")  # only these: its pyproject.toml and src stay out of the way
    with (suite / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(CONFTEST)
    (suite / "pytest.ini").write_text(INI)
    plugins = scratch / "plugins"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(plugins), "pytest-mock>=3.14"], check=True)
    return suite, plugins


def run(suite: Path, plugins: Path, turns: int, number: int) -> tuple[Counter[str], int, str]:
    """One process. Returns outcomes by "outcome runtime", pytest's exit code and its output."""
    written = suite / f"outcomes-{number}.json"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(plugins))),
        "SUITE_REPEATS": str(turns),
        "SUITE_OUTCOMES": str(written),
    }
    command = [sys.executable, "-m", "pytest", "-c", "pytest.ini", "--rootdir", ".", "tests"]
    done = subprocess.run(
        command,
        cwd=suite,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PROCESS_BOUND_S,
        check=False,
    )
    outcomes = Counter(json.loads(written.read_text())) if written.exists() else Counter[str]()
    return outcomes, done.returncode, done.stdout


def judge(outcomes: Counter[str], code: int, turns: int) -> list[str]:
    """What is wrong with one process's outcomes; nothing if they are right."""
    problems = [f"pytest ended with {code}"] if code else []
    for name in RUNTIMES:
        passed = outcomes[f"passed {name}"]
        if passed < PER_RUNTIME * turns:
            problems.append(f"{name}: {passed} passed of {PER_RUNTIME * turns}")
    if outcomes["passed "] < WITHOUT_RUNTIME:
        problems.append(f"without a runtime: {outcomes['passed ']} passed of {WITHOUT_RUNTIME}")
    problems.extend(f"{count} {what}" for what, count in outcomes.items() if not what.startswith("passed "))
    return problems


if __name__ == "__main__":
    sys.exit(main())
