"""The whole path once, tiny: the checkpoints learn nothing, but every file is as a real run leaves it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from its_proxy.candidates import read_candidates, read_items
from its_proxy.checkpoint import check_weights, open_checkpoint
from its_proxy.codesign.errors import ConfigError
from its_proxy.upstreams.embedded import EmbeddedUpstream
from its_training.demo.build import Demo
from its_training.demo.recipe import DemoRecipe, tiny
from its_training.progress import Stages

# About half a minute on a quiet core; the machine may be busy.
pytestmark = pytest.mark.timeout(400)

CHECKOUT = Path(__file__).resolve().parents[3]
TINY = ("--tiny", "--bases", "seen", "--arms", "none,random")


def its_train(*options, cwd):
    """In a process of its own: training changes settings of its libraries for the whole process."""
    environ = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'training'}", "OMP_NUM_THREADS": "1"}
    code = "from its_training.cli import main; main()"
    command = [sys.executable, "-c", code, "demo", *options]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=380)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = its_train("--out", "out", "--package", "package", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_sealed_checkpoints_open_with_their_weights_and_probes(run):
    for arm in ("none", "random"):
        checkpoint = open_checkpoint(run / "out" / "seen" / f"demo-{arm}")
        check_weights(checkpoint)
        manifest = checkpoint.manifest
        assert manifest.pair.trained_with == manifest.pair.serve_with
        assert manifest.pair.serve_with.strategy == arm
        assert len(manifest.probes) == 2
        assert {row.metric for row in manifest.evaluation} == {"pass@1", "maj@8", "greedy"}


def test_arms_are_matched_and_siblings_of_each_other(run):
    none, random = (open_checkpoint(run / "out" / "seen" / f"demo-{arm}").manifest for arm in ("none", "random"))
    assert none.provenance["ids_sha256"] == random.provenance["ids_sha256"]
    assert none.provenance["dataset_sha256"] != random.provenance["dataset_sha256"]
    assert set(none.probes[0].logprobs.siblings) == {"demo-random"}


def test_the_report_names_command_seeds_and_digests(run):
    report = (run / "out" / "demo.md").read_text()
    manifest = open_checkpoint(run / "out" / "seen" / "demo-random").manifest
    assert "its-train demo --bases seen --arms none,random --seed 7 --threads 1 --tiny" in report
    assert manifest.provenance["weights_sha256"]["model.safetensors"] in report
    assert "none: asked none - asked random, pass@1" in report


def test_candidates_are_kept_for_every_cell(run):
    for cell in ("none-asked-none", "none-asked-random", "random-asked-random", "random-asked-none"):
        rows = read_candidates(run / "out" / "seen" / "runs" / "test" / cell / f"{cell}.jsonl")
        assert len(rows) == 8
        assert all(len(row.candidates) == 8 and row.greedy is not None for row in rows)


def test_the_package_holds_what_serving_needs_and_nothing_else(run):
    package = run / "package"
    assert len(read_items(package / "problems.jsonl")) == 8
    assert sorted(path.name for path in package.iterdir()) == ["demo-none", "demo-random", "problems.jsonl"]
    assert {path.name for path in (package / "demo-none").iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "its.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


async def test_the_engine_confirms_the_stored_log_probabilities(run):
    """Measured by teacher forcing when it was sealed, read back here through the serving engine."""
    folder = run / "package" / "demo-random"
    upstream = EmbeddedUpstream("embedded", {"demo-random": folder})
    try:
        for probe in open_checkpoint(folder).manifest.probes:
            body = {"model": "demo-random", "messages": probe.messages, "max_tokens": 1, "prompt_logprobs": 0}
            reply = await upstream.complete({**body, "return_token_ids": True}, "probe")
            assert reply["prompt_token_ids"] == probe.prompt_token_ids
            measured = [next(iter(entry.values()))["logprob"] for entry in reply["prompt_logprobs"][1:]]
            assert measured == pytest.approx(probe.logprobs.this[: len(measured)], abs=1e-3)
    finally:
        await upstream.close()


def test_a_second_run_finds_every_stage_finished(run):
    base = run / "out" / "seen" / "base" / "model.safetensors"
    sealed = run / "out" / "seen" / "demo-random" / "its.json"
    before = (base.stat().st_mtime_ns, sealed.stat().st_mtime_ns)
    said = StringIO()
    again = Demo(run / "out", tiny(DemoRecipe()), Stages(Console(file=said)))
    command = open_checkpoint(sealed.parent).manifest.provenance["command"]
    again.run(("seen",), ("none", "random"), command, run / "again.md")
    assert said.getvalue().count("already there") == 1 + 2 + 4 + 4 + 2
    assert (base.stat().st_mtime_ns, sealed.stat().st_mtime_ns) == before
    assert (run / "again.md").read_text() == (run / "out" / "demo.md").read_text()


def test_another_recipe_in_the_same_folder_is_refused(run):
    other = Demo(run / "out", replace(tiny(DemoRecipe()), seed=8), Stages(Console(file=StringIO())))
    with pytest.raises(ConfigError, match="seen/base was built by another recipe"):
        other.build_base("seen")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--arms", "none,smilar"), "Error: --arms: unknown name 'smilar' (known: none, similar, dissimilar, random)"),
        (("--bases", ""), "Error: --bases: name at least one (known: seen, unseen)"),
        (("--out", "file/out"), "Error: --out: cannot write file/out: Not a directory (choose a writable folder)"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_1(tmp_path, options, said):
    (tmp_path / "file").touch()
    done = its_train(*options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, said + "\n")


def test_help_does_not_wait_for_torch(tmp_path):
    code = "import sys; from its_training import cli; print('torch' in sys.modules, 'trl' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'training'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_stage_records_its_inputs_as_json(run):
    recorded = json.loads((run / "out" / "seen" / "arms" / "random" / "stage.json").read_text())
    assert recorded["arm"]["strategy"] == "random"
    assert len(recorded["base_sha256"]) == 64
