"""Is a short answer to be expected from this request at all? Chat must not cost n times.

These are signs, not proofs: a wrong "yes" costs one more candidate, a wrong "no" only starts with one
candidate, whose own answer then decides. So the rules are few, and in plain sight.
"""

import re

TINY_MAX_TOKENS = 16

_HOUSEKEEPING_LEADS = ("### task:", "create a concise, 3-5 word", "generate a concise", "generate 1-3 broad tags")
_HOUSEKEEPING_WORDS = ("title", "tags", "follow-up", "follow_ups", "autocomplet", "search queries", "summar")

_INSTRUCTION = re.compile(
    r"\\boxed|final answer|####|\banswer (?:only|with)\b|\bonly the (?:answer|number|letter)\b|\banswer:", re.IGNORECASE
)
# One pattern a letter: a single one that spans both lines would be quadratic on a hostile text.
_CHOICES = tuple(re.compile(rf"^[ \t]*\(?{letter}[).:][ \t]", re.MULTILINE) for letter in "AB")
_ASKS_FOR_NUMBER = re.compile(
    r"\bhow (?:many|much|long|far|old|tall|fast|often)\b"
    r"|\b(?:find|compute|calculate|evaluate|solve|determine|simplify)\b"
    r"|\bwhat (?:is|are|was|will be) (?:the )?(?:\w+ ){0,3}"
    r"(?:number|value|sum|product|total|average|difference|remainder|probability|percentage|area|volume|perimeter|cost)\b",
    re.IGNORECASE,
)
_SUM_TO_DO = re.compile(r"\d\s?[-+*/^×÷]\s?\d[^?]{0,40}\?")
_DIGIT_OR_MATHEMATICS = re.compile(r"\d|\$|\\frac")
_READ_CHARS = 20_000


def is_housekeeping(text: str) -> bool:
    """A client's own errand (a title, tags, follow-ups for a conversation), not a person's question."""
    lead = text[:400].lstrip().lower()
    return lead.startswith(_HOUSEKEEPING_LEADS) and any(word in lead for word in _HOUSEKEEPING_WORDS)


def expects_answer(text: str) -> bool:
    """An answer instruction, choice letters, or a number to find.

    Reads the head and the tail of a long text: a question stands at one end of it.
    """
    sample = text if len(text) <= _READ_CHARS else text[: _READ_CHARS // 2] + "\n" + text[-_READ_CHARS // 2 :]
    if _INSTRUCTION.search(sample) or _SUM_TO_DO.search(sample) or all(choice.search(sample) for choice in _CHOICES):
        return True
    return bool(_ASKS_FOR_NUMBER.search(sample) and _DIGIT_OR_MATHEMATICS.search(sample))
