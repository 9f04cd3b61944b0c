"""``arbstr replay``: what the requests on record, or those of a trace, cost at the prices of this configuration.

Each request is priced by its own tokens at the cheapest provider that serves its model. Nobody is contacted, and
breakers, policies and tiers have no say: it is the price list that is judged.
"""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from attrs import Factory, define

from arbstr.cli._books import filter_of, read_receipts
from arbstr.cli._errors import Refused
from arbstr.cli._output import print_json, print_table, printable
from arbstr.cli._prices import Serving, serving
from arbstr.cli._times import period_of
from arbstr.config import Config, load
from arbstr.store import RecordedUsage, recorded_usage
from arbstr.units import format_sats

MAX_TOKENS = 10**12
"""In one request of a trace: more is a column of something else."""

MAX_MODELS = 10_000
"""Told apart in one report; clients may write any name."""
REST = "(others)"


@define
class Tally:
    """Requests of one model. ``then`` is what was paid for those that would be served now."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    served: int = 0
    then_msat: int = 0
    now_msat: int = 0
    unserved_then_msat: int = 0

    @property
    def unserved(self) -> int:
        return self.requests - self.served

    def add(self, usage: RecordedUsage, now_msat: int | None) -> None:
        self.requests += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        if now_msat is None:
            self.unserved_then_msat += usage.cost_msat
        else:
            self.served += 1
            self.then_msat += usage.cost_msat
            self.now_msat += now_msat


@define
class Share:
    """What goes to one provider when each request goes to the cheapest, and what all it can serve would cost there."""

    requests: int = 0
    cost_msat: int = 0
    could_serve: int = 0
    all_msat: int = 0


@define
class Replay:
    """The result, request by request."""

    config: Config
    total: Tally = Factory(Tally)
    models: dict[str, Tally] = Factory(dict)
    providers: dict[str, Share] = Factory(dict)
    _serving: dict[str, list[Serving]] = Factory(dict)

    def run(self, requests: Iterable[RecordedUsage]) -> Replay:
        for usage in requests:
            now_msat = self._price(usage)
            self.total.add(usage, now_msat)
            self._tally(usage.model).add(usage, now_msat)
        return self

    def _tally(self, model: str) -> Tally:
        if model not in self.models and len(self.models) >= MAX_MODELS:
            model = REST
        return self.models.setdefault(model, Tally())

    def _price(self, usage: RecordedUsage) -> int | None:
        """At the cheapest, by name when two are; None when nobody serves it."""
        costs = []
        for one in self._who_serves(usage.model):
            if one.price is not None and one.fits(usage.prompt_tokens, usage.completion_tokens):
                # A provider may have counted more cached tokens than there were.
                cached = min(usage.cached_tokens, usage.prompt_tokens)
                cost = one.price.cost_msat(usage.prompt_tokens, usage.completion_tokens, cached)
                costs.append((cost, one.provider.name))
                share = self.providers.setdefault(one.provider.name, Share())
                share.could_serve += 1
                share.all_msat += cost
        if not costs:
            return None
        cost, name = min(costs)
        self.providers[name].requests += 1
        self.providers[name].cost_msat += cost
        return cost

    def _who_serves(self, model: str) -> list[Serving]:
        if model not in self._serving and len(self._serving) >= MAX_MODELS:
            return [one for one in serving(self.config, model) if one.obstacle is None]
        if model not in self._serving:
            self._serving[model] = [one for one in serving(self.config, model) if one.obstacle is None]
        return self._serving[model]


def run(arguments: Namespace) -> int:
    replay = Replay(load(arguments.config, os.environ))
    if arguments.trace is not None:
        _run_trace(arguments, replay)
    else:
        _refuse_model_alone(arguments)
        wanted = filter_of(arguments, period_of(arguments))
        read_receipts(arguments, lambda db: replay.run(recorded_usage(db, wanted)))
    with_then = arguments.trace is None
    if arguments.json:
        print_json(_json(replay, with_then))
    else:
        _print(replay, with_then)
    return 0


def _refuse_model_alone(arguments: Namespace) -> None:
    if arguments.model is not None:
        raise Refused("--model names the model of a trace; write --trace FILE too, or leave it out")


# Traces


def _run_trace(arguments: Namespace, replay: Replay) -> None:
    if arguments.model is None:
        raise Refused("a trace does not say which model it was for; write --model NAME")
    for option in ("since", "until", "range", "agent"):
        if getattr(arguments, option) is not None:
            raise Refused(f"--{option} is for recorded requests; leave it out with --trace")
    path: Path = arguments.trace
    try:
        with _open(path) as file:
            replay.run(_trace(path, file, arguments.model))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise Refused(f"{path} cannot be read: {error}") from error


def _open(path: Path) -> TextIO:
    return gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open("rt", newline="")


def _trace(path: Path, file: TextIO, model: str) -> Iterator[RecordedUsage]:
    rows = csv.reader(file)
    header = next(rows, [])
    try:
        prompt, completion = header.index("input_tokens"), header.index("output_tokens")
    except ValueError:
        columns = printable(",".join(header)) or "missing"
        raise Refused(f"{path}:1: columns are {columns}; write t_s,input_tokens,output_tokens") from None
    for row in rows:
        if row:
            place = f"{path}:{rows.line_num}"
            yield RecordedUsage(model, _tokens(place, row, prompt), _tokens(place, row, completion), 0, 0)


def _tokens(place: str, row: list[str], column: int) -> int:
    text = row[column] if column < len(row) else ""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) <= MAX_TOKENS):
        raise Refused(f"{place}: {printable(text)!r} is not a number of tokens; write an integer")
    return int(text)


# Reports


_AMOUNTS = ("REQUESTS", "IN", "OUT", "THEN", "NOW", "CHANGE", "NOT SERVED")
_SHARES = ("CHEAPEST FOR", "COST", "CAN SERVE", "ALL OF THEM")


def _print(replay: Replay, with_then: bool) -> None:
    total = replay.total
    if not total.requests:
        print("No requests with known tokens in this time.")
        return
    print(f"{total.requests} requests, {total.prompt_tokens} tokens in, {total.completion_tokens} out")
    if with_then:
        print(f"Then: {format_sats(total.then_msat)} sats")
    print(f"Now:  {format_sats(total.now_msat)} sats{_change(total) if with_then else ''}")
    if total.unserved:
        paid = f" They cost {format_sats(total.unserved_then_msat)} sats then." if with_then else ""
        print(f"Nobody would serve {total.unserved} of them; they are in neither sum.{paid}")
    if with_then:
        print()
        rows = [_model_cells(name, tally) for name, tally in _dearest_first(replay.models)]
        print_table(("MODEL", *_AMOUNTS), rows, numbers=frozenset(_AMOUNTS))
    if replay.providers:
        print()
        print_table(("PROVIDER", *_SHARES), map(_share_cells, *_columns(replay)), numbers=frozenset(_SHARES))


def _dearest_first(models: dict[str, Tally]) -> list[tuple[str, Tally]]:
    return sorted(models.items(), key=lambda item: (-item[1].then_msat - item[1].unserved_then_msat, item[0]))


def _change(tally: Tally) -> str:
    if not tally.then_msat:
        return ""
    percent = (tally.now_msat - tally.then_msat) * 100 / tally.then_msat
    return f" ({percent:+.1f} %)"


def _model_cells(name: str, tally: Tally) -> tuple[str, ...]:
    return (
        printable(name),
        str(tally.requests),
        str(tally.prompt_tokens),
        str(tally.completion_tokens),
        format_sats(tally.then_msat),
        format_sats(tally.now_msat),
        _change(tally).strip(" ()") or "-",
        str(tally.unserved),
    )


def _columns(replay: Replay) -> tuple[list[str], list[Share]]:
    names = sorted(replay.providers, key=lambda name: (-replay.providers[name].requests, name))
    return names, [replay.providers[name] for name in names]


def _share_cells(name: str, share: Share) -> tuple[str, ...]:
    return (
        name,
        str(share.requests),
        format_sats(share.cost_msat),
        str(share.could_serve),
        format_sats(share.all_msat),
    )


def _json(replay: Replay, with_then: bool) -> dict[str, object]:
    return {
        **_json_tally(replay.total, with_then),
        "models": [{"model": name, **_json_tally(tally, with_then)} for name, tally in _dearest_first(replay.models)],
        "providers": [
            {
                "provider": name,
                "requests": share.requests,
                "cost_msat": share.cost_msat,
                "could_serve": share.could_serve,
                "all_msat": share.all_msat,
            }
            for name, share in zip(*_columns(replay), strict=True)
        ],
    }


def _json_tally(tally: Tally, with_then: bool) -> dict[str, object]:
    then = {"then_msat": tally.then_msat, "unserved_then_msat": tally.unserved_then_msat} if with_then else {}
    return {
        "requests": tally.requests,
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "served": tally.served,
        "unserved": tally.unserved,
        "now_msat": tally.now_msat,
        **then,
    }
