"""Recipes walked through by the real commands, in a process of their own: training changes settings of libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from its_training.plan.stand_in import MAX_LENGTH, VOCABULARY, small_architecture, small_recipe
from its_training.recipe import Architecture, revised

from .conftest import RECIPES

CHECKOUT = Path(__file__).resolve().parents[3]
# A third of a minute on a quiet core; the machine may be busy.
pytestmark = pytest.mark.timeout(400)


def dry_run(*recipes):
    environ = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'training'}", "OMP_NUM_THREADS": "1"}
    code = "from its_training.cli import main; main()"
    command = [sys.executable, "-c", code, "plan", "--dry-run", "--json", *map(str, recipes)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=380)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Full and LoRA, three templates and both kinds of model, an arm or two of each; and one that cannot pass."""
    import yaml

    folder = tmp_path_factory.mktemp("recipes")
    files = []
    for name, changes in {
        "r1-distill-qwen-32b-limo-like": {"arms": ["none", "random"]},
        "lora-24gb": {"arms": ["mixed"]},
        "llama-3.1-8b": {"arms": ["similar"]},
        "demo": {"arms": ["smilar"]},
    }.items():
        values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        values["data"].update(changes)
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump(values))
    return dry_run(*files)


def test_two_steps_of_every_arm_pass(run):
    done = {one["recipe"]: one for one in json.loads(run.stdout)}
    assert [len(losses) for one in done.values() for losses in one["losses"].values()] == [2, 2, 2, 2]
    assert set(done["r1-distill-qwen-32b-limo-like"]["losses"]) == {"none", "random"}
    assert [one["failure"] is None for one in done.values()] == [True, True, True, False]


def test_the_loss_is_that_of_random_weights(run):
    """ln of the vocabulary: neither the whole row nor nothing of it carries loss."""
    for one in json.loads(run.stdout):
        for losses in one["losses"].values():
            assert losses[0] == pytest.approx(6.93, abs=0.15)


def test_what_a_laptop_changes_is_listed(run):
    changed = {key: (before, after) for key, before, after in json.loads(run.stdout)[0]["overridden"]}
    assert changed["compute.dtype"] == ("bfloat16", "float32")
    assert changed["compute.attention"] == ("flash_attention_2", "sdpa")
    assert changed["compute.parallel"] == ("zero3", "none")
    assert changed["base.model"] == ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "random weights")
    assert changed["chat.max_length"] == (16384, MAX_LENGTH)
    assert changed["optimizer.epochs"] == (15.0, "2 steps")
    assert not {"optimizer.global_batch", "optimizer.schedule", "chat.template", "method"} & changed.keys()


def test_a_recipe_that_fails_is_named_and_ends_in_exit_code_1(run):
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("Error: 1 of 4 dry runs failed: demo: arm 'smilar'")
    assert "Traceback" not in run.stderr


def test_the_stand_in_keeps_what_the_code_branches_on(recipe_named):
    for name in ("qwen2.5-32b-s1-like", "gsm8k-small", "llama-3.1-8b", "lora-24gb"):
        recipe = recipe_named(name)
        small = small_recipe(recipe, Path("base"), Path("data"))
        before, after = recipe.base.architecture, small.base.architecture
        assert after.model_type == before.model_type
        assert after.tie_word_embeddings == before.tie_word_embeddings
        ratio = before.num_attention_heads // before.num_key_value_heads
        assert after.num_attention_heads // after.num_key_value_heads == ratio
        assert (small.optimizer, small.method, small.lora) == (recipe.optimizer, recipe.method, recipe.lora)
        assert small.compute.activation_checkpointing == recipe.compute.activation_checkpointing
        assert after.vocab_size == VOCABULARY


def test_a_head_size_of_its_own_stays_one():
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    sizes |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}
    small = small_architecture(Architecture(model_type="qwen3", **sizes))
    assert small.head_dim is not None
    assert small.hidden_size * 2 == small.num_attention_heads * small.head_dim


def test_an_8_bit_optimizer_becomes_a_plain_one(recipe_named):
    recipe = revised(recipe_named("qwen2.5-7b"), {"optimizer": {"name": "paged_adamw_8bit"}})
    assert small_recipe(recipe, Path("base"), Path("data")).optimizer.name == "adamw"
