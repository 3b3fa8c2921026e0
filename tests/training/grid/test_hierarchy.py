import numpy
import pytest

from its_training.grid.hierarchy import THIS_CHECKPOINT_ONLY, components, measured
from its_training.grid.values import Values


def values_of(array):
    train, persona, items = array.shape
    return Values(tuple(range(train)), tuple(range(persona)), tuple(map(str, range(items))), array)


def grid_of(chance, n_train, n_items, train_sd, n_persona=1):
    """Shares of 8 candidates; difficulty and seed effects on the logit scale."""
    logits = 1.5 + chance.normal(0, 1.5, (1, 1, n_items)) + chance.normal(0, train_sd, (n_train, 1, 1))
    shares = 1 / (1 + numpy.exp(-logits))
    return chance.binomial(8, numpy.repeat(shares, n_persona, axis=1)) / 8


def true_mean(train_sd):
    chance = numpy.random.default_rng(99)
    logits = 1.5 + chance.normal(0, 1.5, (4_000, 1)) + chance.normal(0, train_sd, (1, 500))
    return float((1 / (1 + numpy.exp(-logits))).mean())


@pytest.mark.parametrize(("n_train", "train_sd"), [(3, 0.0), (3, 0.15), (5, 0.15)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(n_train, train_sd):
    chance, truth = numpy.random.default_rng(5), true_mean(train_sd)
    n_held = 0
    for _ in range(100):
        low, high = measured(values_of(grid_of(chance, n_train, 200, train_sd))).estimate[1:]
        n_held += low <= truth <= high
    assert n_held >= 90


def test_an_interval_that_ignored_training_seeds_would_be_far_too_narrow():
    chance = numpy.random.default_rng(6)
    array = grid_of(chance, 3, 1_000, 0.4)
    over_seeds = measured(values_of(array)).estimate
    one_seed = measured(values_of(array[:1])).estimate
    assert over_seeds.high - over_seeds.low > 2 * (one_seed.high - one_seed.low)


@pytest.mark.parametrize(("n_train", "note"), [(1, THIS_CHECKPOINT_ONLY), (2, THIS_CHECKPOINT_ONLY), (3, "")])
def test_below_three_training_seeds_it_is_this_checkpoint_only(n_train, note):
    found = measured(values_of(grid_of(numpy.random.default_rng(7), n_train, 100, 0.1)))
    assert (found.note, found.n_train_seeds) == (note, n_train)
    assert str(found).endswith("*") is bool(note)


def test_components_come_out_as_they_were_put_in():
    chance = numpy.random.default_rng(8)
    array = 0.5 + (
        chance.normal(0, 0.05, (40, 1, 1))
        + chance.normal(0, 0.02, (1, 30, 1))
        + chance.normal(0, 0.2, (1, 1, 300))
        + chance.normal(0, 0.1, (40, 30, 300))
    )
    found = components(values_of(array))
    assert found.train == pytest.approx(0.05, rel=0.3)
    assert found.persona == pytest.approx(0.02, rel=0.3)
    assert found.item == pytest.approx(0.2, rel=0.15)
    assert found.rest == pytest.approx(0.1, rel=0.02)


def test_a_factor_with_one_level_has_no_component():
    found = components(values_of(grid_of(numpy.random.default_rng(9), 1, 100, 0.0)))
    assert found.train is None
    assert found.persona is None


def test_equal_values_have_an_interval_without_width():
    found = measured(values_of(numpy.ones((3, 1, 50))))
    assert tuple(found.estimate) == pytest.approx((1.0, 1.0, 1.0))


def test_the_same_values_give_the_same_interval():
    array = grid_of(numpy.random.default_rng(10), 3, 100, 0.1)
    assert measured(values_of(array)) == measured(values_of(array))
