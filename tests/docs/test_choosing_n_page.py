"""docs/choosing-n.md: its commands run, its settings are read, and its figures are those of docs/cheaper-votes.md."""

import json
import re

import pytest

from its_proxy.settings import load_settings
from tests.command import command
from tests.docs.blocks import Reader, blocks, commands, page
from tests.scripted import Say, scripted_upstream
from tests.serving import manifest, tokens_of, write_checkpoint

PAGE = "choosing-n.md"


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


MEASURED = page("cheaper-votes.md")
SHORT = {row[1]: (row[0], row[2]) for row in rows(MEASURED.partition("## In short")[2].partition("\n## ")[0])}
MATCHED = {row[0].strip("*"): row for row in rows(MEASURED.partition(", matched:")[2].partition("\n## ")[0])}
ECONOMY = [row for row in rows(page(PAGE)) if row[0] in SHORT and row[0][0] == "`"]


async def test_its_commands_measure_a_model_and_vote_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = write_checkpoint(tmp_path / "qwen", manifest("none"))
    (tmp_path / "items.jsonl").write_text('{"id": "a", "query": "What is 2 + 5?", "gold": "7"}\n')
    evaluate, replay = commands(PAGE)

    def say(body, number):
        return Say("x", finish_reason="length") if body.get("return_token_ids") else Say("so it is \\boxed{7}")

    async with scripted_upstream(say, ["qwen"]) as upstream:
        upstream.tokens = lambda body: tokens_of(body["messages"])
        reader = Reader()
        try:
            await reader.run(["serve", "--upstream", upstream.url, "--model", "qwen", "--checkpoint", str(checkpoint)])
            evaluated = await reader.run(evaluate)
        finally:
            await reader.leave()
        assert evaluated.code == 0, evaluated.err
    replayed = await command(*replay)
    assert replayed.code == 0, replayed.err
    assert "exact" in replayed.out
    assert len(json.loads((tmp_path / "candidates.jsonl").read_text())["candidates"]) == 16


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
