"""Draws a grid as a heat map: rows are how it was trained, columns how it was asked, PNG and SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from its_proxy.codesign.errors import ConfigError
from its_training.grid.equal_tokens import Way
from its_training.grid.hierarchy import Measured


def draw(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[Way, Measured],
    matched: Mapping[str, str],
    out: Path,
) -> list[Path]:
    """Writes OUT.png and OUT.svg; a cell that was asked as it was trained has a frame. Raises ConfigError."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("the heat map needs matplotlib", hint="pip install 'its-proxy[train]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "its-train grid"  # equal grids give equal files
    from matplotlib import pyplot

    values = [[_percent(cells.get(Way(row, column))) for column in columns] for row in rows]
    figure, axes = pyplot.subplots(figsize=(2.2 + 1.35 * len(columns), 1.5 + 0.72 * len(rows)), layout="constrained")
    image = axes.imshow(values, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("asked as")
    axes.set_ylabel("trained on")
    axes.set_title(title, fontsize=11)
    middle = sum(image.get_clim()) / 2
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            _write_cell(axes, x, y, cells.get(Way(row, column)), middle)
            if matched.get(row) == column:
                axes.add_patch(pyplot.Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, fill=False, color="#d62728", lw=2))
    figure.colorbar(image, ax=axes, label="percent right")
    paths = [out.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    pyplot.close(figure)
    return paths


def _percent(cell: Measured | None) -> float:
    return float("nan") if cell is None else 100 * cell.estimate.value


def _write_cell(axes: object, x: int, y: int, cell: Measured | None, middle: float) -> None:
    if cell is None:
        text, colour = "not\nmeasured", "#888888"
    else:
        value, low, high = (100 * part for part in cell.estimate)
        text, colour = f"{value:.1f}\n[{low:.0f}, {high:.0f}]", "black" if value > middle else "white"
    axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=8.5)  # type: ignore[attr-defined]
