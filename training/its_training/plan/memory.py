"""Estimates the memory of each device: what stays (weights, gradients, optimizer) and what a step needs on top.

    memory_of(recipe).total / 1e9     # GB of each of recipe.compute.n_devices

Formulas stand at their functions with their source. Those of activations are held against torch's own count of the
tensors it saves, the whole against the peak of a small run, both in tests; nothing here was measured on a GPU.
"""

from dataclasses import dataclass

from its_training.plan.parameters import lora_parameters, parameters_of
from its_training.recipe import Architecture, Compute, Recipe

GB = 1e9

RESERVE_BYTES = 2 * GB
"""Ours, for a GPU: CUDA's context, NCCL's buffers, kernels."""

LOSS_TILE = (4096, 32768)
"""Tokens and words of the tile in which TRL (1.16: trl/kernels/chunked_logprob.py) computes logits."""

LIVE_PARAMETERS = 1e9
"""DeepSpeed's default of stage3_max_live_parameters: how many weights ZeRO-3 holds gathered at once."""


@dataclass(frozen=True, slots=True)
class State:
    """Bytes that stay through a whole run, on all devices together if sharded, else on each."""

    weights: float
    gradients: float
    optimizer: float
    """Two moments of each trained weight, and the fp32 copy of the weights where there is one."""

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on each device."""

    state: State
    gathered: float
    """Sharded: weights of the layers at work, whole. ddp: the buckets that gradients travel in."""
    stored: float
    """Activations that the backward pass waits for."""
    at_once: float
    """The larger of the loss and one layer's backward pass, which come one after the other."""
    reserve: float
    whole_logits: float
    """What the loss would need, and does not, if the logits of all tokens stood at once."""

    @property
    def total(self) -> float:
        return self.state.total + self.gathered + self.stored + self.at_once + self.reserve


def memory_of(recipe: Recipe) -> Memory:
    compute, architecture = recipe.compute, recipe.base.architecture
    tokens = compute.per_device_batch * recipe.chat.max_length
    layer = layer_activations(recipe) * tokens
    boundary = architecture.hidden_size * element_size(compute) * tokens
    n_stored = architecture.num_hidden_layers
    return Memory(
        state=state_on_device(recipe),
        gathered=gathered_bytes(recipe),
        stored=n_stored * (boundary if compute.activation_checkpointing else layer),
        at_once=max(
            loss_bytes(recipe, tokens),
            layer_backward(architecture, compute) * tokens + (layer if compute.activation_checkpointing else 0),
        ),
        reserve=RESERVE_BYTES if compute.device == "cuda" else 0,
        whole_logits=whole_logits(architecture, compute) * tokens,
    )


def element_size(compute: Compute) -> int:
    """Bytes of a number that is computed with."""
    return 2 if compute.dtype == "bfloat16" else 4


def trained_parameters(recipe: Recipe) -> int:
    if recipe.lora is not None:
        return lora_parameters(recipe.base.architecture, recipe.lora)
    return parameters_of(recipe.base.architecture).total


def state_of(recipe: Recipe) -> State:
    """Mixed precision: 16 bytes a trained weight, as in ZeRO (Rajbhandari et al., arXiv 1910.02054, section 3.1).

    fp32 weights and gradients (4 + 4; ZeRO-3: 2 + 2 in bf16 and a copy in fp32), and AdamW's two moments (4 + 4).
    8-bit moments take 1 + 1 (Dettmers et al., arXiv 2110.02861), but those of the embedding, which transformers'
    Trainer keeps in fp32. A LoRA's base is frozen: its weights alone, in the dtype that is computed with.
    """
    parameters = parameters_of(recipe.base.architecture)
    trained = trained_parameters(recipe)
    frozen = parameters.total if recipe.lora is not None else 0
    moments = 8.0 * trained
    if recipe.optimizer.name != "adamw":
        in_fp32 = 0 if recipe.lora is not None else parameters.embedding
        moments = 2.0 * (trained - in_fp32) + 8.0 * in_fp32
    if recipe.compute.parallel == "zero3":
        half = element_size(recipe.compute)
        return State(half * (frozen + trained), half * trained, moments + 4.0 * trained)
    return State(element_size(recipe.compute) * frozen + 4.0 * trained, 4.0 * trained, moments)


def state_on_device(recipe: Recipe) -> State:
    """A device's share: all of it, but an nth under fsdp2 and zero3."""
    whole, compute = state_of(recipe), recipe.compute
    if compute.parallel not in ("fsdp2", "zero3"):
        return whole
    n = compute.n_devices
    return State(whole.weights / n, whole.gradients / n, whole.optimizer / n)


