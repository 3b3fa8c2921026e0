import json
import os
import random
from pathlib import Path

import pytest

from its_training.prepare.decontaminate import Evaluation, read_evaluation
from its_training.prepare.text import words
from tests.training.prepare.small_data import problem


def evaluation_of(*questions):
    evaluation = Evaluation()
    evaluation.add("bench", [(f"q{n}", text) for n, text in enumerate(questions)])
    return evaluation


QUESTION = r"Let $x$ be a number such that $\dfrac{x}{2} + 1{,}000 = \left(3\right)$. What is the value of $x$ then?"


@pytest.mark.parametrize(
    "query",
    [
        QUESTION,
        QUESTION.upper(),
        QUESTION.replace("$", ""),
        QUESTION.replace(r"\dfrac", r"\frac").replace(r"\left(3\right)", "(3)").replace("1{,}000", "1000"),
        QUESTION.replace(" ", "\n  "),
        "Here is one for you. " + QUESTION,
        QUESTION + " Give reasons, please.",
        "In other words, \\frac{x}{2} + 1,000 = (3). What is the value of x then and there?",
    ],
)
def test_a_question_is_found_however_it_is_spelled(query):
    hit = evaluation_of(problem(3), QUESTION).hit(query)
    assert hit is not None
    assert (hit.benchmark, hit.question) == ("bench", "q1")


def test_the_shared_words_are_told():
    hit = evaluation_of(QUESTION).hit("Well: 1000 = (3). What is the value of y?")
    assert hit is None
    hit = evaluation_of(QUESTION).hit("Well: 1000 = (3). What is the value of x?")
    assert (hit.how, hit.text) == ("n-gram", "1000 3 what is the value of x")


def test_short_texts_are_found_whole_or_inside_the_other():
    evaluation = evaluation_of("Find the sum of 12 and 30.", QUESTION)
    assert evaluation.hit("find the sum of 12 and 30").how == "exact"
    assert (
        evaluation.hit("Quickly, find the sum of 12 and 30, and then twice of that, if you would.").how == "contained"
    )
    assert evaluation.hit("Let x be a number").how == "contained"


def test_what_is_short_and_common_or_merely_alike_is_kept():
    evaluation = evaluation_of(QUESTION, problem(1))
    for query in ("What is x?", problem(2), "Let y be a number such that y/3 + 500 = 4. What is y?"):
        assert evaluation.hit(query) is None


def test_words_even_out_latex_and_numbers():
    assert words(r"\text{Cost}: \$1,200 \times \tfrac12") == words(r"cost 1200 times \frac12")


@pytest.mark.skipif("ITS_TEST_DATA" not in os.environ, reason="ITS_TEST_DATA is not set: it names a folder with "
                    "gsm8k-test.jsonl, math500-test.jsonl and aime24-test.jsonl")  # fmt: skip
def test_planted_questions_of_real_benchmarks_are_all_found():
    folder = Path(os.environ["ITS_TEST_DATA"])
    files = [folder / f"{name}-test.jsonl" for name in ("gsm8k", "math500", "aime24")]
    evaluation, _ = read_evaluation(files)
    chance = random.Random(11)
    missed, n_planted = [], 0
    for file in files:
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for row in chance.sample(rows, 30):
            question = row.get("question") or row.get("problem")
            for plant in PLANTS:
                n_planted += 1
                hit = evaluation.hit(plant(question, chance))
                if hit is None:
                    missed.append((file.stem, plant.__name__, len(words(question))))
    assert n_planted == 3 * 30 * len(PLANTS)
    assert missed == []


def as_it_is(question, chance):
    return question


def shouted(question, chance):
    return question.upper() if "\\" not in question else question.lower()


def without_dollars(question, chance):
    return question.replace("$", "")


def respaced(question, chance):
    return question.replace(" ", "  ").replace("\\frac", "\\dfrac").replace("\\left", "").replace("\\right", "")


def framed(question, chance):
    return f"{problem(chance.randrange(1000))} {question} Show every step of your work."


def eight_words_of_it(question, chance):
    return f"Nora asks: {run_of(question, 8, chance)} so what?"


def only_a_short_part(question, chance):
    return run_of(question, 5, chance)


def run_of(question, n_words, chance):
    found = words(question)
    start = chance.randrange(max(1, len(found) - n_words + 1))
    return " ".join(found[start : start + n_words])


PLANTS = (as_it_is, shouted, without_dollars, respaced, framed, eight_words_of_it, only_a_short_part)
