r"""Reads the short answer of a candidate's text and gives it a typed normal form.

    >>> read_answer(r"<think>a guess: \boxed{7}</think> So it is \boxed{\dfrac{4}{2}}.", "boxed")
    Answer(text='\\dfrac{4}{2}', form=Form(type='integer', value='2', parts=()))

Two answers are the same when their forms are equal. They are proven different when both forms are
exact and differ. Anything else is open: a symbolic check may still find that they are equal.
Nothing is ever evaluated (no powers, no roots), every scan is linear, and an answer is at most
`MAX_ANSWER_CHARS` long.
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, TypeAlias

from its_proxy.codesign.light import light
from its_proxy.voting.json_answers import read_json, shown, spelled
from its_proxy.voting.letters import read_letter

AnswerKind: TypeAlias = Literal["boxed", "number", "final_line", "letter", "json", "tool_calls"]

FormType: TypeAlias = Literal[
    "integer", "rational", "infinity", "letter", "json", "tool_calls", "tuple", "set", "interval", "decimal", "text"
]

NO_CALL = "no call"
"""The answer of a candidate that calls no tool, where tool calls are what is voted on."""

MAX_ANSWER_CHARS = 512
"""A longer "answer" is not a short value: its candidate abstains."""
MAX_READ_CHARS = 200_000
"""The last answer wins, so of a longer text only the end is read: every scan costs some 0.2 µs a character."""
MAX_FINAL_LINE_CHARS = 80
"""A last line without an answer lead counts as the answer only when it is this short."""
MAX_DIGITS = 64
"""A number with more digits stays text."""
MAX_DEPTH = 4
"""Brackets nested deeper than this stay text."""

_EXACT_SCALARS = frozenset({"integer", "rational", "infinity", "letter", "json", "tool_calls"})
_CONTAINERS = frozenset({"tuple", "set", "interval"})


@dataclass(frozen=True, slots=True, order=True)
class Form:
    """What an answer means, spelled one way; equal values of exact types have equal forms.

    `value` is the canonical spelling of a scalar (`-3`, `1/2`, `A`, `x+1`), the two brackets of an
    interval, or empty; `parts` are the elements of a tuple, set, interval or bare list. A decimal
    that ends (0.5) is an integer or a rational; `decimal` is one that was cut short (0.333...).
    """

    type: FormType
    value: str
    parts: tuple["Form", ...] = ()

    @property
    def is_exact(self) -> bool:
        if self.type in _CONTAINERS:
            return all(part.is_exact for part in self.parts)
        return self.type in _EXACT_SCALARS


@light
@dataclass(frozen=True, slots=True)
class Answer:
    """`text` as the candidate wrote it, stripped; `form` for comparing it."""

    text: str
    form: Form

    @property
    def is_exact(self) -> bool:
        return self.form.is_exact


def same(first: Answer, second: Answer) -> bool:
    return first.form == second.form


def proven_different(first: Answer, second: Answer) -> bool:
    return first.is_exact and second.is_exact and first.form != second.form


def read_answer(text: str, kind: AnswerKind) -> Answer | None:
    """The last answer after the reasoning part, or None: then the candidate abstains.

    No text holds tool calls: `messages.py` reads those.
    """
    final_part = after_reasoning(text) if "<" in text else text
    if final_part is None or kind not in _READERS:
        return None
    if len(final_part) > MAX_READ_CHARS and kind != "json":
        final_part = _TO_A_WORD.sub("", final_part[-MAX_READ_CHARS:], count=1)  # half a number is another number
    written = _READERS[kind](final_part)
    if written is None or len(written) > MAX_ANSWER_CHARS:
        return None
    answer = answer_of(written, kind)
    form = answer.form
    # A box with only "?" or dots in it is a candidate that did not answer.
    if form.type == "text" and not form.parts and not any(character.isalnum() for character in form.value):
        return None
    return answer


def answer_of(written: str, kind: AnswerKind) -> Answer:
    """An answer that was read before (a report's, or a gold one), as `read_answer` gives it."""
    match kind:
        case "letter" if re.fullmatch("[A-Ja-j]", written):
            return Answer(written.upper(), Form("letter", written.upper()))
        case "json" | "tool_calls":
            spelling = spelled(written)
            # What is not JSON is "no call", or a spelling that was cut short and ends in its digest.
            text = written if spelling is None else shown(spelling)
            return Answer(text, Form(kind, text))
    return Answer(written, normal_form(written))


def after_reasoning(text: str) -> str | None:
    """What follows the last closed reasoning part; None when the reasoning never ends."""
    for opening, closing in (("<think>", "</think>"), ("<|begin_of_thought|>", "<|end_of_thought|>")):
        text = text.rpartition(closing)[2]
        if opening in text:
            return None
    return text


# --- finding the answer ----------------------------------------------------------------------

_TO_A_WORD = re.compile(r"\A\S*(?:\s+|\Z)")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s{0,8}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"[+-]?[0-9](?:[0-9.,/]*[0-9])?|[A-Za-z](?![A-Za-z])")