def gathered_bytes(recipe: Recipe) -> float:
    """What the way of working in parallel holds beside a device's share.

    fsdp2: the embedding and the head, whole through the step, two layers (one at work, the next on its way), and one
    layer's gradients (PyTorch: torch.distributed.fsdp.fully_shard). zero3: up to LIVE_PARAMETERS weights and the
    gradients of one layer. ddp: a copy of the gradients (PyTorch: DistributedDataParallel, gradient_as_bucket_view).
    Under autocast on one GPU or ddp: the weights once more, in bf16, until the backward pass has used them.
    """
    compute, size = recipe.compute, element_size(recipe.compute)
    parameters = parameters_of(recipe.base.architecture)
    if compute.parallel == "fsdp2":
        return float(size * (parameters.outside_layers + 3 * parameters.layer))
    if compute.parallel == "zero3":
        return size * (min(LIVE_PARAMETERS, parameters.total) + parameters.layer)
    buckets = 4.0 * trained_parameters(recipe) if compute.parallel == "ddp" else 0.0
    return buckets + (2.0 * trained_parameters(recipe) if compute.dtype == "bfloat16" else 0.0)


def layer_activations(recipe: Recipe) -> float:
    """Bytes a token that one layer saves for its backward pass, without checkpointing.

    In elements of size e: two norms save 2 outputs, and their input in fp32; attention its q, k, v and output; the MLP
    four tensors of its inner width. Flash and sdpa attention save one number a head besides, eager attention its whole
    matrix. Counted from transformers' modules after the manner of Korthikanti et al., arXiv 2205.05198, section 4.
    """
    architecture, compute = recipe.base.architecture, recipe.compute
    hidden, e = architecture.hidden_size, element_size(compute)
    norms = 2 * ((4 + 2 * e) * hidden + 4)
    if architecture.model_type == "qwen3":  # and a norm of each head's q and k
        n_heads = architecture.num_attention_heads + architecture.num_key_value_heads
        norms += n_heads * ((4 + e) * architecture.head_size + 4)
    return norms + _attention(recipe) + _copies(recipe) * e * hidden + 4 * e * architecture.intermediate_size


def _attention(recipe: Recipe) -> float:
    """Bytes a token: k and v stand once for each head where they are repeated, as sdpa does for padded rows."""
    a, compute, e = recipe.base.architecture, recipe.compute, element_size(recipe.compute)
    is_eager = compute.attention == "eager"
    is_repeated = is_eager or (compute.attention == "sdpa" and compute.per_device_batch > 1)
    n_kv_heads = a.num_attention_heads if is_repeated else a.num_key_value_heads
    # Eager: the softmax in fp32, and once more in the dtype that is computed with.
    scores = (4 + e % 4) * recipe.chat.max_length if is_eager else 4
    return a.num_attention_heads * scores + e * a.head_size * 2 * (a.num_attention_heads + n_kv_heads)


def _copies(recipe: Recipe) -> int:
    """How many more tensors of the hidden width are saved where inputs are cast for each projection apart.

    Autocast does so with fp32 weights. With adapters, which are fp32 too, the frozen modules in turn save less.
    """
    if recipe.compute.dtype == "float32":
        return 0
    return 2 if recipe.lora is not None else 5 if recipe.compute.parallel in ("none", "ddp") else 0


def layer_backward(architecture: Architecture, compute: Compute) -> float:
    """Bytes a token of the gradients that stand at once in a layer's backward pass: three of the MLP's inner width."""
    return 3.0 * element_size(compute) * architecture.intermediate_size


def loss_bytes(recipe: Recipe, tokens: int) -> float:
    """TRL's loss never holds all logits: a tile of them, and fp32 gradients of the hidden states and of the head.

    A head that is not trained, as under LoRA, has no gradient. Triton works a tile through in place; on a cpu torch
    does, through seven more of them in fp32, which is measured.
    """
    hidden, vocab = recipe.base.architecture.hidden_size, recipe.base.architecture.vocab_size
    e = element_size(recipe.compute)
    n_tokens, n_words = min(tokens, LOSS_TILE[0]), LOSS_TILE[1]
    tiles = e * n_tokens * n_words
    if recipe.compute.device == "cpu":
        tiles += 7 * 4 * n_tokens * min(vocab, n_words)
    copies = (4 + (e if e < 4 else 0)) * hidden
    return float(tiles + copies * tokens + (0 if recipe.lora is not None else copies * vocab))


def whole_logits(architecture: Architecture, compute: Compute) -> float:
    """Bytes a token of a loss over whole logits: the logits, their log-softmax in fp32 and its gradient in fp32."""
    return architecture.vocab_size * (element_size(compute) + 4.0 + 4.0)
