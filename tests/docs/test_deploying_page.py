"""docs/deploying.md and docs/command-line.md: files, alerts and options that they name are there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from its_proxy import cli
from its_training.plan.command import command as plan

ROOT = Path(__file__).resolve().parents[2]
DEPLOYING = (ROOT / "docs/deploying.md").read_text("utf-8")
COMMANDS = (ROOT / "docs/command-line.md").read_text("utf-8")
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
# Made by whoever follows the page.
MADE = {"deploy/manifest.json", "deploy/kubernetes/base/manifests/NAME.json"}


def test_its_table_of_alerts_is_that_of_the_rules():
    table = dict(re.findall(r"^\| `(ItsProxy\w+)` \| (\w+) \|", DEPLOYING, re.MULTILINE))
    assert table == {rule["alert"]: rule["labels"]["severity"] for rule in ALERTS}
    assert f"{len(ALERTS)} alert rules" in DEPLOYING


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\bdeploy/[A-Za-z0-9_./-]*[A-Za-z0-9]", DEPLOYING)) - MADE))
def test_every_file_that_it_names_is_there(path):
    assert (ROOT / path).exists()


def blocks(page: str) -> Iterator[list[str]]:
    """The words of each command of its shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for command in re.findall(r"(?:^|\$\()(its-proxy [^|)\n]*)", block.replace("\\\n", " "), re.MULTILINE):
            yield shlex.split(command, comments=True)


@pytest.mark.parametrize("words", [*blocks(DEPLOYING), *blocks(COMMANDS)], ids=" ".join)
def test_every_command_is_one(words):
    command: click.Command | None = cli.main
    context = click.Context(cli.main, info_name=words[0])
    arguments = words[1:]
    while isinstance(command, click.Group):
        _, command, arguments = command.resolve_command(context, arguments)
    assert command is not None
    command.make_context(words[1], list(arguments))


def test_the_commands_that_write_json_are_those_it_lists():
    listed = re.search(r"with `--json`: (.*?)\. `its-proxy evaluate", COMMANDS, re.DOTALL)
    assert listed is not None
    found = {" ".join(path) for path, command in walk(cli.main) if writes_json(command)}
    assert writes_json(plan)
    assert set(re.findall(r"`([^`]+)`", listed[1])) == found | {"its-train plan", "its-train grid recommend"}


def walk(group: click.Group, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, *above, name)
        else:
            yield (*above, name), command


def writes_json(command: click.Command) -> bool:
    return any(isinstance(one, click.Option) and one.is_flag and "--json" in one.opts for one in command.params)
