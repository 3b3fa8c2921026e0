"""docs/scaling.md says what was measured, and what was measured is what the page's reader may count on."""

import json
from xml.etree import ElementTree

import pytest

from benchmarks.scaling import page
from benchmarks.scaling.__main__ import measure
from benchmarks.scaling.axes import AXES, Axis, chat, three_models, vote
from benchmarks.scaling.growth import exponent, said
from benchmarks.scaling.picture import draw
from benchmarks.scaling.start import start

STUDY = json.loads(page.RESULTS.read_text())
BY_STEPS = {
    (axis, name): exponent(found["sizes"], line["steps"])
    for axis, found in STUDY["axes"].items()
    for name, line in found["lines"].items()
}


@pytest.mark.parametrize(
    ("cost", "k", "word"),
    [
        (lambda size: 5, 0, "constant"),
        (lambda size: 2 * size, 1, "linear"),
        (lambda size: size**0.5, 0.5, "less than linear"),
        (lambda size: size**2, 2, "more than linear"),
    ],
)
def test_the_exponent_is_that_of_the_cost(cost, k, word):
    sizes = (1, 3, 10, 30, 100)
    found = exponent(sizes, [cost(size) for size in sizes])
    assert found == pytest.approx(k)
    assert said(found) == word


def test_the_exponent_is_read_off_where_the_sizes_are_largest():
    sizes = (1, 100, 10_000, 1_000_000)
    assert exponent(sizes, [1000 + size for size in sizes]) == pytest.approx(1, abs=0.03)
    assert exponent(sizes, [None, 7, 7, 7]) == pytest.approx(0)
    assert exponent((1, 2), [7, None]) is None


def test_the_page_and_its_picture_are_those_of_the_results():
    assert page.PAGE.read_text() == page.page(STUDY), "python -m benchmarks.scaling --page"
    assert page.PICTURE.read_text() == draw(*page.CAPTION, STUDY["axes"])
    ElementTree.fromstring(page.PICTURE.read_text())


def test_every_axis_has_been_measured_at_every_size():
    assert {axis.name: list(axis.sizes) for axis in AXES} == {name: a["sizes"] for name, a in STUDY["axes"].items()}
    assert {axis.name: set(axis.lines) for axis in AXES} == {name: set(a["lines"]) for name, a in STUDY["axes"].items()}


@pytest.mark.parametrize(
    ("axis", "line"),
    [("models", "random"), ("keys", "random"), ("pool", "random"), ("pool", "similar"), ("pool", "dissimilar")],
)
def test_more_models_keys_and_personas_do_not_make_a_request_take_more_steps(axis, line):
    assert abs(BY_STEPS[axis, line]) < 0.01


def test_nothing_takes_steps_more_than_linearly():
    assert {line: k for line, k in BY_STEPS.items() if k > 1.05} == {}


async def test_a_small_study_runs_through():
    small = Axis("candidates", "candidates", (1, 4), three_models, {"vote": vote, "chat": lambda size: chat()})
    found = await measure(small)
    one, four = found["lines"]["vote"]["steps"]
    assert one < four < 4 * one
    first, again = found["lines"]["chat"]["steps"]
    assert abs(first - again) <= 0.05 * first
    assert all(cost > 0 for line in found["lines"].values() for cost in line["cpu_ms"])


async def test_a_server_starts_and_is_small():
    found = await start(1)
    assert found["cpu_s"] > 0
    assert found["rss_mib"] < 65  # of which the page says how many it takes on a machine of ours
