r"""Gold answers of a real benchmark, written again so that they mean the same, or changed so that they do not.

    >>> rewritten(r"\frac{1}{4}")
    [('fraction', '\\dfrac{1}{4}'), ('slash', '1/4'), ('decimal', '0.25'), ...]

Only text is moved: no algebra system says what is equal. Each rule does nothing where it might be wrong.
"""

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

Rule = Callable[[str], Iterator[str]]

_FRACTION = re.compile(r"(-?)\\d?frac\{(-?[0-9]+)\}\{([0-9]+)\}")
_INTEGER = re.compile(r"-?[0-9]+")
_SURD = re.compile(r"([0-9]*) ?\\sqrt\{?([0-9]+)\}?")
_DIGITS = re.compile(r"(?<![0-9.])(?<!\}\^)[0-9]+(?![0-9])")
"""Not the exponent of a unit: normal forms drop units, by design."""
_PAIR = re.compile(r"([(\[]) ?([^()\[\],]+), ?([^()\[\],]+)([)\]])")
_WORD = re.compile(r"\\text\{([A-Za-z]+)\}")


def rewritten(gold: str) -> list[tuple[str, str]]:
    """(rule, the same answer written in another way), each text once."""
    return _applied(SAME, gold)


def perturbed(gold: str) -> list[tuple[str, str]]:
    """(rule, an answer that is another one)."""
    return _applied(OTHER, gold)


def _applied(rules: dict[str, Rule], gold: str) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for name, rule in rules.items():
        for text in rule(gold):
            if text != gold:
                found.setdefault(text, name)
    return [(name, text) for text, name in found.items()]


# -- the same -----------------------------------------------------------------------------------


def delimiters(gold: str) -> Iterator[str]:
    yield f"${gold}$"
    yield f"\\({gold}\\)"
    yield f"{gold}."


def spacing(gold: str) -> Iterator[str]:
    yield re.sub(r" ?([-+=]) ?", r" \1 ", gold)
    yield re.sub(r" ?([+=]) ?", r"\\,\1\\,", gold)
    yield re.sub(r"(?<![A-Za-z]) (?![A-Za-z])", "", gold)


def left_right(gold: str) -> Iterator[str]:
    if "\\left" in gold:
        yield gold.replace("\\left", "").replace("\\right", "")
    elif _PAIR.fullmatch(gold):
        yield f"\\left{gold[:-1]}\\right{gold[-1]}"


def fraction(gold: str) -> Iterator[str]:
    yield gold.replace("\\dfrac", "\\frac")
    yield re.sub(r"\\d?frac", r"\\dfrac", gold)
    yield re.sub(r"\\d?frac", r"\\tfrac", gold)


def slash(gold: str) -> Iterator[str]:
    if found := _FRACTION.fullmatch(gold):
        yield f"{found[1]}{found[2]}/{found[3]}"


def unreduced(gold: str) -> Iterator[str]:
    if found := _FRACTION.fullmatch(gold):
        yield f"{found[1]}\\frac{{{3 * int(found[2])}}}{{{3 * int(found[3])}}}"
    elif _INTEGER.fullmatch(gold):
        yield f"\\frac{{{2 * int(gold)}}}{{2}}"


def decimal(gold: str) -> Iterator[str]:
    """Of a fraction that ends within six digits."""
    if found := _FRACTION.fullmatch(gold):
        value = Fraction(int(found[1] + found[2]), int(found[3]))
        if not 10**6 % value.denominator:
            yield f"{float(value):.6f}".rstrip("0")
    elif _INTEGER.fullmatch(gold):
        yield f"{gold}.00"


def thousands(gold: str) -> Iterator[str]:
    if re.fullmatch("-?[0-9]{4,}", gold):
        for comma in (",", "{,}", ",\\!"):
            yield f"{int(gold):,}".replace(",", comma)
    elif re.fullmatch(r"[0-9]{1,3}(,(\\! ?)?[0-9]{3})+", gold):
        yield re.sub(r"[^0-9]", "", gold)


