"""How does a report look on a terminal, and as JSON?"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table

from arbstr.units import format_sats
from bench import machine
from bench.report import FixedProvider, Latency, ReplayReport

PIPE_WIDTH = 120


def write_json(path: Path, kind: str, facts: Mapping[str, object], report: object) -> None:
    """One object: ``bench`` (the verb), ``setup`` with the versions of what was measured with, and ``report``. msat are
    JSON integers."""
    if not attrs.has(type(report)):
        raise TypeError(f"a report must be an attrs class, got {type(report).__name__}")
    document = {"bench": kind, "setup": {**facts, "versions": machine.versions()}, "report": attrs.asdict(report)}  # type: ignore[arg-type]  # checked above
    path.write_text(json.dumps(document, indent=2, default=str) + "\n")


def console(pipe_width: int = PIPE_WIDTH) -> Console:
    """For reports: as wide as the terminal, and wide enough for every table in a pipe."""
    return Console() if sys.stdout.isatty() else Console(width=pipe_width)


def print_replay(report: ReplayReport, out: Console) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _lines(report):
        table.add_row(name, value)
    out.print(table)
    for problem in report.money.problems if report.money is not None else ():
        out.print(f"MONEY: {problem}", markup=False)


def _lines(report: ReplayReport) -> list[tuple[str, str]]:
    counts = f"{report.requests} ({report.streams} streams), {report.ok} ok, {report.retried_requests} retried"
    early = f"{report.failures_before_first_byte}, avoidable {_or_dash(report.avoidable_failures)}"
    lines = [
        ("requests", counts),
        *((f"  {kind}", str(count)) for kind, count in report.failures.items()),
        ("failed before the first byte", early),
        ("streams broken after it", str(report.stream_errors_after_first_byte)),
        ("tokens", f"{report.prompt_tokens} prompt, {report.completion_tokens} completion"),
        ("told cost", f"{format_sats(report.told_msat)} sats"),
        *_savings(report),
        ("added latency", _latency(report.added)),
        ("  without retries", _latency(report.added_without_retries)),
        ("total latency", _latency(report.total)),
        ("first token of streams", _latency(report.ttft_streams)),
        ("client-side delay", _latency(report.client_delay)),
        ("load", f"{report.requests_per_s}/s for {report.wall_s} s, {report.most_at_once} at once"),
        ("client CPU", f"{report.client_cpu_share:.0%} of a core"),
    ]
    if report.server_cpu_ms_per_request is not None and report.server_cpu_share is not None:
        cpu = f"{report.server_cpu_ms_per_request} ms/request, {report.server_cpu_share:.0%} of a core"
        lines.append(("server CPU", cpu))
    return [*lines, *_money(report)]


def _savings(report: ReplayReport) -> list[tuple[str, str]]:
    if not report.fixed or report.median_fixed is None:
        return []
    cheapest, dearest = report.fixed[0], report.fixed[-1]
    paid = format_sats(report.paid_for_compared_msat)
    return [
        ("paid", f"{paid} sats for {report.compared_requests} comparable requests"),
        ("  beside the cheapest alone", _saving(cheapest)),
        (f"  beside the median of {len(report.fixed)}", _saving(report.median_fixed)),
        ("  beside the dearest alone", _saving(dearest)),
    ]


def _saving(fixed: FixedProvider) -> str:
    share = "" if fixed.saving_percent is None else f" ({fixed.saving_percent} %)"
    return f"{format_sats(fixed.cost_msat)} sats at {fixed.provider}: saved {format_sats(fixed.saving_msat)}{share}"


def _money(report: ReplayReport) -> list[tuple[str, str]]:
    if report.money is None:
        return []
    money = report.money
    return [
        ("charged", f"{format_sats(money.charged_msat)} sats, debt {format_sats(money.debt_msat)}"),
        ("receipts", f"{format_sats(money.receipts_msat)} sats"),
        ("charged and not told", f"{format_sats(money.untold_msat)} sats"),
        ("open holds", str(money.open_holds)),
        ("books", "right to the msat" if money.clean else f"WRONG: {len(money.problems)} problems"),
    ]


def _latency(latency: Latency) -> str:
    if latency.p50_ms is None or latency.p99_ms is None:
        return "-"
    return f"p50 {latency.p50_ms:.1f} ms, p99 {latency.p99_ms:.1f} ms ({latency.samples} requests)"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
