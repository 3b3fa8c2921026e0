import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.grid.choose import recommend
from its_training.grid.equal_tokens import Way
from tests.training.grid.small_grid import spec, write_grid


def grid_with(tmp_path, *, none=0.6, personas=0.6, n_items=200, train_seeds=(1, 2, 3), **more):
    accuracies = {
        ("none", "none"): none,
        ("none", "random"): 0.1,
        ("random", "random"): personas,
        ("random", "none"): 0.9,
        ("similar", "similar"): personas,
    }
    return write_grid(tmp_path, spec(train_seeds=train_seeds), accuracies, n_items=n_items, **more)


def test_a_clear_gain_is_recommended(tmp_path):
    choice = recommend(grid_with(tmp_path, none=0.4, personas=0.75))
    assert choice.verdict == "recommended"
    assert choice.way in (Way("random", "random"), Way("similar", "similar"))
    assert choice.contenders[0].gain.low > 0


def test_a_clear_loss_is_none_no_evidence(tmp_path):
    choice = recommend(grid_with(tmp_path, none=0.85, personas=0.5))
    assert (choice.verdict, choice.way) == ("none", Way("none", "none"))
    assert "no evidence for personas on this base" in choice.sentence


def test_no_difference_on_few_items_is_undecided(tmp_path):
    choice = recommend(grid_with(tmp_path, n_items=60, train_seeds=(4, 5, 6)))
    assert (choice.verdict, choice.way) == ("undecided", Way("none", "none"))


def test_a_one_sided_pair_is_never_a_contender_however_good(tmp_path):
    choice = recommend(grid_with(tmp_path))  # random asked as none has 90% here
    assert {contender.way for contender in choice.contenders} == {Way("random", "random"), Way("similar", "similar")}


def test_mixed_may_be_served_plain(tmp_path):
    accuracies = {("none", "none"): 0.5, ("mixed", "none"): 0.5, ("mixed", "random"): 0.5}
    choice = recommend(write_grid(tmp_path, spec(), accuracies))
    assert {contender.way for contender in choice.contenders} == {Way("mixed", "none"), Way("mixed", "random")}


def test_a_control_that_wins_is_called_a_control(tmp_path):
    accuracies = {("none", "none"): 0.3, ("filler", "filler"): 0.8}
    choice = recommend(write_grid(tmp_path, spec(), accuracies))
    assert choice.verdict == "recommended"
    assert "any text there may do as well" in choice.sentence


def test_the_test_split_does_not_choose(tmp_path):
    grid = grid_with(tmp_path)
    with pytest.raises(ConfigError, match="the test split does not choose"):
        recommend(grid, "test")


def test_a_grid_measured_on_test_alone_cannot_choose(tmp_path):
    grid = grid_with(tmp_path, splits=("test",))
    with pytest.raises(ConfigError, match="null hypothesis"):
        recommend(grid)


def test_chance_alone_is_seldom_recommended(tmp_path):
    arms = ("none", "similar", "dissimilar", "random", "filler")
    verdicts = []
    for n in range(20):
        # Cells draw by their titles, which hold the training seed.
        other_draws = spec().model_copy(update={"train_seeds": (10 * n + 1, 10 * n + 2, 10 * n + 3)})
        equal = {(arm, arm): 0.5 for arm in arms}
        grid = write_grid(tmp_path / str(n), other_draws, equal, n_items=40, splits=("validation",))
        verdicts.append(recommend(grid).verdict)
    assert verdicts.count("recommended") <= 2


def test_a_dearer_persona_gets_fewer_candidates(tmp_path):
    grid = grid_with(tmp_path, prompt_tokens={"none": 40, "random": 70, "similar": 70})
    counts = {contender.way: contender.n for contender in recommend(grid).contenders}
    # 8 candidates of 10 tokens after 40 cost 120; after 70 that pays for 5.
    assert counts[Way("random", "random")] == pytest.approx(5.0)
