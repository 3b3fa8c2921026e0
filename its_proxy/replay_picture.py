"""Accuracy against generated tokens, one line a stop rule: a picture of `its-proxy replay`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from its_proxy.codesign.errors import ConfigError
from its_proxy.replay import Setting

FORMATS = (".svg", ".png")


def draw(settings: Sequence[Setting], path: Path, title: str) -> None:
    """Raises ConfigError without matplotlib, and for a file that is neither SVG nor PNG."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: a picture is {' or '.join(FORMATS)}")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--picture: matplotlib is not installed", hint="pip install matplotlib") from None
    # A salt of its own: equal numbers give equal bytes.
    with rc_context({"svg.hashsalt": "its-proxy", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for rule in dict.fromkeys(setting.rule for setting in settings):
            _add_line(axes, rule, [setting for setting in settings if setting.rule == rule])
        chosen = next(setting for setting in settings if setting.is_chosen)
        axes.plot(chosen.n_tokens, 100 * chosen.worth.value, "o", ms=16, mfc="none", mec="black", label="enough")
        labelled = settings[0].accuracy is not None
        axes.set(title=title, xlabel="generated tokens an item", ylabel="accuracy, %" if labelled else "same answer, %")
        axes.legend()
        axes.grid(alpha=0.3)
        try:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None


def _add_line(axes: Any, rule: str, settings: Sequence[Setting]) -> None:
    tokens = [setting.n_tokens for setting in settings]
    worth = [100 * setting.worth.value for setting in settings]
    below = [100 * (setting.worth.value - setting.worth.low) for setting in settings]
    above = [100 * (setting.worth.high - setting.worth.value) for setting in settings]
    axes.errorbar(tokens, worth, yerr=(below, above), marker="o", capsize=3, label=f"stop {rule}")
    for setting in settings:
        place = (setting.n_tokens, 100 * setting.worth.value)
        axes.annotate(f"n={setting.n}", place, textcoords="offset points", xytext=(4, -12), fontsize=8)
