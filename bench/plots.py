"""How do reports look as pictures? PNG files by matplotlib, which only this file imports, and only when asked."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process import ChildFailed

if TYPE_CHECKING:
    from bench.client import Outcome
    from bench.gateway import GatewayReport
    from bench.soak import SoakReport

DOTS_PER_INCH = 120


def require() -> None:
    """Raises ChildFailed when there is nothing to draw with, before anything has been measured."""
    if find_spec("matplotlib") is None:
        raise ChildFailed("--plot needs matplotlib: install the project's dependency group `bench`")


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=size, squeeze=False)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=DOTS_PER_INCH, format="png")
    pyplot.close(figure)


def gateway(path: Path, report: GatewayReport) -> None:
    """Bars on logarithmic scales, a panel per column of the table."""
    rows = [row for row in report.rows if row.name in report.added]
    panels: list[tuple[str, list[float | None]]] = [
        ("CPU ms per plain request", [row.plain.cpu_ms if row.plain else None for row in rows]),
        ("CPU µs per chunk, 5 ms gaps", [row.gaps.cpu_us if row.gaps else None for row in rows]),
        ("added time to first byte, ms", [report.added[row.name].ttft_ms for row in rows]),
        ("resident MB, many open streams", [row.memory.open_mb if row.memory else None for row in rows]),
    ]
    figure, axes = _figure(2, 2, (12.0, 7.0))
    for axis, (title, values) in zip(axes.flat, panels, strict=True):
        _bars(axis, title, [row.name for row in rows], values)
    _save(figure, path)


def _bars(axis: Any, title: str, names: Sequence[str], values: Sequence[float | None]) -> None:
    known = [(name, value) for name, value in zip(names, values, strict=True) if value is not None and value > 0]
    axis.set_title(title)
    if not known:
        axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        return
    bars = axis.barh([name for name, _ in known], [value for _, value in known])
    axis.bar_label(bars, fmt="%.3g", padding=3)
    axis.set_xscale("log")
    axis.margins(x=0.2)
    axis.invert_yaxis()


def soak(path: Path, report: SoakReport) -> None:
    """What was counted, over time."""
    seconds = [look.at_s for look in report.looks]
    panels: list[tuple[str, dict[str, list[float]]]] = [
        ("resident memory, MB", {"": [look.rss_mb for look in report.looks]}),
        ("open files", {"": [look.open_files for look in report.looks]}),
        ("Trio tasks, actors", {"tasks": [x.tasks for x in report.looks], "actors": [x.actors for x in report.looks]}),
        ("open holds", {"": [look.open_holds for look in report.looks]}),
    ]
    figure, axes = _figure(2, 2, (12.0, 7.0))
    for axis, (title, lines) in zip(axes.flat, panels, strict=True):
        axis.set_title(title)
        axis.set_xlabel("s")
        for name, values in lines.items():
            axis.plot(seconds, values, label=name)
        axis.set_ylim(0, 1.1 * max(1.0, *(value for values in lines.values() for value in values)))
        if len(lines) > 1:
            axis.legend()
    _save(figure, path)


def replay(path: Path, outcomes: Sequence[Outcome]) -> None:
    """How latencies are distributed: the share of requests that took at most so long."""
    panels = {
        "whole answer": [each.total_s for each in outcomes if each.ok and each.total_s is not None],
        "first token of streams": [
            each.ttft_s for each in outcomes if each.ok and each.ask.stream and each.ttft_s is not None
        ],
        "client-side delay": [each.delay_s for each in outcomes],
    }
    figure, axes = _figure(1, 1, (9.0, 5.0))
    axis = axes[0][0]
    for name, values in panels.items():
        ordered = sorted(value * 1_000 for value in values)
        if ordered:
            axis.plot(ordered, [(n + 1) / len(ordered) for n in range(len(ordered))], label=name)
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlabel("ms")
    axis.set_ylabel("share of requests")
    axis.legend()
    _save(figure, path)
