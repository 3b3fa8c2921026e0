r"""Pairs of written answers that are known to be equal, or known to differ, by construction: no algebra system judges.

Each family draws a value and spells it; an unequal pair spells two values, the second often a near miss of the first.
Two values that differ in their unit alone are not among them: normal forms drop units, since a question asks for one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from math import isqrt
from random import Random
from typing import Any

SQUAREFREE = (2, 3, 5, 6, 7, 10, 11, 13, 15)
WORDS = (
    "yes",
    "no",
    "on",
    "true",
    "false",
    "red",
    "green",
    "blue",
    "parabola",
    "ellipse",
    "circle",
    "line",
    "monday",
    "sunday",
    "north",
    "south",
    "odd",
    "even",
    "none",
    "both",
    "dog",
    "god",
    "tea",
    "eat",
    "ate",
    "acute",
    "right",
    "paris",
    "london",
    "anna",
    "increasing",
    "undefined",
    "converges",
    "diverges",
)
UNITS = ("\\text{ cm}", " cm", "\\text{ dollars}", " hours", "\\text{ m}^2", " km/h")


@dataclass(frozen=True)
class Family:
    """`draw` a value, draw a `near` one that differs, `spell` it in one of several ways."""

    name: str
    draw: Callable[[Random], Any]
    near: Callable[[Random, Any], Any]
    spell: Callable[[Random, Any], str]

    def unequal(self, chance: Random) -> tuple[str, str]:
        value = self.draw(chance)
        other = self.near(chance, value) if chance.random() < 0.7 else self.draw(chance)
        while other == value:
            other = self.near(chance, value)
        return self.spell(chance, value), self.spell(chance, other)

    def equal(self, chance: Random) -> tuple[str, str]:
        value = self.draw(chance)
        return self.spell(chance, value), self.spell(chance, value)


def integer(chance: Random) -> int:
    return chance.choice((-1, 1)) * chance.randrange(10 ** chance.randrange(1, 12))


def near_integer(chance: Random, value: int) -> int:
    """One digit, the sign, or two neighbouring digits changed."""
    kind, digits = chance.randrange(4), list(str(abs(value)))
    if kind == 0:
        return -value or 1
    if kind == 1:
        return value + chance.choice((-1, 1, 10, -10))
    if kind == 2 and len(digits) > 1:
        k = chance.randrange(len(digits) - 1)
        digits[k], digits[k + 1] = digits[k + 1], digits[k]
        return int("".join(digits)) * (-1 if value < 0 else 1)
    return value * 10 or 1


def spell_integer(chance: Random, value: int) -> str:
    ways = [str(value), f"{value}.0", f"${value}$", f"{value}.", f"x = {value}", f"\\frac{{{2 * value}}}{{2}}"]
    if abs(value) < 10**6:
        ways += [f"\\sqrt{{{value**2}}}" if value >= 0 else f"-\\sqrt{{{value**2}}}", f"{value + 7} - 7 \\cdot 1"]
    return chance.choice(ways)


def fraction(chance: Random) -> Fraction:
    return Fraction(chance.randrange(-60, 60), chance.randrange(1, 40))


def near_fraction(chance: Random, value: Fraction) -> Fraction:
    inverse = 1 / value if value else Fraction(1)
    rounded = Fraction(round(value * 10**6), 10**6)
    return chance.choice((inverse, -value, value + Fraction(1, 60), rounded, Fraction(value.numerator, 1)))


def spell_fraction(chance: Random, value: Fraction) -> str:
    top, bottom = value.numerator, value.denominator
    sign, size = "-" if value < 0 else "", abs(top)
    ways = [f"{top}/{bottom}", f"\\frac{{{top}}}{{{bottom}}}", f"{sign}\\dfrac{{{3 * size}}}{{{3 * bottom}}}"]
    ways += [f"{sign}\\frac{{{size}\\sqrt{{2}}}}{{{bottom}\\sqrt{{2}}}}", f"{top} \\cdot {bottom}^{{-1}}"]
    if not 10**6 % bottom:
        ways.append(f"{sign}{size * (10**6 // bottom) // 10**6}.{size * (10**6 // bottom) % 10**6:06d}")
    return chance.choice(ways)


Surd = tuple[int, int, int]


def surd(chance: Random) -> Surd:
    """a + b sqrt(d), b not zero, d squarefree: equal only where all three are."""
    return chance.randrange(-12, 13), chance.choice((-1, 1)) * chance.randrange(1, 10), chance.choice(SQUAREFREE)


def near_surd(chance: Random, value: Surd) -> Surd | Fraction:
    a, b, d = value
    rounded = Fraction(a) + Fraction(b * isqrt(d * 10**24), 10**12)
    return chance.choice(((a, -b, d), (b, a or 1, d), (a + 1, b, d), (a, b, chance.choice(SQUAREFREE)), rounded))


def spell_surd(chance: Random, value: Surd | Fraction) -> str:
    if isinstance(value, Fraction):
        scaled = abs(value.numerator) * 10**12 // value.denominator
        return f"{'-' if value < 0 else ''}{scaled // 10**12}.{scaled % 10**12:012d}"
    a, b, d = value
    sign = "-" if b < 0 else "+"
    roots = [f"{abs(b)}\\sqrt{{{d}}}", f"\\sqrt{{{b * b * d}}}", f"\\frac{{{abs(b) * d}}}{{\\sqrt{{{d}}}}}"]
    roots += [f"{abs(b)} \\cdot {d}^{{1/2}}", f"{d}^{{\\frac{{1}}{{2}}}} \\times {abs(b)}"]
    root = chance.choice(roots)
    ways = [f"{a}{sign}{root}", f"{'-' if b < 0 else ''}{root} {'+' if a >= 0 else '-'} {abs(a)}"]
    if norm := a * a - b * b * d:  # rationalised the other way round
        ways.append(f"\\frac{{{norm}}}{{{a}{'+' if b < 0 else '-'}{root}}}")
    return chance.choice(ways)


Quadratic = tuple[int, int, int]


def quadratic(chance: Random) -> Quadratic:
    """k (x - r)(x - s), its roots in order."""
    r, s = sorted((chance.randrange(-9, 10), chance.randrange(-9, 10)))
    return chance.randrange(1, 6), r, s


def near_quadratic(chance: Random, value: Quadratic) -> Quadratic:
    k, r, s = value
    ends = (-s, -r) if chance.random() < 0.5 else (r, s + 1)
    return (k, *ends) if chance.random() < 0.7 else (k + 1, r, s)


def spell_quadratic(chance: Random, value: Quadratic) -> str:
    k, r, s = value
    expanded = f"{k}x^2{-k * (r + s):+d}x{k * r * s:+d}"
    factored = f"{k}(x{-r:+d})(x{-s:+d})"
    return chance.choice((expanded, factored, f"{k}(x^{{2}}{-(r + s):+d}x{r * s:+d})", f"(x{-s:+d})({k}x{-k * r:+d})"))


Items = tuple[Any, ...]


def items(chance: Random) -> Items:
    return tuple(fraction(chance) for _ in range(chance.randrange(2, 5)))


def near_items(chance: Random, value: Items) -> Items:
    k, changed = chance.randrange(len(value)), list(value)
    if chance.random() < 0.3:
        return value[:-1] if len(value) > 2 else (*value, Fraction(99))
    changed[k] = near_fraction(chance, changed[k])
    return tuple(changed)


def near_order(chance: Random, value: Items) -> Items:
    return tuple(chance.sample(value, len(value))) if chance.random() < 0.5 else near_items(chance, value)


def spell_tuple(chance: Random, value: Items) -> str:
    return "(" + ", ".join(spell_fraction(chance, item) for item in value) + ")"


def item_set(chance: Random) -> frozenset[Fraction]:
    while len(drawn := frozenset(items(chance))) < 2:
        pass
    return drawn


def near_set(chance: Random, value: frozenset[Fraction]) -> frozenset[Fraction]:
    while len(drawn := frozenset(near_items(chance, tuple(sorted(value))))) < 2:
        pass
    return drawn


def spell_set(chance: Random, value: frozenset[Fraction]) -> str:
    spelled = [spell_fraction(chance, item) for item in sorted(value)]
    return "\\{" + ", ".join(chance.sample(spelled, len(spelled))) + "\\}"


Interval = tuple[str, int, int, str]


def interval(chance: Random) -> Interval:
    low = chance.randrange(-20, 20)
    return chance.choice("(["), low, low + chance.randrange(1, 20), chance.choice(")]")


def near_interval(chance: Random, value: Interval) -> Interval:
    opening, low, high, closing = value
    other = {"(": "[", "[": "("}[opening]
    return chance.choice(
        ((other, low, high, closing), (opening, low, high + 1, closing), (opening, -high, -low, closing))
    )


def spell_interval(chance: Random, value: Interval) -> str:
    opening, low, high, closing = value
    ends = [spell_integer(chance, end).replace("x = ", "").rstrip(".").strip("$") for end in (low, high)]
    return f"{opening}{ends[0]}, {ends[1]}{closing}"


def spell_unit(chance: Random, value: int) -> str:
    return f"{value}{chance.choice(UNITS)}"


def percentage(chance: Random) -> tuple[Fraction, bool]:
    """A number, and whether a percent sign follows it."""
    return Fraction(chance.randrange(1, 1000), chance.choice((1, 2, 4, 10))), True


def near_percentage(chance: Random, value: tuple[Fraction, bool]) -> tuple[Fraction, bool]:
    number, has_sign = value
    return chance.choice(((number, not has_sign), (number + 1, has_sign), (number * 10, has_sign)))


def spell_percentage(chance: Random, value: tuple[Fraction, bool]) -> str:
    number, has_sign = value
    if not has_sign:
        return f"{float(number):g}"
    share = number / 100
    ways = [f"{float(number):g}\\%", f"{float(number):g}%", f"{float(number):g} percent"]
    return chance.choice((*ways, f"\\frac{{{share.numerator}}}{{{share.denominator}}}"))


def near_thousands(chance: Random, value: int) -> Any:
    return chance.choice((value + 1, value * 1000, f"{value / 1000:.3f}", f"({value // 1000}, {value % 1000})"))


def spell_thousands(chance: Random, value: Any) -> str:
    if isinstance(value, str):
        return value
    return chance.choice(
        (f"{value:,}", str(value), f"{value:,}".replace(",", ",\\!"), f"{value:,}".replace(",", "{,}"))
    )


def day(chance: Random) -> date:
    return date(1900, 1, 1) + timedelta(days=chance.randrange(60_000))


def near_day(chance: Random, value: date) -> date:
    if chance.random() < 0.5 and value.day <= 12:
        return date(value.year, value.day, value.month)
    return value + timedelta(days=chance.choice((1, -1, 30, 365)))


def spell_day(chance: Random, value: date) -> str:
    ways = [value.isoformat(), f"{value:%B} {value.day}, {value.year}", f"{value.day} {value:%B} {value.year}"]
    return chance.choice(
        (*ways, f"\\text{{{value:%B}}} {value.day}, {value.year}", f"{value.month}/{value.day}/{value.year}")
    )


def text(chance: Random) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(chance.choice((1, 1, 2)))).lower()


def near_text(chance: Random, value: str) -> str:
    return chance.choice((value[::-1].lower(), " ".join(reversed(value.split())), f"not {value}", f"{value}s"))


def spell_text(chance: Random, value: str) -> str:
    return chance.choice((value, value.title(), f"\\text{{{value}}}", f"{value}."))


FAMILIES = (
    Family("numbers", integer, near_integer, spell_integer),
    Family("fractions", fraction, near_fraction, spell_fraction),
    Family("radicals", surd, near_surd, spell_surd),
    Family("polynomials", quadratic, near_quadratic, spell_quadratic),
    Family("intervals", interval, near_interval, spell_interval),
    Family("tuples", items, near_order, spell_tuple),
    Family("sets", item_set, near_set, spell_set),
    Family("units", integer, near_integer, spell_unit),
    Family("percentages", percentage, near_percentage, spell_percentage),
    Family("thousands", lambda chance: chance.randrange(1000, 10**9), near_thousands, spell_thousands),
    Family("dates", day, near_day, spell_day),
    Family("text", text, near_text, spell_text),
)


def pairs(seed: int, n: int, *, are_equal: bool) -> list[tuple[str, str, str]]:
    """(family, first, second), the families in turn."""
    drawn = []
    for number in range(n):
        family, chance = FAMILIES[number % len(FAMILIES)], Random(f"{seed}/{number}/{are_equal}")
        drawn.append((family.name, *(family.equal(chance) if are_equal else family.unequal(chance))))
    return drawn
