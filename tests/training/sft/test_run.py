"""Real, tiny runs on the packaged demo checkpoint: what they leave, and what a stop does to them."""

import json
import shutil
import signal
import sys
from hashlib import sha256
from io import StringIO

import pytest
from rich.console import Console

from its_proxy.checkpoint import check_weights, open_checkpoint
from its_proxy.codesign.errors import ConfigError
from its_training.progress import Stages
from its_training.recipe import load_recipe
from its_training.sft.arm import read_arm
from its_training.sft.processes import Processes
from its_training.sft.run import Sft
from tests.training.sft.conftest import (
    BASE,
    its_train_sft,
    logged,
    signal_at,
    start_sft,
    weights_of,
    write_recipe,
)

pytestmark = pytest.mark.timeout(400)
LORA = {"name": "lora", "method": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.1}}


@pytest.fixture(scope="module")
def work(tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("runs")
    write_recipe(folder / "full.yaml", prepared, name="full")
    write_recipe(folder / "lora.yaml", prepared, **LORA)
    return folder


@pytest.fixture(scope="module")
def full(work):
    """Both arms, unbroken."""
    done = its_train_sft("full.yaml", "--log-to", "tensorboard", cwd=work)
    assert done.returncode == 0, done.stderr
    return work / "runs" / "full"


@pytest.fixture(scope="module")
def lora(work):
    """One arm as an adapter, unbroken."""
    done = its_train_sft("lora.yaml", "--arm", "random", cwd=work)
    assert done.returncode == 0, done.stderr
    return work / "runs" / "lora"


def test_every_saved_checkpoint_is_sealed_with_the_arm_s_pair(full):
    saved = ["checkpoint-12", "checkpoint-16", "checkpoint-4", "checkpoint-8", "final"]
    for arm in ("none", "random"):
        run = full / f"{arm}-seed42"
        assert sorted(path.name for path in run.iterdir() if (path / "its.json").exists()) == saved
        for name in saved:
            checkpoint = open_checkpoint(run / name)
            check_weights(checkpoint)
            pair, template = checkpoint.manifest.pair, (run / name / "chat_template.jinja").read_bytes()
            assert pair.trained_with == pair.serve_with
            assert pair.trained_with.strategy == arm
            assert pair.trained_with.chat_template_sha256 == sha256(template).hexdigest()
            assert template == (BASE / "chat_template.jinja").read_bytes()


def test_the_manifest_tells_how_the_checkpoint_came_to_be(full):
    none, random = (open_checkpoint(full / f"{arm}-seed42" / "final").manifest for arm in ("none", "random"))
    told = random.provenance
    assert told["ids_sha256"] == none.provenance["ids_sha256"]
    assert told["dataset_sha256"] != none.provenance["dataset_sha256"]
    assert told["licenses"] == {"dataset": "apache-2.0", "base": "apache-2.0"}
    assert (told["base_model"], told["seed"], told["step"]) == (str(BASE), 42, 16)
    assert told["recipe"]["label"] == "ours"
    assert told["chat_template"]["prompts_compared"] == 19  # the 16 rows' and three of ours
    assert random.vote.n == 8


def test_a_finished_checkpoint_holds_what_serving_needs_and_no_pickle(full, lora):
    common = {"chat_template.jinja", "generation_config.json", "its.json", "stage.json"}
    common |= {"tokenizer.json", "tokenizer_config.json"}
    final = full / "random-seed42" / "final"
    assert {path.name for path in final.iterdir()} == common | {"config.json", "model.safetensors"}
    adapter = lora / "random-seed42" / "final"
    assert {path.name for path in adapter.iterdir()} == common | {"adapter_config.json", "adapter_model.safetensors"}
    for folder in (final, adapter):
        ends = json.loads((folder / "generation_config.json").read_text())
        assert (ends["eos_token_id"], ends["pad_token_id"]) == (2, 0)  # <|im_end|>, <|endoftext|>
    assert "its" not in json.loads((adapter / "adapter_config.json").read_text())


def test_training_changes_the_weights_and_arms_differ(full):
    random, none = (weights_of(full / f"{arm}-seed42" / "final") for arm in ("random", "none"))
    assert random != none
    assert weights_of(BASE) not in (random, none)


def test_metrics_are_a_line_a_step_and_tensorboard_s_files_lie_beside_them(full):
    lines = logged(full / "random-seed42")
    assert [line["step"] for line in lines] == list(range(1, 17))
    assert lines[3]["epoch"] == 1.0
    assert {"loss", "learning_rate", "grad_norm", "num_tokens"} <= lines[0].keys()
    assert lines[-1]["num_tokens"] == 4 * lines[3]["num_tokens"]  # four epochs over the same rows
    assert list((full / "random-seed42" / "tensorboard").rglob("events.out.tfevents.*"))


def test_stopped_by_ctrl_c_and_by_a_kill_it_ends_with_the_weights_of_an_unbroken_run(work, full, tmp_path):
    run = tmp_path / "full" / "random-seed42"
    command = ("full.yaml", "--arm", "random", "--out", tmp_path)
    stopped = start_sft(*command, cwd=work)
    _, said = signal_at(stopped, run / "checkpoint-4" / "its.json", signal.SIGINT)
    assert stopped.returncode == 130
    assert said == "stopped; what is finished is kept, the same command continues\n"
    killed = start_sft(*command, cwd=work)
    signal_at(killed, run / "checkpoint-8" / "its.json", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (run / "final").exists()
    half_write(run)
    done = its_train_sft(*command, cwd=work)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-14 was half-written: made anew" in done.stdout
    assert weights_of(run / "final") == weights_of(full / "random-seed42" / "final")
    assert logged(run) == logged(full / "random-seed42")
    assert not (run / "checkpoint-14").exists()


def half_write(run):
    """As if killed while saving: a later checkpoint whose weights are cut and which no manifest closes."""
    torn = run / "checkpoint-14"
    shutil.copytree(run / "checkpoint-8", torn)
    (torn / "its.json").unlink()
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14, "lo')


def test_a_killed_adapter_too(work, lora, tmp_path):
    run = tmp_path / "lora" / "random-seed42"
    command = ("lora.yaml", "--arm", "random", "--out", tmp_path)
    killed = start_sft(*command, cwd=work)
    signal_at(killed, run / "checkpoint-8" / "its.json", signal.SIGKILL)
    done = its_train_sft(*command, cwd=work)
    assert done.returncode == 0, done.stderr
    assert weights_of(run / "final") == weights_of(lora / "random-seed42" / "final")
    assert logged(run) == logged(lora / "random-seed42")


def test_a_disk_that_fills_is_one_line_and_leaves_nothing_finished(work, tmp_path):
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000));"
        "from its_training.cli import main; main()"
    )
    done = its_train_sft(
        "full.yaml", "--arm", "random", "--out", tmp_path, cwd=work, launcher=(sys.executable, "-c", limited)
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Error: cannot write {tmp_path / 'full' / 'random-seed42'}")
    assert not list(tmp_path.rglob("its.json"))


def sft_of(work, **changes):
    values = {"recipe": load_recipe(work / "full.yaml"), "base": str(BASE), "out": work / "runs"}
    values |= {"processes": Processes(1, 0, "none"), "stages": Stages(Console(file=StringIO()))}
    return Sft(**{**values, **changes})


def test_a_finished_run_is_left_alone(work, full, prepared):
    arm = read_arm(prepared, "random")
    sft = sft_of(work)
    assert sft.train(arm, 42) == full / "random-seed42" / "final"
    assert "random, seed 42: already there" in sft.stages.console.file.getvalue()


def test_a_folder_of_another_run_is_never_overwritten(work, full, prepared, tmp_path):
    arm = read_arm(prepared, "random")
    with pytest.raises(ConfigError, match="was trained with another base"):
        sft_of(work, base="another").train(arm, 42)
    with pytest.raises(ConfigError, match="was trained with another steps"):
        sft_of(work, max_steps=3).train(arm, 42)
    with pytest.raises(ConfigError, match="holds this run already"):
        sft_of(work, resume=False).train(arm, 42)
    (tmp_path / "full" / "random-seed42").mkdir(parents=True)
    (tmp_path / "full" / "random-seed42" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds no run of its-train sft"):
        sft_of(work, out=tmp_path).train(arm, 42)


def test_a_base_that_cannot_be_trained_leaves_no_run_behind(work, prepared, tmp_path):
    base = shutil.copytree(BASE, tmp_path / "base")
    (base / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        sft_of(work, base=str(base), out=tmp_path / "runs").train(read_arm(prepared, "random"), 42)
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_a_base_without_a_chat_template_leaves_no_run_behind(work, prepared, tmp_path):
    base = shutil.copytree(BASE, tmp_path / "base", ignore=shutil.ignore_patterns("chat_template.jinja"))
    with pytest.raises(ConfigError, match="base has no chat template"):
        sft_of(work, base=str(base), out=tmp_path / "runs").train(read_arm(prepared, "random"), 42)
    assert not (tmp_path / "runs").exists()
