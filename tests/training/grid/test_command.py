"""The command on a small written grid, and a whole run on a tiny base of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from its_training.cli import main
from tests.training.grid.small_grid import spec, write_grid

CHECKOUT = Path(__file__).resolve().parents[3]
ACCURACIES = {
    ("none", "none"): 0.8,
    ("none", "random"): 0.4,
    ("similar", "similar"): 0.7,
    ("dissimilar", "dissimilar"): 0.7,
    ("random", "random"): 0.7,
    ("random", "none"): 0.5,
    ("mixed", "random"): 0.7,
    ("mixed", "none"): 0.6,
    ("base", "none"): 0.2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    write_grid(folder, spec(), ACCURACIES)
    return folder


def its_train(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_report_writes_a_page_and_pictures_that_open(folder, tmp_path):
    done = its_train("grid", "report", folder, "--out", tmp_path / "page.md")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page.md").read_text("utf-8")
    for heading in ("## maj@8, test", "## What one side alone costs", "What does the bypass-safe `mixed` arm cost?",
                    "## Which arm, served how? Chosen on validation", "## The vote of the ensemble"):  # fmt: skip
        assert heading in text
    assert "none: asked none - asked random" in text
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size[0] > 400
    assert (tmp_path / "page.svg").read_text("utf-8").startswith("<?xml")


def test_equal_grids_give_equal_files(folder, tmp_path):
    for name in ("a", "b"):
        assert its_train("grid", "report", folder, "--out", tmp_path / f"{name}.md").exit_code == 0
    first, second = ((tmp_path / f"{name}.svg").read_bytes() for name in ("a", "b"))
    assert first == second


def test_recommend_refuses_the_test_split_in_one_line(folder):
    done = its_train("grid", "recommend", folder, "--split", "test")
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        "Error: the test split does not choose (choose on validation, then report the choice on test)"
    ]


def test_recommend_says_none_where_personas_lose(folder):
    done = its_train("grid", "recommend", folder)
    assert done.exit_code == 0
    assert "no evidence for personas on this base" in done.output


def test_recommend_says_the_same_as_json(folder):
    done = its_train("grid", "recommend", folder, "--json")
    assert done.exit_code == 0, done.output
    choice = json.loads(done.output)
    assert choice["version"] == 1
    assert choice["verdict"] == "none"
    assert choice["way"] == {"trained": "none", "asked": "none"}
    assert choice["sentence"] in its_train("grid", "recommend", folder).output
    gains = [contender["gain"] for contender in choice["contenders"]]
    assert gains == sorted(gains, key=lambda gain: -gain[0])
    assert all(low <= value <= high for value, low, high in gains)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "grid.json").unlink(), "grid.json: No such file"),
        (lambda folder: next(folder.rglob("candidates.jsonl")).write_text("{}"), "is not the file that was measured"),
        (lambda folder: next(folder.rglob("candidates.jsonl")).unlink(), "is not there"),
        (lambda folder: (folder / "grid.json").write_text("{"), "grid.json"),
    ],
)
def test_a_damaged_grid_is_one_line(tmp_path, damage, said):
    write_grid(tmp_path, spec(), {("none", "none"): 0.5}, n_items=3)
    damage(tmp_path)
    done = its_train("grid", "report", tmp_path)
    assert done.exit_code == 1
    assert len(done.output.splitlines()) == 1
    assert said in done.output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"asked": ["no-such-arm"]}, "asked 'no-such-arm', which is no arm"),
        (
            {"arms": {"none": {"strategy": "nonsense"}}, "asked": ["none"], "ensemble": None},
            "arms.none: unknown strategy 'nonsense'",
        ),
        ({"ensemble": {"members": ["none", "no-such-arm"], "n": 8}}, "ensemble: no-such-arm: no such arm"),
        ({"ensemble": {"members": ["none", "random"], "n": 2}}, "ensemble.n is smaller than vote.n"),
        ({"train_seed": [1]}, "train_seed: unknown key"),
        ({"vote": {"n": 8}}, "vote needs temperature and max_tokens"),
        ({"base": {"name": "x"}}, "name either demo or checkpoints"),
    ],
)
def test_a_wrong_grid_file_is_one_line_and_nothing_is_written(tmp_path, change, said):
    document = json.loads(spec().model_dump_json(exclude_unset=True))
    (tmp_path / "grid.yaml").write_text(json.dumps({**document, **change}))
    done = its_train("grid", "run", tmp_path / "grid.yaml", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert said in done.output
    assert len(done.output.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(400)
def test_a_whole_run_goes_on_where_it_was_stopped(tmp_path):
    """Two arms on packaged demo checkpoints: nothing is trained, every cell is asked, the second run asks nothing."""
    demo = CHECKOUT / "its_proxy" / "demo"
    document = {
        "schema_version": 1,
        "name": "tiny",
        "base": {"name": "demo", "checkpoints": str(demo / "demo-{arm}"), "folder": str(demo / "demo-none")},
        "arms": {"none": {"strategy": "none"}, "random": {"strategy": "random"}},
        "asked": ["none", "random"],
        "train_seeds": [7],
        "persona_seeds": [7, 8],
        "validation": {"n": 3, "file": str(demo / "problems.jsonl")},
        "test": {"n": 4, "file": str(demo / "problems.jsonl")},
        "vote": {"n": 2, "temperature": 0.8, "max_tokens": 96},
    }
    (tmp_path / "grid.yaml").write_text(json.dumps(document))
    environ = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'training'}", "OMP_NUM_THREADS": "1"}
    code = "from its_training.cli import main; main()"
    command = [sys.executable, "-c", code, "grid", "run", "grid.yaml", "--out", "out"]
    first, second = (
        subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=180)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    assert "test: random (seed 7) asked as random, personas 8" in first.stdout
    assert "test: none (seed 7) asked as none, personas 8" not in first.stdout  # plain queries know no persona seed
    assert second.stdout == ""
    index = json.loads((tmp_path / "out" / "grid.json").read_text())
    assert len(index["cells"]) == 2 * (4 + 2 + 1)  # splits x (arms x ways + the base's ways + one more persona seed)
