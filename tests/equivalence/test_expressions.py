r"""What is read as an expression, and what is refused because it is unclear, or too much work."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.answer_bombs import REFUSED
from its_proxy.equivalence.expressions import Node, expression_of
from its_proxy.voting.answers import normal_form


def read(written: str) -> Node | None:
    return expression_of(normal_form(written))


@pytest.mark.parametrize(
    ("written", "wired"),
    [
        ("-3/4", ["number", "-3/4"]),
        (r"2\pi", ["mul", "", ["number", "2"], ["pi", ""]]),
        (r"\frac12x", ["mul", "", ["div", "", ["number", "1"], ["number", "2"]], ["symbol", "x"]]),
        (r"-x^2", ["neg", "", ["pow", "", ["symbol", "x"], ["number", "2"]]]),
        (r"\sqrt[3]{5}", ["root", "3", ["number", "5"]]),
        (r"\sin 2x", ["function", "sin", ["mul", "", ["number", "2"], ["symbol", "x"]]]),
        (r"\log_2 8", ["log", "", ["number", "2"], ["number", "8"]]),
        (r"50\%", ["number", "1/2"]),
        (r"[\sqrt2,\infty)", ["interval", "[)", ["root", "2", ["number", "2"]], ["infinity", "+"]]),
        (r"3(x+1)", ["mul", "", ["number", "3"], ["add", "", ["symbol", "x"], ["number", "1"]]]),
        (r"1,x", ["list", "", ["number", "1"], ["symbol", "x"]]),
    ],
)
def test_what_has_one_reading_is_read(written, wired):
    node = read(written)
    assert node is not None
    assert node.wire() == wired


@pytest.mark.parametrize(
    "written",
    [
        "1/2x",  # a half of x, or one over 2x
        "x^12",  # LaTeX raises to the 1 and multiplies by 2
        "f(2)",
        "0.5(3)",  # the 3 recurs, or is a factor
        r"\phi(n)",
        "x2",  # an index, or a product
        r"2\frac12x",  # a mixed number, or a product
        r"\sin x y",
        r"\sin^{-1} x",
        "ab",  # a word, a segment, or a product
        "dog",
        r"\pi gods",
        "101_2",  # a number in base two
        "2020-01-05",
        "1/5/2020",
        "3-5",  # a score, or a difference
        "12:30",
        "0.333...",
        "x=1,y=2",
        r"3\pm\sqrt2",
        "5!",
        r"x^{2",
        "",
    ],
)
def test_what_is_unclear_is_refused(written):
    assert read(written) is None


@pytest.mark.parametrize("bomb", REFUSED)
def test_what_could_be_much_work_is_refused(bomb):
    assert len(bomb) <= 512
    assert read(bomb) is None


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet=r"0123456789xyzef+-*/^(){}[]_.,\ sqrtfracpilogsin%", max_size=512))
def test_any_text_is_read_or_refused_within_a_moment(written):
    form = normal_form(written)
    begun = time.process_time()
    expression_of(form)
    assert time.process_time() - begun < 0.05
