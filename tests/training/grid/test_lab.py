from io import StringIO

import pytest
from rich.console import Console

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.personas import Persona, pool_jsonl, taxonomy_pool
from its_training.demo.recipe import DemoRecipe, tiny
from its_training.files import file_sha256
from its_training.grid.cells import read_grid
from its_training.grid.lab import FolderLab, lab_of, open_pool, side_for
from its_training.grid.run import Runner
from its_training.grid.spec import Arm
from its_training.progress import Stages
from tests.training.grid.small_grid import spec

AFTER = "{query}\n\n{persona}"


def quiet_stages():
    return Stages(Console(file=StringIO()))


def test_placement_and_pool_are_what_the_arm_says(tmp_path):
    (tmp_path / "own.jsonl").write_bytes(pool_jsonl([Persona("You are a baker.", "cooking")]))
    arm = Arm(strategy="random", template=AFTER, pool=str(tmp_path / "own.jsonl"))
    pool = open_pool(arm)
    side = side_for(arm, pool, 5)
    assert (side.template, side.seed) == (AFTER, 5)
    assert (side.personas.source, side.personas.file, side.personas.sha256) == ("pool", "own.jsonl", pool.sha256)


def test_a_plain_arm_names_no_personas():
    side = side_for(Arm(strategy="none"), taxonomy_pool(), 5)
    assert side.personas is None


def test_a_missing_pool_is_one_line():
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl: No such file"):
        open_pool(Arm(strategy="random", pool="nowhere.jsonl"))


def test_folders_are_found_by_arm_and_seed(tmp_path):
    (tmp_path / "random-s3").mkdir()
    lab = FolderLab(spec(base={"name": "b", "checkpoints": f"{tmp_path}/{{arm}}-s{{seed}}"}))
    assert lab.checkpoint("random", 3) == tmp_path / "random-s3"
    with pytest.raises(ConfigError, match="arm 'random' with training seed 4"):
        lab.checkpoint("random", 4)


def test_too_few_items_are_refused(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"query": "1+1?", "gold": "2"}\n')
    lab = FolderLab(spec(test={"n": 2, "file": str(tmp_path / "items.jsonl")}))
    with pytest.raises(ConfigError, match=r"holds 1 items, test\.n asks for 2"):
        lab.items("test")


@pytest.mark.timeout(400)
def test_a_demo_grid_trains_its_arms_on_one_base_and_other_seeds_give_other_weights(tmp_path):
    small = {"n": 2}
    grid_spec = spec(
        base={"name": "seen", "demo": "seen", "pretrain_steps": 4, "reads": "text"},
        arms={"none": {"strategy": "none"}, "random": {"strategy": "random"}},
        asked=["none", "random"], train_seeds=[1, 2], validation=small, test=small,
        vote={"n": 2, "temperature": 0.8, "max_tokens": 8}, ensemble=None,
    )  # fmt: skip
    lab = lab_of(grid_spec, tmp_path, quiet_stages(), tiny(DemoRecipe()))
    Runner(grid_spec, lab, tmp_path, quiet_stages(), "test").run(("validation",))
    grid = read_grid(tmp_path)
    assert len(grid.cells) == 2 * 2 * 2 + 2  # arms x ways x seeds, and the base's ways
    digests = {file_sha256(tmp_path / "arms" / f"{arm}-s{seed}" / "model.safetensors")
               for arm in ("none", "random") for seed in (1, 2)}  # fmt: skip
    assert len(digests) == 4
    row = grid.rows(grid.cells[0])[0]
    assert row.asked["prompt_tokens"] > 10
    assert len(row.candidates) == 2
    assert row.greedy is not None
    ids = [{row.id for row in grid.rows(cell)} for cell in grid.cells]
    assert all(one == ids[0] for one in ids)
