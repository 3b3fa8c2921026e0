"""Personas that say the same: equal but for case and marks, or nearly so.

Two texts are near duplicates when the Jaccard similarity of their word pairs is at least 0.8. All of them are
found, and few pairs of texts are compared: two such texts share one of their rarest word pairs.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

THRESHOLD = 0.8
_WORD = re.compile(r"\w+")

_Shingles = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Duplicates:
    """`n_exact` and `n_near` texts could go: each repeats an earlier one. `examples` are near pairs."""

    n_texts: int
    n_exact: int
    n_near: int
    examples: tuple[tuple[str, str], ...]


def find_duplicates(texts: Sequence[str]) -> Duplicates:
    distinct: dict[tuple[str, ...], str] = {}
    for text in texts:
        distinct.setdefault(tuple(_WORD.findall(text.casefold())), text)
    shingles = [_pairs(words) for words in distinct]
    kept = list(distinct.values())
    earlier = _near_earlier(shingles)
    examples = tuple((kept[first], kept[second]) for second, first in list(earlier.items())[:3])
    return Duplicates(len(texts), len(texts) - len(distinct), len(earlier), examples)


def _pairs(words: tuple[str, ...]) -> _Shingles:
    return frozenset(pairwise(words)) or frozenset([words])


def _near_earlier(shingles: Sequence[_Shingles]) -> dict[int, int]:
    """Number of a text -> number of an earlier one that it nearly repeats."""
    n_holding = Counter(shingle for each in shingles for shingle in each)
    found: dict[int, int] = {}
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, each in enumerate(shingles):
        rarest_first = sorted(each, key=lambda shingle: (n_holding[shingle], shingle))
        # Of n shingles at least 0.8 n are shared, so one of the first n - ceil(0.8 n) + 1 must be.
        prefix = rarest_first[: len(each) - ceil(THRESHOLD * len(each)) + 1]
        candidates = sorted({other for shingle in prefix for other in holders[shingle]})
        near = next((other for other in candidates if _jaccard(each, shingles[other]) >= THRESHOLD), None)
        if near is not None:
            found[number] = near
            continue
        for shingle in prefix:
            holders[shingle].append(number)
    return found


def _jaccard(a: _Shingles, b: _Shingles) -> float:
    n_shared = len(a & b)
    return n_shared / (len(a) + len(b) - n_shared)
