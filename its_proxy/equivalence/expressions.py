"""A normal form as an expression that may be worked on, or nothing: pure, linear, and nothing is evaluated.

    >>> expression_of(normal_form(r"2\\sqrt{2}"))
    Node(kind='mul', value='', parts=(Node(kind='number', value='2', ...), Node(kind='root', value='2', ...)))

Refused is what has no one reading (see reading.py), and what could be much work: towers of powers, large exponents,
long products of sums.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from its_proxy.equivalence.reading import MAX_DEPTH, MAX_ROOT, Node, Refused, read
from its_proxy.voting.answers import Form

MAX_NODES = 128
MAX_EXPONENT = 128
MAX_BITS = 4096
"""Of the numbers that may arise when everything is multiplied out."""
MAX_TERMS = 500
"""Of the sum that may arise when everything is multiplied out."""
MAX_PARTS = 16
"""Of a tuple, set or list."""


def expression_of(form: Form) -> Node | None:
    """None where the form is refused."""
    try:
        node = _of_form(form)
        _check_work(node)
    except Refused:
        return None
    return node


def _of_form(form: Form) -> Node:
    match form.type:
        case "integer" | "rational":
            return Node("number", form.value)
        case "infinity":
            return Node("infinity", form.value)
        case "tuple" | "set" | "interval":
            return _of_parts(form.type, form)
        case "text" if form.parts:
            return _of_parts("list", form)
        case "text":
            return _of_text(form.value)
    # A decimal was cut short, so its value is not known; letters, JSON and tool calls are compared by form alone.
    raise Refused


def _of_parts(kind: str, form: Form) -> Node:
    if len(form.parts) > MAX_PARTS:
        raise Refused
    return Node(kind, form.value if kind == "interval" else "", tuple(_of_form(part) for part in form.parts))


_LEADING_ZERO = re.compile("(?<![0-9.])0[0-9]")
_PERCENTAGE = re.compile(r"(-?[0-9]+(?:/[0-9]+)?)%")


def _of_text(text: str) -> Node:
    if percentage := _PERCENTAGE.fullmatch(text):
        return Node("number", str(Fraction(percentage[1]) / 100))
    if _is_no_sum(text) or _LEADING_ZERO.search(text):
        raise Refused
    return read(text)


def _is_no_sum(text: str) -> bool:
    """Dates, ranges, scores and telephone numbers: `2020-1-5`, `1/5/2020`, `3-5`."""
    return set(text) <= set("0123456789./-") and ("-" in text[1:] or text.count("/") > 1)


# --- the work that an expression may be --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Work:
    """How many terms and how long numbers an expression may become, and how large its value is as an exponent."""

    terms: int = 1
    bits: int = 1
    size: Fraction = Fraction(1)


def _check_work(node: Node) -> None:
    if _count(node, 0) > MAX_NODES:
        raise Refused
    if node.kind in ("tuple", "set", "list", "interval"):
        for part in node.parts:
            _check_work(part)
    else:
        _work(node)


def _count(node: Node, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise Refused
    return 1 + sum(_count(part, depth + 1) for part in node.parts)


def _work(node: Node) -> _Work:
    if node.kind == "number":
        value = Fraction(node.value)
        return _Work(1, value.numerator.bit_length() + value.denominator.bit_length(), abs(value))
    parts = [_work(part) for part in node.parts]
    work = _Work(1, sum(part.bits for part in parts) + 1, Fraction(1))
    match node.kind:
        case "add":
            work = _Work(sum(part.terms for part in parts), work.bits, sum((part.size for part in parts), Fraction(0)))
        case "mul":
            work = _Work(parts[0].terms * parts[1].terms, work.bits, parts[0].size * parts[1].size)
        case "div":
            work = _Work(parts[0].terms * parts[1].terms, work.bits, parts[0].size)
        case "neg":
            work = parts[0]
        case "pow":
            work = _power(node.parts[1], *parts)
    if work.terms > MAX_TERMS or work.bits > MAX_BITS:
        raise Refused
    return work


def _power(exponent: Node, base: _Work, raised: _Work) -> _Work:
    size = raised.size
    if (constant := _constant(exponent)) is not None:
        size = abs(constant)
        if constant.denominator > MAX_ROOT:
            raise Refused
    elif _is_involved(exponent):
        raise Refused
    if size > MAX_EXPONENT:
        raise Refused
    times = int(size) + 1
    return _Work(comb(times + base.terms - 1, base.terms - 1), times * base.bits)


def _constant(node: Node) -> Fraction | None:
    """The value of a fraction of integers, however it is written."""
    if node.kind == "number":
        return Fraction(node.value)
    if node.kind not in ("neg", "div"):
        return None
    values = [_constant(part) for part in node.parts]
    match values:
        case [Fraction() as value]:
            return -value
        case [Fraction() as top, Fraction() as bottom] if bottom:
            return top / bottom
    return None


def _is_involved(exponent: Node) -> bool:
    return exponent.kind not in ("number", "symbol", "pi", "neg", "add", "mul") or any(
        map(_is_involved, exponent.parts)
    )
