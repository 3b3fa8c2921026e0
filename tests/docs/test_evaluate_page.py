"""docs/evaluate.md: its commands are ones that its-proxy understands, and its table of layouts is the code's."""

import re
import shlex
from pathlib import Path

import click
import pytest

from its_proxy.cli import main
from its_proxy.layouts import LAYOUTS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "evaluate.md").read_text()
COMMANDS = re.findall(r"^its-proxy (.+)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("written", COMMANDS)
def test_every_command_on_the_page_parses(written):
    with click.Context(main, info_name="its-proxy") as context:
        name, command, rest = main.resolve_command(context, shlex.split(written))
        assert command is not None
        command.make_context(name, rest, parent=context).close()


def test_the_page_shows_all_three_commands():
    assert {written.split()[0] for written in COMMANDS} == {"evaluate", "replay", "gate"}


def test_every_layout_stands_in_the_table_with_its_number_of_items():
    rows = [line.split("|")[1:] for line in PAGE.splitlines() if line.startswith("| `")]
    listed = {name: row[2].replace(",", "").strip() for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert listed == {name: str(layout.n_items or "") for name, layout in LAYOUTS.items()}
