r"""Texts as they are compared: LaTeX spelled one way, lower case, words without punctuation.

>>> words(r"Compute $\dfrac{1}{2}$ of  $10$,\, please.")
('compute', 'frac', '1', '2', 'of', '10', 'please')
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
# 1,000 and 1{,}000 are one number.
_GROUPED = re.compile(r"(?<=\d)\{?,\}?(?=\d{3}(?!\d))")


def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, in order."""
    text = unicodedata.normalize("NFKC", text).casefold()
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return tuple(_WORD.findall(_GROUPED.sub("", text)))
