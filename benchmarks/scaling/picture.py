"""Small pictures of cost over size, all with the same vertical axis, both axes logarithmic; drawn without a library."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

_WIDTH, _HEIGHT, _COLUMNS = 300, 250, 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 28, 38
_COLOURS = ("#1f6feb", "#d1570b", "#2d8659", "#8250df")


def draw(title: str, y_label: str, axes: Mapping[str, Mapping[str, Any]]) -> str:
    """One panel an axis; `axes` as the study writes them down."""
    costs = [cost for axis in axes.values() for line in axis["lines"].values() for cost in line["cpu_ms"] if cost]
    bounds = floor(log10(min(costs))), ceil(log10(max(costs)))
    n_rows = ceil(len(axes) / _COLUMNS)
    width, height = _WIDTH * _COLUMNS, 30 + _HEIGHT * n_rows
    panels = []
    for number, axis in enumerate(axes.values()):
        x, y = _WIDTH * (number % _COLUMNS), 30 + _HEIGHT * (number // _COLUMNS)
        panels.append(f'<g transform="translate({x} {y})">\n{_panel(axis, bounds)}\n</g>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    white = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([head, white, _text(12, 20, f"{title}: {y_label}", size=15), *panels, "</svg>\n"])


def _panel(axis: Mapping[str, Any], bounds: tuple[int, int]) -> str:
    sizes: Sequence[int] = axis["sizes"]
    low, high = log10(sizes[0]), log10(sizes[-1])

    def place(size: float, cost: float) -> tuple[float, float]:
        x = (log10(size) - low) / (high - low)
        y = (log10(cost) - bounds[0]) / (bounds[1] - bounds[0])
        return _LEFT + x * (_WIDTH - _LEFT - _RIGHT), _TOP + (1 - y) * (_HEIGHT - _TOP - _BOTTOM)

    left, bottom = place(sizes[0], 10 ** bounds[0])
    right, top = place(sizes[-1], 10 ** bounds[1])
    parts = []
    for power in range(bounds[0], bounds[1] + 1):
        y = place(sizes[0], 10**power)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#ddd" fill="none"/>')
        parts.append(_text(left - 5, y + 4, f"{10.0**power:g}", anchor="end"))
    for power in range(ceil(low), floor(high) + 1):
        x = place(10**power, 10 ** bounds[0])[0]
        parts.append(f'<path d="M{x:.1f} {top}V{bottom}" stroke="#eee" fill="none"/>')
        parts.append(_text(x, bottom + 15, _short(10**power), anchor="middle"))
    parts.append(_text((left + right) / 2, bottom + 31, axis["unit"], anchor="middle", size=12))
    for number, (name, line) in enumerate(axis["lines"].items()):
        points = [place(size, cost) for size, cost in zip(sizes, line["cpu_ms"], strict=True) if cost]
        colour = _COLOURS[number]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        parts.append(_text(left + 6, top + 13 * (number + 1), name, colour=colour))
    return "\n".join(parts)


def _short(size: int) -> str:
    return f"{size}" if size < 1000 else f"{size // 1000}k" if size < 10**6 else f"{size // 10**6}M"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11, colour: str = "#333") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="sans-serif" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
