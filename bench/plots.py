"""How do reports look as pictures? PNG files by matplotlib, which only this file imports, and only when asked."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process import ChildFailed

if TYPE_CHECKING:
    from bench.gateway import GatewayReport

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
