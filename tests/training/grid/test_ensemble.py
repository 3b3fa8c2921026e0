import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.grid.ensemble import ensemble
from its_training.grid.equal_tokens import Way
from its_training.grid.spec import Ensemble
from tests.training.grid.small_grid import spec, write_grid

MEMBERS = ("similar", "dissimilar", "random")
ASKED = Ensemble(members=MEMBERS, n=8)


def test_the_best_member_is_chosen_on_validation_and_costs_as_much(tmp_path):
    accuracies = {("similar", "similar"): 0.5, ("dissimilar", "dissimilar"): 0.5, ("random", "random"): 0.7}
    result = ensemble(write_grid(tmp_path, spec(), accuracies), ASKED)
    assert result.best == Way("random", "random")
    # Three prompts of 40 and three replies of 10 cost 150: one prompt and 11 replies, of which there are 8.
    assert [(one.n_single, one.is_short) for one in result.versus] == [(8.0, True), (8.0, True)]
    assert all(one.gain.estimate.value < 0 for one in result.versus)


def test_members_asked_for_more_pay_for_the_rival_and_vote_as_the_others(tmp_path):
    asked = Ensemble(members=MEMBERS, n=16)
    accuracies = {(name, name): 0.6 for name in MEMBERS}
    # A second persona seed of the members was asked for 8 alone, and has no part in this.
    grid = write_grid(
        tmp_path, spec(ensemble=asked.model_dump(), persona_seeds=[1, 2]), accuracies, persona_seeds=[1, 2]
    )
    result = ensemble(grid, asked)
    assert [(one.n_single, one.is_short) for one in result.versus] == [(11.0, False), (14.0, False)]
    assert {len(row.candidates) for cell in grid.cells for row in grid.rows(cell)} == {8}
    wide = grid.with_n(16)
    assert {cell.split for cell in wide.cells} == {"test"}
    assert {len(row.candidates) for cell in wide.cells for row in wide.rows(cell)} == {16}


def test_independent_equal_members_vote_like_one_of_them(tmp_path):
    accuracies = {(name, name): 0.6 for name in MEMBERS}
    grid = write_grid(tmp_path, spec(), accuracies, prompt_tokens=dict.fromkeys(MEMBERS, 0))
    for one in ensemble(grid, ASKED).versus:
        assert one.n_single == pytest.approx(3 * one.n_each)
        assert not one.is_short
        assert abs(one.gain.estimate.value) < 0.05  # three standard errors


def test_a_missing_member_is_named(tmp_path):
    grid = write_grid(tmp_path, spec(), {("similar", "similar"): 0.5, ("random", "random"): 0.5})
    with pytest.raises(ConfigError, match="dissimilar asked as dissimilar on validation"):
        ensemble(grid, ASKED)
