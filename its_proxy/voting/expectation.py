"""Is a short answer to be expected from this request at all? Chat must not cost n times.

These are signs, not proofs: a wrong "yes" costs one more candidate, a wrong "no" only starts with one
candidate, whose own answer then decides. So the rules are few, and in plain sight.
"""

import re
from itertools import islice

TINY_MAX_TOKENS = 16

_HOUSEKEEPING_LEADS = ("### task:", "create a concise, 3-5 word", "generate a concise", "generate 1-3 broad tags")
_HOUSEKEEPING_WORDS = ("title", "tags", "follow-up", "follow_ups", "autocomplet", "search queries", "image generation")
_ERRAND = re.compile(r"\b(?:title|tags|name|emoji|follow-?up questions)\b")
_CONVERSATION = re.compile(r"\bchat history\b|\b(?:this|the|our|following) (?:chat|conversation)\b")

_INSTRUCTION = re.compile(
    r"\\boxed|final answer|####|\banswer (?:only|with)\b|\bonly the (?:answer|number|letter)\b|\banswer:", re.IGNORECASE
)
# One pattern a letter: a single one that spans both lines would be quadratic on a hostile text.
_CHOICES = tuple(re.compile(rf"^[ \t]*\(?{letter}[).:][ \t]", re.MULTILINE) for letter in "AB")
_ASKS_FOR_NUMBER = re.compile(
    r"\bhow (?:many|much|long|far|old|tall|fast|often|big|heavy|high|deep|wide)\b"
    r"|\b(?:find|compute|calculate|evaluate|solve|determine|simplify|express|convert)\b"
    r"|\bwhat(?:['\u2019]s| is| are| was| were| will| would| must)? (?:[\w'\u2019-]+ ){0,5}?"
    r"(?:ages?|area|amount|average|cost|degrees?|difference|distance|fraction|income|integer|length|number|odds|perimeter"
    r"|percent|percentage|pay|price|probability|product|profit|ratio|remainder|result|salary|speed|sum|total|value|volume"
    r"|weight|height|width)\b",
    re.IGNORECASE,
)
# An operator between numbers, and the question behind it. A tight - or / may be a range, a date or "24/7".
_SUM_TO_DO = re.compile(
    r"(?:(?<![\w.])\d+(?:\s?[+*^\u00d7\u00f7]\s?|\s[-/]\s)|\b(?:what is|what\u2019s|what's) \d+[-/])\d[^?]{0,40}\?",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"(?<![\w./])\d[\d.,]*|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty"
    r"|fifty|hundred|half|twice|thrice|double|triple|dozen|third|quarter)s?\b",
    re.IGNORECASE,
)
_MATHEMATICS = re.compile(r"\$[^$\n]{0,80}[\\^_={}][^$\n]{0,200}\$|\$[A-Za-z]{1,4}\$|\\\[|\\\(|\\frac|\[asy\]")
_MANY_NUMBERS = 4
_READ_CHARS = 20_000


def is_housekeeping(text: str) -> bool:
    """A client's own errand (a title, tags, follow-ups for a conversation), not a person's question."""
    lead = text[:400].lstrip().lower()
    if lead.startswith(_HOUSEKEEPING_LEADS) and any(word in lead for word in _HOUSEKEEPING_WORDS):
        return True
    return _ERRAND.search(lead) is not None and _CONVERSATION.search(lead) is not None


def asks_for_answer(text: str) -> bool:
    """Words that ask for an answer to be marked as such: `\\boxed{}`, "final answer"; a system prompt's, too."""
    return _INSTRUCTION.search(_ends(text)) is not None


def expects_answer(text: str) -> bool:
    """An answer instruction, choice letters, or a number to find.

    Reads the head and the tail of a long text: a question stands at one end of it.
    """
    sample = _ends(text)
    if asks_for_answer(text) or _SUM_TO_DO.search(sample) or all(choice.search(sample) for choice in _CHOICES):
        return True
    if _MATHEMATICS.search(sample):
        return True
    n_numbers = sum(1 for _ in islice(_NUMBER.finditer(sample), _MANY_NUMBERS))
    if n_numbers == _MANY_NUMBERS and sample.rstrip().endswith("?"):
        return True
    return n_numbers > 0 and _ASKS_FOR_NUMBER.search(sample) is not None


def _ends(text: str) -> str:
    return text if len(text) <= _READ_CHARS else text[: _READ_CHARS // 2] + "\n" + text[-_READ_CHARS // 2 :]
