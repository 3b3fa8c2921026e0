"""The problems are checked by reading their English, with arithmetic that knows nothing of the generator."""

import re
from itertools import combinations

import pytest

from its_proxy.codesign.taxonomy import domain_of
from its_training.demo.problems import SETTINGS, SPLITS, draw, held_out

_GAINS = {setting.gain for setting in SETTINGS}
_LOSSES = {setting.lose for setting in SETTINGS}


def solve(query: str) -> int:
    """Reads a problem sentence by sentence, as a person would."""
    first, *steps, _question = re.split(r"(?<=[.?]) ", query)
    total = int(re.findall(r"\d+", first)[0])
    for step in steps:
        (number,) = map(int, re.findall(r"\d+", step))
        if "times as many" in step:
            total *= number
        elif any(f" {gain} {number} more" in step for gain in _GAINS):
            total += number
        elif any(f" {loss} {number} of them" in step for loss in _LOSSES):
            total -= number
        else:
            raise AssertionError(step)
    return total


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_right(split):
    for problem in draw(400, split):
        assert problem.answer == str(solve(problem.query))
        assert problem.solution.endswith(f"\\boxed{{{problem.answer}}}")


def test_every_line_of_a_solution_is_true():
    for problem in draw(400, "sft"):
        for line in problem.solution.splitlines()[:-1]:
            left, operation, right, result = re.fullmatch(r"(\d+)([-+*])(\d+)=(\d+)", line).groups()
            operate = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operation]
            assert operate(int(left), int(right)) == int(result)


def test_no_problem_is_in_two_splits_whatever_the_seed():
    queries = {split: {p.query for seed in (7, 8) for p in draw(1_000, split, seed)} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not queries[one] & queries[other]


def test_a_split_holds_no_problem_twice():
    problems = draw(2_000, "pretrain")
    assert len({p.query for p in problems}) == len({p.id for p in problems}) == 2_000


def test_rephrasing_a_held_out_problem_does_not_move_it_into_training():
    """The same numbers about the same things, told with other small words, are the same problem."""

    def facts(query):
        item = re.search(r"How many (\w+)", query)[1]
        return item, tuple(re.findall(r"\d+|more|of them|times", query))

    held = {facts(problem.query) for problem in held_out(1_000)}
    assert not held & {facts(problem.query) for problem in draw(3_000, "pretrain")}


def test_fewer_problems_are_the_first_of_more():
    assert draw(20, "test") == draw(50, "test")[:20]


def test_the_taxonomy_sees_the_domain_of_each_problem():
    for problem in draw(1_000, "sft"):
        assert domain_of(problem.query) == problem.domain


def test_trained_splits_are_not_handed_out_as_held_out():
    with pytest.raises(ValueError, match="trained on"):
        held_out(1, "sft")


def test_a_split_that_does_not_exist_is_refused_at_once():
    with pytest.raises(ValueError, match="split 'train' is none of pretrain, sft, validation, test"):
        draw(1, "train")
