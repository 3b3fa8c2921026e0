"""What is told in one line, before anything is loaded."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from its_training.cli import main
from tests.training.sft.conftest import environment, write_recipe


def refused(*options):
    result = CliRunner().invoke(main, ["sft", *map(str, options)])
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    return result.output


@pytest.fixture
def recipe(tmp_path, prepared):
    def write(**changes):
        return write_recipe(tmp_path / "recipe.yaml", prepared, **changes)

    return write


def test_a_missing_recipe(tmp_path):
    assert "absent.yaml" in refused(tmp_path / "absent.yaml")


def test_fewer_processes_than_devices(recipe, tmp_path):
    path = recipe(compute__n_devices=2, compute__parallel="ddp")
    assert "compute.n_devices is 2, 1 processes were started" in refused(path, "--out", tmp_path)


def test_a_logger_that_is_not_installed(recipe, tmp_path):
    assert "trackio is not installed" in refused(recipe(), "--out", tmp_path, "--log-to", "trackio")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(recipe, tmp_path):
    tmp_path.chmod(0o500)
    assert "--out: cannot write" in refused(recipe(), "--out", tmp_path / "runs")


def test_an_out_that_is_a_file(recipe, tmp_path):
    (tmp_path / "runs").touch()
    assert "--out: cannot write" in refused(recipe(), "--out", tmp_path / "runs")


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from click.testing import CliRunner; from its_training.cli import main;"
        "print(CliRunner().invoke(main, ['sft', '--help']).output);"
        "print({'torch', 'transformers', 'trl', 'peft', 'accelerate', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert "RECIPE.yaml" in done.stdout
    assert done.stdout.endswith("set()\n")
