import pytest

from its_proxy.upstreams.retries import (
    MOST_OF_ONE_QUERY,
    SAVED_AT_ONE,
    SAVED_BETWEEN,
    RetryBudget,
    is_tried_once,
    may_try_again,
    one_query,
    tried_once,
)


@pytest.mark.parametrize(("saved", "calls"), [
    (SAVED_AT_ONE, 100), (SAVED_AT_ONE, 3000), (SAVED_BETWEEN, 3000), (SAVED_BETWEEN, 100_000),
])  # fmt: skip
def test_in_an_outage_there_are_at_most_a_quarter_more_tries_than_calls(saved, calls):
    budget, retries = RetryBudget(saved), 0
    for _ in range(calls):
        budget.earn()
        retries += budget.spend()
    assert retries <= 0.25 * calls
    assert retries >= 0.09 * calls


def test_a_quiet_time_saves_up_no_more_than_a_few_tries():
    budget = RetryBudget()
    for _ in range(1000):
        budget.earn()
    assert sum(budget.spend() for _ in range(1000)) == SAVED_AT_ONE


def test_the_mark_of_a_single_try_ends_with_its_block():
    with tried_once():
        with tried_once(False):
            assert not is_tried_once()
        assert is_tried_once()
    assert not is_tried_once()


def test_one_query_has_few_second_tries_at_one_server_and_the_next_has_its_own():
    for _ in range(2):
        with one_query():
            assert [may_try_again() for _ in range(MOST_OF_ONE_QUERY + 1)] == [True] * MOST_OF_ONE_QUERY + [False]
    assert may_try_again()