# Digits are read loosely here and judged by `_last_group`, so that the scan never backtracks far.
_DIGITS = r"(?:[0-9][0-9,]*(?:\.[0-9]+)?|(?<![A-Za-z0-9_.])\.[0-9]+)"
_VALUE = re.compile(
    rf"(?:(?P<digits>(?<![A-Za-z0-9_])(?<![0-9]\.){_DIGITS}(?:[eE][-+]?[0-9]+)?(?:/{_DIGITS})?)"
    rf"|\\[dtc]?frac ?\{{[-+]?{_DIGITS}\}} ?\{{[-+]?{_DIGITS}\}})(?P<percent> ?\\?%)?"
)
# A minus after a letter, a digit or a bracket is a subtraction.
_PREFIX = re.compile(r"(?:(?<![A-Za-z0-9)\]}])[-+\u2212])?(?:\\?[$€£¥][-\u2212]?)?$")
_MARKED = re.compile(
    rf"####[ \t]*([-+\u2212]?(?:\\?[$€£¥])?[-\u2212]?{_DIGITS}(?:/{_DIGITS})?%?)\.?[ \t]*$", re.MULTILINE
)
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")

_UP_TO_LAST_WORD = re.compile(r".*[^\W_]", re.DOTALL)
_LEAD = re.compile(r"\banswer\s{0,8}(?:is\b\s{0,8}:?|:|=)", re.IGNORECASE)
_LINE_MARK = re.compile(r"(?:[-*+>]|#{1,6})\s+")


def _boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`; one left open hides the earlier ones.

    The last one wins, and a cut answer abstains: falling back to an earlier box would vote for a
    value that the candidate was about to replace.
    """
    for box in reversed(list(_BOX.finditer(text))):
        start = box.end()
        if text.startswith("{", start):
            return _braced(text[start + 1 : start + MAX_ANSWER_CHARS + 2])
        if unbraced := _UNBRACED.match(text, start):
            return unbraced[0]
        # Neither a group nor a value: the candidate only mentions the command.
    return None


def _braced(text: str) -> str | None:
    inside, end, _ = text.partition("}")
    if end and "{" not in inside and "\\" not in inside:
        return inside.strip()  # mostly it is a number
    depth = 1
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[: brace.start()].strip()
    return None


def _number(text: str) -> str | None:
    """GSM8K's last `#### N`, else the last number of the text."""
    if marked := _last(_MARKED, text):
        return marked[1]
    found = _last(_VALUE, text)
    return _last_group(text, found) if found else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _last_group(text: str, found: re.Match[str]) -> str:
    """`1,234` is one number; of `3,4` only the last counts."""
    digits = found["digits"]
    if digits is not None and not all(_is_grouped(side) for side in digits.split("/")):
        return digits.rstrip(",").rpartition(",")[2] + (found["percent"] or "")
    prefix = _PREFIX.search(text[max(0, found.start() - 6) : found.start()])
    return (prefix[0] if prefix else "") + found[0]


def _is_grouped(digits: str) -> bool:
    return "," not in digits or _GROUPED.fullmatch(digits) is not None


def _final_line(text: str) -> str | None:
    """What follows "answer:" or "the answer is" in the last line, or that line when it is short."""
    words = _UP_TO_LAST_WORD.match(text)
    if words is None:
        return None
    line = text[text.rfind("\n", 0, words.end()) + 1 :].partition("\n")[0]
    line = _LINE_MARK.sub("", line.replace("**", "").replace("`", "").strip(" \t*_"), count=1)
    lead = _last(_LEAD, line)
    value = line[lead.end() :].strip(" \t*_") if lead else line
    if not value or (not lead and len(value) > MAX_FINAL_LINE_CHARS):
        return None
    return _boxed(value) if _BOX.search(value) else value.removesuffix(".")


_READERS: dict[str, Callable[[str], str | None]] = {
    "boxed": _boxed,
    "number": _number,
    "final_line": _final_line,
    "letter": read_letter,
    "json": read_json,
}


# --- normal forms ----------------------------------------------------------------------------

_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_NUMERAL = re.compile(
    r"(?P<sign>[+-]?)(?:"
    rf"(?P<whole>[0-9]+)?\\frac(?:\{{(?P<over>[+-]?{_DECIMAL})\}}|(?P<over1>[0-9]))"
    rf" ?(?:\{{(?P<under>[+-]?{_DECIMAL})\}}|(?P<under1>[0-9]))"
    rf"|(?:(?P<count>[0-9]+) )?(?P<left>{_DECIMAL})/(?P<right>{_DECIMAL})"
    rf"|(?P<plain>{_DECIMAL}))"
)

