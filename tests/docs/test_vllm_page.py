"""docs/vllm-plugin.md: its commands name the middleware as vLLM imports it, and its table is what the code reads."""

import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from its_vllm import options

PAGE = (Path(__file__).parent.parent.parent / "docs" / "vllm-plugin.md").read_text("utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_command_names_the_middleware(block):
    words = shlex.split(block.replace("\\\n", " "))
    module, _, name = words[words.index("--middleware") + 1].rpartition(".")
    assert inspect.isclass(getattr(import_module(module), name))


def test_the_table_holds_every_variable_that_is_read():
    read = set(re.findall(r"ITS_VLLM_\w+", inspect.getsource(options)))
    assert set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)) == read
    assert set(re.findall(r"ITS_VLLM_\w+", PAGE)) == read
