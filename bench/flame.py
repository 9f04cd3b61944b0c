"""How do sampled stacks look as one picture? A flame graph as SVG: width is time, callers lie below what they call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from zlib import crc32

from attrs import define, field

WIDTH, ROW, TOP, CHARACTER = 1_600, 16, 30, 6.6
LEAST_WIDTH = 0.6
"""Narrower boxes are left out, with what they carry."""


@define
class _Node:
    name: str
    weight: float = 0.0
    calls: dict[str, _Node] = field(factory=dict)


def svg(stacks: Iterable[tuple[Sequence[str], float]], title: str) -> str:
    """Stacks from the outermost name to the innermost, with their weights (any unit). A box tells its share when it is
    pointed at. Raises ValueError when nothing weighs anything."""
    root = _tree(stacks)
    if not root.weight:
        raise ValueError("there is nothing to draw: all stacks weigh nothing")
    boxes: list[str] = []
    height = TOP + ROW * (1 + _draw(root, 0.0, WIDTH / root.weight, 0, root.weight, boxes))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="monospace" font-size="11"><text x="4" y="18">{escape(title)}</text>'
        f'<g transform="translate(0 {height})">'
    )
    return head + "".join(boxes) + "</g></svg>\n"


def _tree(stacks: Iterable[tuple[Sequence[str], float]]) -> _Node:
    root = _Node("all")
    for names, weight in stacks:
        root.weight += weight
        node = root
        for name in names:
            node = node.calls.setdefault(name, _Node(name))
            node.weight += weight
    return root


def _draw(node: _Node, left: float, scale: float, depth: int, total: float, boxes: list[str]) -> int:
    """Draw a node and what it calls; returns the greatest depth."""
    width = node.weight * scale
    if width < LEAST_WIDTH:
        return depth
    boxes.append(_box(node, left, width, depth, total))
    deepest = depth
    for call in sorted(node.calls.values(), key=lambda each: each.name):
        deepest = max(deepest, _draw(call, left, scale, depth + 1, total, boxes))
        left += call.weight * scale
    return deepest


def _box(node: _Node, left: float, width: float, depth: int, total: float) -> str:
    top = -(depth + 1) * ROW
    shown = node.name[: max(0, int(width / CHARACTER) - 1)]
    colour = f"hsl({20 + crc32(node.name.encode()) % 40} 85% 68%)"
    return (
        f"<g><title>{escape(node.name)}: {node.weight / total:.2%}</title>"
        f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{ROW - 1}" fill="{colour}"/>'
        f'<text x="{left + 2:.1f}" y="{top + 12}">{escape(shown)}</text></g>'
    )
