"""docs/choosing-n.md: its commands parse, its settings are read, and its figures are those of docs/cheaper-votes.md."""

import re

import click
import pytest

from its_proxy.cli import main
from its_proxy.settings import load_settings
from tests.docs.blocks import blocks, commands, page

PAGE = "choosing-n.md"


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


MEASURED = page("cheaper-votes.md")
SHORT = {row[1]: (row[0], row[2]) for row in rows(MEASURED.partition("## In short")[2].partition("\n## ")[0])}
MATCHED = {row[0].strip("*"): row for row in rows(MEASURED.partition(", matched:")[2].partition("\n## ")[0])}
ECONOMY = [row for row in rows(page(PAGE)) if row[0] in SHORT and row[0][0] == "`"]


@pytest.mark.parametrize("words", commands(PAGE), ids=" ".join)
def test_every_command_parses(words):
    with click.Context(main, info_name="its-proxy") as context:
        name, command, rest = main.resolve_command(context, list(words))
        assert command is not None
        command.make_context(name, rest, parent=context).close()


def test_its_settings_are_read(tmp_path):
    (tmp_path / "its.yaml").write_text(blocks(PAGE, "yaml")[0])
    settings = load_settings(tmp_path / "its.yaml", {}, {})
    assert settings.vote_for(settings.models[0]).first == "auto"


def test_the_table_of_settings_shows_four_of_the_ways():
    assert len(ECONOMY) == 4


@pytest.mark.parametrize("row", ECONOMY, ids=lambda row: row[0])
def test_a_way_saves_what_was_measured(row):
    settings, saved, same, p95 = row
    way, told = SHORT[settings]
    assert f"{saved} saved" in told
    assert f"p95 {p95.split()[0]}" in told
    assert MATCHED[way.strip("*")][4] == same.rstrip("%")


def test_the_table_of_n_is_what_was_measured():
    shown = {row[0]: row[1] for row in rows(page(PAGE)) if re.fullmatch(r"\d+", row[0])}
    assert shown == {n: MATCHED[f"n={n}"][2] for n in ("1", "2", "4", "8", "32")}
