"""Draws the loss of training runs over their steps, PNG and SVG; equal logs give equal bytes."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import isfinite
from typing import Any, TypeGuard

from its_proxy.codesign.errors import ConfigError
from its_training.report.found import Log

_MAX_NAMED = 10
"""Lines beyond so many cannot be told by their colours."""


def losses(log: Log) -> list[tuple[float, float]]:
    """(step, loss) of every entry that has both; an entry without a step counts as the next one."""
    points = []
    for number, entry in enumerate(log.entries, 1):
        loss, step = entry.get("loss"), entry.get("step", number)
        if _is_number(loss) and _is_number(step):
            points.append((float(step), float(loss)))
    return points


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def draw_losses(curves: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, bytes]:
    """`loss.png` and `loss.svg` as bytes. Raises ConfigError without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("the loss curve needs matplotlib", hint="pip install 'its-proxy[train]'") from None
    with matplotlib.rc_context({"svg.hashsalt": "its-train report", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        axes = figure.subplots()
        for label, points in curves.items():
            marker = "o" if len(points) == 1 else None
            axes.plot([step for step, _ in points], [loss for _, loss in points], label=label, lw=1.4, marker=marker)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("training loss, nats a token")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if len(curves) <= _MAX_NAMED:
            axes.legend(fontsize=8, frameon=False)
        return {f"loss.{kind}": _saved(figure, kind) for kind in ("png", "svg")}


def _saved(figure: Any, kind: str) -> bytes:
    data = BytesIO()
    figure.savefig(data, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return data.getvalue()
