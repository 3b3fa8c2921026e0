"""One way to ask, carried out over the recorded candidates of one item, event by event, under a clock that is a model.

run = replayed(served(16, "beta", 4), row, Clock())
run.answer, run.n_tokens, run.time
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cheaper_votes.ways import Way
from its_proxy.candidates import CandidateRow, Row
from its_proxy.replay import tokens_of
from its_proxy.voting.answers import Answer


@dataclass(frozen=True, slots=True)
class Clock:
    """How time passes: a token of every running candidate takes `step` and `more` for each of them, and a candidate
    waits `first` steps for its first token. As it stands a step is the unit, and a batch costs no time."""

    first: float = 0.0
    step: float = 1.0
    more: float = 0.0


STEPS = Clock()


@dataclass(frozen=True, slots=True)
class Run:
    """What one vote came to; `n_tokens` counts what cut-off candidates had generated, too."""

    answer: Answer | None
    n_tokens: float
    time: float
    n_started: int


def replayed(
    way: Way,
    row: Row,
    clock: Clock = STEPS,
    order: Sequence[int] | None = None,
    lengths: Sequence[float] | None = None,
) -> Run:
    """`order`: which candidate is asked first, second and so on. `lengths`: of every candidate, instead of its own."""
    order = range(len(row.candidates)) if order is None else order
    asked = [row.candidates[index] for index in order[: way.n]]
    tokens = [float(tokens_of(row, one) if lengths is None else lengths[one.index]) for one in asked]
    left: dict[int, float] = {}
    received: list[CandidateRow] = []
    n_started, now = 0, 0.0
    # Those that end in the same step are received together, as the proxy takes all that is there.
    while (n_more := way.next(received, len(left), len(asked) - n_started)) is not None:
        left |= {place: clock.first + tokens[place] for place in range(n_started, n_started + n_more)}
        n_started += n_more
        if not left:
            break
        steps = min(left.values())
        now += steps * (clock.step + clock.more * len(left))
        left = {place: n_left - steps for place, n_left in left.items()}
        received += [asked[place] for place, n_left in left.items() if n_left <= 1e-9]
        left = {place: n_left for place, n_left in left.items() if n_left > 1e-9}
    spent = sum(tokens[:n_started]) - sum(min(tokens[place], n_left) for place, n_left in left.items())
    return Run(way.decide(row, received), spent, now, n_started)
