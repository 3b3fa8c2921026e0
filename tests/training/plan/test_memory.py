"""The formulas against what torch saves and holds, and against what is known of 32B training."""

import pytest

from its_training.plan.memory import GB, layer_activations, memory_of, state_of, trained_parameters
from its_training.plan.parameters import linear_shapes
from its_training.recipe import Lora, revised


def model_of(recipe, n_layers):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = recipe.base.architecture.model_copy(update={"num_hidden_layers": n_layers})
    config = AutoConfig.for_model(**sizes.model_dump(exclude_none=True))
    dtype = getattr(torch, recipe.compute.dtype)
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=recipe.compute.attention).train()


def saved_bytes(recipe, n_layers, model=None, is_autocast=False):
    """What autograd keeps of a forward pass, weights aside."""
    import torch

    model = model or model_of(recipe, n_layers)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    saved = {}

    def pack(tensor):
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    ids = torch.zeros((1, recipe.chat.max_length), dtype=torch.long)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in weights)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_saves_the_bytes_that_torch_counts(small, model_type, attention, dtype):
    compute = {"attention": attention, "dtype": dtype, "device": "cuda", "parallel": "zero3"}
    recipe = small(model_type, length=64, **compute)
    a_layer = saved_bytes(recipe, 3) - saved_bytes(recipe, 2)
    assert a_layer == layer_activations(recipe) * recipe.chat.max_length


def test_autocast_saves_a_copy_for_each_projection_and_the_weights_once_more(small):
    recipe = small(length=64, dtype="bfloat16", device="cuda")
    in_fp32 = small(length=64)
    models = [model_of(in_fp32, n) for n in (2, 3)]
    a_layer = saved_bytes(recipe, 3, models[1], is_autocast=True) - saved_bytes(recipe, 2, models[0], is_autocast=True)
    weights = 2 * sum(inputs * outputs for inputs, outputs in linear_shapes(recipe.base.architecture).values())
    assert a_layer == layer_activations(recipe) * recipe.chat.max_length + weights


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_s_layer_saves_what_is_estimated_within_three_percent(small):
    from peft import LoraConfig, get_peft_model

    changes = {"method": "lora", "lora": Lora(r=4, alpha=8, dropout=0.0)}
    recipe = revised(small(length=512, dtype="bfloat16", device="cuda"), changes)
    models = [get_peft_model(model_of(recipe, n), LoraConfig(r=4, target_modules="all-linear")) for n in (2, 3)]
    for model in models:
        model.enable_input_require_grads()
    a_layer = saved_bytes(recipe, 3, models[1], is_autocast=True) - saved_bytes(recipe, 2, models[0], is_autocast=True)
    assert a_layer == pytest.approx(layer_activations(recipe) * recipe.chat.max_length, rel=0.03)


@pytest.mark.timeout(300)  # loading TRL takes its time on a busy machine
@pytest.mark.parametrize(
    "compute",
    [{}, {"activation_checkpointing": True}, {"per_device_batch": 2}],
    ids=["plain", "checkpointed", "batch of 2"],
)
def test_the_whole_is_within_five_percent_of_a_real_step_s_peak(small, compute):
    """On a CPU in fp32: weights, gradients, AdamW, activations and TRL's loss, by torch's count of live tensors."""
    recipe = small(length=128, **compute)
    assert memory_of(recipe).total == pytest.approx(peak_bytes(recipe), rel=0.05)


def peak_bytes(recipe):
    import torch
    from torch.distributed._tools.mem_tracker import MemTracker
    from trl.trainer.utils import add_fused_lm_head

    model = model_of(recipe, recipe.base.architecture.num_hidden_layers)
    add_fused_lm_head(model)
    if recipe.compute.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.ones((recipe.compute.per_device_batch, recipe.chat.max_length), dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, -1] = recipe.compute.per_device_batch == 1  # a batch has shorter rows
    tracker = MemTracker()
    tracker.track_external(model, optimizer)
    with tracker:
        for _ in range(2):  # the second finds moments and gradients in place, as all later passes do
            tracker.reset_mod_stats()
            model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True, use_cache=False).loss.backward()
            optimizer.step()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def test_full_fine_tuning_takes_16_bytes_a_weight_however_it_is_sharded(recipe_named):
    for name in ("qwen2.5-32b-limo-like", "qwen2.5-32b-s1-like"):
        recipe = recipe_named(name)
        assert state_of(recipe).total == 16 * 32_763_876_352
        assert memory_of(recipe).state.total * recipe.compute.n_devices == pytest.approx(524.2 * GB, rel=0.001)


def test_8_bit_moments_take_2_bytes_but_for_the_embedding(recipe_named):
    recipe = revised(recipe_named("qwen2.5-32b-limo-like"), {"optimizer": {"name": "paged_adamw_8bit"}})
    n, in_fp32 = 32_763_876_352, 152064 * 5120
    assert state_of(recipe).total == 10 * n + 6 * in_fp32


def test_an_adapter_holds_its_base_once_and_its_own_state(recipe_named):
    recipe = recipe_named("lora-24gb")
    assert trained_parameters(recipe) == 40_370_176
    assert state_of(recipe).total == 2 * 7_615_616_512 + 16 * 40_370_176


def test_copies_of_one_gpu_or_ddp_are_counted(recipe_named):
    one = revised(recipe_named("qwen2.5-7b"), {"compute": {"parallel": "none", "n_devices": 1}})
    two = revised(recipe_named("qwen2.5-7b"), {"compute": {"parallel": "ddp", "n_devices": 2}})
    n = 7_615_616_512
    assert memory_of(one).state.total == memory_of(two).state.total == 16 * n
    assert (memory_of(one).gathered, memory_of(two).gathered) == (2 * n, 6 * n)


def test_whole_logits_would_be_the_largest_item_after_the_state(recipe_named):
    memory = memory_of(recipe_named("qwen2.5-32b-limo-like"))
    assert memory.whole_logits == 16384 * 152064 * 10
    assert memory.whole_logits > memory.stored > memory.at_once


def test_an_adapter_of_rank_64_on_32b_fits_two_gpus_of_80_gb(recipe_named):
    changes = {
        "method": "lora",
        "lora": Lora(r=64, alpha=128, dropout=0.0),
        "compute": {"n_devices": 2, "device_memory_gb": 80.0},
    }
    assert memory_of(revised(recipe_named("qwen2.5-32b-limo-like"), changes)).total < 80 * GB
