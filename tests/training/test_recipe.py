"""A recipe says one thing, or is refused in one line that names the key and its line."""

from pathlib import Path

import pytest
import yaml

from its_proxy.codesign.errors import ConfigError
from its_training.recipe import load_recipe, revised

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def document(name="qwen2.5-7b"):
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text())


def written(folder, values):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_there_is_a_recipe_for_each_size_of_wallet():
    assert {"demo", "gsm8k-small", "llama-3.1-8b", "lora-24gb", "qwen2.5-7b"} < set(NAMES)
    for base in ("qwen2.5-32b", "r1-distill-qwen-32b"):
        assert {f"{base}-limo-like", f"{base}-s1-like"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_under_its_own_name_with_the_five_arms(name):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert recipe.name == name
    assert recipe.data.arms == ("none", "similar", "dissimilar", "random", "mixed")
    assert recipe.label == {"limo": "LIMO-like", "s1": "s1-like"}.get(name.removesuffix("-like").split("-")[-1], "ours")


def test_the_same_base_has_the_same_sizes_in_every_recipe():
    found = {}
    for name in NAMES:
        base = load_recipe(RECIPES / f"{name}.yaml").base
        assert found.setdefault(base.model, base) == base


def test_global_batch_is_passes_times_devices_times_rows():
    recipe = load_recipe(RECIPES / "qwen2.5-32b-limo-like.yaml")
    assert (recipe.optimizer.global_batch, recipe.compute.n_devices, recipe.accumulation) == (16, 8, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": {"lerning_rate": 1}}, r"recipe.yaml:\d+: optimizer.lerning_rate: unknown key"),
        ({"optimizer": {"learning_rate": 0}}, "optimizer.learning_rate: Input should be greater than 0"),
        ({"optimizer": {"min_lr_rate": 0.1}}, "optimizer: min_lr_rate and the schedule cosine_with_min_lr go together"),
        ({"optimizer": {"global_batch": 6}}, "optimizer.global_batch: 6 is no multiple of the 4 rows"),
        ({"method": "lora"}, "method: lora and the section lora go together"),
        ({"lora": {"r": 8}}, "method: lora and the section lora go together"),
        ({"method": "lora", "lora": {"target_modules": ["lm_head"]}}, "lora: no module 'lm_head'"),
        ({"compute": {"device": "cpu"}}, "attention: flash_attention_2 needs a GPU; on a cpu sdpa or eager"),
        ({"compute": {"dtype": "float32"}}, "flash_attention_2 computes in bfloat16 only"),
        ({"compute": {"parallel": "none"}}, "n_devices: more than one needs parallel: ddp, fsdp2 or zero3"),
        ({"chat": {"max_length": 65536}}, "chat.max_length: 65536 is beyond the base's 32768 positions"),
        ({"data": {"arms": ["none", "none"]}}, "data: an arm is named twice"),
        ({"seeds": [1, 1]}, "seeds: one is named twice"),
        ({"name": "Qwen 7B"}, "name: String should match pattern"),
        ({"vote": {"n": 0}}, "vote.n: Input should be greater than or equal to 1"),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused_in_one_line(tmp_path, changes, said):
    values = document()
    for section, update in changes.items():
        values[section] = {**values.get(section, {}), **update} if isinstance(update, dict) else update
    with pytest.raises(ConfigError, match=said) as raised:
        load_recipe(written(tmp_path, values))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"num_key_value_heads": 3}, "num_attention_heads is no multiple of num_key_value_heads"),
        ({"hidden_size": 3585}, "hidden_size is no multiple of num_attention_heads: set head_dim"),
        ({"model_type": "qwen3"}, "qwen3 has a head_dim of its own: name it"),
        ({"model_type": "gpt2"}, "model_type: Input should be 'qwen2', 'qwen3' or 'llama'"),
    ],
)
def test_an_architecture_that_no_model_has_is_refused(tmp_path, sizes, said):
    values = document()
    values["base"]["architecture"].update(sizes)
    with pytest.raises(ConfigError, match=said):
        load_recipe(written(tmp_path, values))


def test_an_8_bit_optimizer_needs_a_gpu(tmp_path):
    values = document("gsm8k-small")
    values["optimizer"]["name"] = "adamw_8bit"
    with pytest.raises(ConfigError, match="adamw_8bit needs a GPU"):
        load_recipe(written(tmp_path, values))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "should be a mapping"),
        ("name: a\nname: b\n", "name is set twice"),
        ("name: [", "recipe.yaml:1:8"),
        ("name: a\n", r"(and \d+ more)"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_recipe(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_a_revised_recipe_is_checked_like_a_file():
    recipe = load_recipe(RECIPES / "qwen2.5-7b.yaml")
    assert revised(recipe, {"compute": {"n_devices": 8}}).accumulation == 2
    with pytest.raises(ConfigError, match=r"qwen2.5-7b: optimizer.global_batch: 16 is no multiple of the 3 rows"):
        revised(recipe, {"compute": {"n_devices": 3}})