_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")

_DELIMITER = re.compile(r"(\\\\)|\\?\$|[€£¥]|\\[()\[\]]|\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![A-Za-z])")
_SPELLINGS = (
    (re.compile(r"(?<=[0-9])(?:,\\!|\{,\}|\\,)\s*(?=[0-9]{3}(?![0-9]))"), ""),  # 10,\!080
    # Not the end of a matrix row, which is two backslashes and mostly a space.
    (re.compile(r"(?<!\\)\\[,;:! ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\^\{?(?:\\circ|\\degree)(?![A-Za-z])\}?|°|\\degree(?![A-Za-z])"), " degrees "),
    (re.compile(r"\\%|\s+percent\b"), "%"),
    (re.compile(r"\u2212"), "-"),
    (re.compile(r"∞"), r"\\infty"),
    (re.compile(r"∅|\\varnothing(?![A-Za-z])|\\emptyset(?![A-Za-z])"), r"\\{\\}"),
)
_TEXT_GROUP = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt)?|mbox|math(?:rm|bf|it|sf|tt)|operatorname)\s?\{([^{}]*)\}")
_NAME = re.compile(
    r"(?:(?:[A-Za-z]|\\[a-z]+)(?:_\{?[A-Za-z0-9]+\}?)?(?:\([A-Za-z]\))?|\([a-z](?:,[a-z])+\))(?:=|\\in(?![A-Za-z]))"
)
_ABOUT = re.compile(r"[A-Za-z]?(?:\\approx(?![A-Za-z])|≈)")
_CUT_SHORT = ("...", "…", r"\ldots", r"\dots", r"\cdots")
_UNIT = re.compile(r"[A-Za-z][A-Za-z /.-]*")
# Words that change the number before them: "5 million" is not 5.
_CHANGES_VALUE = re.compile(
    r"\b(?:[ap]\.?m|and|base|cubed|dozen|factorial|hal(?:f|ves)|hundreds?|if|ln|log|minus|mod|modulo|[bmt]r?illions?|or"
    r"|over|percent|pi|plus|quarters?|sqrt|squared|thirds?|thousands?|times|to|when|where)\b",
    re.IGNORECASE,
)
# Outside a text group a lone letter is a variable, but for `km/h` and `m/s`.
_LONE_LETTER = re.compile(r"(?<![A-Za-z/])[A-Za-z](?![A-Za-z])|/[a-gi-rt-zA-Z](?![A-Za-z])")
_WORDS = re.compile(r"[A-Za-z][A-Za-z '-]{2,}")


@lru_cache(maxsize=1024)
def normal_form(written: str) -> Form:
    """The typed form of a short written value, LaTeX or plain; what is not understood is `text`.

    Kept, because the candidates of a vote mostly write the same.
    """
    if _PLAIN_INTEGER.fullmatch(written):
        return Form("integer", written)  # what all the rest would come to
    respelled = _respelled(written)
    # `x=5` is 5, but `x=5,y=6` keeps its names: a bare list has no order to tell them apart.
    name = _NAME.match(respelled)
    if name and "=" not in respelled[name.end() :]:
        respelled = respelled[name.end() :]
    return _form(respelled, 0)


def _respelled(written: str) -> str:
    """One spelling for the many that LaTeX has: no delimiters, no spacing, one kind of fraction."""
    respelled = _DELIMITER.sub(r"\1", written)
    for pattern, spelling in _SPELLINGS:
        respelled = pattern.sub(spelling, respelled)
    return _without_spaces(respelled)


def _without_spaces(written: str) -> str:
    """Drops all spaces but one between letters or digits: `p - q` is `p-q`, `1 2` is not `12`."""
    dropped = re.sub(r"(?<![A-Za-z0-9\s])\s+|\s+(?![A-Za-z0-9\s])", "", written.strip())
    dropped = re.sub(r"(\\[A-Za-z]+)\s+(?![A-Za-z])", r"\1", dropped)
    return re.sub(r"\s+", " ", dropped)


def _form(written: str, depth: int) -> Form:
    written = written.strip(" *")
    if not written.endswith(".."):
        written = written.rstrip(" .,;")
    form = _numeric(written)
    if form is not None:
        return form
    # Only now: in `5\text{ m}` the group says that m is a unit and not a variable.
    unwrapped = _without_spaces(_TEXT_GROUP.sub(r" \1 ", written))
    if unwrapped != written and depth < MAX_DEPTH:
        return _form(unwrapped, depth + 1)
    if letter := re.fullmatch(r"\(?([A-J])\)?", written):
        return Form("letter", letter[1])
    if infinity := re.fullmatch(r"([+-]?)\\infty", written):
        return Form("infinity", infinity[1] or "+")
    return (_collection(written, depth) if depth < MAX_DEPTH else None) or _text(written)


