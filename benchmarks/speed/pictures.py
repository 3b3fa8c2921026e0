"""The pictures of docs/performance.md, drawn without a library: CPU as bars, rates as lines, on logarithmic axes."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from benchmarks.speed.goals import Results, middle
from benchmarks.speed.scenarios import CONCURRENCY

_WIDTH = 760
_FONT = 'font-family="sans-serif"'
COLOURS = {"direct": "#8c959f", "nginx": "#2d8659", "its-proxy": "#1f6feb", "plain": "#9a6700", "its_hub": "#d1570b",
           "litellm": "#8250df", "optillm": "#cf222e"}  # fmt: skip
# Who is not measured with many at a time stands there with fewer, and says so.
_BARS = {
    "JSON, 64 at a time": (("json-64", ""), ("json-16", "16 at a time")),
    "a stream of 17 events, 64 at a time": (("sse-64", ""), ("sse-1", "1 at a time")),
    "a vote of 8, 16 at a time": (("vote-16", ""), ("vote-1", "1 at a time")),
}


def draw_all(results: Results, folder: Path) -> list[str]:
    """Their file names."""
    if "rates" not in results:
        return []
    pictures = {"cpu.svg": _cpu(results), "rates.svg": _rates(results)}
    for name, picture in pictures.items():
        (folder / name).write_text(picture)
    return list(pictures)


def _cpu(results: Results) -> str:
    groups: dict[str, list[tuple[str, float, str]]] = {}
    for title, scenarios in _BARS.items():
        for target in COLOURS:
            seen = [(value, note) for name, note in scenarios if (value := middle(results, name, target, "cpu_ms"))]
            if seen:
                groups.setdefault(title, []).append((target, *seen[0]))
    most = max(value for bars in groups.values() for _, value, _ in bars)
    least = min(value for bars in groups.values() for _, value, _ in bars)
    axis = _Log(10 ** math.floor(math.log10(least)), most * 2, 110, _WIDTH - 110)
    parts, y = [_text(10, 20, "CPU of the whole process tree, ms a request (logarithmic)", size=14)], 36.0
    for title, bars in groups.items():
        parts.append(_text(10, y + 14, title, colour="#000"))
        y += 22
        for target, value, note in bars:
            end = axis.at(value)
            told = f"{value:.3f}" if value < 10 else f"{value:.0f}"
            parts.append(_text(104, y + 13, target, anchor="end"))
            parts.append(f'<rect x="110" y="{y:.1f}" width="{end - 110:.1f}" height="17" fill="{COLOURS[target]}"/>')
            parts.append(_text(end + 6, y + 13, told + (f", {note}" if note else "")))
            y += 21
        y += 8
    grid = [_line(axis.at(tick), 36, axis.at(tick), y) + _text(axis.at(tick), y + 14, f"{tick:g}", anchor="middle")
            for tick in axis.ticks()]  # fmt: skip
    return _svg(y + 24, grid + parts)


def _rates(results: Results) -> str:
    lines = {}
    for target in COLOURS:
        points = [(c, rate) for c in CONCURRENCY if (rate := middle(results, f"json-{c}", target, "per_second"))]
        if points:
            lines[target] = points
    highest = max(rate for line in lines.values() for _, rate in line)
    lowest = min(rate for line in lines.values() for _, rate in line)
    across = _Log(1, CONCURRENCY[-1], 60, _WIDTH - 110)
    up = _Log(10 ** math.floor(math.log10(lowest)), highest * 1.3, 360, 36)
    title = "Requests a second over how many ask at a time: JSON, its-proxy rewrites (logarithmic)"
    parts = [_text(10, 20, title, size=14), _text(across.middle, 396, "at a time", anchor="middle")]
    parts += [_line(60, up.at(tick), across.end, up.at(tick)) + _text(54, up.at(tick) + 4, _told(tick), anchor="end")
              for tick in up.ticks()]  # fmt: skip
    parts += [_text(across.at(c), 376, str(c), anchor="middle") for c in CONCURRENCY]
    labels = _apart({target: up.at(points[-1][1]) for target, points in lines.items()})
    for target, points in lines.items():
        spots = [(across.at(c), up.at(rate)) for c, rate in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[target]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[target]}"/>' for x, y in spots]
        at = spots[-1][0] if points[-1][0] != CONCURRENCY[-1] else across.end
        parts.append(_text(at + 8, labels[target] + 4, target, colour=COLOURS[target]))
    return _svg(404, parts)


def _told(tick: float) -> str:
    return f"{tick:,.0f}" if tick >= 1 else f"{tick:g}"


def _apart(wished: Mapping[str, float], least: float = 14) -> dict[str, float]:
    """Labels that would lie on each other move down."""
    placed: dict[str, float] = {}
    below = -math.inf
    for name, y in sorted(wished.items(), key=lambda item: item[1]):
        below = placed[name] = max(y, below + least)
    return placed


class _Log:
    """A logarithmic axis from pixel `start` to `end`."""

    def __init__(self, least: float, most: float, start: float, end: float) -> None:
        self.least, self.most, self.start, self.end = least, most, start, end
        self.middle = (start + end) / 2

    def at(self, value: float) -> float:
        share = math.log(max(value, self.least) / self.least) / math.log(self.most / self.least)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> Sequence[float]:
        first, last = math.ceil(math.log10(self.least) - 1e-9), math.floor(math.log10(self.most))
        return [10.0**power for power in range(first, last + 1)]


def _svg(height: float, parts: Sequence[str]) -> str:
    body = "\n".join([f'<rect width="{_WIDTH}" height="{height:.0f}" fill="white"/>', *parts])
    size = f'viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" height="{height:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#ddd" fill="none"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} font-size="{size}" fill="{colour}" text-anchor="{anchor}">' \
           f"{escape(text)}</text>"  # fmt: skip
