"""Counts the parameters of an architecture and of a LoRA on it, exactly, from the sizes in a recipe.

    parameters_of(recipe.base.architecture).total    # 32_763_876_352 for Qwen2.5-32B

Source: the module shapes of transformers' Qwen2, Qwen3 and Llama; a test builds each of them without memory and counts.
"""

from dataclasses import dataclass

from its_training.recipe import Architecture, Lora


@dataclass(frozen=True, slots=True)
class Parameters:
    """`embedding` counts twice in `total` unless input and output share it."""

    embedding: int
    head: int
    """0 where the output shares the embedding."""
    layer: int
    """Of one layer."""
    n_layers: int
    final_norm: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.layer * self.n_layers + self.final_norm

    @property
    def outside_layers(self) -> int:
        return self.embedding + self.head + self.final_norm


def parameters_of(architecture: Architecture) -> Parameters:
    """Layer: the projections, their biases (q, k, v of qwen2), two norms, and qwen3's norms of a head's q and k."""
    a = architecture
    embedding = a.vocab_size * a.hidden_size
    shapes = linear_shapes(a)
    layer = sum(inputs * outputs for inputs, outputs in shapes.values()) + 2 * a.hidden_size
    if a.model_type == "qwen2":
        layer += sum(shapes[name][1] for name in ("q_proj", "k_proj", "v_proj"))
    if a.model_type == "qwen3":
        layer += 2 * a.head_size
    return Parameters(
        embedding=embedding,
        head=0 if a.tie_word_embeddings else embedding,
        layer=layer,
        n_layers=a.num_hidden_layers,
        final_norm=a.hidden_size,
    )


def linear_shapes(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear module of a layer, by the names of `recipe.LINEAR_MODULES`."""
    a = architecture
    heads, kv_heads = a.num_attention_heads * a.head_size, a.num_key_value_heads * a.head_size
    return {
        "q_proj": (a.hidden_size, heads),
        "k_proj": (a.hidden_size, kv_heads),
        "v_proj": (a.hidden_size, kv_heads),
        "o_proj": (heads, a.hidden_size),
        "gate_proj": (a.hidden_size, a.intermediate_size),
        "up_proj": (a.hidden_size, a.intermediate_size),
        "down_proj": (a.intermediate_size, a.hidden_size),
    }


def lora_parameters(architecture: Architecture, lora: Lora) -> int:
    """r x (inputs + outputs) for each adapted module (Hu et al., arXiv 2106.09685); all-linear spares the head."""
    shapes = linear_shapes(architecture)
    return architecture.num_hidden_layers * lora.r * sum(sum(shapes[name]) for name in lora.modules)
