"""Lines over time as an SVG picture, drawn without a library."""

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 36, 40
_COLOURS = ("#1f6feb", "#d1570b", "#2d8659", "#8250df")

Line = Sequence[tuple[float, float]]


def draw(
    title: str,
    x_label: str,
    y_label: str,
    lines: Mapping[str, Line],
    shaded_until: float,
    y_most: float | None = None,
) -> str:
    """The vertical axis begins at 0, so that growth is seen in proportion; what is shaded is not judged."""
    x_most = _ceiling(max(x for line in lines.values() for x, _ in line))
    y_most = y_most or _ceiling(max(y for line in lines.values() for _, y in line) * 1.15)

    def place(x: float, y: float) -> tuple[float, float]:
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + width * x / x_most, _TOP + height * (1 - y / y_most)

    left, bottom = place(0, 0)
    right, top = place(x_most, y_most)
    parts = [
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<rect x="{left}" y="{top}" width="{place(shaded_until, 0)[0] - left:.1f}" height="{bottom - top}" '
        'fill="#f0f0f0"/>',
        _text(_LEFT, 20, title, size=14),
        _text((left + right) / 2, _HEIGHT - 6, x_label, anchor="middle"),
        f'<g transform="translate(14 {(top + bottom) / 2}) rotate(-90)">{_text(0, 0, y_label, anchor="middle")}</g>',
    ]
    for step in range(6):
        x, y = place(x_most * step / 5, y_most * step / 5)
        parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#ddd" fill="none"/>')
        parts.append(_text(left - 6, y + 4, f"{y_most * step / 5:g}", anchor="end"))
        parts.append(_text(x, bottom + 16, f"{x_most * step / 5:g}", anchor="middle"))
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(_text(right - 8, bottom - 12 - 16 * number, name, anchor="end", colour=colour))
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" ' \
           f'height="{_HEIGHT}">\n{body}\n</svg>\n'  # fmt: skip


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#333") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="sans-serif" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _ceiling(value: float) -> float:
    """The least of round numbers that is not below it; round: five even steps of it are round, too."""
    rounds = (number * 10.0**power for power in range(-2, 9) for number in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8))
    return next(number for number in rounds if number >= value)
