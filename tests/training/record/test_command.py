"""The command itself, in a process of its own: it sets its libraries up for the whole process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from its_proxy.checkpoint import open_checkpoint
from its_training.cli import main
from tests.training.record.conftest import DEMO

CHECKOUT = Path(__file__).resolve().parents[3]


def its_train(*options, cwd):
    environ = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'training'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from its_training.cli import main; main()", *map(str, options)]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=110)


def test_the_power_of_the_probes_is_printed(copy, tmp_path):
    copy("random")
    siblings = ("--sibling", f"similar={DEMO / 'demo-similar'}", "--sibling", f"twin={DEMO / 'demo-random'}")
    done = its_train("record", "this", "--base", DEMO / "demo-none", *siblings, "--probes", "3", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("│")}
    assert rows["base"].split()[-2] == rows["similar"].split()[-2] == "always"
    assert "0.0000" in rows["twin"]
    assert "no power" in rows["twin"]
    assert "No power: twin cannot be told from this checkpoint with these probes" in done.stdout
    assert "note: 3 probes do not tell every reference apart: 8 were taken" in done.stdout
    assert len(open_checkpoint(tmp_path / "this").manifest.probes) == 8


@pytest.mark.parametrize(("options", "said"), [
    ((), "--base is missing (the checkpoint that this one was fine-tuned from)"),
    (("--base", "b", "--sibling", "x"), "--sibling x: a name and a folder are needed (--sibling random=runs/random)"),
    (("--base", "b", "--sibling", "this=x"),
     "--sibling this=x: a name and a folder are needed (--sibling random=runs/random)"),
    (("--base", "b", "--arm", "x"), "--dataset and --arm go together (a prepared folder, and one of its arms)"),
    (("--derive", "x", "--out", "y"), "--out does not go with --derive (FROM's manifest says it already)"),
    (("--base", "b", "--upstream", "http://x/v1"),
     "--upstream goes with --derive (a checkpoint is recorded from its saved files)"),
    (("--derive", "x", "--upstream", "gpu:8000"), "--upstream gpu:8000: not a URL (such as http://gpu:8000/v1)"),
    (("--derive", "x", "--upstream", "http://x/v1", "--upstream-key-env", "ITS_NO_SUCH"),
     "--upstream-key-env ITS_NO_SUCH: no such variable (it holds the server's key)"),
    (("--base", "b", "--evaluation", "x.jsonl"), "--evaluation x.jsonl: which benchmark and split is it? "
     "(--evaluation BENCHMARK:SPLIT=FILE, such as gsm8k:test=candidates.jsonl)"),
    (("--base", "b", "--evaluation", "a:test=x.jsonl"), "x.jsonl: No such file or directory"),
])  # fmt: skip
def test_bad_input_is_one_clear_line_and_exit_code_1(options, said):
    done = CliRunner().invoke(main, ["record", "checkpoint", *options])
    assert (done.exit_code, done.stderr) == (1, f"Error: {said}\n")
