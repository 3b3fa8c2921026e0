"""Ways to ask for candidates and to stop: the proxy's own rules, and published ones, as functions of one signature.

    Way("short-3@8", 8, short(3, 8))

The published ones are written anew from their papers, over recorded candidates:
Adaptive-Consistency (Aggarwal et al., 2023, arXiv 2305.11860), Early-Stopping Self-Consistency, ESC (Li et al., 2024,
arXiv 2401.10480), short-m@k (Hassid et al., 2025, arXiv 2505.17813).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from typing import Literal, TypeAlias

from its_proxy.candidates import CandidateRow, Row, cast
from its_proxy.voting.answers import Answer, Form
from its_proxy.voting.stop import is_decided, n_to_start
from its_proxy.voting.tally import Ballot, classes

Candidates: TypeAlias = Sequence[CandidateRow]
Next: TypeAlias = Callable[[Candidates, int, int], int | None]
"""(candidates received in their order, how many run, how many have not been started) -> how many to start now;
None ends the vote. First asked with nothing received and nothing running: that answer is the first wave."""
Decide: TypeAlias = Callable[[Row, Candidates], Answer | None]
TopUp: TypeAlias = Literal["fewest", "double", "rest"]
"""As few as could decide the vote; where answers disagree, at least as many as have been started, or all the others."""


def majority(row: Row, received: Candidates) -> Answer | None:
    """The proxy's vote, whose ties go to the lowest index."""
    return row.vote(received).answer


@dataclass(frozen=True, slots=True)
class Way:
    """`n`: how many candidates it may use at most."""

    name: str
    n: int
    next: Next
    decide: Decide = majority
    is_published: bool = False


# --- the proxy's own -------------------------------------------------------------------------


def served(n: int, stop: str, first: int | None = None, top_up: TopUp = "double") -> Way:
    """As its_proxy/sampling.py asks one model: `first` candidates, more while the vote is undecided."""
    first = n if first is None or stop == "none" else first

    def more(received: Candidates, n_running: int, n_waiting: int) -> int | None:
        if not received:
            return first if not n_running else 0
        ballots, abstained = cast(received)
        shape = tuple((one.weight, one.answer.is_exact) for one in _heaviest_first(ballots))
        n_more = _n_more(stop, shape, abstained, n_running, n_waiting)
        if not n_more or len(shape) < 2 or top_up == "fewest":
            return n_more
        return n_waiting if top_up == "rest" else min(n_waiting, max(n_more, n - n_waiting))

    tail = {"fewest": ", then the fewest", "double": "", "rest": ", then the rest"}[top_up]
    name = f"n={n}" if first == n and stop == "none" else f"n={n} {stop}, first {first}{tail}"
    return Way(name, n, more)


def _heaviest_first(ballots: Sequence[Ballot]) -> list[Ballot]:
    """One ballot a class, of the class's weight."""
    found = [Ballot(one.index, one.answer, one.weight) for one in classes(ballots)]
    return sorted(found, key=lambda ballot: ballot.weight, reverse=True)


@cache
def _n_more(
    stop: str, shape: tuple[tuple[int, bool], ...], abstained: int, n_running: int, n_waiting: int
) -> int | None:
    """The rules look at the weights of classes and at what is exact, never at the answers: so can a cache."""
    ballots: list[Ballot] = []
    for number, (weight, is_exact) in enumerate(shape):
        answer = Answer(str(number), Form("integer" if is_exact else "text", str(number)))
        ballots += [Ballot(len(ballots) + k, answer) for k in range(weight)]
    if is_decided(stop, ballots, abstained, n_running + n_waiting):
        return None
    needed = n_to_start(stop, ballots, abstained, [1] * n_running, [1] * n_waiting)
    return needed if n_running else max(needed, 1)


# --- published rules -------------------------------------------------------------------------


def adaptive_consistency(most: int, sure: float = 0.95) -> Way:
    """One candidate after the other, until the posterior that the first answer beats the second exceeds `sure`."""

    def more(received: Candidates, n_running: int, n_waiting: int) -> int | None:
        counts = sorted(_counts(received).values(), reverse=True)
        if received and counts and _beats(counts[0], counts[1] if len(counts) > 1 else 0) > sure:
            return None
        return min(1, n_waiting)

    return Way(f"Adaptive-Consistency, at most {most}", most, more, is_published=True)


def _beats(n_first: int, n_second: int) -> float:
    """P(p > 1/2) under Beta(n_first + 1, n_second + 1), as a binomial tail."""
    n = n_first + n_second + 1
    return sum(comb(n, k) for k in range(n_first + 1)) / 2**n


def esc(window: int, most: int) -> Way:
    """Windows one after the other, until all candidates of one give the same answer."""

    def more(received: Candidates, n_running: int, n_waiting: int) -> int | None:
        if n_running:
            return 0
        latest = received[-window:]
        if len(latest) == window and len(_counts(latest)) == 1 and None not in [one.read for one in latest]:
            return None
        return min(window, n_waiting)

    return Way(f"ESC, windows of {window}, at most {most}", most, more, is_published=True)


def short(m: int, k: int) -> Way:
    """All k at once; the first m to finish decide, a tie goes to the shortest, and the others are cut off."""

    def more(received: Candidates, n_running: int, n_waiting: int) -> int | None:
        if len(received) >= m:
            return None
        return n_waiting

    def decide(row: Row, received: Candidates) -> Answer | None:
        answers = [one.read for one in received[:m] if one.read is not None]
        counts = Counter(answer.form for answer in answers)
        return max(answers, key=lambda answer: counts[answer.form], default=None)

    return Way(f"short-{m}@{k}", k, more, decide, is_published=True)


def _counts(candidates: Candidates) -> Counter[Form]:
    return Counter(one.read.form for one in candidates if one.read is not None)
