"""Does a SIGKILL lose or invent money? The real process under load, killed at random moments, restarted and audited."""

from __future__ import annotations

import random
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio
from attrs import frozen

from bench import load, machine, money, render
from bench.arbstr_server import Arbstr
from bench.client import Ask, Outcome, Target
from bench.market import build_market, entries
from bench.prices import generate_prices
from bench.process import Child, ChildFailed
from bench.report import told_msat
from bench.trace import generate

BUDGET_SATS = 10_000_000
HOSTS = 6
REQUESTS = 1_500
REQUESTS_PER_S = 150.0
SPEED = 60.0
KILL_AFTER_S = (0.3, 2.5)
"""Uniform between these, from the first request of a round on: start-up of the load and the middle of it."""
AFTER_KILL_S = 0.5
"""Time for answers that were sent before the kill to be read."""
ROUND_S = 60.0


@frozen
class Round:
    """One kill and what the books said after the restart. ``told_msat`` is what clients were told in this round."""

    number: int
    killed_after_s: float
    answered: int
    in_flight: int
    told_msat: int
    charged_msat: int
    problems: tuple[str, ...]
    victim: str = "arbstr"
    """Which of the programs was killed."""


@frozen
class CrashReport:
    """All rounds. ``problems`` are those of every round with its number in front; empty when nothing was lost."""

    seed: int
    rounds: tuple[Round, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(f"round {each.number}: {problem}" for each in self.rounds for problem in each.problems)

    @property
    def clean(self) -> bool:
        return not self.problems


def run(
    times: int = 10, seed: int = 1, *, directory: Path | None = None, requests_per_s: float = REQUESTS_PER_S
) -> CrashReport:
    """Kill ``times`` times and report; starts its own Trio program. Raises ChildFailed when arbstr does not start or
    stop as it should. The database lies in ``directory`` (kept) or in a temporary one."""
    return trio.run(partial(crash, times, seed, directory=directory, requests_per_s=requests_per_s))


async def crash(
    times: int, seed: int, *, directory: Path | None = None, requests_per_s: float = REQUESTS_PER_S
) -> CrashReport:
    """The same within a running Trio program."""
    if directory is not None:
        return await _rounds(directory, times, seed, requests_per_s)
    with tempfile.TemporaryDirectory(prefix="arbstr-crash-") as temporary:
        return await _rounds(Path(temporary), times, seed, requests_per_s)


async def _rounds(directory: Path, times: int, seed: int, requests_per_s: float) -> CrashReport:
    draw = random.Random(seed)
    market = build_market(generate_prices(HOSTS, seed), speed=SPEED, seed=seed)
    arbstr = Arbstr(directory, entries(market, speed=SPEED), durability="full")
    await arbstr.create(BUDGET_SATS)
    rounds: list[Round] = []
    told, charged = 0, 0
    for number in range(1, times + 1):
        asks, times_s = draw_load(draw.randrange(1 << 31), requests_per_s)
        kill_after_s = draw.uniform(*KILL_AFTER_S)
        with trio.fail_after(ROUND_S):
            outcomes = await _until_killed(arbstr, asks, times_s, kill_after_s)
        told += (told_now := told_msat(outcomes))
        books = await _audit(arbstr, told)
        rounds.append(judge_round(number, kill_after_s, outcomes, told_now, books, charged))
        charged = books.charged_msat
    return CrashReport(seed, tuple(rounds))


def draw_load(seed: int, requests_per_s: float) -> tuple[list[Ask], list[float]]:
    """Requests, and when each is sent."""
    arrivals = generate(REQUESTS, seed, arrivals_per_s=requests_per_s)
    return load.asks_of(arrivals, stream_share=0.5, seed=seed), [arrival.t_s for arrival in arrivals]


async def _until_killed(
    arbstr: Arbstr, asks: Sequence[Ask], times_s: Sequence[float], kill_after_s: float
) -> tuple[Outcome, ...]:
    """Offer load to a fresh server process and kill it in the middle. Gives what was begun before the kill."""
    async with arbstr.server() as server, trio.open_nursery() as nursery:
        target = Target.of(await server.address(), arbstr.model, arbstr.token)
        nursery.start_soon(_kill, server, kill_after_s)
        # The bound ends the rest of the schedule, which nobody is left to answer.
        result = await load.open_loop(target, asks, times_s, bound_s=kill_after_s + AFTER_KILL_S)
    return result.outcomes[: bisect_right(times_s, kill_after_s)]


async def _kill(server: Child, after_s: float) -> None:
    await trio.sleep(after_s)
    if server.process.poll() is not None:
        raise ChildFailed(f"ended by itself with {server.process.returncode} before the kill{server.tail()}")
    await server.kill()


async def _audit(arbstr: Arbstr, told: int) -> money.MoneyReport:
    """Let arbstr come up on the database (it resolves the holds of the dead process), stop it, read the books."""
    async with arbstr.server() as server:
        await server.address()
    return money.check(arbstr.database, told)


def judge_round(
    number: int,
    kill_after_s: float,
    outcomes: Sequence[Outcome],
    told_now_msat: int,
    books: money.MoneyReport,
    charged_before_msat: int,
) -> Round:
    """What a round showed. Besides the audit: the charges that this round added cover what this round's clients were
    told, so that one round's untold charges cannot hide another round's loss."""
    charged_now = books.charged_msat - charged_before_msat
    problems = list(books.problems)
    if told_now_msat > charged_now:
        problems.append(f"clients were told of {told_now_msat} msat, only {charged_now} of them are in the books")
    if not any(outcome.ok for outcome in outcomes):
        problems.append(f"nothing was answered before the kill: {outcomes[0].kind if outcomes else 'no requests'}")
    return Round(
        number=number,
        killed_after_s=round(kill_after_s, 3),
        answered=sum(outcome.ok for outcome in outcomes),
        in_flight=sum(outcome.kind in ("connection", "unfinished") for outcome in outcomes),
        told_msat=told_now_msat,
        charged_msat=charged_now,
        problems=tuple(problems),
    )


async def main(times: int, seed: int, json_file: Path | None, *, two: bool = False) -> int:
    """The verb: kill, audit, print, write. Exit code 1 when anything was lost or invented."""
    from bench import crash_two  # which is built on this file

    report = await (crash_two.crash if two else crash)(times, seed)
    console = render.console()
    for each in report.rounds:
        console.print(
            f"round {each.number}: {each.victim} killed after {each.killed_after_s} s, {each.answered} answered, "
            f"{each.in_flight} in flight, told {each.told_msat} msat, charged {each.charged_msat} msat, "
            f"{'books right' if not each.problems else f'{len(each.problems)} problems'}",
            soft_wrap=True,
        )
    for problem in report.problems:
        console.print(f"MONEY: {problem}", markup=False, soft_wrap=True)
    if json_file is not None:
        render.write_json(json_file, "crash", {**machine.facts(), "times": times, "seed": seed, "two": two}, report)
    return 0 if report.clean else 1
