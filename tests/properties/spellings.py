"""Values whose meaning is known without the code under test, each with some of its many spellings.

A value is a Fraction; or a tuple, a set or an interval of them: `("tuple", (1, 2))`, `("[)", (1, 2))`.
"""

from fractions import Fraction
from typing import Any, TypeAlias

from hypothesis import strategies as st

Draw: TypeAlias = Any
Value: TypeAlias = Fraction | tuple[str, Any]

INTEGERS = st.integers(-20, 20) | st.integers(-(10**9), 10**9)
NUMBERS = st.builds(Fraction, INTEGERS) | st.builds(Fraction, INTEGERS, st.integers(1, 12) | st.integers(1, 10**4))
UNITS = ("", "", "", r"\text{ cm}", r"\,\mathrm{kg}", r"\text{ cm}^2")
BARE_UNITS = (r"^\circ", " dollars", " km/h", "  square feet")
"""Only after a digit: after a brace or a point they are read as a product."""


def value_of(kind: str, parts: list[Fraction]) -> Value:
    """As an answer, the set of one value and the value say the same."""
    if kind == "set":
        members = frozenset(parts)
        return next(iter(members)) if len(members) == 1 else (kind, members)
    return kind, tuple(parts)


@st.composite
def spelled_numbers(draw: Draw, value: Fraction, *, is_alone: bool = True) -> str:
    """A number as a model might write it; alone, it may have a unit and thousands separators."""
    spellings = [_fraction, _plain_fraction]
    if value.denominator == 1:
        spellings += [_integer, _integer, _grouped if is_alone else _integer]
    elif abs(value) > 1:
        spellings.append(_mixed)
    if _n_places(value) is not None:
        spellings.append(_decimal)
    written = draw(draw(st.sampled_from(spellings))(value))
    units = UNITS + BARE_UNITS if written[-1].isdigit() else UNITS
    unit = draw(st.sampled_from(units)) if is_alone else ""
    return str(draw(st.sampled_from((written, f"${written}$", f" {written} ", rf"\({written}\)")))) + unit


@st.composite
def spelled_values(draw: Draw, value: Value) -> str:
    if isinstance(value, Fraction):
        return draw(spelled_numbers(value))
    kind, parts = value
    ordered = draw(st.permutations(sorted(parts))) if kind == "set" else parts
    inner = [draw(spelled_numbers(part, is_alone=False)).strip() for part in ordered]
    if kind == "set" and inner and draw(st.booleans()):
        inner.append(inner[0])  # said twice
    opening, closing = {"set": (r"\{", r"\}"), "tuple": "()"}.get(kind, kind)
    wide = draw(st.booleans())
    text = draw(st.sampled_from((",", ", "))).join(inner)
    return rf"\left{opening}{text}\right{closing}" if wide else f"{opening}{text}{closing}"


@st.composite
def values(draw: Draw) -> Value:
    kind = draw(st.sampled_from(("number", "number", "tuple", "set", "[]", "[)", "(]")))
    if kind == "number":
        return draw(NUMBERS)
    n = {"tuple": (2, 4), "set": (0, 4)}.get(kind, (2, 2))
    return value_of(kind, draw(st.lists(NUMBERS, min_size=n[0], max_size=n[1])))


@st.composite
def readings(draw: Draw) -> tuple[Value, str, str]:
    """A value, and two spellings of it."""
    value = draw(values())
    return value, draw(spelled_values(value)), draw(spelled_values(value))


def _integer(value: Fraction) -> st.SearchStrategy[str]:
    return st.sampled_from((str(value), f"+{value}" if value >= 0 else f"\u2212{-value}", f"{value}.", f"{value}.00"))


def _grouped(value: Fraction) -> st.SearchStrategy[str]:
    grouped = f"{int(value):,}"
    return st.sampled_from((grouped, grouped.replace(",", "{,}"), grouped.replace(",", r",\!")))


def _fraction(value: Fraction) -> st.SearchStrategy[str]:
    def written(times: int, command: str, is_outside: bool) -> str:
        top, bottom = value.numerator * times, value.denominator * times
        if top < 0 and is_outside:
            return rf"-{command}{{{-top}}}{{{bottom}}}"
        return rf"{command}{{{top}}}{{{bottom}}}"

    return st.builds(written, st.integers(1, 7), st.sampled_from((r"\frac", r"\dfrac", r"\tfrac")), st.booleans())


def _plain_fraction(value: Fraction) -> st.SearchStrategy[str]:
    return st.integers(1, 7).map(lambda times: f"{value.numerator * times}/{value.denominator * times}")


def _mixed(value: Fraction) -> st.SearchStrategy[str]:
    sign, (whole, over) = "-" * (value < 0), divmod(abs(value.numerator), value.denominator)
    spellings = (rf"{sign}{whole}\frac{{{over}}}{{{value.denominator}}}", f"{sign}{whole} {over}/{value.denominator}")
    return st.sampled_from(spellings)


def _decimal(value: Fraction) -> st.SearchStrategy[str]:
    def written(n_zeros: int) -> str:
        places = (_n_places(value) or 0) + n_zeros
        digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
        return "-" * (value < 0) + digits[: len(digits) - places] + "." + digits[len(digits) - places :]

    return st.integers(0, 2).map(written)


def _n_places(value: Fraction) -> int | None:
    """Digits after the point, None where they never end."""
    return next((places for places in range(16) if 10**places % value.denominator == 0), None)
