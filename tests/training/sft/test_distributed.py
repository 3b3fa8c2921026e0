"""The launch files, read by the classes that read them in earnest, and two processes against one."""

import json
import sys

import pytest
from safetensors.torch import load_file

from its_proxy.checkpoint import open_checkpoint
from tests.training.sft.conftest import BASE, CHECKOUT, MAIN, its_train_sft, logged, write_recipe

CONFIGS = CHECKOUT / "training" / "distributed"

ZERO3_KEYS = {"bf16", "zero_optimization", "gradient_accumulation_steps", "gradient_clipping", "train_batch_size"}
ZERO3_KEYS |= {"train_micro_batch_size_per_gpu", "zero_allow_untested_optimizer", "wall_clock_breakdown"}
ZERO_KEYS = {"stage", "overlap_comm", "contiguous_gradients", "reduce_bucket_size", "sub_group_size"}
ZERO_KEYS |= {"stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_max_live_parameters"}
ZERO_KEYS |= {"stage3_max_reuse_distance", "stage3_gather_16bit_weights_on_model_save"}
"""Keys that DeepSpeed 0.19.8 knows; it refuses strangers in the second set, and says nothing to those in the first."""


def zero3():
    return json.loads((CONFIGS / "zero3.json").read_text())


@pytest.mark.parametrize(
    ("name", "kind"), [("ddp.yaml", "MULTI_GPU"), ("fsdp2.yaml", "FSDP"), ("zero3.yaml", "DEEPSPEED")]
)
def test_accelerate_reads_the_launch_file(name, kind):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / name))
    assert config.distributed_type.value == kind
    assert not config.use_cpu


def launch_environment(name, *options):
    """What `accelerate launch` tells its processes for such a file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    given = ["--config_file", str(CONFIGS / name), *options, "its-train", "sft", "RECIPE.yaml"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    return prepare_multi_gpu_env(args)


def test_fsdp2_is_set_up_as_the_file_says(monkeypatch):
    from accelerate.utils import FullyShardedDataParallelPlugin

    from its_training.sft.processes import launched

    for key, value in launch_environment("fsdp2.yaml").items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert launched().sharding == "fsdp2"
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.cpu_ram_efficient_loading is True
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    assert type(plugin.cpu_offload).__name__ == "OffloadPolicy"  # which offloads nothing


def test_zero3_holds_keys_that_deepspeed_knows():
    assert zero3().keys() == ZERO3_KEYS
    assert zero3()["zero_optimization"].keys() == ZERO_KEYS
    assert zero3()["zero_optimization"]["stage"] == 3


def test_every_auto_of_zero3_is_filled_from_the_recipe(tmp_path):
    """By transformers' own code, without DeepSpeed: whatever it cannot fill, it refuses."""
    from accelerate.utils.deepspeed import HfDeepSpeedConfig
    from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig as Theirs

    class Filled(HfDeepSpeedConfig):
        mismatches: list[str]
        fill_match, fill_only = Theirs.fill_match, Theirs.fill_only
        is_auto, _dtype = Theirs.is_auto, None
        process, finalize = Theirs.trainer_config_process, Theirs.trainer_config_finalize

    config = Filled(zero3())
    config.mismatches = []
    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=1, gradient_accumulation_steps=4, use_cpu=True
    )
    config.process(args)
    config.finalize(args, AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BASE)), 100)
    assert "auto" not in json.dumps(config.config)
    assert config.config["gradient_accumulation_steps"] == 4
    assert config.config["train_micro_batch_size_per_gpu"] == 1
    assert config.config["zero_optimization"]["reduce_bucket_size"] == 128 * 128


def test_deepspeed_itself_takes_zero3():
    zero = pytest.importorskip("deepspeed.runtime.zero.config", reason="deepspeed is not installed")
    filled = {key: 1 if value == "auto" else value for key, value in zero3()["zero_optimization"].items()}
    assert zero.DeepSpeedZeroConfig(**filled).gather_16bit_weights_on_model_save is True


@pytest.mark.timeout(400)
def test_two_processes_train_the_weights_that_one_does(tmp_path, prepared):
    """At the same global batch: 2 x 2 rows, accumulated twice, against 2 rows, accumulated four times."""
    changes = {"compute__n_devices": 2, "compute__parallel": "ddp", "optimizer__global_batch": 8}
    write_recipe(tmp_path / "two.yaml", prepared, name="two", **changes)
    script = tmp_path / "main.py"
    script.write_text(MAIN)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script)
    both = its_train_sft("two.yaml", "--arm", "random", "--out", "both", cwd=tmp_path, launcher=torchrun)
    assert both.returncode == 0, both.stderr
    alone = its_train_sft("two.yaml", "--arm", "random", "--out", "alone", "--any-world-size", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    runs = [tmp_path / name / "two" / "random-seed42" for name in ("both", "alone")]
    first, second = (load_file(run / "final" / "model.safetensors") for run in runs)
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-5
    losses = [[line["loss"] for line in logged(run)] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert [line["num_tokens"] for line in logged(runs[0])] == [line["num_tokens"] for line in logged(runs[1])]
    assert [open_checkpoint(run / "final").manifest.provenance["recipe"]["processes"] for run in runs] == [2, 1]
    assert open_checkpoint(runs[0] / "checkpoint-4").pair_id == open_checkpoint(runs[1] / "checkpoint-4").pair_id
