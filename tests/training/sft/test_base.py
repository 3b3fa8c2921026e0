import json
import shutil

import pytest
from transformers import AutoTokenizer

from its_proxy.codesign.errors import ConfigError
from its_training.recipe import load_recipe
from its_training.sft.base import fit_for_training, open_model, open_tokenizer
from its_training.sft.settings import check_machine
from tests.training.sft.conftest import BASE, write_recipe


def tokenizer(**changes):
    found = AutoTokenizer.from_pretrained(BASE)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize("pad", [None, "<|im_end|>"])
def test_padding_is_another_token_than_the_end_of_a_turn(pad):
    found = tokenizer(pad_token=pad, eos_token="<|endoftext|>", padding_side="left")
    fit_for_training(found, "<|im_end|>")
    assert (found.eos_token, found.pad_token, found.padding_side) == ("<|im_end|>", "<|endoftext|>", "right")


def test_a_base_s_own_padding_stays():
    found = tokenizer(pad_token="<|im_start|>")
    fit_for_training(found, "<|im_end|>")
    assert found.pad_token == "<|im_start|>"


def test_a_tokenizer_without_the_family_s_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"has no token <\|eot_id\|>"):
        fit_for_training(tokenizer(), "<|eot_id|>")


def test_a_tokenizer_with_nothing_to_pad_with_is_refused():
    found = tokenizer(pad_token=None)
    with pytest.raises(ConfigError, match="no token to pad with but the end of a turn"):
        fit_for_training(found, "<|endoftext|>")


@pytest.fixture
def recipe(tmp_path, prepared):
    return load_recipe(write_recipe(tmp_path / "recipe.yaml", prepared))


def test_the_model_stops_where_a_turn_ends_and_wherever_the_base_stopped(recipe, tmp_path):
    folder = shutil.copytree(BASE, tmp_path / "base")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2], "do_sample": True}))
    found = tokenizer()
    model = open_model(recipe, str(folder), None, found)
    assert model.generation_config.eos_token_id == [2, 0]
    assert model.generation_config.pad_token_id == model.config.pad_token_id == 0
    assert str(model.dtype) == "torch.float32"


def test_a_base_that_cannot_be_loaded_is_one_line(recipe, tmp_path):
    (tmp_path / "empty").mkdir()
    for attempt in (
        lambda: open_tokenizer(str(tmp_path / "empty"), None),
        lambda: open_model(recipe, str(tmp_path / "empty"), None, tokenizer()),
    ):
        with pytest.raises(ConfigError, match=r"base .*empty cannot be loaded: ") as raised:
            attempt()
        assert "\n" not in str(raised.value)


def test_weights_that_are_not_whole_are_refused(recipe, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(BASE, tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 weights, such as model.layers.1.mlp.up_proj.weight"):
        open_model(recipe, str(folder), None, tokenizer())


def test_a_recipe_for_gpus_says_so_where_there_is_none(tmp_path, prepared):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    recipe = load_recipe(write_recipe(tmp_path / "gpu.yaml", prepared, compute__device="cuda"))
    with pytest.raises(ConfigError, match=r"compute.device is cuda, and torch sees no GPU here"):
        check_machine(recipe)
