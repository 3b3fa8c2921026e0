"""What is known of answers that are written differently: verdicts on their pairs, which a vote then asks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from its_proxy.voting.answers import Answer, Form, same

Verdict: TypeAlias = Literal[
    "equal", "different", "unproven", "refused", "timeout", "exhausted", "crashed", "busy", "unavailable"
]
"""Only `equal` merges. `refused`: not in the grammar, or too much work; `timeout`: killed at its deadline; `exhausted`:
its memory was not enough; `crashed`: two workers in a row ended at it, by themselves or by another's hand; `busy`: too
many pairs are waiting, or no worker was free in time; `unavailable`: no worker can be started."""

Pair: TypeAlias = frozenset[Form]


def pair_of(first: Answer, second: Answer) -> Pair:
    return frozenset((first.form, second.form))


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The verdicts on pairs of forms that are not proven different; a pair that is not among them counts as unequal.

    `by_form_because`: why there are none, where nobody was asked.
    """

    verdicts: Mapping[Pair, Verdict] = field(default_factory=dict)
    by_form_because: str | None = None

    def equivalent(self, first: Answer, second: Answer) -> bool:
        """What `majority_vote` asks."""
        return self.verdicts.get(pair_of(first, second)) == "equal"

    def are_equal(self, first: Answer, second: Answer) -> bool:
        return same(first, second) or self.equivalent(first, second)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many pairs got which verdict: what a reply reports."""
        return dict(Counter(self.verdicts.values()))


OFF = Comparisons(by_form_because="turned off")
NO_WORKERS = Comparisons(by_form_because="this door has no equivalence workers")


class Comparer(Protocol):
    """Whoever can tell which of a vote's answers mean the same."""

    async def compare_all(self, answers: Sequence[Answer], within_s: float) -> Comparisons:
        """Never raises for an answer, and takes no longer than that; cancelled, it ends at once."""
        ...
