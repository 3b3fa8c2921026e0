"""Counting ballots: who wins, by how much, and that the order of arrival does not matter."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.voting.answers import Answer, normal_form, proven_different
from its_proxy.voting.tally import Ballot, classes, majority_vote


def ballots(*texts: str) -> list[Ballot]:
    return [Ballot(index, answer(text)) for index, text in enumerate(texts)]


def answer(text: str) -> Answer:
    return Answer(text, normal_form(text))


def test_the_heaviest_class_wins_with_its_first_candidate():
    vote = majority_vote(ballots("1", "2", "2.0", r"\frac42"))
    assert (vote.winner, vote.agreement, vote.votes, vote.is_tie) == (1, 0.75, {"2": 3, "1": 1}, False)
    assert vote.answer == answer("2")


def test_weight_counts_and_not_heads():
    vote = majority_vote([Ballot(0, answer("1")), Ballot(1, answer("1")), Ballot(2, answer("2"), weight=3)])
    assert (vote.winner, vote.agreement, vote.votes) == (2, 0.6, {"2": 3, "1": 2})


def test_abstentions_lower_the_agreement():
    assert majority_vote(ballots("1", "1"), abstained_weight=2).agreement == 0.5


def test_nobody_wins_without_a_ballot():
    vote = majority_vote([], abstained_weight=3)
    assert (vote.winner, vote.answer, vote.agreement, vote.votes) == (None, None, 0.0, {})
    assert not vote.is_tie
    assert not vote.consensus


@pytest.mark.parametrize(("min_agreement", "consensus"), [(None, True), (0.6, True), (0.61, False)])
def test_consensus_reaches_the_floor_or_there_is_none(min_agreement, consensus):
    assert majority_vote(ballots("1", "1", "1", "2", "3"), min_agreement=min_agreement).consensus is consensus


class TestTies:
    def test_tie_goes_to_more_ballots(self):
        vote = majority_vote(
            [Ballot(0, answer("1"), 2, 0.9), Ballot(1, answer("2"), 1, 0.1), Ballot(2, answer("2"), 1, 0.1)]
        )
        assert (vote.winner, vote.is_tie) == (1, True)

    def test_tie_goes_to_the_higher_mean_confidence(self):
        vote = majority_vote([Ballot(0, answer("1"), 1, 0.1), Ballot(1, answer("2"), 1, 0.9)])
        assert (vote.winner, vote.is_tie) == (1, True)

    @pytest.mark.parametrize("unknown", [None, math.nan, math.inf])
    def test_tie_goes_to_the_first_candidate_when_one_confidence_is_unknown(self, unknown):
        vote = majority_vote([Ballot(0, answer("1"), 1, unknown), Ballot(1, answer("2"), 1, 0.9)])
        assert (vote.winner, vote.is_tie) == (0, True)

    def test_a_class_that_is_out_of_the_tie_need_not_have_confidences(self):
        tied = [Ballot(0, answer("1"), 2, 0.1), Ballot(1, answer("2"), 2, 0.9), Ballot(2, answer("3"))]
        assert majority_vote(tied).winner == 1

    def test_tie_goes_to_the_first_candidate(self):
        vote = majority_vote(ballots("1", "2", "2", "1"))
        assert (vote.winner, vote.is_tie) == (0, True)


class TestEquivalence:
    def test_open_answers_are_merged_when_they_are_equivalent(self):
        vote = majority_vote(ballots("2", "1+x", "x+1"), equivalent=lambda first, second: True)
        assert vote.votes == {"2": 3}

    def test_unequal_answers_stay_apart(self):
        assert majority_vote(ballots("1+x", "x+1"), equivalent=lambda first, second: False).votes == {
            "1+x": 1,
            "x+1": 1,
        }

    def test_proven_different_answers_are_not_asked_about_and_never_merged(self):
        asked = []

        def equivalent(first: Answer, second: Answer) -> bool:
            asked.append({first.text, second.text})
            return True

        vote = majority_vote(ballots("1", "x", "2", "2"), equivalent=equivalent)
        assert vote.votes == {"1": 2, "2": 2}
        assert {"1", "2"} not in asked

    def test_equivalence_is_transitive(self):
        pairs = [{"a+b", "b+a"}, {"b+a", "2b"}]
        vote = majority_vote(
            ballots("2b", "a+b", "b+a"), equivalent=lambda first, second: {first.text, second.text} in pairs
        )
        assert vote.votes == {"2b": 3}


def test_two_ballots_of_one_candidate_are_refused():
    with pytest.raises(ValueError, match="same index"):
        majority_vote([Ballot(0, answer("1")), Ballot(0, answer("2"))])


def test_a_weightless_ballot_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Ballot(0, answer("1"), weight=0)


TEXTS = ["1", "2", "2.0", "A", "x", "y", "50%", "(1,2)", r"\{1,x\}"]


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(TEXTS), st.integers(1, 3), st.sampled_from([None, 0.1, 0.2, 0.3])), max_size=9),
    st.integers(0, 3),
    st.sets(st.frozensets(st.sampled_from(TEXTS), min_size=2, max_size=2)),
    st.randoms(use_true_random=False),
)
def test_the_vote_does_not_depend_on_the_order_of_arrival(cast, abstained, equal_pairs, random):
    first = [Ballot(index, answer(text), weight, confidence) for index, (text, weight, confidence) in enumerate(cast)]
    second = random.sample(first, len(first))

    def equivalent(one: Answer, other: Answer) -> bool:
        return frozenset((one.text, other.text)) in equal_pairs

    assert majority_vote(first, abstained, 0.5, equivalent) == majority_vote(second, abstained, 0.5, equivalent)
    for answer_class in classes(second, equivalent):
        assert list(answer_class.ballots) == sorted(answer_class.ballots, key=lambda ballot: ballot.index)
        for one in answer_class.ballots:
            assert not any(proven_different(one.answer, other.answer) for other in answer_class.ballots)
