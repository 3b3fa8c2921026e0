import numpy
import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.grid.values import Values, difference, greedy, majority, pass_at_1, values
from tests.training.grid.small_grid import spec, write_grid


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    accuracies = {("none", "none"): 0.8, ("random", "random"): 0.6, ("base", "none"): 0.3}
    return write_grid(tmp_path_factory.mktemp("grid"), spec(), accuracies)


def test_a_place_in_the_table_holds_all_its_training_seeds(grid):
    found = values(grid, "none", "none", "test", pass_at_1)
    assert found.train_seeds == (1, 2, 3)
    assert found.array.shape == (3, 1, 200)
    assert found.mean == pytest.approx(0.8, abs=0.03)


def test_what_was_not_measured_is_none(grid):
    assert values(grid, "none", "similar", "test", pass_at_1) is None


@pytest.mark.parametrize("metric", [pass_at_1, majority, greedy])
def test_a_difference_with_itself_is_zero(grid, metric):
    one = values(grid, "none", "none", "test", metric)
    assert not difference(one, one).array.any()


def test_the_base_is_the_same_for_every_training_seed(grid):
    base = values(grid, "base", "none", "test", pass_at_1)
    found = difference(values(grid, "none", "none", "test", pass_at_1), base)
    assert found.train_seeds == (1, 2, 3)
    assert found.mean == pytest.approx(0.5, abs=0.04)


def test_only_shared_training_seeds_are_paired():
    first = Values((1, 2, 3), (1,), ("a",), numpy.array([[[1.0]], [[2.0]], [[3.0]]]))
    second = Values((2, 3, 4), (1,), ("a",), numpy.array([[[10.0]], [[20.0]], [[30.0]]]))
    found = difference(first, second)
    assert found.train_seeds == (2, 3)
    assert found.array.ravel().tolist() == [-8.0, -17.0]


def test_a_plain_query_is_the_same_for_every_persona_seed():
    personas = Values((1,), (7, 8), ("a",), numpy.array([[[1.0], [3.0]]]))
    plain = Values((1,), (7,), ("a",), numpy.array([[[1.0]]]))
    assert difference(personas, plain).array.ravel().tolist() == [0.0, 2.0]


def test_other_items_are_refused(grid):
    one = values(grid, "none", "none", "test", pass_at_1)
    other = Values(one.train_seeds, one.persona_seeds, ("x", *one.ids[1:]), one.array)
    with pytest.raises(ConfigError, match="same items"):
        difference(one, other)