def _numeric(written: str) -> Form | None:
    """A number, with or without a unit; None when it is anything else.

    Units are dropped, since a question asks for one of them. A percentage keeps its sign as text,
    so that 50% is neither 0.5 nor proven to be another value.
    """
    about = _ABOUT.match(written)
    numeral = _NUMERAL.match(written, about.end() if about else 0)
    value = _value(numeral) if numeral else None
    if numeral is None or value is None:
        return None
    tail = written[numeral.end() :]
    if tail in _CUT_SHORT:
        return Form("decimal", str(value))
    if tail == "%":
        return Form("text", f"{value}%")
    if not _is_unit(tail):
        return None
    if about:
        return Form("decimal", str(value))
    return Form("integer" if value.denominator == 1 else "rational", str(value))


def _value(numeral: re.Match[str]) -> Fraction | None:
    if sum(character.isdigit() for character in numeral[0]) > MAX_DIGITS:
        return None
    whole = numeral["whole"] or numeral["count"]
    over = numeral["over"] or numeral["over1"] or numeral["left"] or numeral["plain"]
    under = numeral["under"] or numeral["under1"] or numeral["right"] or "1"
    top, bottom = (Fraction(side.replace(",", "").removesuffix(".")) for side in (over, under))
    if bottom == 0:
        return None
    value = top / bottom
    if whole is not None:
        # `1\frac{4}{5}` is a mixed number; `2\frac{3}{2}` is a product or a slip.
        if not 0 < value < 1:
            return None
        value += int(whole)
    return -value if numeral["sign"] == "-" else value


def _is_unit(tail: str) -> bool:
    r"""Whether what follows a number only names its unit: `\text{ cm}^2`, ` dollars`, ` km/hour`."""
    if not tail:
        return True
    # Without a space or a text group it may be a product of variables: `3ab`.
    if tail[0] not in " \\" or _LONE_LETTER.search(_TEXT_GROUP.sub(" ", tail)):
        return False
    flat = _TEXT_GROUP.sub(r" \1 ", re.sub(r"\^\{?[23]\}?", " ", tail)).strip()
    return _UNIT.fullmatch(flat) is not None and not _CHANGES_VALUE.search(flat)


def _collection(written: str, depth: int) -> Form | None:
    """A set, interval, tuple or bare list; None when its brackets or commas do not fit."""
    opening, closing = written[:1], written[-1:]
    if written.startswith("\\{") and written.endswith("\\}"):
        return _set(_parts(written[2:-2], depth))
    if opening in ("(", "[") and closing in (")", "]"):
        return _bracketed(opening + closing, _parts(written[1:-1], depth))
    parts = _parts(written, depth)
    if parts is None or len(parts) < 2:
        return None
    # A bare list has no order of its own ("list all roots"), and it may be a tuple without its
    # brackets: so it is not exact, and nothing is proven different from it.
    return Form("text", ",", tuple(sorted(set(parts))))


def _set(parts: list[Form] | None) -> Form | None:
    if parts is None:
        return None
    elements = tuple(sorted(set(parts)))
    # As an answer, the set of one value and the value say the same.
    return elements[0] if len(elements) == 1 else Form("set", "", elements)


def _bracketed(brackets: str, parts: list[Form] | None) -> Form | None:
    """`(1,2)` is a tuple; square, mixed or with an infinite bound it is an interval."""
    if not parts:
        return None
    if len(parts) == 2 and (brackets != "()" or any(part.type == "infinity" for part in parts)):
        return Form("interval", brackets, tuple(parts))
    if brackets != "()":
        return None
    return parts[0] if len(parts) == 1 else Form("tuple", "", tuple(parts))


def _parts(inner: str, depth: int) -> list[Form] | None:
    """The forms between top-level commas; None where brackets do not match or a part is empty."""
    pieces, start, level = [], 0, 0
    for position, character in enumerate(inner):
        if character in "([{":
            level += 1
        elif character in ")]}":
            level -= 1
            if level < 0:
                return None
        elif character == "," and level == 0:
            pieces.append(inner[start:position])
            start = position + 1
    if not inner:
        return []
    pieces.append(inner[start:])
    if level or not all(pieces):
        return None
    return [_form(piece, depth + 1) for piece in pieces]


def _text(written: str) -> Form:
    if _WORDS.fullmatch(written):
        return Form("text", written.casefold())
    # `x^{2}` is `x^2`; after a letter only a digit can lose its braces (`\cot{x}` is not `\cotx`).
    return Form("text", re.sub(r"\{([0-9])\}|(?<![A-Za-z])\{([A-Za-z])\}", r"\1\2", written))
