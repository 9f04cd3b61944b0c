"""``python -m bench VERB``. SIGTERM and Ctrl-C stop what was started."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from bench import (
    actors,
    check,
    crash,
    gateway,
    ledger,
    peers,
    price_history,
    profile,
    programs,
    regret,
    replay,
    soak,
)
from bench.prices import DEFAULT_FAMILY, PriceListError
from bench.process import ChildFailed
from bench.trace import TraceError

T = TypeVar("T")
Verb = Callable[[], Awaitable[int]]


def parser() -> argparse.ArgumentParser:
    """The command line; bench/README.md explains each option."""
    top = argparse.ArgumentParser(prog="python -m bench", description="Measurements of the running arbstr.")
    verbs = top.add_subparsers(dest="verb", required=True)
    _replay_options(verbs.add_parser("replay", help="replay real load against arbstr and check its books"))
    crash_verb = verbs.add_parser("crash", help="kill arbstr under load, restart it, check its books")
    crash_verb.add_argument("--times", type=_positive, default=10)
    crash_verb.add_argument("--seed", type=int, default=1)
    crash_verb.add_argument("--two", action="store_true", help="proxy and vault as two processes; either is killed")
    actors_verb = verbs.add_parser("actors", help="an actor beside Pykka's on threads and beside bare channels")
    actors_verb.add_argument("--rounds", type=_positive, default=actors.ActorsOptions().rounds)
    actors_verb.add_argument("--scale", type=_above_zero, default=1.0, help="times the usual number of operations")
    history_verb = verbs.add_parser("price-history", help="judge the market's price sanity by the prices of the past")
    history_verb.add_argument("--history", type=Path, required=True, metavar="FILE.csv.gz", help="price_history.csv.gz")
    regret_verb = verbs.add_parser("regret", help="what not knowing the length of an answer costs, by rule of choice")
    regret_verb.add_argument("--prices", type=Path, metavar="FILE", required=True, help="provider_prices.csv")
    regret_verb.add_argument("--trace", type=Path, metavar="FILE.csv.gz", required=True, action="append")
    ledger_verb = verbs.add_parser("ledger", help="reserve and settle through account actors, by rows and by agents")
    ledger_verb.add_argument("--rounds", type=_positive, default=ledger.LedgerOptions().rounds)
    ledger_verb.add_argument("--scale", type=_above_zero, default=1.0, help="times the usual pairs, rows and agents")
    _gateway_options(gateway_verb := verbs.add_parser("gateway", help="what each gateway adds, side by side"))
    _profile_options(profile_verb := verbs.add_parser("profile", help="where the CPU of a request goes in arbstr"))
    soak_verb = verbs.add_parser("soak", help="a long mixed load, with everything watched that could grow")
    soak_verb.add_argument("--requests", type=_positive, default=soak.SoakOptions().requests)
    soak_verb.add_argument("--connections", type=_positive, default=soak.SoakOptions().connections)
    soak_verb.add_argument("--durability", choices=("full", "process"), default=soak.SoakOptions().durability)
    soak_verb.add_argument("--plot", type=Path, metavar="FILE.png")
    check_verb = verbs.add_parser("check", help="fail when a request has become dearer than the stored ratios say")
    check_verb.add_argument("--rounds", type=_positive, default=check.CheckOptions().rounds)
    check_verb.add_argument("--requests", type=_positive, default=check.CheckOptions().requests, help="per round")
    check_verb.add_argument("--streams", type=_positive, default=check.CheckOptions().streams, help="per round")
    check_verb.add_argument("--ratios", type=Path, metavar="FILE", default=check.RATIOS)
    check_verb.add_argument("--store", action="store_true", help="write the ratios instead of judging by them")
    peers_verb = verbs.add_parser("peers", help="install what the gateway verb compares with, or list it")
    peers_verb.add_argument("--install", nargs="+", choices=tuple(programs.PEERS), default=[], metavar="NAME")
    peers_verb.add_argument("--into", type=Path, default=gateway.PEERS_FOLDER, metavar="DIR")
    for verb in (
        check_verb,
        soak_verb,
        peers_verb,
        gateway_verb,
        profile_verb,
        crash_verb,
        actors_verb,
        ledger_verb,
        history_verb,
        regret_verb,
    ):
        verb.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    return top


def _replay_options(verb: argparse.ArgumentParser) -> None:
    plain = replay.ReplayOptions()
    verb.add_argument("--trace", type=Path, metavar="FILE.csv.gz", help="default: generated arrivals")
    verb.add_argument("--speed", type=_above_zero, default=plain.speed, help="times faster than the trace")
    verb.add_argument("--limit", type=_positive, default=plain.limit, help="at most this many requests")
    verb.add_argument("--prices", type=Path, metavar="FILE", help="provider_prices.csv; default: generated prices")
    verb.add_argument("--family", default=DEFAULT_FAMILY, help="which family of the price list")
    verb.add_argument("--hosts", type=_hosts, help="how many providers; default: all of the list, or 8 generated")
    verb.add_argument("--url", help="an arbstr that runs already; nothing is started, its books are not read")
    verb.add_argument("--token", help="bearer for --url")
    verb.add_argument("--model", default=plain.model, help="model to ask for at --url")
    verb.add_argument("--stream-share", type=_share, default=plain.stream_share)
    verb.add_argument("--seed", type=int, default=plain.seed)
    verb.add_argument("--durability", choices=("full", "process"), default=plain.durability)
    verb.add_argument("--budget-sats", type=_positive, default=plain.budget_sats)
    verb.add_argument("--concurrency", type=_positive, default=plain.concurrency)
    verb.add_argument("--bound-s", type=_above_zero, help="stop after this long, whatever is still open")
    verb.add_argument("--plot", type=Path, metavar="FILE.png")
    verb.add_argument("--json", type=Path, metavar="FILE", help="write the report there")


def _gateway_options(verb: argparse.ArgumentParser) -> None:
    plain = gateway.GatewayOptions()
    verb.add_argument("--programs", nargs="+", choices=gateway.CHOICES, default=list(plain.programs), metavar="NAME")
    verb.add_argument("--cells", nargs="+", choices=gateway.CELLS, default=list(plain.cells), metavar="CELL")
    verb.add_argument("--peers", type=Path, default=plain.peers, metavar="DIR", help="where they are installed")
    verb.add_argument("--rounds", type=_positive, default=plain.rounds)
    verb.add_argument("--seconds", type=_above_zero, default=plain.seconds, help="of plain load per round")
    verb.add_argument("--streams", type=_positive, default=plain.streams, help="per round")
    verb.add_argument("--open-streams", type=_positive, default=plain.open_streams)
    verb.add_argument("--plot", type=Path, metavar="FILE.png")


def _profile_options(verb: argparse.ArgumentParser) -> None:
    plain = profile.ProfileOptions()
    verb.add_argument("--load", choices=tuple(profile.LOADS), default=plain.load)
    verb.add_argument("--seconds", type=_above_zero, default=plain.seconds)
    verb.add_argument("--rate-hz", type=_positive, default=plain.rate_hz, help="samples per second")
    verb.add_argument("--durability", choices=("full", "process"), default=plain.durability)
    verb.add_argument("--connections", type=_positive, help="default: 32, or 16 streams")
    verb.add_argument("--flame", type=Path, metavar="FILE.svg", help="write a flame graph")


def _positive(text: str) -> int:
    return _checked(int(text), int(text) >= 1, "at least 1")


def _hosts(text: str) -> int:
    return _checked(int(text), int(text) >= 4, "at least 4")


def _above_zero(text: str) -> float:
    return _checked(float(text), 0 < float(text) < float("inf"), "above 0")


def _share(text: str) -> float:
    return _checked(float(text), 0 <= float(text) <= 1, "within 0 and 1")


def _checked(value: T, right: bool, expected: str) -> T:
    if not right:
        raise argparse.ArgumentTypeError(f"{value} is not {expected}")
    return value


def verb_of(arguments: argparse.Namespace) -> Verb:
    """What to run for a parsed command line."""
    options = dict(vars(arguments))
    verb, json_file, plot = options.pop("verb"), options.pop("json"), options.pop("plot", None)
    if verb == "gateway":
        options["programs"], options["cells"] = tuple(options["programs"]), tuple(options["cells"])
        return partial(gateway.main, gateway.GatewayOptions(**options), json_file, plot)
    if verb == "check":
        return partial(check.main, check.CheckOptions(**options), json_file)
    if verb == "soak":
        return partial(soak.main, soak.SoakOptions(**options), json_file, plot)
    if verb == "peers":
        return partial(peers.main, options["install"], options["into"], json_file)
    if verb == "profile":
        return partial(profile.main, profile.ProfileOptions(**options), json_file)
    if verb == "crash":
        return partial(crash.main, options["times"], options["seed"], json_file, two=options["two"])
    if verb == "price-history":
        return partial(price_history.main, options["history"], json_file)
    if verb == "actors":
        return partial(actors.main, actors.ActorsOptions(**options), json_file)
    if verb == "ledger":
        return partial(ledger.main, ledger.LedgerOptions(**options), json_file)
    if verb == "regret":
        return partial(regret.main, regret.RegretOptions(**options), json_file)
    return partial(replay.main, replay.ReplayOptions(**options), json_file, plot)


async def _until_signal(verb: Verb) -> int:
    """Run the verb; on SIGTERM cancel it, so that the servers it started are stopped."""
    code = 128 + signal.SIGTERM

    async def run(scope: trio.CancelScope) -> None:
        nonlocal code
        code = await verb()
        scope.cancel()

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, nursery.cancel_scope)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
    return code


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions themselves, out of however many groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 (a finding, or something did not start), 2 (usage)."""
    verb = verb_of(parser().parse_args(words))
    failures: list[BaseException] = []

    try:
        return trio.run(_until_signal, verb)
    except* (ChildFailed, TraceError, PriceListError) as group:
        failures = leaves(group)
    for failure in failures:
        print(f"Error: {failure}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
