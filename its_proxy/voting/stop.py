"""When may the remaining candidates be cancelled? Rules behind one signature, by name.

`exact` stops only when every future agrees: whatever the pending candidates do (vote for anyone,
abstain, be lost), and whichever answers not proven different turn out to be equal, the answer class
and the verdict on `min_agreement` are those of the full vote. So they do not depend on the order of
arrival; which candidate of the class is the reply may.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from its_proxy.codesign.errors import ConfigError
from its_proxy.voting.tally import AnswerClass, Ballot, classes

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


def exact(
    ballots: Sequence[Ballot], abstained_weight: int, pending_weight: int, min_agreement: float | None = None
) -> bool:
    """The leader strictly outweighs the heaviest class that others could still form.

    Why it holds: the leader is taken by form alone, so any later merging only adds to its class. The
    strict comparison means that no tie rule is ever needed. With `min_agreement` the verdict must be
    the same in the leader's worst future and in its best.
    """
    by_form = sorted(classes(ballots), key=lambda answer_class: answer_class.weight, reverse=True)
    if not by_form:
        return False
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


def never(
    ballots: Sequence[Ballot], abstained_weight: int, pending_weight: int, min_agreement: float | None = None
) -> bool:
    """The rule `none`: every candidate is waited for."""
    return False


RULES: dict[str, StopRule] = {"exact": exact, "none": never}


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
