"""docs/writing-a-strategy.md: its package installed, its rows prepared, a checkpoint trained on them, and served."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from its_training.demo.problems import draw
from tests.command import ROOT, command
from tests.docs.blocks import Reader, blocks, commands
from tests.training.prepare.small_data import read_jsonl
from tests.training.sft.conftest import write_recipe

PAGE = "writing-a-strategy.md"
N_ROWS = 24
(MODULE,) = blocks(PAGE, "python")
SHELL = [shlex.split(line) for line in blocks(PAGE, "sh")[0].splitlines()]
IN_A_PROCESS_OF_ITS_OWN = [sys.executable, "-c", "from its_training.cli import main; main()"]


def run(words: list[str], path: str) -> None:
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """The folder in which the page's commands have been run, up to the trained checkpoint."""
    folder = tmp_path_factory.mktemp("strategy")
    (folder / "its-wrapped").mkdir()
    (folder / "its-wrapped/its_wrapped.py").write_text(MODULE)
    (folder / "its-wrapped/pyproject.toml").write_text(blocks(PAGE, "toml")[0])
    problems = [asdict(problem) for problem in draw(N_ROWS, "sft", 7)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    (folder / "its.yaml").write_text(blocks(PAGE, "yaml")[0])
    changes = {"data__arms": ["none", "wrapped"], "data__rows": N_ROWS, "optimizer__epochs": 1}
    write_recipe(folder / "recipe.yaml", folder / "data", **changes)
    install, prepare, train = SHELL
    # Offline, and into a folder of its own: the build backend and what the package needs are here.
    offline = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        "installed",
    ]
    before = Path.cwd()
    os.chdir(folder)
    try:
        run([sys.executable, "-m", *install, *offline], str(ROOT))
        for words in (prepare, train):
            run([*IN_A_PROCESS_OF_ITS_OWN, *words[1:]], path_of(folder))
    finally:
        os.chdir(before)
    return folder


def path_of(folder: Path) -> str:
    return f"{ROOT}:{ROOT / 'training'}:{folder / 'installed'}"


def test_the_rule_is_about_thirty_lines():
    assert len([line for line in MODULE.splitlines() if line.strip()]) <= 30


def test_its_rows_differ_from_the_plain_ones_by_the_instruction(world):
    plain, wrapped = (read_jsonl(world / f"data/arms/{arm}.jsonl") for arm in ("none", "wrapped"))
    assert len(plain) == N_ROWS
    texts = [row["persona"]["text"] for row in wrapped]
    assert len(set(texts)) == 4
    for text, one, other in zip(texts, plain, wrapped, strict=True):
        assert other["messages"][0]["content"] == f"{text}\n\n{one['messages'][0]['content']}"
        assert other["messages"][1:] == one["messages"][1:]


async def test_what_was_trained_is_served_with_the_very_rows(world, monkeypatch):
    monkeypatch.chdir(world)
    show, serve, explain = commands(PAGE)
    row = read_jsonl(world / "data/arms/wrapped.jsonl")[0]
    reader = Reader(variables={"PYTHONPATH": path_of(world)})
    try:
        assert "wrapped" in (await reader.run(show)).out
        await reader.run(serve)
        shown = (await reader.run(explain)).out
        explained = await reader.run(["explain", "--model", "wrapped", row["query"], "--json"])
        asked = await reader.run(["ask", "--model", "wrapped", "--n", "2", row["query"], "--json"])
    finally:
        await reader.leave()
    assert any(f"{text}\n\nHow many eggs" in shown for text in instructions(world))
    assert row["messages"][0]["content"] in strings_in(json.loads(explained.out))
    its = json.loads(asked.out)["its"]
    assert (its["strategy"], its["n"], its["forced"]) == ("wrapped", 2, False)


def strings_in(value: object) -> list[str]:
    """Every text in a JSON document."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [text for part in parts for text in strings_in(part)]
    return [value] if isinstance(value, str) else []


def instructions(world: Path) -> set[str]:
    return {row["persona"]["text"] for row in read_jsonl(world / "data/arms/wrapped.jsonl")}


async def test_without_its_name_the_checkpoint_is_refused_and_the_strategy_named(world, monkeypatch):
    monkeypatch.chdir(world)
    checkpoint = "runs/small/wrapped-seed42/final"
    refused = await command("manifest", "show", checkpoint, PYTHONPATH=path_of(world))
    assert refused.code == 1
    assert "unknown strategy 'wrapped'" in refused.err
    refused = await command("manifest", "--strategies", "wrapt", "show", checkpoint, PYTHONPATH=path_of(world))
    assert refused.code == 1
    assert "offered: wrapped" in refused.err
