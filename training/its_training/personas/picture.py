"""Draws how near personas lie to their queries, strategy by strategy, and how long they are."""

from pathlib import Path

from its_proxy.codesign.errors import ConfigError
from its_training.personas.quality import Measured, Quality

# Of the Okabe-Ito palette: told apart by colour-blind readers too.
_COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442")


def draw(title: str, quality: Quality, path: Path) -> None:
    """Writes a PNG; equal figures give equal pixels. Raises ConfigError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("the picture needs matplotlib", hint="pip install 'its-proxy[train]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    _bars(axes[0], "by words", [(m.strategy, m.by_words) for m in quality.measured])
    _bars(axes[1], "by domains", [(m.strategy, m.by_domains) for m in quality.measured])
    _histogram(axes[2], quality.measured)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def _bars(axes: object, title: str, estimates: list[tuple[str, tuple[float, float, float]]]) -> None:
    names = [name for name, _ in estimates]
    values = [estimate[0] for _, estimate in estimates]
    below = [value - low for _, (value, low, _) in estimates]
    above = [high - value for _, (value, _, high) in estimates]
    colours = [_COLOURS[n % len(_COLOURS)] for n in range(len(names))]
    axes.bar(names, values, yerr=[below, above], capsize=4, color=colours)  # type: ignore[attr-defined]
    axes.set_title(f"similarity {title}, 95% interval", fontsize=10)  # type: ignore[attr-defined]
    axes.set_ylabel("mean cosine of persona and query")  # type: ignore[attr-defined]
    axes.set_ylim(bottom=0)  # type: ignore[attr-defined]
    axes.tick_params(axis="x", rotation=20 if len(names) > 3 else 0)  # type: ignore[attr-defined]


def _histogram(axes: object, measured: tuple[Measured, ...]) -> None:
    nearest = max(words for each in measured for words, _ in each.by_id.values())
    for n, each in enumerate(measured):
        values = [words for words, _ in each.by_id.values()]
        colour = _COLOURS[n % len(_COLOURS)]
        axes.hist(  # type: ignore[attr-defined]
            values, bins=30, range=(0, max(0.05, nearest)), histtype="step", lw=1.6, color=colour, label=each.strategy
        )
    axes.set_yscale("log")  # type: ignore[attr-defined]
    axes.set_title("similarity by words, each query", fontsize=10)  # type: ignore[attr-defined]
    axes.set_xlabel("cosine of persona and query")  # type: ignore[attr-defined]
    axes.set_ylabel("queries (logarithmic)")  # type: ignore[attr-defined]
    axes.legend(fontsize=8)  # type: ignore[attr-defined]
