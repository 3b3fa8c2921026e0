"""Stopping early: `exact` never changes the answer class or the verdict, and never waits for nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import comb
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.codesign.errors import ConfigError
from its_proxy.voting.answers import Answer, normal_form
from its_proxy.voting.stop import RULES, SURE, StopName, is_decided, n_to_start
from its_proxy.voting.tally import Ballot, majority_vote


def answer(text: str) -> Answer:
    return Answer(text, normal_form(text))


def ballots(*texts: str) -> list[Ballot]:
    return [Ballot(index, answer(text)) for index, text in enumerate(texts)]


class TestExact:
    def test_it_stops_when_the_rest_cannot_catch_up(self):
        assert is_decided("exact", ballots("1", "1", "1", "2"), 0, 1)

    def test_it_waits_while_the_rest_could_still_draw_level(self):
        assert not is_decided("exact", ballots("1", "1", "2"), 0, 1)

    def test_a_class_that_nobody_has_voted_for_yet_could_draw_level(self):
        assert not is_decided("exact", ballots("1", "1"), 0, 2)
        assert is_decided("exact", ballots("1", "1"), 0, 1)

    def test_weights_count_and_not_heads(self):
        heavy = [Ballot(0, answer("1"), 3), Ballot(1, answer("2"), 1)]
        assert is_decided("exact", heavy, 0, 1)
        assert not is_decided("exact", heavy, 0, 2)

    def test_rivals_that_may_turn_out_equal_count_together(self):
        assert not is_decided("exact", ballots("1", "1", "1", "x+1", "1+x"), 0, 1)
        assert is_decided("exact", ballots("1", "1", "1", "2", "3"), 0, 1)

    def test_an_open_rival_may_join_one_exact_rival_but_not_two(self):
        assert is_decided("exact", ballots("1", "1", "1", "1", "2", "3", "x"), 0, 1)
        assert not is_decided("exact", ballots("1", "1", "1", "1", "2", "3", "x"), 0, 2)

    def test_abstentions_alone_decide_nothing(self):
        assert not is_decided("exact", [], 5, 1)

    def test_nothing_pending_is_always_decided(self):
        assert is_decided("exact", [], 0, 0)
        assert is_decided("exact", ballots("1", "2"), 0, 0, min_agreement=0.9)


class TestExactWithMinAgreement:
    def test_it_waits_until_agreement_cannot_fall_below_the_floor(self):
        assert not is_decided("exact", ballots("1", "1", "1", "2"), 0, 1, min_agreement=0.61)
        assert is_decided("exact", ballots("1", "1", "1", "2"), 0, 1, min_agreement=0.6)

    def test_it_waits_until_agreement_cannot_reach_the_floor(self):
        assert not is_decided("exact", ballots("1", "1", "1", "2"), 0, 1, min_agreement=0.8)
        assert is_decided("exact", ballots("1", "1", "1", "2"), 0, 1, min_agreement=0.81)

    def test_abstentions_count_for_the_floor(self):
        assert is_decided("exact", ballots("1", "1"), 0, 1, min_agreement=0.6)
        assert not is_decided("exact", ballots("1", "1"), 1, 1, min_agreement=0.6)

    def test_an_open_answer_may_yet_join_the_leader(self):
        assert not is_decided("exact", ballots("1", "1", "1", "x"), 0, 1, min_agreement=0.9)
        assert is_decided("exact", ballots("1", "1", "1", "2"), 0, 1, min_agreement=0.9)


def chance_of_lead(n_for: int, n_against: int) -> Fraction:
    """P(p > 1/2) under Beta(n_for + 1, n_against + 1), by integrating p^n_for (1-p)^n_against term by term."""

    def integral(low: Fraction, high: Fraction) -> Fraction:
        terms = [(comb(n_against, k) * (-1) ** k, n_for + k + 1) for k in range(n_against + 1)]
        return sum((Fraction(sign, power) * (high**power - low**power) for sign, power in terms), Fraction(0))

    return integral(Fraction(1, 2), Fraction(1)) / integral(Fraction(0), Fraction(1))


class TestBeta:
    @pytest.mark.parametrize(("n_for", "n_against"), [(k, m) for k in range(12) for m in range(5) if k > m])
    def test_it_stops_where_the_posterior_says_so(self, n_for, n_against):
        cast = ballots(*["1"] * n_for, *["2"] * n_against)
        assert is_decided("beta", cast, 0, 1_000) == (chance_of_lead(n_for, n_against) >= SURE)

    def test_four_of_four_are_enough_and_three_are_not(self):
        assert not is_decided("beta", ballots("1", "1", "1"), 0, 13)
        assert is_decided("beta", ballots("1", "1", "1", "1"), 0, 12)

    def test_what_is_certain_is_probable_enough(self):
        assert is_decided("beta", ballots("1", "1", "1"), 0, 2)

    def test_abstentions_are_no_evidence_about_the_leader(self):
        assert is_decided("beta", ballots("1", "1", "1", "1"), 50, 12)
        assert not is_decided("beta", [], 50, 12)

    def test_only_the_runner_up_counts_against_the_leader(self):
        assert is_decided("beta", ballots(*["1"] * 6, "2", "3", "4", "A"), 0, 50)
        assert not is_decided("beta", ballots(*["1"] * 6, "2", "2", "4", "A"), 0, 50)

    def test_rivals_that_may_turn_out_equal_count_together(self):
        assert is_decided("beta", ballots(*["1"] * 7, "2", "3"), 0, 50)
        assert not is_decided("beta", ballots(*["1"] * 7, "x+1", "1+x"), 0, 50)

    def test_one_heavy_ballot_does_not_decide_alone(self):
        assert not is_decided("beta", [Ballot(0, answer("1"), 100)], 0, 1_000)
        assert not is_decided("beta", [Ballot(0, answer("1"), 100)], 0, 1_000, min_agreement=0.5)
        many = [Ballot(index, answer("1"), 100 if index == 0 else 1) for index in range(4)]
        assert is_decided("beta", many, 0, 1_000)

    def test_heads_alone_do_not_outvote_weight(self):
        cast = [*(Ballot(index, answer("1")) for index in range(6)), Ballot(6, answer("2"), 5)]
        assert not is_decided("beta", cast, 0, 100)

    def test_equal_weights_change_nothing(self):
        for n in range(1, 8):
            cast = ballots(*["1"] * n, "2")
            heavy = [Ballot(ballot.index, ballot.answer, 7) for ballot in cast]
            assert is_decided("beta", cast, 0, 100) == is_decided("beta", heavy, 0, 700)

    def test_with_a_floor_the_verdict_must_be_as_probable(self):
        four = ballots("1", "1", "1", "1")
        assert is_decided("beta", four, 0, 100, min_agreement=0.5)
        assert not is_decided("beta", four, 0, 100, min_agreement=0.8)
        assert is_decided("beta", ballots(*["1"] * 14), 0, 100, min_agreement=0.8)
        assert is_decided("beta", ballots(*["1"] * 8, "2"), 20, 100, min_agreement=0.8)

    def test_much_evidence_is_judged_too(self):
        assert is_decided("beta", [Ballot(k, answer("1"), 999) for k in range(500)], 0, 10**6)
        cast = [Ballot(k, answer("12"[k % 2]), 999) for k in range(500)]
        assert not is_decided("beta", cast, 0, 10**6)


class TestHowManyToStart:
    @pytest.mark.parametrize("n", range(1, 17))
    def test_the_first_wave_is_the_least_that_could_decide(self, n):
        assert n_to_start("exact", [], 0, [], [1] * n) == n // 2 + 1
        assert n_to_start("beta", [], 0, [], [1] * n) == min(4, n // 2 + 1)
        assert n_to_start("none", [], 0, [], [1] * n) == n

    def test_a_floor_asks_for_more(self):
        assert n_to_start("exact", [], 0, [], [1] * 8, 0.75) == 6
        assert n_to_start("exact", [], 0, [], [1] * 8, 0.9) == 8

    def test_weights_count_and_not_heads(self):
        assert n_to_start("exact", [], 0, [], [5, 1, 1]) == 1
        assert n_to_start("exact", [], 0, [], [1, 1, 5]) == 3

    def test_none_while_the_running_ones_could_decide_alone(self):
        assert n_to_start("exact", ballots("1", "1"), 0, [1, 1, 1], [1, 1, 1]) == 0

    def test_as_many_as_are_missing_once_they_cannot(self):
        assert n_to_start("exact", ballots("1", "2"), 0, [1, 1, 1], [1, 1, 1]) == 1
        assert n_to_start("exact", ballots("1", "2", "A"), 0, [1, 1], [1, 1, 1]) == 1
        assert n_to_start("exact", ballots("1", "2", "2"), 0, [], [1] * 5) == 3

    def test_all_of_them_where_no_agreement_would_do(self):
        assert n_to_start("exact", ballots("1", "1", "2", "2"), 0, [], [1, 1]) == 2

    def test_a_new_answer_needs_as_many_whatever_abstained(self):
        assert n_to_start("exact", [], 3, [], [1] * 5) == 3

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(st.sampled_from(["1", "2", "x"]), max_size=6),
        st.lists(st.integers(1, 3), max_size=4),
        st.lists(st.integers(1, 3), max_size=6),
        st.sampled_from([("exact", None), ("exact", 0.5), ("exact", 0.8), ("beta", None), ("none", None)]),
    )
    def test_it_is_the_least_number_that_could_decide(self, texts, running, waiting, rules):
        rule, min_agreement = rules
        cast = ballots(*texts)
        n_more = n_to_start(rule, cast, 1, running, waiting, min_agreement)
        leader = max(sorted(set(texts), key=texts.index), key=texts.count, default="A")

        def decides(n: int) -> bool:
            agreeing = [*running, *waiting[:n]]
            future = [Ballot(len(cast) + k, answer(leader), weight) for k, weight in enumerate(agreeing)]
            return is_decided(rule, [*cast, *future], 1, sum(waiting[n:]), min_agreement)

        assert n_more == next(n for n in range(len(waiting) + 1) if decides(n))


def test_every_named_rule_is_registered():
    assert set(get_args(StopName)) == set(RULES)


def test_the_rule_none_waits_for_everyone():
    assert not is_decided("none", ballots("1", "1", "1"), 0, 1)
    assert is_decided("none", ballots("1", "1", "1"), 0, 0)


def test_an_unknown_rule_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"'sometimes'.*exact, beta, none"):
        is_decided("sometimes", [], 0, 1)


def test_a_rule_can_be_added_to_the_registry(monkeypatch):
    monkeypatch.setitem(RULES, "two", lambda ballots, abstained, pending, min_agreement: len(ballots) >= 2)
    assert not is_decided("two", ballots("1"), 0, 3)
    assert is_decided("two", ballots("1", "2"), 0, 3)


# --- every future, in random larger worlds ---------------------------------------------------

EXACT = ("1", "2", "A")
OPEN = ("x", "y", "z")


@dataclass(frozen=True)
class Fate:
    """What becomes of a candidate: `answer` is a text, "abstains" or "lost"."""

    index: int
    answer: str
    weight: int


def equivalence(groups: dict[str, str]) -> Callable[[Answer, Answer], bool]:
    """A consistent one: exact answers are in groups of their own, each open one is in any group."""
    return lambda first, second: groups[first.text] == groups[second.text]


def vote_over(fates: list[Fate], min_agreement: float | None, equivalent):
    cast = [Ballot(fate.index, answer(fate.answer), fate.weight) for fate in fates if fate.answer in EXACT + OPEN]
    abstained = sum(fate.weight for fate in fates if fate.answer == "abstains")
    return cast, abstained, majority_vote(cast, abstained, min_agreement, equivalent)


@st.composite
def worlds(draw):
    likely = draw(st.sampled_from(EXACT + OPEN))
    outcomes = st.sampled_from((likely, likely, likely, *EXACT, *OPEN, "abstains", "lost"))
    n = draw(st.integers(1, 9))
    fates = [Fate(index, draw(outcomes), draw(st.integers(1, 3))) for index in range(n)]
    groups = {text: text for text in EXACT} | {text: draw(st.sampled_from(EXACT + OPEN)) for text in OPEN}
    min_agreement = draw(st.one_of(st.none(), st.sampled_from([0.25, 1 / 3, 0.5, 0.6, 2 / 3, 0.75, 0.9, 1.0])))
    return draw(st.permutations(fates)), groups, min_agreement


@settings(max_examples=600, deadline=None)
@given(worlds())
def test_where_it_stops_class_and_verdict_are_those_of_the_full_vote(world):
    arrivals, groups, min_agreement = world
    _, _, full = vote_over(arrivals, min_agreement, equivalence(groups))
    for n_arrived in range(len(arrivals)):
        pending = sum(fate.weight for fate in arrivals[n_arrived:])
        cast, abstained, _ = vote_over(arrivals[:n_arrived], min_agreement, None)
        if not is_decided("exact", cast, abstained, pending, min_agreement):
            continue
        # Whether or not the open answers are compared before the reply is given.
        for equivalent in (None, equivalence(groups)):
            _, _, early = vote_over(arrivals[:n_arrived], min_agreement, equivalent)
            assert groups[early.answer.text] == groups[full.answer.text]
            assert early.consensus == full.consensus


# --- every future, one by one, in small worlds -----------------------------------------------

SMALL = ("1", "2", "x", "y")


def is_settled(received: dict[str, int], n_pending: int, min_agreement: float | None) -> bool:
    """By enumeration: one answer outweighs all others in every future, with one verdict."""
    leader = max(received, key=lambda text: received[text])
    verdicts = set()
    for x, y in product(("1", "2", "x"), ("1", "2", "x", "y")):
        groups = {"1": "1", "2": "2", "x": x, "y": y, "fresh": "fresh"}
        for fates in product((*SMALL, "fresh", "abstains", "lost"), repeat=n_pending):
            weights = dict.fromkeys(groups, 0)
            for text, weight in received.items():
                weights[groups[text]] += weight
            for fate in fates:
                if fate in groups:
                    weights[groups[fate]] += 1
            leading = weights.pop(groups[leader])
            if leading <= max(weights.values()):
                return False
            everyone = sum(received.values()) + sum(fate != "lost" for fate in fates)
            verdicts.add(min_agreement is None or leading / everyone >= min_agreement)
    return len(verdicts) == 1


@pytest.mark.parametrize("min_agreement", [None, 0.5, 0.7])
@pytest.mark.parametrize("n_pending", [1, 2])
def test_it_stops_exactly_when_all_futures_agree(n_pending, min_agreement):
    n_decided = 0
    for weights in product(range(6), range(3), range(3), range(2)):
        if not any(weights):
            continue
        received = dict(zip(SMALL, weights, strict=True))
        cast = ballots(*(text for text in SMALL for _ in range(received[text])))
        decided = is_decided("exact", cast, 0, n_pending, min_agreement)
        assert decided == is_settled(received, n_pending, min_agreement), received
        n_decided += decided
    assert n_decided > 0
