"""Counts ballots: equal answers form a class, the heaviest class wins, and a tie has a fixed order.

    >>> ballots = [Ballot(0, five), Ballot(1, seven), Ballot(2, seven)]
    >>> vote = majority_vote(ballots, abstained_weight=1)
    >>> vote.winner, vote.agreement, vote.votes
    (1, 0.5, {'7': 2, '5': 1})

The result depends on the set of ballots alone, never on the order in which they arrived.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum, isfinite
from operator import attrgetter
from typing import TypeAlias

from its_proxy.codesign.light import light
from its_proxy.voting.answers import Answer, Form, proven_different

Equivalence: TypeAlias = Callable[[Answer, Answer], bool]
"""Whether two answers with different forms mean the same; asked only where they are not proven different."""


@light
@dataclass(frozen=True, slots=True)
class Ballot:
    """One candidate's answer. `index` is the candidate's, `weight` its member's (1 or more);
    `confidence` is whatever the caller measured, larger is surer."""

    index: int
    answer: Answer
    weight: int = 1
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.weight < 1:
            raise ValueError(f"a ballot weighs at least 1, not {self.weight}")


@light
@dataclass(frozen=True, slots=True)
class AnswerClass:
    """Ballots whose answers count as the same, by index, and what they weigh; the first one's answer is shown."""

    ballots: tuple[Ballot, ...]
    weight: int

    @property
    def answer(self) -> Answer:
        return self.ballots[0].answer

    @property
    def index(self) -> int:
        return self.ballots[0].index

    @property
    def confidence(self) -> float | None:
        """The mean, or None unless every ballot has a finite one."""
        known = [b.confidence for b in self.ballots if b.confidence is not None and isfinite(b.confidence)]
        return fsum(known) / len(known) if len(known) == len(self.ballots) else None


@light
@dataclass(frozen=True, slots=True)
class Vote:
    """`classes` with the winner first, then heaviest first; `agreement` is the winner's share of the
    weight of all valid candidates, abstaining ones included; `is_tie`: another class weighs as much."""

    classes: tuple[AnswerClass, ...]
    agreement: float
    is_tie: bool
    consensus: bool

    @property
    def winner(self) -> int | None:
        """The lowest index in the winning class; None when nobody cast a ballot."""
        return self.classes[0].index if self.classes else None

    @property
    def answer(self) -> Answer | None:
        return self.classes[0].ballots[0].answer if self.classes else None

    @property
    def votes(self) -> dict[str, int]:
        """Each class's answer, as its first candidate wrote it, and its weight."""
        weights: dict[str, int] = {}
        for answer_class in self.classes:
            # Two classes can share a text when ensemble members read answers of different kinds.
            text = answer_class.ballots[0].answer.text
            weights[text] = weights.get(text, 0) + answer_class.weight
        return weights


def majority_vote(
    ballots: Sequence[Ballot],
    abstained_weight: int = 0,
    min_agreement: float | None = None,
    equivalent: Equivalence | None = None,
) -> Vote:
    """The vote over the ballots received. `abstained_weight`: valid candidates without an answer.

    A tie goes to more ballots, then to the higher mean confidence if every tied ballot has one, then
    to the lowest index.
    """
    if len(ballots) == 1:  # nothing to compare or to rank
        [only] = ballots
        agreement = only.weight / (only.weight + abstained_weight)
        is_enough = min_agreement is None or agreement >= min_agreement
        return Vote((AnswerClass((only,), only.weight),), agreement, is_tie=False, consensus=is_enough)
    ranked = sorted(classes(ballots, equivalent), key=lambda answer_class: (-answer_class.weight, answer_class.index))
    if not ranked:
        return Vote((), 0.0, is_tie=False, consensus=False)
    tied = [answer_class for answer_class in ranked if answer_class.weight == ranked[0].weight]
    winner = _first_of(tied)
    ranked.remove(winner)
    agreement = winner.weight / (sum([ballot.weight for ballot in ballots]) + abstained_weight)
    has_consensus = min_agreement is None or agreement >= min_agreement
    return Vote((winner, *ranked), agreement, is_tie=len(tied) > 1, consensus=has_consensus)


def classes(ballots: Sequence[Ballot], equivalent: Equivalence | None = None) -> list[AnswerClass]:
    """Ballots grouped by form, then by `equivalent` where forms are not proven different; by lowest index.

    Two proven different answers never end in one class, not even through a third that `equivalent`
    takes for both: the earlier pair keeps it.
    """
    by_form: dict[Form, list[Ballot]] = {}
    for ballot in sorted(ballots, key=attrgetter("index")):
        by_form.setdefault(ballot.answer.form, []).append(ballot)
    groups = list(by_form.values())
    if equivalent is not None and len(groups) > 1:
        groups = _merged(groups, equivalent)
    if len({ballot.index for ballot in ballots}) != len(ballots):
        raise ValueError("two ballots have the same index")
    return [AnswerClass(tuple(group), sum([ballot.weight for ballot in group])) for group in groups]


def _first_of(tied: Sequence[AnswerClass]) -> AnswerClass:
    most = max(len(answer_class.ballots) for answer_class in tied)
    tied = [answer_class for answer_class in tied if len(answer_class.ballots) == most]
    confidences = [answer_class.confidence for answer_class in tied]
    if len(tied) > 1 and None not in confidences:
        surest = max(confidence for confidence in confidences if confidence is not None)
        tied = [answer_class for answer_class in tied if answer_class.confidence == surest]
    return tied[0]


def _merged(groups: list[list[Ballot]], equivalent: Equivalence) -> list[list[Ballot]]:
    """Union-find over groups that come in the order of their lowest index, and leave in it."""
    roots = list(range(len(groups)))
    for later in range(len(groups)):
        for earlier in range(later):
            first, second = _root(roots, earlier), _root(roots, later)
            if first == second:
                continue
            left = [number for number in range(len(groups)) if _root(roots, number) == first]
            right = [number for number in range(len(groups)) if _root(roots, number) == second]
            if any(proven_different(groups[i][0].answer, groups[j][0].answer) for i in left for j in right):
                continue
            if equivalent(groups[earlier][0].answer, groups[later][0].answer):
                roots[max(first, second)] = min(first, second)
    merged: dict[int, list[Ballot]] = {}
    for number, group in enumerate(groups):
        merged.setdefault(_root(roots, number), []).extend(group)
    return [sorted(group, key=attrgetter("index")) for group in merged.values()]


def _root(roots: Sequence[int], number: int) -> int:
    while roots[number] != number:
        number = roots[number]
    return number
