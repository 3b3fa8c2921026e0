import random

from its_training.prepare.duplicates import exact_duplicates, near_duplicates
from its_training.prepare.sample import rank
from tests.training.prepare.small_data import problem


def test_equal_words_are_equal_whatever_case_and_spaces():
    queries = [("a", "How many eggs?"), ("b", "how  many EGGS ?"), ("c", "How many hens?")]
    assert list(exact_duplicates(queries)) == [("b", "a")]


def test_problems_that_differ_in_a_sign_are_no_duplicates():
    texts = ["Compute 12 + 7.", "Compute 12 - 7.", "Compute $-12 + 7$.", "Solve x + 2 = 5 for the unknown number x.",
             "Solve x - 2 = 5 for the unknown number x.", "∑ ∏", "→ ←"]  # fmt: skip
    queries = [(text, text) for text in texts]
    assert list(exact_duplicates(queries)) == []
    assert list(near_duplicates(queries)) == []


def test_latex_is_spelled_in_many_ways():
    queries = [("a", r"Find $\dfrac{1}{2} + 1{,}000$."), ("b", r"find \frac{1}{2}+1000 .")]
    assert list(exact_duplicates(queries)) == [("b", "a")]


def test_a_long_query_with_one_word_changed_is_a_near_duplicate_of_the_first():
    long = " ".join(problem(n) for n in range(4))
    queries = [("a", long), ("b", problem(9)), ("c", long.replace("remain", "stay", 1))]
    [(dropped, kept, similarity)] = near_duplicates(queries)
    assert (dropped, kept) == ("c", "a")
    assert 0.8 <= similarity < 1


def test_other_problems_are_no_duplicates():
    assert list(near_duplicates([(str(n), problem(n)) for n in range(50)])) == []


def test_ranks_do_not_depend_on_anything_but_seed_and_id():
    ids = [f"row:{n}" for n in range(300)]
    shuffled = random.Random(1).sample(ids, len(ids))
    by_rank = sorted(ids, key=lambda name: rank(7, name))
    assert by_rank == sorted(shuffled, key=lambda name: rank(7, name))
    assert by_rank != sorted(ids, key=lambda name: rank(8, name))
    half = [name for name in ids if int(name[4:]) % 2]
    # A smaller source keeps the order that the larger one has.
    assert sorted(half, key=lambda name: rank(7, name)) == [name for name in by_rank if name in set(half)]
