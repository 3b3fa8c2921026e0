"""The figures of a quality report: does similar lie nearer to its query than random, and random than dissimilar?"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Literal

from its_proxy.codesign import taxonomy
from its_proxy.statistics import Estimate, clustered_interval, paired_difference
from its_training.personas.duplicates import Duplicates, find_duplicates
from its_training.personas.similarity import WordSimilarity, domain_similarity
from its_training.personas.sources import Source, Written

ORDER = ("similar", "random", "dissimilar")
Verdict = Literal["holds", "not shown", "does not hold"]


@dataclass(frozen=True, slots=True)
class Lengths:
    shortest: int
    median: float
    mean: float
    longest: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One strategy: similarity of persona and query by words and by domains, one value a query, and lengths."""

    strategy: str
    by_id: dict[str, tuple[float, float]]
    by_words: Estimate
    by_domains: Estimate
    characters: Lengths
    words: Lengths
    n_distinct: int


@dataclass(frozen=True, slots=True)
class Compared:
    """`nearer` minus `farther` over the queries that both have."""

    nearer: str
    farther: str
    n: int
    by_words: Estimate
    by_domains: Estimate

    @property
    def verdict(self) -> Verdict:
        """By words and by domains both: what only one of them shows is not shown."""
        if self.by_words.low > 0 and self.by_domains.low > 0:
            return "holds"
        return "does not hold" if self.by_words.high < 0 or self.by_domains.high < 0 else "not shown"


@dataclass(frozen=True, slots=True)
class Quality:
    measured: tuple[Measured, ...]
    compared: tuple[Compared, ...]
    duplicates: Duplicates
    per_domain: dict[str, int]
    missing: tuple[str, ...]


def measure(source: Source) -> Quality:
    similarity = WordSimilarity(_corpus(source))
    measured = tuple(_measured(name, rows, similarity) for name, rows in _ordered(source))
    per_domain = Counter(domain for domain, _ in source.personas)
    return Quality(
        measured,
        tuple(_compared(measured)),
        find_duplicates([text for _, text in source.personas]),
        dict(per_domain),
        tuple(name for name in (*taxonomy.NAMES, taxonomy.GENERAL) if name not in per_domain),
    )


def _ordered(source: Source) -> Iterator[tuple[str, list[Written]]]:
    """The three that have an expected order first, in that order."""
    for name in (*ORDER, *(name for name in source.beside if name not in ORDER)):
        if source.beside.get(name):
            yield name, source.beside[name]


def _corpus(source: Source) -> Iterator[str]:
    queries = {row.query for rows in source.beside.values() for row in rows}
    return iter([*sorted(queries), *(text for _, text in source.personas)])


def _measured(strategy: str, rows: Sequence[Written], similarity: WordSimilarity) -> Measured:
    by_id = {row.id: (similarity(row.query, row.text), domain_similarity(row.query, row.text)) for row in rows}
    return Measured(
        strategy,
        by_id,
        clustered_interval([words for words, _ in by_id.values()]),
        clustered_interval([domains for _, domains in by_id.values()]),
        _lengths([len(row.text) for row in rows]),
        _lengths([len(row.text.split()) for row in rows]),
        len({row.text for row in rows}),
    )


def _lengths(values: Sequence[int]) -> Lengths:
    return Lengths(min(values), median(values), fmean(values), max(values))


def _compared(measured: Sequence[Measured]) -> Iterator[Compared]:
    named = {each.strategy: each for each in measured}
    for nearer, farther in pairwise(ORDER):
        if nearer not in named or farther not in named:
            continue
        a, b = named[nearer].by_id, named[farther].by_id
        shared = sorted(a.keys() & b.keys())
        if shared:
            by_words, by_domains = (
                paired_difference([a[id_][which] for id_ in shared], [b[id_][which] for id_ in shared])
                for which in (0, 1)
            )
            yield Compared(nearer, farther, len(shared), by_words, by_domains)
