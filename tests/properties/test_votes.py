"""Votes over spelled values, against a count that knows the values."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.voting.answers import Answer, normal_form
from its_proxy.voting.stop import is_decided
from its_proxy.voting.tally import Ballot, majority_vote
from tests.examples import examples

# What each text means; the open ones can be told by a symbolic check alone.
MEANINGS = {
    "2": 2, "4/2": 2, "2.0": 2, r"\frac{6}{3}": 2, r"2\text{ cm}": 2, r"\sqrt{4}": 2,
    "3": 3, r"\sqrt{9}": 3, "1,000": 1000, "1000": 1000, r"10^3": 1000,
    "(1,2)": "pair", r"\left(1, \frac42\right)": "pair", "x": "x", "y": "y",
}  # fmt: skip
Cast = list[tuple[str | None, int]]
CASTS = st.lists(st.tuples(st.none() | st.sampled_from(sorted(MEANINGS)), st.integers(1, 3)), min_size=1, max_size=12)
FLOORS = st.sampled_from([None, 0.3, 0.5, 2 / 3, 0.9])


def equivalent(first: Answer, second: Answer) -> bool:
    return MEANINGS[first.text] == MEANINGS[second.text]


def ballots(cast: Cast) -> tuple[list[Ballot], int]:
    """Those that were cast, and the weight that abstained."""
    received = [
        Ballot(index, Answer(text, normal_form(text)), weight)
        for index, (text, weight) in enumerate(cast)
        if text is not None
    ]
    return received, sum(weight for text, weight in cast if text is None)


@settings(max_examples=examples(120), deadline=None)
@given(CASTS, FLOORS, st.randoms(use_true_random=False))
def test_a_vote_is_the_count_of_what_the_texts_mean_in_any_order(cast, floor, random):
    received, abstained = ballots(cast)
    vote = majority_vote(random.sample(received, len(received)), abstained, floor, equivalent)
    assert vote == majority_vote(received, abstained, floor, equivalent)
    weights = Counter()
    for ballot in received:
        weights[MEANINGS[ballot.answer.text]] += ballot.weight
    if not received:
        assert (vote.answer, vote.agreement) == (None, 0.0)
        return
    assert sorted(found.weight for found in vote.classes) == sorted(weights.values())
    assert weights[MEANINGS[vote.answer.text]] == max(weights.values())
    assert vote.agreement == max(weights.values()) / (sum(weights.values()) + abstained)
    assert vote.is_tie == (list(weights.values()).count(max(weights.values())) > 1)
    assert vote.consensus == (floor is None or vote.agreement >= floor)
    assert vote.winner == min(ballot.index for ballot in vote.classes[0].ballots)


@settings(max_examples=examples(120), deadline=None)
@given(CASTS, FLOORS, st.randoms(use_true_random=False))
def test_whatever_arrives_first_an_early_stop_has_class_and_verdict_of_the_full_vote(cast, floor, random):
    received, abstained = ballots(cast)
    full = majority_vote(received, abstained, floor, equivalent)
    arrivals = random.sample(list(enumerate(cast)), len(cast))
    for n_arrived in range(len(arrivals)):
        known = [ballot for ballot in received if ballot.index in {index for index, _ in arrivals[:n_arrived]}]
        without = sum(weight for _, (text, weight) in arrivals[:n_arrived] if text is None)
        pending = sum(weight for _, (_, weight) in arrivals[n_arrived:])
        if is_decided("exact", known, without, pending, floor):
            early = majority_vote(known, without, floor, equivalent)
            assert MEANINGS[early.answer.text] == MEANINGS[full.answer.text]
            assert early.consensus == full.consensus
            assert not full.is_tie
