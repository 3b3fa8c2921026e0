import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.recipe import Optimizer
from its_training.sft.schedule import row_order, schedule


def optimizer(**values):
    return Optimizer(**{"learning_rate": 1e-5, "epochs": 5, "global_batch": 16, **values})


def test_steps_do_not_depend_on_the_number_of_processes():
    plans = [schedule(optimizer(), 1000, n, 1) for n in (1, 2, 4, 8, 16)]
    assert {(plan.steps, plan.steps_per_epoch) for plan in plans} == {(312, 62)}
    assert [plan.accumulation for plan in plans] == [16, 8, 4, 2, 1]


@pytest.mark.parametrize(("n_processes", "per_device"), [(3, 1), (8, 4), (1, 32)])
def test_a_global_batch_that_cannot_be_shared_is_refused(n_processes, per_device):
    with pytest.raises(ConfigError, match=f"16 is no multiple of {n_processes} processes x {per_device} rows"):
        schedule(optimizer(), 1000, n_processes, per_device)


def test_few_rows_still_make_a_step_and_max_steps_ends_earlier():
    assert schedule(optimizer(epochs=1), 3, 1, 1).steps == 1
    assert schedule(optimizer(), 1000, 1, 1, max_steps=2).steps == 2
    assert schedule(optimizer(), 32, 1, 1, max_steps=500).steps == 10


def test_each_epoch_shows_every_row_once_in_an_order_of_its_own():
    order = row_order(10, 25, seed=42)
    first, second = order[:10], order[10:20]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert len(order) == 25


def test_the_seed_alone_decides_the_order():
    assert row_order(10, 25, seed=42) == row_order(10, 25, seed=42)
    assert row_order(10, 25, seed=42) != row_order(10, 25, seed=43)
    assert row_order(10, 25, seed=42)[:7] == row_order(10, 7, seed=42) == [0, 9, 5, 1, 6, 3, 4]
