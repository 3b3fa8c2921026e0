"""The frontier as pictures: accuracy against generated tokens, and tokens saved against wall time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Results = Mapping[str, Any]
STYLES = {
    "all at once": ("#555555", "o"),
    "exact": ("#1f6feb", "s"),
    "beta": ("#d1570b", "^"),
    "published": ("#8250df", "D"),
}


def draw_all(results: Results, folder: Path) -> None:
    """One SVG for each set of recorded candidates, one for the real vLLM; the same bytes for the same numbers."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "its-proxy", "svg.fonttype": "none", "font.size": 9, "axes.grid": True,
                     "grid.alpha": 0.3}):  # fmt: skip
        for name, replay in results.get("replays", {}).items():
            _draw_frontier(folder / f"{name}.svg", replay)
        for part in ("vllm", "crowd"):
            if part in results:
                _draw_walls(folder / f"{part}.svg", results[part])


def _draw_frontier(path: Path, replay: Results) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), layout="constrained")
    accuracy, time = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    accuracy.axhline(100 * replay["greedy"][0], color="#2d8659", linestyle=":", label="one greedy call")
    accuracy.axhline(100 * replay["pass_at_1"][0], color="#2d8659", linestyle="--", label="pass@1")
    for kind, (colour, mark) in STYLES.items():
        found = [point for point in replay["points"] if kind_of(point) == kind]
        tokens = [point["n_tokens"] for point in found]
        accuracy.errorbar(
            tokens, [100 * point["accuracy"][0] for point in found], yerr=_errors(found), fmt=mark, color=colour,
            ms=5, capsize=2, alpha=0.8, elinewidth=0.6, label=kind,
        )  # fmt: skip
        time.plot(tokens, [point["p50"] for point in found], mark, mfc="none", color=colour, ms=5)
        time.plot(tokens, [point["p95"] for point in found], mark, color=colour, ms=5, alpha=0.8)
    for point in replay["points"]:
        if kind_of(point) == "all at once":
            place = (point["n_tokens"], 100 * point["accuracy"][0])
            accuracy.annotate(point["name"], place, textcoords="offset points", xytext=(4, -12), fontsize=8)
    full = next(point for point in replay["points"] if point["name"] == "n=16")
    time.axhline(1.5 * full["p95"], color="#555555", linestyle=":", label="1.5 times the p95 of n=16")
    time.set(yscale="log", xlabel="generated tokens an item", ylabel="steps: p95 filled, p50 hollow")
    time.legend(loc="upper right")
    accuracy.set(
        xscale="log", ylabel="accuracy, %",
        title=f"{replay['title'].replace('`', '')}, {replay['n_items']} items\n"
        "bars: 95% interval of the difference to n=16 on the same items",
    )  # fmt: skip
    _tick(time.xaxis, [30, 50, 100, 200, 400, 800])
    _tick(time.yaxis, [25, 50, 100, 200, 400])
    accuracy.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def _tick(axis: Any, ticks: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def kind_of(point: Results) -> str:
    if point["is_published"]:
        return "published"
    return next((kind for kind in ("exact", "beta") if f" {kind}," in point["name"]), "all at once")


def _errors(points: Sequence[Results]) -> list[list[float]]:
    """How far the interval of the difference reaches below and above its value."""
    estimates = [point["minus_full"] for point in points]
    below = [100 * (value - low) for value, low, _ in estimates]
    return [below, [100 * (high - value) for value, _, high in estimates]]


def _draw_walls(path: Path, part: Results) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    points = part["points"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.add_patch(Rectangle((50, 0), 50, 1.5, color="#2d8659", alpha=0.12, linewidth=0))
    axes.annotate("at least 50% saved, p95 at most 1.5 times", (51, 0.03), fontsize=8, color="#2d8659")
    # Sorted, so that neighbours take turns in standing above and below.
    for number, point in enumerate(sorted(points, key=lambda point: point["saved"])):
        colour, mark = STYLES[kind_of(point)]
        value, low, high = point["p95_ratio"]
        saved = 100 * point["saved"][0]
        axes.errorbar([saved], [value], yerr=[[value - low], [high - value]], fmt=mark, color=colour, capsize=3)
        is_right, place = saved > 70, (saved, value)
        offset = (-6 if is_right else 6, -22 if number % 2 else 14)
        axes.annotate(
            point["name"],
            place,
            textcoords="offset points",
            xytext=offset,
            fontsize=8,
            ha="right" if is_right else "left",
        )
    top = max(2.0, 1.1 * max(point["p95_ratio"][2] for point in points))
    axes.set(xlim=(-5, 100), ylim=(0, top), title=f"Before a real vLLM, {part['at_once']} at a time")
    axes.set(xlabel="generated tokens saved against n=16, %", ylabel="p95 of wall time against n=16")
    figure.savefig(path, metadata={"Date": None})
