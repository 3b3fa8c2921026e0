"""When may the remaining candidates be cancelled? Rules behind one signature, by name.

`exact` stops only when every future agrees: whatever the pending candidates do (vote for anyone,
abstain, be lost), and whichever answers not proven different turn out to be equal, the answer class
and the verdict on `min_agreement` are those of the full vote. So they do not depend on the order of
arrival; which candidate of the class is the reply may. `beta` stops when the leader is probably the
winner: it is cheaper, and it does depend on that order.

The same rules say how many candidates to begin with, and how many more are worth starting: as few as
could decide the vote if all of them agreed.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import comb
from typing import Literal, TypeAlias

from its_proxy.codesign.errors import ConfigError
from its_proxy.voting.answers import Answer, Form
from its_proxy.voting.tally import AnswerClass, Ballot, classes

StopName: TypeAlias = Literal["exact", "beta", "none"]

SURE = Fraction(95, 100)
"""The posterior probability at which `beta` stops."""
MAX_EVIDENCE = 200
"""More draws than this are scaled down to it: the binomial tails stay cheap, and no posterior grows by it."""

StopRule: TypeAlias = Callable[[Sequence[Ballot], int, int, float | None], bool]
"""(ballots received, weight that abstained, weight still pending, min_agreement) -> stop now?"""


def is_decided(
    rule: str,
    ballots: Sequence[Ballot],
    abstained_weight: int,
    pending_weight: int,
    min_agreement: float | None = None,
) -> bool:
    """Whether the vote may end here; always true when nothing is pending. Raises ConfigError."""
    if rule not in RULES:
        raise ConfigError(f"unknown stop rule {rule!r}", hint="known: " + ", ".join(RULES))
    return pending_weight == 0 or RULES[rule](ballots, abstained_weight, pending_weight, min_agreement)


def n_to_start(
    rule: str,
    ballots: Sequence[Ballot],
    abstained_weight: int,
    running: Sequence[int],
    waiting: Sequence[int],
    min_agreement: float | None = None,
) -> int:
    """How many of the `waiting` candidates to start now: the fewest that could decide the vote together with
    the `running` ones if all of them agreed with the leader; 0 while the running ones could do so alone.

    `running` and `waiting` are weights, in the order of starting. With nothing received and nothing running
    this is the first wave. All of them where no agreement would be enough. Raises ConfigError.
    """
    by_form = _heaviest_first(ballots)
    leader = by_form[0].answer if by_form else _SOME_ANSWER
    beyond = max((ballot.index for ballot in ballots), default=-1) + 1

    def decides(n_more: int) -> bool:
        agreeing = [*running, *waiting[:n_more]]
        future = [Ballot(beyond + position, leader, weight) for position, weight in enumerate(agreeing)]
        return is_decided(rule, [*ballots, *future], abstained_weight, sum(waiting[n_more:]), min_agreement)

    if decides(0):
        return 0
    # One more candidate that agrees does not undo a decision, so the fewest can be found by halves.
    return bisect_left(range(len(waiting) + 1), True, key=decides)


def exact(
    ballots: Sequence[Ballot], abstained_weight: int, pending_weight: int, min_agreement: float | None = None
) -> bool:
    """The leader strictly outweighs the heaviest class that others could still form.

    Why it holds: the leader is taken by form alone, so any later merging only adds to its class. The
    strict comparison means that no tie rule is ever needed. With `min_agreement` the verdict must be
    the same in the leader's worst future and in its best.
    """
    if sum([ballot.weight for ballot in ballots]) <= pending_weight:
        return False  # however they agree: no need to look at them
    by_form = _heaviest_first(ballots)
    leader, others = by_form[0], by_form[1:]
    if leader.weight <= _heaviest_possible(others) + pending_weight:
        return False
    if min_agreement is None:
        return True
    everyone = sum(ballot.weight for ballot in ballots) + abstained_weight + pending_weight
    # Lost candidates would shrink both sides' totals, which lies between these two ends.
    worst = leader.weight / everyone
    best = (_heaviest_with(leader, others) + pending_weight) / everyone
    return worst >= min_agreement or best < min_agreement


def beta(
    ballots: Sequence[Ballot], abstained_weight: int, pending_weight: int, min_agreement: float | None = None
) -> bool:
    """The leader beats the runner-up with a posterior probability of at least 0.95; never later than `exact`.

    Each ballot for one of the two is a draw for the leader with an unknown chance p. With the uniform prior
    Beta(1, 1), l ballots for the leader and r for its rival leave Beta(l + 1, r + 1), and the rule asks for
    P(p > 1/2): the Beta criterion of Adaptive-Consistency (Aggarwal et al., 2023, arXiv 2305.11860). Rivals
    not proven different from each other count as one.

    The rule looks at every arrival and takes what came first for a fair sample, which it is not (short
    candidates come first): the answer may depend on the order of arrival. A weight is no number of
    independent draws, so ballots and weights must both say so: one heavy member does not decide alone.

    With `min_agreement` the verdict must be as probable: that the leader's share of all valid candidates
    reaches the floor, or that it does not, from the same prior and with every valid candidate as a draw.
    """
    if exact(ballots, abstained_weight, pending_weight, min_agreement):
        return True
    by_form = _heaviest_first(ballots)
    if not by_form or not _probably_beats(by_form):
        return False
    if any(ballot.weight > 1 for ballot in ballots):
        by_heads = _heaviest_first([replace(ballot, weight=1) for ballot in ballots])
        if by_heads[0].answer.form != by_form[0].answer.form or not _probably_beats(by_heads):
            return False
    return min_agreement is None or _is_verdict_probable(by_form, abstained_weight, min_agreement)


def never(
    ballots: Sequence[Ballot], abstained_weight: int, pending_weight: int, min_agreement: float | None = None
) -> bool:
    """The rule `none`: every candidate is waited for."""
    return False


RULES: dict[str, StopRule] = {"exact": exact, "beta": beta, "none": never}


_SOME_ANSWER = Answer("", Form("letter", ""))
"""Stands for what the first candidates may agree on."""


def _heaviest_first(ballots: Sequence[Ballot]) -> list[AnswerClass]:
    return sorted(classes(ballots), key=lambda answer_class: answer_class.weight, reverse=True)


def _probably_beats(by_form: Sequence[AnswerClass]) -> bool:
    return _posterior(by_form[0].weight, _heaviest_possible(by_form[1:]), Fraction(1, 2)) >= SURE


def _is_verdict_probable(by_form: Sequence[AnswerClass], abstained_weight: int, min_agreement: float) -> bool:
    leader, others = by_form[0], by_form[1:]
    everyone = sum(answer_class.weight for answer_class in by_form) + abstained_weight
    together = _heaviest_with(leader, others)
    floor = Fraction(min_agreement).limit_denominator(1_000)
    # A draw is a candidate; of which weight the abstaining ones are is not known, so the heaviest is the measure.
    draw = max(ballot.weight for answer_class in by_form for ballot in answer_class.ballots)
    is_reached = _posterior(leader.weight // draw, -(-(everyone - leader.weight) // draw), floor) >= SURE
    is_missed = _posterior(-(-together // draw), (everyone - together) // draw, floor) <= 1 - SURE
    return is_reached or is_missed


def _posterior(n_for: int, n_against: int, share: Fraction) -> Fraction:
    """P(p > share) for p from Beta(n_for + 1, n_against + 1), exactly: a binomial tail of n_for + n_against + 1."""
    scale = -(-(n_for + n_against) // MAX_EVIDENCE)
    if scale > 1:
        n_for, n_against = n_for // scale, -(-n_against // scale)
    n = n_for + n_against + 1
    top, bottom = share.numerator, share.denominator
    tail = sum(comb(n, k) * top**k * (bottom - top) ** (n - k) for k in range(n_for + 1))
    return Fraction(tail, bottom**n)


def _heaviest_possible(answer_classes: Sequence[AnswerClass]) -> int:
    """The heaviest class that merging could form: no class holds two exact forms, for these are
    proven different, so it is all open ones together with at most one exact one.

    Pending ballots add no more than their own weight to it: one that equals two of the received
    forms makes these equal to each other, and then they could have merged without it.
    """
    weights = [answer_class.weight for answer_class in answer_classes if answer_class.answer.is_exact]
    return _open_weight(answer_classes) + max(weights, default=0)


def _heaviest_with(leader: AnswerClass, others: Sequence[AnswerClass]) -> int:
    """The most that the leader's own class could weigh after merging."""
    if leader.answer.is_exact:
        return leader.weight + _open_weight(others)
    return leader.weight + _heaviest_possible(others)


def _open_weight(answer_classes: Sequence[AnswerClass]) -> int:
    return sum(answer_class.weight for answer_class in answer_classes if not answer_class.answer.is_exact)
