"""``arbstr stats``: what was asked, what it cost and what choosing saved. Works while an arbstr runs."""

from __future__ import annotations

from argparse import Namespace

from arbstr.cli._books import filter_of, read_receipts
from arbstr.cli._output import note, print_json, print_table, printable
from arbstr.cli._times import period_of, show_time
from arbstr.store import MAX_GROUPS, RequestFilter, Statistics, Totals, statistics_of
from arbstr.units import format_sats

_COLUMNS = ("REQUESTS", "OK", "FAILED", "STREAMED", "IN", "CACHED", "OUT", "COST", "SAVED", "LATENCY")


def run(arguments: Namespace) -> int:
    wanted = filter_of(arguments, period_of(arguments))
    found = read_receipts(arguments, lambda db: statistics_of(db, wanted, arguments.group_by))
    if arguments.json:
        print_json(_json(wanted, found, arguments.group_by))
        return 0
    print(f"{show_time(wanted.since_ns)} to {show_time(wanted.until_ns)}")
    if arguments.group_by is None:
        _print_totals(found.totals)
    else:
        _print_groups(found, arguments.group_by)
    return 0


def _print_totals(totals: Totals) -> None:
    saved = format_sats(totals.saved_median_msat)
    dearest = format_sats(totals.saved_dearest_msat)
    print(
        f"Requests: {totals.total} ({totals.success} ok, {totals.error} failed; {totals.streaming} streamed)\n"
        f"Tokens:   {totals.prompt_tokens} in ({totals.cached_tokens} cached), {totals.completion_tokens} out\n"
        f"Cost:     {format_sats(totals.cost_msat)} sats\n"
        f"Saved:    {saved} sats against the median of the candidates, {dearest} sats against the dearest\n"
        f"Latency:  {totals.average_latency_ms:.0f} ms on average"
    )


def _print_groups(found: Statistics, group_by: str) -> None:
    rows = [(printable("-" if name is None else name), *_cells(totals)) for name, totals in found.groups.items()]
    print_table((group_by.upper(), *_COLUMNS), [*rows, ("(all)", *_cells(found.totals))], numbers=frozenset(_COLUMNS))
    if found.groups_left_out:
        note(f"Note: only the {MAX_GROUPS} busiest are shown.")


def _cells(totals: Totals) -> tuple[str, ...]:
    return (
        str(totals.total),
        str(totals.success),
        str(totals.error),
        str(totals.streaming),
        str(totals.prompt_tokens),
        str(totals.cached_tokens),
        str(totals.completion_tokens),
        format_sats(totals.cost_msat),
        format_sats(totals.saved_median_msat),
        f"{totals.average_latency_ms:.0f}",
    )


def _json(wanted: RequestFilter, found: Statistics, group_by: str | None) -> dict[str, object]:
    body: dict[str, object] = {"since_ns": wanted.since_ns, "until_ns": wanted.until_ns, **_json_totals(found.totals)}
    if group_by is not None:
        body["group_by"] = group_by
        # A list, not an object by name: a receipt without a value has no name to stand under.
        body["groups"] = [{group_by: name, **_json_totals(totals)} for name, totals in found.groups.items()]
        body["groups_left_out"] = found.groups_left_out
    return body


def _json_totals(totals: Totals) -> dict[str, object]:
    return {
        "total": totals.total,
        "success": totals.success,
        "error": totals.error,
        "streaming": totals.streaming,
        "prompt_tokens": totals.prompt_tokens,
        "cached_tokens": totals.cached_tokens,
        "completion_tokens": totals.completion_tokens,
        "cost_msat": totals.cost_msat,
        "saved_median_msat": totals.saved_median_msat,
        "saved_dearest_msat": totals.saved_dearest_msat,
        "average_latency_ms": totals.average_latency_ms,
    }
