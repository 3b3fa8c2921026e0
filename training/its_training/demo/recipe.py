"""Every number of the demo's recipe, in one frozen value: the same recipe and seed build the same checkpoints."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

BaseName: TypeAlias = Literal["seen", "unseen"]
"""Whether the base's pre-training problems had text before them: half of them, or none ever."""

ArmName: TypeAlias = Literal["none", "similar", "dissimilar", "random"]

BASES: tuple[BaseName, ...] = get_args(BaseName)
ARMS: tuple[ArmName, ...] = get_args(ArmName)


@dataclass(frozen=True, slots=True)
class DemoRecipe:
    """Sizes are counts of tokens, rows or steps; `seed` names the problems, the draws and the weights."""

    seed: int = 7

    n_tokens: int = 1024
    hidden_size: int = 128
    intermediate_size: int = 384
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    max_length: int = 256

    n_pretrain: int = 36_000
    prose_share: float = 0.1
    """Persona texts, never joined to a problem, for each pre-training problem."""
    drill_share: float = 0.3
    """Documents of sums for each pre-training problem."""
    prefix_share: float = 0.5
    """Of the `seen` base only: the share of problems with a persona text before them."""
    pretrain_steps_seen: int = 2_400
    pretrain_steps_unseen: int = 3_600
    """More than `seen` gets: with fewer, this base had only begun to calculate without mistakes."""
    pretrain_batch: int = 32
    pretrain_lr: float = 2e-3

    n_sft: int = 1_000
    sft_epochs: int = 4
    sft_batch: int = 32
    sft_lr: float = 1e-3

    n_validation: int = 300
    n_test: int = 1_000
    n_probes: int = 8
    sampling_seed: int = 0
    """As `its-proxy evaluate` has it by default, so that both draw the same candidates."""

    def pretrain_steps(self, base: BaseName) -> int:
        return self.pretrain_steps_seen if base == "seen" else self.pretrain_steps_unseen

    def pick(self, *names: str) -> dict[str, Any]:
        """The named fields, for the digest of a stage that depends on no others."""
        values = asdict(self)
        return {name: values[name] for name in names}


def tiny(recipe: DemoRecipe) -> DemoRecipe:
    """The whole path in a minute, for tests: it builds every file and learns nothing worth asking."""
    return replace(
        recipe,
        n_tokens=512,
        hidden_size=64,
        intermediate_size=96,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        n_pretrain=600,
        pretrain_steps_seen=30,
        pretrain_steps_unseen=30,
        pretrain_batch=16,
        n_sft=64,
        sft_epochs=1,
        sft_batch=16,
        n_validation=8,
        n_test=8,
        n_probes=2,
    )