def units(gold: str) -> Iterator[str]:
    if _INTEGER.fullmatch(gold):
        yield f"{gold}\\text{{ cm}}"
        yield f"{gold} dollars"
        yield f"\\${gold}" if not gold.startswith("-") else gold
    if "\\mbox" in gold:
        yield gold.replace("\\mbox", "\\text")
    if gold.endswith("^\\circ"):
        number = gold.removesuffix("^\\circ")
        yield from (f"{number}^{{\\circ}}", f"{number}°", f"{number} degrees", f"{number}\\text{{ degrees}}")


def words(gold: str) -> Iterator[str]:
    if found := _WORD.fullmatch(gold):
        yield from (found[1], found[1].lower(), f"\\textbf{{{found[1]}}}", f"\\mathrm{{{found[1]}}}")


def named(gold: str) -> Iterator[str]:
    if re.fullmatch(r"[-+0-9a-z\\{} ^]*", gold) and "=" not in gold and "\\text" not in gold:
        yield f"q = {gold}"


def terms_turned(gold: str) -> Iterator[str]:
    """`a+b-c` as `-c+a+b`."""
    terms = _terms(gold)
    if len(terms) > 1:
        yield _sum([*terms[1:], terms[0]])
        yield _sum(terms[::-1])


def factors_turned(gold: str) -> Iterator[str]:
    if found := re.fullmatch(r"([0-9]+) ?(\\(?:sqrt|pi)(?![A-Za-z]).*)", gold):
        if len(_terms(gold)) == 1:
            yield f"{found[2]} \\cdot {found[1]}"
            yield f"{found[1]} \\times {found[2]}"
    elif found := re.fullmatch(r"(\([^()]*\))(\([^()]*\))", gold):
        yield found[2] + found[1]


def powers(gold: str) -> Iterator[str]:
    yield re.sub(r"(?<![\\A-Za-z])([a-z])\^2(?![0-9])", r"\1 \\cdot \1", gold)
    yield re.sub(r"(?<![\\A-Za-z])([a-z])\^3(?![0-9])", r"\1^2 \\cdot \1", gold)
    yield re.sub(r"\^([0-9])(?![0-9])", r"^{\1}", gold)


def roots(gold: str) -> Iterator[str]:
    if found := _SURD.fullmatch(gold):
        times, inner = int(found[1] or 1), int(found[2])
        yield f"\\sqrt{{{times * times * inner}}}"
        yield f"{times} \\cdot {inner}^{{1/2}}"
        yield f"\\frac{{{times * inner}}}{{\\sqrt{{{inner}}}}}"
    elif found := re.fullmatch(r"\\frac\{\\sqrt\{([0-9]+)\}\}\{([0-9]+)\}", gold):
        yield f"\\frac{{{found[1]}}}{{{found[2]}\\sqrt{{{found[1]}}}}}"
        yield f"\\frac{{1}}{{{found[2]}}}\\sqrt{{{found[1]}}}"


def pi_apart(gold: str) -> Iterator[str]:
    if found := re.fullmatch(r"(-?)\\frac\{\\pi\}\{([0-9]+)\}", gold):
        yield f"{found[1]}\\pi/{found[2]}"
        yield f"{found[1]}\\frac{{1}}{{{found[2]}}}\\pi"


def list_turned(gold: str) -> Iterator[str]:
    """A bare list has no order; a thousands separator is no list."""
    if re.fullmatch(r"-?[0-9]{1,2}(, ?-?[0-9]{1,2})+", gold):
        yield ", ".join(reversed(gold.split(",")))
        yield "\\{" + gold + "\\}"


SAME: dict[str, Rule] = {
    "delimiters": delimiters,
    "spacing": spacing,
    "left and right": left_right,
    "kinds of fraction": fraction,
    "a/b": slash,
    "not reduced": unreduced,
    "decimals that end": decimal,
    "thousands": thousands,
    "units and degrees": units,
    "words": words,
    "q = ...": named,
    "order of terms": terms_turned,
    "order of factors": factors_turned,
    "powers": powers,
    "roots": roots,
    "shares of pi": pi_apart,
    "order of a list": list_turned,
}


