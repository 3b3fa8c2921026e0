r"""Finds the choice letter that a candidate settles on: A to J, where it is stated and not where it occurs.

    >>> read_letter("A is close, but I think the answer is (C).")
    'C'

A letter counts where the text commits to it: in a box, after "the answer is" or "I choose", before "is
correct", as the last line, or as the only letter in bold. Prose is full of other capitals (the article
A, the pronoun I, options that are being weighed), and two letters together are no choice. Every scan is
linear.
"""

import re

# Emphasis and LaTeX around a letter say nothing about it; braces become spaces, for they separate.
_MARKUP = re.compile(r"\*+|__+|`+|\$|\\[()\[\]]|\\(?:text|math)[a-z]{0,2}(?![a-z])|\\[,;:! ]")
_OPEN, _CLOSE = r"[(\[\"'\u201c\u2018]?", r"[)\]\"'\u201d\u2019]?"
_NO_WORD = r"(?![A-Za-z0-9_+^=\\-]|['\u2019][A-Za-z])"

# A bare A or I is an article or a pronoun where the sentence goes on, unless it goes on about the choice.
_ABOUT = r"because|since|as|for|which|due|given|from|by|and|but|so|if|or"
_SENTENCE = rf"\s(?!(?:{_ABOUT})\b)[a-z]"
_BARE = rf"(?:[B-HJ]{_NO_WORD}|[AI]{_NO_WORD}(?!{_SENTENCE}))"
_LETTER = rf"(?P<letter>(?<=[(\[])[A-Ja-j](?=[)\]])|{_BARE}|[a-j](?=[.\s]{{0,3}}$))"
# "A and B", "B, C", "A or D"; but in "B, C is wrong" one is chosen.
_MORE = (
    rf"(?P<more>\s{{0,2}}(?:,|/|&|\band\b|\bor\b)\s{{0,2}}(?:(?:option|choice)\s)?{_OPEN}{_BARE}"
    r"(?!\s(?:is|was|does|has|had|can|cannot|would|fails)\b))?"
)

_BOX = re.compile(rf"\\(?:boxed|fbox)\s{{0,3}}{_OPEN}(?P<letter>[A-Ja-j]){_NO_WORD}{_CLOSE}{_MORE}")
_LEAD = re.compile(
    r"(?i:\b(?:answer|choice|option|selection)(?:\s[a-z]{1,12}){0,4}?\s{0,2}"
    r"(?:\b(?:is|be|was)\b\s{0,2}:?|:|=|\u2192|->)"
    r"|\b(?:choose|chose|pick|picked|select|selected|go\swith|going\swith|opt\sfor))"
    r"\s{0,3}(?i:(?:the|option|choice|answer|letter|correct|therefore|thus|clearly|indeed)\b:?\s{1,2}){0,3}"
    rf"{_OPEN}{_LETTER}{_CLOSE}{_MORE}",
    re.MULTILINE,
)
_CORRECT = re.compile(
    rf"(?<![A-Za-z0-9_'\u2019\\-]){_OPEN}(?P<letter>[A-J]){_NO_WORD}{_CLOSE}\sis\s"
    r"(?:(?:indeed|clearly|thus|therefore|the|only|most|right|correct|best)\s){0,3}(?:correct|right|answer|choice|option)\b"
)
_LAST_LINE = re.compile(
    rf"(?i:(?:therefore|thus|so|hence|option|choice)\b[,:]?\s)?{_OPEN}(?P<letter>[A-Ja-j]){_CLOSE}[.):!]{{0,2}}"
)
_OPTION = re.compile(r"(?<![A-Za-z0-9])\(?(?P<letter>[A-J])[).:]\s")
_BOLD = re.compile(
    r"(?:\*\*|__)\s?(?i:(?:option|choice|answer)[ :]{1,3})?\(?(?P<letter>[A-J])(?:[).:][^*_\n]{0,200})?\s?(?:\*\*|__)"
)

_READ_CHARS = 20_000
"""The last statement wins, so the end of a long text is enough."""


def read_letter(text: str) -> str | None:
    """The letter stated last, in upper case; None where none is, or where the last statement names several."""
    text = text[-_READ_CHARS:]
    plain = _MARKUP.sub("", text).replace("{", " ").replace("}", " ")
    stated = [match for pattern in (_BOX, _LEAD, _CORRECT) for match in pattern.finditer(plain)]
    if stated:
        last = max(stated, key=lambda match: match.start("letter"))
        return None if last.groupdict().get("more") else last["letter"].upper()
    return _last_line(plain) or _only_bold(text)


def _last_line(plain: str) -> str | None:
    """`B.`, `(b)`, `So C`; or `B) Paris`, unless the text lists the options in that way."""
    line = plain.rstrip()
    line = line[line.rfind("\n") + 1 :].strip()
    if (alone := _LAST_LINE.fullmatch(line)) is not None:
        return alone["letter"].upper()
    options = [option["letter"] for option in _OPTION.finditer(plain)]
    is_option = len(options) == 1 and _OPTION.match(line) is not None
    return options[0] if is_option else None


def _only_bold(text: str) -> str | None:
    """The letter in bold; where several are, the options are only being discussed."""
    letters = {bold["letter"] for bold in _BOLD.finditer(text)}
    return letters.pop() if len(letters) == 1 else None
