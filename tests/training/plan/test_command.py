"""`its-train plan` as it is typed: what it prints, what it refuses, and that numbers do not wait for torch."""

import json
import sys

import pytest
from click.testing import CliRunner

from its_training.cli import main
from its_training.recipe import load_recipe

from .conftest import RECIPES


def plan(*arguments):
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def told(name, *options):
    done = plan(RECIPES / f"{name}.yaml", *options)
    return done, " ".join(done.output.split())


def test_every_item_is_told():
    done, said = told("qwen2.5-32b-limo-like")
    assert done.exit_code == 0
    for words in (
        "qwen2.5-32b-limo-like (LIMO-like)",
        "5: 5 arms x 1 seed",
        "32,763,876,352, all trained",
        "65.53 GB on each of 8 GPUs",
        "whole, they would take 24.91 GB",
        "89.33 GB of 141 GB: fits",
        "at least 8 of this memory, 8 planned",
        "938 = 1,000 rows x 15 epochs / 16",
        "at most 245,891,072: every row counted as 16384",
        "unknown: no throughput was stated",
        "15 of 458.69 GB to resume from, and 65.53 GB to serve",
    ):
        assert words in said


def test_what_cannot_fit_is_told_and_refused_with_exit_code_1():
    done, said = told("qwen2.5-32b-limo-like", "--memory-gb", 80)
    assert done.exit_code == 1
    assert "89.33 GB of 80 GB: does not fit" in said
    assert "Error: qwen2.5-32b-limo-like does not fit 8 x 80 GB by zero3" in said
    done, said = told("qwen2.5-32b-limo-like", "--memory-gb", 80, "--devices", 16)
    assert done.exit_code == 0
    assert "at least 16 of this memory, 16 planned" in said


def test_a_stated_throughput_gives_hours():
    _, said = told("qwen2.5-32b-limo-like", "--tokens-per-second", 1000)
    assert "at most 8.5 h each, 42.7 h for all runs, at the stated throughput" in said


def test_json_holds_the_same():
    done = plan(RECIPES / "lora-24gb.yaml", RECIPES / "demo.yaml", "--json")
    adapter, demo = json.loads(done.stdout)
    assert (adapter["n_parameters"], adapter["n_trained"]) == (7_615_616_512, 40_370_176)
    assert adapter["memory"]["total"] == pytest.approx(21.4e9, rel=0.01)
    assert (adapter["verdict"], adapter["n_runs"], adapter["course"]["hours"]) == ("fits", 15, None)
    assert demo["recipe"] == load_recipe(RECIPES / "demo.yaml").model_dump(mode="json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--devices", 3), "Error: qwen2.5-7b: optimizer.global_batch: 16 is no multiple of the 3 rows"),
        (("--dataset", "nowhere"), "Error: nowhere/dataset.json: No such file or directory"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_1(options, said):
    done = plan(RECIPES / "qwen2.5-7b.yaml", *options)
    assert done.exit_code == 1
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_a_recipe_that_is_not_there_is_one_line():
    done = plan("nowhere.yaml")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("Error: nowhere.yaml: no such file")


def test_numbers_do_not_wait_for_torch():
    import subprocess

    code = (
        "import sys; from its_training.cli import main\n"
        f"main(['plan', {str(RECIPES / 'demo.yaml')!r}], standalone_mode=False)\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"
