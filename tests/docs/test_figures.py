"""Every figure with an interval on the pages that argue stands in a page of results, in this form or turned round."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURE = re.compile(r"[-+]?\d+\.\d+%? \[[-+]?\d+\.\d+, [-+]?\d+\.\d+\]")
RESULTS = [*(ROOT / "docs/results").glob("*.md"), ROOT / "docs/cheaper-votes.md"]


def read(figure: str) -> tuple[float, ...]:
    return tuple(map(float, re.findall(r"[-+]?\d+\.\d+", figure)))


def turned(figure: tuple[float, ...]) -> tuple[float, ...]:
    """Of a minus b: b minus a."""
    value, low, high = figure
    return -value, -high, -low


MEASURED = {read(figure) for path in RESULTS for figure in FIGURE.findall(path.read_text("utf-8"))}
PAGES = {name: FIGURE.findall((ROOT / "docs" / name).read_text("utf-8")) for name in ("idea.md", "choosing-n.md")}


@pytest.mark.parametrize("name", PAGES)
def test_its_figures_are_measured_ones(name):
    assert PAGES[name]
    for figure in map(read, PAGES[name]):
        assert figure in MEASURED or turned(figure) in MEASURED, figure


def test_a_figure_that_nobody_measured_would_be_found():
    assert (99.9, 99.8, 99.95) not in MEASURED
    assert turned((4.4, 3.2, 5.6)) == (-4.4, -5.6, -3.2)
