"""Counts against models that transformers and peft build without memory."""

import pytest

from its_training.plan.parameters import lora_parameters, parameters_of
from its_training.recipe import Architecture, Lora

QWEN_32B = Architecture(
    model_type="qwen2",
    hidden_size=5120,
    intermediate_size=27648,
    num_hidden_layers=64,
    num_attention_heads=40,
    num_key_value_heads=8,
    vocab_size=152064,
    max_position_embeddings=32768,
)
QWEN_HALF_B = Architecture(
    model_type="qwen2",
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151936,
    max_position_embeddings=32768,
    tie_word_embeddings=True,
)
QWEN3_8B = Architecture(
    model_type="qwen3",
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=40960,
)
QWEN3_SMALL = QWEN3_8B.model_copy(update={"hidden_size": 1024, "num_attention_heads": 16, "tie_word_embeddings": True})
LLAMA_8B = Architecture(
    model_type="llama",
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
    max_position_embeddings=131072,
)
ALL = pytest.mark.parametrize("architecture", [QWEN_32B, QWEN_HALF_B, QWEN3_8B, QWEN3_SMALL, LLAMA_8B])


def weightless(architecture):
    """The real model on torch's meta device: shapes, and no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**architecture.model_dump(exclude_none=True))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def count(parameters):
    return sum(weight.numel() for weight in parameters)


@ALL
def test_parameters_are_those_of_the_real_model(architecture):
    model = weightless(architecture)
    counted = parameters_of(architecture)
    assert counted.total == count(model.parameters())
    assert counted.layer == count(model.model.layers[0].parameters())


# Loading peft's tuners reads a property of transformers' models that is on its way out.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@ALL
def test_an_adapter_s_parameters_are_those_that_peft_trains(architecture):
    from peft import LoraConfig, get_peft_model

    architecture = architecture.model_copy(update={"num_hidden_layers": 3})  # adapters are put on one by one
    for lora in (Lora(r=64), Lora(r=8, target_modules=("q_proj", "down_proj"))):
        modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
        model = get_peft_model(weightless(architecture), LoraConfig(r=lora.r, target_modules=modules))
        assert lora_parameters(architecture, lora) == count(p for p in model.parameters() if p.requires_grad)


def test_published_counts_are_met():
    assert parameters_of(QWEN_32B).total == 32_763_876_352
    assert parameters_of(QWEN_HALF_B).total == 494_032_768
    assert parameters_of(LLAMA_8B).total == 8_030_261_248
