r"""Texts as they are compared: LaTeX spelled one way, lower case, as words alone or as words and signs.

>>> words(r"Compute $\dfrac{1}{2}$ of  $10$,\, please.")
('compute', 'frac', '1', '2', 'of', '10', 'please')
>>> words_and_signs("What is $3-5$?")
('what', 'is', '3', '-', '5', '?')
"""

import re
import unicodedata

_SPELLINGS = (
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle|limits|,|;|!|:|quad|qquad)(?![a-z])|\\(?=[\s$%{}()\[\]])"), " "),
    (re.compile(r"\\(?:text|mathrm|mathbf|mathit|operatorname)\s*\{"), "{"),
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), " times "),
)
_WORD = re.compile(r"[^\W_]+")
_WORD_OR_SIGN = re.compile(r"[^\W_]+|[^\w\s$]|_")
# 1,000 and 1{,}000 are one number.
_GROUPED = re.compile(r"(?<=\d)\{?,\}?(?=\d{3}(?!\d))")


def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, in order."""
    return tuple(_WORD.findall(_evened(text)))


def words_and_signs(text: str) -> tuple[str, ...]:
    """The same with every sign but `$` and spaces: 3+5 and 3-5 are two problems of the same words."""
    return tuple(_WORD_OR_SIGN.findall(_evened(text)))


def _evened(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return _GROUPED.sub("", text)
