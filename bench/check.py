"""Has a request become dearer? CPU of arbstr beside that of a bare reverse proxy, compared with the stored ratios.

Only ratios count, so that the speed of the machine does not. Both programs run at once and are measured in turn, with a
fixed number of requests each, in many short rounds: what disturbs one of a pair is likely to disturb the other, and the
median of the pairs' ratios leaves out those where it did not.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from attrs import evolve, frozen
from rich.console import Console
from rich.table import Table

from bench import cells, machine, money, programs, render
from bench.cells import Bench, Sample
from bench.generator import LoadSpec
from bench.process import ChildFailed
from bench.programs import Running

RATIOS = Path(__file__).with_name("ratios.json")
MOST_LOSS = 0.15
STALE = 0.10
"""So much better than stored, and the stored ratios are worth renewing: they would not notice that being lost."""


@frozen
class CheckOptions:
    rounds: int = 9
    requests: int = 200
    """Plain ones per round and program."""
    streams: int = 16
    """At once, per round and program."""
    ratios: Path = RATIOS
    store: bool = False
    """Write the ratios instead of judging by them."""


@frozen
class Compared:
    """One kind of load: medians over the rounds. ``ratio`` is arbstr's CPU by the reference's in the same round."""

    load: str
    arbstr_us: float
    reference_us: float
    ratio: float
    ratio_rounds: tuple[float, ...]
    stored: float | None
    runs: int = 1

    @property
    def change(self) -> float | None:
        """Above 0: dearer than stored, as a share."""
        return None if self.stored is None else round(self.ratio / self.stored - 1, 4)

    @property
    def lost(self) -> bool:
        return self.change is not None and self.change > MOST_LOSS


@frozen
class CheckReport:
    reference: str
    compared: tuple[Compared, ...]
    problems: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.problems and not any(each.lost for each in self.compared)


SHOTS = {"gaps": evolve(cells.GAPS, completion_tokens=100), "burst": evolve(cells.BURST, completion_tokens=500)}
LOADS = ("plain", *SHOTS)
Costs = dict[tuple[str, str], list[float]]
"""CPU in µs per request or per event, by load and program, one for each round."""


def read_ratios(path: Path) -> Mapping[str, float]:
    """By load. Raises ChildFailed when there is no such file, or something else in it."""
    try:
        fields = json.loads(path.read_text())["ratios"]
        return {load: float(fields[load]) for load in LOADS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ChildFailed(
            f"{path} does not hold a ratio for each of {', '.join(LOADS)} ({error!r}); "
            "`python -m bench check --store` writes them"
        ) from None


async def check(options: CheckOptions) -> CheckReport:
    """Start both programs, measure in turn; once more when something was lost. Raises ChildFailed."""
    stored = {} if options.store else read_ratios(options.ratios)
    with tempfile.TemporaryDirectory(prefix="arbstr-check-") as temporary:
        directory = Path(temporary)
        async with programs.answerer(directory) as (behind, upstream):
            bench = Bench(behind, directory)
            async with (
                programs.running(programs.reverse_proxy(), upstream, directory / "reference") as reference,
                programs.running_arbstr(programs.arbstr(), upstream, directory / "arbstr", durability="full") as ours,
            ):
                compared, problems = await _judged(bench, reference, ours, options, stored)
        assert ours.arbstr is not None
        told = bench.told_msat[ours.program.name]
        problems += [f"money: {each}" for each in money.check(ours.arbstr.database, told).problems]
    return CheckReport(f"{reference.program.name} {reference.program.version}", compared, tuple(problems))


async def _judged(
    bench: Bench, reference: Running, ours: Running, options: CheckOptions, stored: Mapping[str, float]
) -> tuple[tuple[Compared, ...], list[str]]:
    costs: Costs = {}
    problems = await _rounds(bench, (reference, ours), LOADS, options, costs)
    compared = compare(costs, reference.program.name, ours.program.name, stored)
    again = tuple(each.load for each in compared if each.lost)
    if again:
        problems += await _rounds(bench, (reference, ours), again, options, costs)
        compared = tuple(
            evolve(each, runs=2) if each.load in again else each
            for each in compare(costs, reference.program.name, ours.program.name, stored)
        )
    return compared, problems


async def _rounds(
    bench: Bench, contenders: tuple[Running, Running], loads: tuple[str, ...], options: CheckOptions, costs: Costs
) -> list[str]:
    """Add to the costs; what failed."""
    problems = []
    for load in loads:
        for number in range(options.rounds + 1):
            for contender in contenders:
                sample = await bench.load(contender, _spec(load, contender, options))
                problems += [f"{contender.program.name}: {n} x {kind}" for kind, n in sample.figures.failures.items()]
                if number:  # the first one warms up
                    costs.setdefault((load, contender.program.name), []).append(_cost_us(load, sample))
    return problems


def _spec(load: str, program: Running, options: CheckOptions) -> LoadSpec:
    if load == "plain":
        return evolve(program.spec, shots=(cells.PLAIN,), connections=cells.CONNECTIONS, requests=options.requests)
    return cells.stream_spec(program, SHOTS[load], options.streams)


def _cost_us(load: str, sample: Sample) -> float:
    events = SHOTS[load].completion_tokens if load in SHOTS else 1
    return (sample.cpu_ms or 0.0) * 1_000 / events


def compare(costs: Costs, reference: str, ours: str, stored: Mapping[str, float]) -> tuple[Compared, ...]:
    """One for each load that has been measured."""
    found = []
    for load in LOADS:
        if (load, ours) in costs:
            own, other = costs[load, ours], costs[load, reference]
            if not all(other):
                raise ChildFailed(f"the reference used no CPU that could be counted under {load}")
            pairs = tuple(round(one / beside, 4) for one, beside in zip(own, other, strict=True))
            middle = round(median(own), 2), round(median(other), 2)
            found.append(Compared(load, *middle, round(median(pairs), 4), pairs, stored.get(load)))
    return tuple(found)


def print_check(report: CheckReport, out: Console) -> None:
    """A line for each kind of load, and a word on it."""
    table = Table()
    for name in ("load", "arbstr µs", "reference µs", "ratio", "stored", "change", ""):
        table.add_column(name, justify="left" if name in ("load", "") else "right")
    for each in report.compared:
        stored = "-" if each.stored is None else f"{each.stored:.3f}"
        change = "-" if each.change is None else f"{each.change:+.1%}"
        numbers = (f"{each.arbstr_us:.1f}", f"{each.reference_us:.1f}", f"{each.ratio:.3f}", stored, change)
        table.add_row(each.load, *numbers, _word(each))
    out.print(f"CPU per plain request, and per event of a stream, beside {report.reference}", markup=False)
    out.print(table)
    for problem in report.problems:
        out.print(f"PROBLEM: {problem}", markup=False, soft_wrap=True)


def _word(each: Compared) -> str:
    if each.lost:
        return f"LOST more than {MOST_LOSS:.0%}, twice" if each.runs > 1 else f"LOST more than {MOST_LOSS:.0%}"
    if each.change is not None and each.change < -STALE:
        return "better: store it with --store"
    return ""


def write_ratios(path: Path, report: CheckReport) -> None:
    """For the next check."""
    document = {
        "reference": report.reference,
        "machine": machine.facts(),
        "ratios": {each.load: each.ratio for each in report.compared},
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


async def main(options: CheckOptions, json_file: Path | None) -> int:
    """The verb: measure, print, write. Exit code 1 when something was lost, failed, or is wrong in the books."""
    report = await check(options)
    print_check(report, render.console())
    if json_file is not None:
        render.write_json(json_file, "check", {**machine.facts(), "rounds": options.rounds}, report)
    if options.store and report.clean:
        write_ratios(options.ratios, report)
    return 0 if report.clean else 1
