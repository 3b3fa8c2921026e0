"""`its-train` as a whole: what it says where a package that it needs is not there."""

import sys

import pytest
from click.testing import CliRunner

from its_training.cli import is_ours, main


def test_without_the_extra_a_command_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as Python itself marks what is not to be found
    done = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == 1
    [line] = done.output.splitlines()
    assert "'datasets' is not installed" in line
    assert "pip install 'its-proxy[train]'" in line


@pytest.mark.parametrize(
    ("module", "ours"), [("its_training.gone", True), ("its_proxy", True), ("torch.nn", False), ("", False)]
)
def test_a_module_of_ours_that_is_gone_is_our_fault(module, ours):
    assert is_ours(module) is ours
