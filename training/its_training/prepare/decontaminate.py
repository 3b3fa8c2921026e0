"""Finds training queries that share text with evaluation questions.

A query is contaminated if it shares a run of eight words with a question, holds the same words, or if one of the two,
shorter than that, stands in the other. Words are compared after LaTeX, case, spacing and punctuation are evened out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from its_proxy.layouts import read_benchmark
from its_training.prepare.text import words

N = 8
SHORTEST = 3
"""Words of a contained text, one of them with a digit where they are so few: others are found everywhere."""

How: TypeAlias = Literal["n-gram", "exact", "contained"]
Words: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """What a query shares, with which question of which file."""

    how: How
    benchmark: str
    question: str
    text: str


@dataclass
class Evaluation:
    """The n-grams of all evaluation questions, and the questions too short to have one."""

    benchmarks: dict[str, int] = field(default_factory=dict)
    _grams: dict[Words, tuple[str, str]] = field(default_factory=dict)
    _short: dict[Words, tuple[str, str]] = field(default_factory=dict)
    _runs: dict[Words, tuple[str, str]] = field(default_factory=dict)

    def add(self, benchmark: str, questions: Iterable[tuple[str, str]]) -> None:
        """`questions` are (id, text)."""
        for identity, text in questions:
            found = words(text)
            self.benchmarks[benchmark] = self.benchmarks.get(benchmark, 0) + 1
            if len(found) < N:
                self._short.setdefault(found, (benchmark, identity))
            for gram in _runs(found, N):
                self._grams.setdefault(gram, (benchmark, identity))
            # Whatever a short query could be: every run of a question that is shorter than an n-gram.
            for size in range(SHORTEST, N):
                for run in filter(_is_telling, _runs(found, size)):
                    self._runs.setdefault(run, (benchmark, identity))

    def hit(self, query: str) -> Hit | None:
        """The first thing that the query shares, or None."""
        found = words(query)
        if len(found) < N:
            place = self._short.get(found)
            if place is not None:
                return Hit("exact", *place, " ".join(found))
            place = self._runs.get(found)
            return Hit("contained", *place, " ".join(found)) if place is not None else None
        for gram in _runs(found, N):
            if gram in self._grams:
                return Hit("n-gram", *self._grams[gram], " ".join(gram))
        for size in range(SHORTEST, N) if self._short else ():
            for run in filter(_is_telling, _runs(found, size)):
                if run in self._short:
                    return Hit("contained", *self._short[run], " ".join(run))
        return None


def _runs(found: Words, size: int) -> Iterator[Words]:
    for start in range(len(found) - size + 1):
        yield found[start : start + size]


def _is_telling(run: Words) -> bool:
    return len(run) > SHORTEST or any(character.isdigit() for word in run for character in word)


def read_evaluation(files: Sequence[Path]) -> tuple[Evaluation, Mapping[str, str]]:
    """The questions of evaluation files in any layout that `its-proxy evaluate` reads, and each file's sha256."""
    evaluation, digests = Evaluation(), {}
    for file in files:
        benchmark = read_benchmark(file)
        evaluation.add(file.stem, ((item.id, item.query) for item in benchmark.items))
        digests[file.stem] = benchmark.sha256
    return evaluation, digests
