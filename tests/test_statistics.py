"""Intervals: known values, honest ends, seeds, and quick enough for a thousand items."""

from itertools import combinations
from random import Random
from time import process_time

import pytest

from its_proxy.statistics import clustered_interval, paired_difference, pass_at_k, wilson


class TestWilson:
    @pytest.mark.parametrize(
        ("n_right", "n", "low", "high"),
        [(8, 10, 0.4901625, 0.9433178), (223, 300, 0.6910, 0.7895), (1, 30, 0.0059, 0.1667)],
    )
    def test_known_intervals(self, n_right, n, low, high):
        estimate = wilson(n_right, n)
        assert estimate.value == n_right / n
        assert estimate.low == pytest.approx(low, abs=5e-5)
        assert estimate.high == pytest.approx(high, abs=5e-5)

    def test_none_right_is_not_certainty(self):
        assert wilson(0, 20)[:2] == (0.0, 0.0)
        assert wilson(0, 20).high == pytest.approx(0.1611, abs=5e-4)
        assert wilson(20, 20).high == 1.0

    @pytest.mark.parametrize(("n_right", "n"), [(1, 0), (0, 0), (3, 2), (-1, 2)])
    def test_what_is_no_proportion_is_refused(self, n_right, n):
        with pytest.raises(ValueError):
            wilson(n_right, n)


class TestBootstrap:
    def test_it_agrees_with_the_normal_interval_on_many_items(self):
        random = Random(1)
        values = [random.random() for _ in range(1000)]
        mean = sum(values) / 1000
        spread = 1.96 * (sum((value - mean) ** 2 for value in values) / 999 / 1000) ** 0.5
        estimate = clustered_interval(values)
        assert estimate.value == pytest.approx(mean)
        assert estimate.low == pytest.approx(mean - spread, abs=0.15 * spread)
        assert estimate.high == pytest.approx(mean + spread, abs=0.15 * spread)

    def test_items_are_the_unit_of_chance_and_not_candidates(self):
        # 50 items of 8 equal candidates know no more than 50 candidates do.
        shares = [1.0] * 25 + [0.0] * 25
        estimate = clustered_interval(shares)
        assert estimate.high - estimate.low > 0.2

    def test_it_is_seeded(self):
        values = [0.1, 0.5, 0.9, 0.4]
        assert clustered_interval(values, seed=3) == clustered_interval(values, seed=3)
        assert clustered_interval(values * 20, seed=3) != clustered_interval(values * 20, seed=4)

    def test_a_thousand_items_take_under_three_seconds(self):
        values = [number % 9 / 8 for number in range(1000)]
        started = process_time()
        clustered_interval(values)
        assert process_time() - started < 3

    def test_no_items_are_refused(self):
        with pytest.raises(ValueError, match="no items"):
            clustered_interval([])


class TestPairedDifference:
    def test_pairing_removes_what_the_items_have_in_common(self):
        random = Random(2)
        hard = [random.random() for _ in range(200)]
        estimate = paired_difference([value + 0.01 for value in hard], hard)
        assert estimate.value == pytest.approx(0.01)
        assert estimate.low == pytest.approx(0.01)

    def test_its_sign_is_first_minus_second(self):
        assert paired_difference([1, 1, 0], [0, 0, 0]).value == pytest.approx(2 / 3)

    def test_different_numbers_of_items_are_refused(self):
        with pytest.raises(ValueError, match="zip"):
            paired_difference([1.0], [1.0, 0.0])


class TestPassAtK:
    @pytest.mark.parametrize("k", [1, 2, 3, 5])
    @pytest.mark.parametrize("n_right", [0, 1, 3, 5])
    def test_it_is_the_share_of_draws_with_a_right_one(self, n_right, k):
        draws = list(combinations([True] * n_right + [False] * (5 - n_right), k))
        assert pass_at_k(5, n_right, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))

    @pytest.mark.parametrize(("n", "n_right", "k"), [(5, 1, 0), (5, 1, 6), (5, 6, 1), (5, -1, 1)])
    def test_what_cannot_be_drawn_is_refused(self, n, n_right, k):
        with pytest.raises(ValueError):
            pass_at_k(n, n_right, k)


def test_an_estimate_prints_in_percent():
    assert str(wilson(8, 10)) == "80.0 [49.0, 94.3]"
