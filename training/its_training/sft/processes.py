"""Which of how many processes this is, as a launcher told it, and whether that is what the recipe asks for."""

import os
from dataclasses import dataclass

from its_proxy.codesign.errors import ConfigError
from its_training.recipe import Compute

LAUNCH = {
    "none": "its-train sft RECIPE.yaml",
    "ddp": "torchrun --standalone --nproc-per-node {n} $(which its-train) sft RECIPE.yaml",
    "fsdp2": "accelerate launch --config_file training/distributed/fsdp2.yaml --num_processes {n} "
    "$(which its-train) sft RECIPE.yaml",
    "zero3": "accelerate launch --config_file training/distributed/zero3.yaml --num_processes {n} "
    "$(which its-train) sft RECIPE.yaml",
}


@dataclass(frozen=True, slots=True)
class Processes:
    """`sharding` is what `accelerate launch` set up: "none", "fsdp2" or "zero3"."""

    n: int
    rank: int
    sharding: str

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def launched() -> Processes:
    """From the environment that torchrun and accelerate launch set; one process without them."""
    sharding = "none"
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        sharding = f"fsdp{os.environ.get('FSDP_VERSION', '1')}"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        sharding = "zero3"
    return Processes(int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")), sharding)


def check_launch(compute: Compute, processes: Processes, *, any_world_size: bool) -> None:
    """Raises ConfigError where the launcher started something else than the recipe asks for.

    `accelerate launch --cpu --num_processes 2` starts one process and says nothing, for one.
    """
    hint = LAUNCH[compute.parallel].format(n=compute.n_devices)
    if processes.n != compute.n_devices and not any_world_size:
        raise ConfigError(
            f"compute.n_devices is {compute.n_devices}, {processes.n} processes were started",
            hint=f"{hint}; or --any-world-size, with the same global batch",
        )
    wanted = "none" if compute.parallel == "ddp" else compute.parallel
    if processes.sharding != wanted:
        raise ConfigError(
            f"compute.parallel is {compute.parallel}, the launcher set up {processes.sharding}", hint=hint
        )


def take_leave() -> None:
    """When all is trained: a process group that outlives its interpreter may abort the process, and the launcher would
    tell of a failure where there was none."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
