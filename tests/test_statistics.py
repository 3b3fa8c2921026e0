"""Intervals: known values, honest ends, seeds, and quick enough for a thousand items."""

from itertools import combinations
from random import Random
from time import process_time

import pytest

from its_proxy.statistics import (
    clustered_interval,
    items_needed,
    paired_difference,
    pass_at_k,
    score_interval,
    wilson,
)


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


def tango(n_won: int, n_lost: int, n: int) -> tuple[float, float]:
    """Tango's interval (1998) for paired right and wrong answers, by his own closed form."""

    def is_inside(mean: float) -> bool:
        b = -n_won - n_lost + (2 * n - n_won + n_lost) * mean
        root = max(0.0, b * b + 8 * n * n_lost * mean * (1 - mean)) ** 0.5
        variance = n * ((root - b) / (2 * n) + mean * (1 - mean))
        return (n_won - n_lost - n * mean) ** 2 <= 1.959963984540054**2 * variance

    def edge(inside: float, outside: float) -> float:
        while not is_inside(outside) and abs(outside - inside) > 1e-7:
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
        return outside

    return edge((n_won - n_lost) / n, -1.0), edge((n_won - n_lost) / n, 1.0)


class TestScoreInterval:
    @pytest.mark.parametrize(
        ("n_won", "n_lost", "n"),
        [(0, 0, 30), (3, 10, 100), (0, 7, 50), (50, 20, 1000), (1, 0, 5), (5, 0, 5), (12, 2, 50), (0, 1, 44)],
    )
    def test_for_right_and_wrong_answers_it_is_tangos(self, n_won, n_lost, n):
        estimate = score_interval([1.0] * n_won + [-1.0] * n_lost + [0.0] * (n - n_won - n_lost))
        assert estimate.value == pytest.approx((n_won - n_lost) / n)
        assert estimate[1:] == pytest.approx(tango(n_won, n_lost, n), abs=2e-5)

    def test_equal_items_do_not_prove_equality(self):
        assert paired_difference([1.0] * 30, [1.0] * 30) == (0, 0, 0)
        assert score_interval([0.0] * 30).low < -0.1

    def test_on_many_items_it_agrees_with_the_bootstrap(self):
        random = Random(3)
        differences = [random.choice([-0.25, 0, 0, 0.125, 0.5]) for _ in range(1000)]
        score, bootstrap = score_interval(differences), clustered_interval(differences)
        assert score == pytest.approx(bootstrap, abs=0.002)

    def test_turned_around_it_is_its_mirror_image(self):
        differences = [0.5, 0.25, -0.125, 1.0, 0.0, 0.0]
        straight, turned = score_interval(differences), score_interval([-d for d in differences])
        assert straight == pytest.approx((-turned.value, -turned.high, -turned.low), abs=2e-5)

    @pytest.mark.parametrize("differences", [[], [1.5], [float("nan")]])
    def test_what_is_no_difference_is_refused(self, differences):
        with pytest.raises(ValueError):
            score_interval(differences)


class TestItemsNeeded:
    def test_it_is_the_usual_sample_size(self):
        # Variance 0.1, distance 0.02, 1.96 + 0.84 standard errors.
        differences = [1.0] * 500 + [-1.0] * 500 + [0.0] * 9000
        assert items_needed(differences, 0.02) == pytest.approx(0.1 * 7.849 / 0.0004, rel=0.01)

    def test_equal_items_still_need_some(self):
        assert items_needed([0.0] * 30, 0.02) > 1000


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