# -- another ------------------------------------------------------------------------------------


def digit(gold: str) -> Iterator[str]:
    """Each whole number in it one larger, in turn."""
    for number in _DIGITS.finditer(gold):
        yield gold[: number.start()] + str(int(number[0]) + 1) + gold[number.end() :]


def sign(gold: str) -> Iterator[str]:
    if re.search(r"\\pm|\\text|\\mbox|,|=|_|\\circ|pmatrix|^0$", gold):
        return
    yield gold.removeprefix("-") if gold.startswith("-") and len(_terms(gold)) == 1 else f"-({gold})"


def upside_down(gold: str) -> Iterator[str]:
    if (found := _FRACTION.fullmatch(gold)) and abs(int(found[2])) != int(found[3]) and int(found[2]):
        yield f"{found[1]}\\frac{{{found[3]}}}{{{found[2]}}}"


def rounded(gold: str) -> Iterator[str]:
    """To twelve digits, and to three."""
    value: float | None = None
    if (found := _FRACTION.fullmatch(gold)) and 10**12 % int(found[3]):
        value = int(found[1] + found[2]) / int(found[3])
    elif (found := _SURD.fullmatch(gold)) and int(int(found[2]) ** 0.5) ** 2 != int(found[2]):
        value = int(found[1] or 1) * int(found[2]) ** 0.5
    elif found := re.fullmatch(r"([0-9]+) ?\\pi", gold):
        value = int(found[1]) * 3.141592653589793
    if value is not None:
        yield from (f"{value:.12f}", f"{value:.3f}")


def turned(gold: str) -> Iterator[str]:
    """A tuple the other way round; an interval with other ends."""
    found = _PAIR.fullmatch(gold.replace("\\left", "").replace("\\right", ""))
    if found is None:
        return
    opening, first, second, closing = found.groups()
    if first.strip() != second.strip():
        yield f"{opening}{second}, {first}{closing}"
    yield {"(": "[", "[": "("}[opening] + f"{first}, {second}{closing}"
    yield f"\\{{{first}, {second}\\}}"


def percent(gold: str) -> Iterator[str]:
    if _INTEGER.fullmatch(gold) and gold != "0":
        yield f"{gold}\\%"


def shortened(gold: str) -> Iterator[str]:
    """Without one of its terms, and with one more."""
    terms = _terms(gold)
    if len(terms) > 1:
        yield _sum(terms[:-1])
        yield _sum([*terms, "+1"])


def letter(gold: str) -> Iterator[str]:
    """Another variable, or another word."""
    if found := _WORD.fullmatch(gold):
        yield found[1] + "s"
        yield found[1][::-1]
    elif len(_terms(gold)) > 1 and re.search(r"(?<![\\A-Za-z])[a-z](?![A-Za-z])", gold):
        yield re.sub(r"(?<![\\A-Za-z])[a-z](?![A-Za-z])", "w", gold, count=1)


def based(gold: str) -> Iterator[str]:
    """A number in base eight is not the one in base ten."""
    if found := re.fullmatch(r"([0-9]+)_\{?[0-9]\}?", gold):
        yield found[1]


OTHER: dict[str, Rule] = {
    "a number": digit,
    "the sign": sign,
    "upside down": upside_down,
    "rounded": rounded,
    "order, brackets": turned,
    "percent": percent,
    "a term": shortened,
    "a letter": letter,
    "base": based,
}


def _terms(gold: str) -> list[str]:
    """Of a plain sum, with their signs; one where it is anything else."""
    if re.search(r"[=,()\[\]|_]|\\(?!frac\{|sqrt\{|sqrt[0-9]|pi\b|cdot)", gold) or not gold:
        return [gold]
    terms, depth = [""], 0
    for character in gold:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character in "+-" and depth == 0 and terms[-1].strip():
            terms.append("")
        terms[-1] += "" if character == " " and not terms[-1].strip("+-") else character
    return [term.strip() if term[0] in "+-" else "+" + term.strip() for term in terms]


def _sum(terms: list[str]) -> str:
    return " ".join(terms).removeprefix("+")
