r"""Reads LaTeX or plain mathematics by recursive descent, and refuses whatever has two readings.

Refused are `1/2x`, `x^12`, `x2`, `f(2)`, `0.5(3)`, `2\frac{1}{2}`, `\sin x y`, `\sin^{-1} x`, `101_2`, and words. A
refused answer equals nothing but its own normal form; a wrong reading could merge two answers that differ.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from its_proxy.voting.answers import MAX_ANSWER_CHARS

MAX_DEPTH = 24
MAX_ROOT = 12


@dataclass(frozen=True, slots=True)
class Node:
    """`kind` is one of:

    number (value `-3/4`), symbol (value `x` or `alpha`), pi, e, infinity (value `+` or `-`);
    add, mul, neg, div, pow; root (value: its index), function (value: its name), log (base, argument);
    tuple, set, list, interval (value: its brackets).
    """

    kind: str
    value: str = ""
    parts: tuple["Node", ...] = ()

    def wire(self) -> list[Any]:
        return [self.kind, self.value, *(part.wire() for part in self.parts)]


class Refused(Exception):
    """Not in the grammar, ambiguous, or too much work."""


def read(text: str) -> Node:
    """Of a normal form's text. Raises Refused."""
    return _Reader(_tokens(text)).whole()


_TOKEN = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+|[A-Za-z]|\\[A-Za-z]+ ?|[-+*/^(){}\[\]_]")
_GREEK = re.compile(
    r"alpha|beta|[gG]amma|[dD]elta|(?:var)?epsilon|zeta|eta|[tT]heta|iota|kappa|[lL]ambda|mu|nu|xi|rho|[sS]igma|tau"
    r"|(?:var)?phi|chi|[pP]si|Phi|[oO]mega"
)
_FUNCTION = re.compile("sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp")
_TIMES = frozenset(("*", "\\cdot", "\\times"))
_NAMES_OF_FUNCTIONS = frozenset("fghFGHPQ")


def _tokens(text: str) -> list[str]:
    """Raises Refused where a character or command is not in the grammar, or where letters form a word."""
    if len(text) > MAX_ANSWER_CHARS:
        raise Refused
    tokens: list[str] = []
    position = 0
    text = re.sub(r"(\\log_[0-9a-z]) (?=[0-9a-z])", r"\1", text)
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise Refused
        tokens.append(found[0].strip())
        position = found.end()
    runs = re.findall("[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", " ", text))
    # `ab` alone may be a word or a segment; `2ab` and `a+bc` are products.
    if any(len(run) > 2 for run in runs) or (runs and len(tokens) == len(runs[0])):
        raise Refused
    return tokens


