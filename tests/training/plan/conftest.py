"""The shipped recipes, and small ones made of them."""

from pathlib import Path

import pytest

from its_training.recipe import load_recipe, revised

RECIPES = Path(__file__).resolve().parents[3] / "training" / "recipes"


@pytest.fixture
def recipe_named():
    return lambda name: load_recipe(RECIPES / f"{name}.yaml")


@pytest.fixture
def small(recipe_named):
    """A recipe whose base is small enough to be measured here."""

    def make(model_type="qwen2", length=256, **compute):
        architecture = {
            "model_type": model_type,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32 if model_type == "qwen3" else None,
            "vocab_size": 2048,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
        }
        changes = {"base": {"architecture": architecture}, "chat": {"max_length": length}, "compute": compute}
        return revised(recipe_named("gsm8k-small"), changes)

    return make
