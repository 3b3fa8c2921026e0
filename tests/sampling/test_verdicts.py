"""Whatever comes, in whatever order: an exact vote ends as the full one would."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from its_proxy.codesign.errors import ItsError
from its_proxy.equivalence import Comparisons, Verdict
from its_proxy.equivalence.comparisons import Pair, pair_of
from its_proxy.sampling import sample
from its_proxy.voting.answers import Answer, proven_different
from tests.sampling.candidates import LINES, Line, Scripted, plan_of, sampled

SCRIPTS = st.lists(st.tuples(LINES, st.integers(0, 12)), min_size=1, max_size=10)
RULES = st.fixed_dictionaries(
    {
        "quorum": st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
        "min_agreement": st.sampled_from([None, 0.3, 0.5, 0.75, 1.0]),
        "on_no_answer": st.sampled_from(["first", "error"]),
        "on_no_consensus": st.sampled_from(["reply", "error"]),
        "weights": st.sampled_from([(1,), (1, 1), (3, 1), (1, 2, 4)]),
    }
)


async def verdict_of(
    script: list[tuple[Line, int]], stop: str, rules: dict[str, Any], n_first: int | None = None, **options: Any
) -> Any:
    """Answer class and consensus, or the error that a client would see."""
    lines, turns = zip(*script, strict=True)
    n_first = n_first if n_first is None else min(n_first, len(lines))
    try:
        outcome = await sampled(lines, turns, stop=stop, n_first=n_first, **rules, **options)
    except ItsError as error:
        return type(error), getattr(error, "status", None)
    winner = outcome.vote.answer
    return (None, None) if winner is None else (winner.form, outcome.vote.consensus)


@given(SCRIPTS, RULES)
@hypothesis_settings(max_examples=600, deadline=None)
def test_exact_gives_answer_class_and_verdict_of_the_full_vote(script, rules):
    async def both() -> None:
        assert await verdict_of(script, "exact", rules) == await verdict_of(script, "none", rules)

    asyncio.run(both())


@dataclass(frozen=True)
class Knower:
    """Compares answers by what it knows that they mean; of the `undecided` pairs it says nothing."""

    meanings: Mapping[str, str]
    undecided: frozenset[frozenset[str]] = frozenset()

    def meaning(self, answer: Answer) -> str:
        return self.meanings.get(answer.text, answer.form.value)

    async def compare_all(self, answers: Sequence[Answer], within_s: float) -> Comparisons:
        await asyncio.sleep(0)
        verdicts: dict[Pair, Verdict] = {}
        for first, second in combinations({answer.form: answer for answer in answers}.values(), 2):
            if not proven_different(first, second):
                is_known = frozenset((first.text, second.text)) not in self.undecided
                is_equal = self.meaning(first) == self.meaning(second)
                verdicts[pair_of(first, second)] = ("equal" if is_equal else "different") if is_known else "timeout"
        return Comparisons(verdicts)


TEXTS = ["0.333...", "x+1", "a,b"]
KNOWERS = st.builds(
    Knower,
    st.fixed_dictionaries({text: st.sampled_from(["1", "2", "1/2", "x+1", "other"]) for text in TEXTS}),
    st.frozensets(st.frozensets(st.sampled_from([*TEXTS, "1", "2"]), min_size=2, max_size=2), max_size=3),
)


async def meaning_of(script: list[tuple[Line, int]], stop: str, rules: dict[str, Any], knower: Knower) -> Any:
    """As `verdict_of`, but for which of the answers that mean the same was received first."""
    lines, turns = zip(*script, strict=True)
    try:
        outcome = await sampled(lines, turns, stop=stop, comparer=knower, **rules)
    except ItsError as error:
        return type(error), getattr(error, "status", None)
    winner = outcome.vote.answer
    return (None, None) if winner is None else (knower.meaning(winner), outcome.vote.consensus)


@given(SCRIPTS, RULES, KNOWERS)
@hypothesis_settings(max_examples=400, deadline=None)
def test_exact_gives_the_verdict_of_the_full_vote_whatever_is_proved_equal(script, rules, knower):
    async def both() -> None:
        assert await meaning_of(script, "exact", rules, knower) == await meaning_of(script, "none", rules, knower)

    asyncio.run(both())


@given(SCRIPTS, RULES, st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=300, deadline=None)
def test_the_verdict_does_not_depend_on_the_order_of_arrival(script, rules, random):
    turns = [turn for _, turn in script]
    random.shuffle(turns)
    shuffled = [(line, turn) for (line, _), turn in zip(script, turns, strict=True)]

    async def both() -> None:
        assert await verdict_of(script, "exact", rules) == await verdict_of(shuffled, "exact", rules)

    asyncio.run(both())


@given(SCRIPTS, RULES, st.integers(1, 10), st.booleans())
@hypothesis_settings(max_examples=400, deadline=None)
def test_a_first_wave_gives_answer_class_and_verdict_of_the_full_vote(script, rules, n_first, starts_with_one):
    options = {"n_first": n_first, "starts_with_one": starts_with_one}

    async def both() -> None:
        assert await verdict_of(script, "exact", rules, **options) == await verdict_of(script, "none", rules)

    asyncio.run(both())


@given(SCRIPTS, RULES, st.sampled_from(["exact", "beta", "none"]), st.integers(1, 10), st.integers(1, 4))
@hypothesis_settings(max_examples=150, deadline=None)
def test_never_more_than_n_are_started_and_never_fewer_than_the_choices(script, rules, stop, n_first, n_choices):
    lines, turns = zip(*script, strict=True)
    n_choices = min(n_choices, len(lines))
    upstream = Scripted(lines, turns)
    plan = plan_of(upstream, n_choices=n_choices, n_first=min(len(lines), max(n_first, n_choices)), stop=stop, **rules)

    async def asked() -> None:
        try:
            outcome = await sample(plan, "req")
        except ItsError:
            return
        received = [candidate for candidate in outcome.candidates if candidate.completion is not None]
        assert len(received) >= n_choices or len(outcome.candidates) == len(lines)

    asyncio.run(asked())
    indexes = [int(request_id.rpartition("-")[2]) for request_id, _ in upstream.asked]
    assert indexes == list(range(len(indexes)))
    assert len(indexes) <= len(lines)
