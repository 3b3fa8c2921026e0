"""Every its-proxy and its-train command that a page shows is one that they understand."""

import re
import shlex
from pathlib import Path

import click
import pytest

from its_proxy.cli import main as its_proxy
from its_training.cli import main as its_train
from tests.docs.blocks import fenced

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"its-proxy": its_proxy, "its-train": its_train}
COMMAND = re.compile(r"^ *(?:\$ |\.venv/bin/)?(its-proxy|its-train) (.*)$", re.MULTILINE)


def shown() -> list[tuple[str, str, str]]:
    """(page, program, arguments); `...` and `…` stand for more, and such a command is no whole one."""
    found = []
    for path in PAGES:
        for language, block in fenced(path.read_text("utf-8")):
            if language not in ("", "sh", "shell", "bash"):
                continue
            for program, rest in COMMAND.findall(re.sub(r"\\\n *", "", block)):
                found.append((path.name, program, re.split(r"\s(?:[0-9]?>|[|&<])", rest)[0]))
    return [command for command in found if not re.search(r"\.\.\.(?!\S)|…", command[2])]


def parse(group: click.Group, program: str, words: list[str]) -> None:
    """By click's own parser, down to the command; nothing is run."""
    with group.make_context(program, words, resilient_parsing=False) as context:
        rest = [*context._protected_args, *context.args]
        while rest:
            assert isinstance(context.command, click.Group), rest
            name, command, rest = context.command.resolve_command(context, rest)
            assert command is not None
            context = command.make_context(name, rest, parent=context)
            rest = [*context._protected_args, *context.args] if isinstance(command, click.Group) else []


@pytest.mark.parametrize(("page", "program", "arguments"), shown(), ids=lambda text: text[:60])
def test_it_is_understood(page, program, arguments):
    parse(PROGRAMS[program], program, shlex.split(arguments, comments=True))


def test_many_pages_show_commands_and_a_wrong_one_would_be_found():
    assert len({page for page, _, _ in shown()}) > 8
    with pytest.raises(click.NoSuchOption):
        parse(its_proxy, "its-proxy", ["manifest", "show", "folder", "--yaml"])
    with pytest.raises(click.UsageError):
        parse(its_train, "its-train", ["--strategies", "wrapped", "prepare"])