class _Reader:
    """Recursive descent, from left to right, with one token of foresight."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._sum()
        if self._next():
            raise Refused
        return node

    def _next(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._position += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise Refused

    def _sum(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Refused
        node = self._signed()
        while self._next() in ("+", "-"):
            is_minus = self._take() == "-"
            term = self._product()
            node = Node("add", "", (node, Node("neg", "", (term,)) if is_minus else term))
        self._depth -= 1
        return node

    def _signed(self) -> Node:
        if self._next() in ("+", "-"):
            is_minus = self._take() == "-"
            node = self._product()
            return Node("neg", "", (node,)) if is_minus else node
        return self._product()

    def _product(self) -> Node:
        node = self._power()
        is_divided = False
        while True:
            last = self._tokens[self._position - 1]
            if self._next() in _TIMES:
                self._take()
                node = Node("mul", "", (node, self._power()))
            elif self._next() == "/":
                self._take()
                node, is_divided = Node("div", "", (node, self._power())), True
            elif self._begins_factor():
                # `1/2x` is a half of x to some and a half by x to others.
                if is_divided or not self._may_stand_beside(last):
                    raise Refused
                node = _times(node, self._power())
            else:
                return node

    def _begins_factor(self) -> bool:
        token = self._next()
        return bool(token) and (token[0].isalnum() or token[0] in "(\\.") and token not in _TIMES

    def _may_stand_beside(self, last: str) -> bool:
        """Whether a factor without a sign before it is a factor for certain."""
        token = self._next()
        if token[0].isdigit() or token[0] == ".":
            return False
        if token == "(" and last[0].isdigit():
            return not self._is_number_in_brackets()  # `0.5(3)` is 0.5333... to some
        if token == "(" and last.removeprefix("\\").isalpha() and last != "\\pi":
            return last not in _NAMES_OF_FUNCTIONS and self._is_sum_in_brackets()
        return True

    def _is_sum_in_brackets(self) -> bool:
        closing = next((k for k in range(self._position, len(self._tokens)) if self._tokens[k] == ")"), 0)
        return any(token in "+-" for token in self._tokens[self._position + 2 : closing])

    def _is_number_in_brackets(self) -> bool:
        inside = self._tokens[self._position + 1 : self._position + 3]
        return len(inside) == 2 and inside[0][0].isdigit() and inside[1] == ")"

    def _power(self) -> Node:
        base = self._atom()
        if self._next() != "^":
            return base
        self._take()
        exponent = self._exponent()
        if self._next() == "^":
            raise Refused
        return Node("pow", "", (base, exponent))

    def _exponent(self) -> Node:
        return self._bracketed(")") if self._next() == "(" else self._argument()

    def _argument(self) -> Node:
        r"""A group in braces or one character, as LaTeX reads it: `\frac12` is a half."""
        token = self._next()
        if token == "{":
            return self._bracketed("}")
        if token.isdigit():
            if len(token) > 1:
                self._tokens[self._position : self._position + 1] = list(token)
            return Node("number", self._take())
        if _is_letter(token):
            return self._atom()
        raise Refused

    def _bracketed(self, closing: str) -> Node:
        self._take()
        node = self._sum()
        self._expect(closing)
        return node

    def _atom(self) -> Node:
        token = self._next()
        if token in ("(", "{"):
            return self._bracketed(")" if token == "(" else "}")
        self._take()
        if token[:1].isdigit() or token[:1] == ".":
            return Node("number", str(Fraction(token)))
        if token.isalpha():
            return Node("e") if token == "e" else Node("symbol", token)
        return self._command(token.removeprefix("\\"))

    def _command(self, name: str) -> Node:
        if name == "pi":
            return Node("pi")
        if _GREEK.fullmatch(name):
            return Node("symbol", name)
        if name == "frac":
            return Node("div", "", (self._argument(), self._argument()))
        if name == "sqrt":
            return self._root()
        if _FUNCTION.fullmatch(name):
            return self._function(name)
        raise Refused

    def _root(self) -> Node:
        index = "2"
        if self._next() == "[":
            self._take()
            index = self._take()
            self._expect("]")
            if not index.isdigit() or not 2 <= int(index[:3]) <= MAX_ROOT:
                raise Refused
        return Node("root", index, (self._argument(),))

    def _function(self, name: str) -> Node:
        base = None
        if name == "log" and self._next() == "_":
            self._take()
            base = self._argument()
        power = self._function_power()
        argument = self._function_argument()
        node = Node("function", name, (argument,)) if base is None else Node("log", "", (base, argument))
        return node if power is None else Node("pow", "", (node, power))

    def _function_power(self) -> Node | None:
        r"""`\sin^2 x`; of `\sin^{-1} x` nobody can be sure."""
        if self._next() != "^":
            return None
        self._take()
        power = self._argument()
        if power.kind != "number":
            raise Refused
        return power

    def _function_argument(self) -> Node:
        if self._next() in ("(", "{"):
            argument = self._atom()
            if self._next() == "^":
                raise Refused  # of the argument, or of the function's value?
            return argument
        factors = []
        if self._next()[:1].isdigit():
            factors.append(self._atom())
        if _is_letter(self._next()):
            factors.append(self._atom())
        # `\sin x y`, `\sin x^2`, `\ln x(x+1)`: where the argument ends is a guess.
        if not factors or self._begins_argument():
            raise Refused
        return factors[0] if len(factors) == 1 else Node("mul", "", tuple(factors))

    def _begins_argument(self) -> bool:
        token = self._next()
        name = token.removeprefix("\\")
        return token in ("^", "/") or (self._begins_factor() and not _FUNCTION.fullmatch(name))


def _is_letter(token: str) -> bool:
    name = token.removeprefix("\\")
    return token.isalpha() or name == "pi" or _GREEK.fullmatch(name) is not None


def _times(first: Node, second: Node) -> Node:
    r"""`2\frac{1}{2}` is a mixed number to some and a product to others."""
    numbers = [part.kind == "number" for part in second.parts]
    if first.kind == "number" and second.kind == "div" and all(numbers):
        raise Refused
    return Node("mul", "", (first, second))
