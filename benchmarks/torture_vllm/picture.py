"""Draws the power curve: how far perturbed weights lie, and from what size on they are not verified any more."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.torture_vllm.book import Row
from benchmarks.torture_vllm.bounds import upper_bound

COLOURS = {"verified": "#1b7837", "unverified": "#e08214", "mismatch": "#b2182b"}
MARKS = {"verified": "o", "unverified": "s", "mismatch": "D"}


def draw_power(path: Path, power: Sequence[Row], honest: Sequence[Row]) -> None:
    """Writes an SVG, the same bytes for the same rows."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": path.stem, "font.size": 9, "axes.spines.top": False})
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure, (distances, shares) = pyplot.subplots(
        2, 1, sharex=True, figsize=(7.5, 6), height_ratios=(3, 2), layout="constrained"
    )
    for state, colour in COLOURS.items():
        found = [row for row in power if row.state == state and "nats" in row.figures]
        distances.scatter(
            [100 * row.figures["scale"] for row in found], [row.figures["nats"] for row in found],
            s=18, c=colour, marker=MARKS[state], alpha=0.7, linewidths=0, label=state,
        )  # fmt: skip
    own = [row.figures["nats"] for row in honest if row.group == "--enable-lora" and "nats" in row.figures]
    bounds = [row.figures["bound"] for row in power if "bound" in row.figures]
    if own:
        distances.axhline(max(own), color="#555555", linestyle=":", label="the same server, its own weights")
    if bounds:
        distances.axhline(min(bounds), color="#1b7837", linestyle="--", label="bound for verified")
    distances.set(xscale="log", yscale="log", ylabel="distance, nats a token")
    distances.yaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]))
    distances.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    distances.yaxis.set_minor_locator(NullLocator())
    distances.legend(frameon=False, loc="upper left")
    scales = sorted({row.figures["scale"] for row in power})
    rates = [_not_verified(power, scale) for scale in scales]
    least = [[rate - low for rate, low in rates], [0.0] * len(rates)]
    percents, shown = [100 * scale for scale in scales], [rate for rate, _ in rates]
    shares.errorbar(percents, shown, yerr=least, marker="o", color="#333333", capsize=3, linewidth=1)
    shares.set(
        xlabel="noise added to every tensor, % of its standard deviation",
        ylabel="share not verified",
        ylim=(-0.05, 1.05),
    )
    shares.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _not_verified(power: Sequence[Row], scale: float) -> tuple[float, float]:
    """The share, and the least that it may be at 95%."""
    found = [row for row in power if row.figures["scale"] == scale]
    n_verified = sum(row.state == "verified" for row in found)
    return 1 - n_verified / len(found), 1 - upper_bound(n_verified, len(found))
