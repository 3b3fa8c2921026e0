"""The CI examples: YAML of the right shape, and every its-proxy command in them is one that its-proxy understands."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from its_proxy.cli import main

FOLDER = Path(__file__).parent.parent.parent / "docs" / "ci"


def read(name: str) -> dict[Any, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def github_scripts() -> list[str]:
    steps = read("github-actions.yml")["jobs"]["gate"]["steps"]
    return [step["run"] for step in steps if "run" in step]


def gitlab_scripts() -> list[str]:
    return read("gitlab-ci.yml")["gate"]["script"]


def commands_of(scripts: list[str]) -> list[list[str]]:
    """The arguments of every its-proxy call; redirections and the background mark are the shell's own."""
    lines = [line for script in scripts for line in script.replace("\\\n", " ").splitlines()]
    calls = [re.split(r"\s(?:[0-9]?>|&)", line)[0] for line in lines if line.strip().startswith("its-proxy ")]
    return [shlex.split(call)[1:] for call in calls]


def parse(arguments: list[str]) -> dict[str, Any]:
    """By click's own parser, nothing is run."""
    with click.Context(main, info_name="its-proxy") as context:
        name, command, rest = main.resolve_command(context, arguments)
        assert command is not None
        with command.make_context(name, rest, parent=context) as parsed:
            return {"command": name, **parsed.params}


@pytest.mark.parametrize("scripts", [github_scripts(), gitlab_scripts()], ids=["github", "gitlab"])
def test_they_serve_evaluate_and_gate_with_options_that_exist(scripts):
    served, evaluated, gated = (parse(arguments) for arguments in commands_of(scripts))
    assert (served["command"], evaluated["command"], gated["command"]) == ("serve", "evaluate", "gate")
    assert served["model"] == evaluated["model"]
    assert evaluated["out"] == gated["new"]
    assert gated["metric"] == f"maj@{evaluated['n']}"
    assert gated["margin"] == 2


def test_a_word_that_is_no_option_would_be_found():
    with pytest.raises(click.NoSuchOption):
        parse(["gate", "new.jsonl", "--against", "old.jsonl", "--metrics", "maj@8", "--margin", "2"])


def test_what_they_keep_is_what_the_commands_write():
    steps = read("github-actions.yml")["jobs"]["gate"]["steps"]
    (kept,) = (step["with"]["path"].split() for step in steps if "upload-artifact" in step.get("uses", ""))
    artifacts = read("gitlab-ci.yml")["gate"]["artifacts"]
    for files in (kept, [*artifacts["paths"], artifacts["reports"]["junit"]]):
        assert sorted(files) == ["gate.md", "gate.xml", "new.json", "new.jsonl", "serve.log"]


def test_undecided_is_the_exit_code_that_gitlab_lets_pass():
    from its_proxy.cli_evaluate import EXIT_CODES

    assert read("gitlab-ci.yml")["gate"]["allow_failure"] == {"exit_codes": EXIT_CODES["undecided"]}


def test_the_workflow_is_started_by_hand_with_a_checkpoint():
    # `on` is a boolean to YAML 1.1.
    assert read("github-actions.yml")[True]["workflow_dispatch"]["inputs"]["checkpoint"]["required"] is True
