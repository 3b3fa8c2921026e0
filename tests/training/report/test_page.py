"""The report of a small run: every number comes from its files, and what they lack is named."""

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import its_proxy
from its_proxy.candidates import read_candidates
from its_proxy.codesign.errors import ConfigError
from its_proxy.evaluate import score
from its_training.cli import main
from its_training.files import file_sha256
from its_training.report.found import gather
from its_training.report.loss import losses
from its_training.report.page import page
from its_training.report.write import write_report

DEMO = Path(its_proxy.__file__).parent / "demo"


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def item(number, answers, gold="4", strategy="random", **fields):
    candidates = [
        {"index": index, "text": f"\\boxed{{{answer}}}", "answer": answer, "finish_reason": "stop",
         "completion_tokens": 5}
        for index, answer in enumerate(answers)
    ]  # fmt: skip
    asked = {"temperature": 0.8, "asked": {"seed": 3, "engine": "in process"}, "strategy": strategy}
    item = {"id": str(number), "query": f"{number}?", "gold": gold, "model": "random-s7"}
    return {**item, **asked, "candidates": candidates, **fields}


@pytest.fixture
def run(tmp_path):
    """A run as prepare, sft and grid leave it, small."""
    folder = tmp_path / "run"
    lines(folder / "cells" / "random.jsonl", [item(1, "445"), item(2, "544"), item(3, "999")])
    lines(folder / "metrics.jsonl", [{"step": 10, "loss": 1.5}, {"step": 20, "loss": 0.5}, {"train_runtime": 3.0}])
    lines(folder / "data" / "dropped.jsonl", [{"id": "a", "step": "decontaminate", "reason": "8-gram of gsm8k-test"},
                                              {"id": "b", "step": "decontaminate", "reason": "8-gram of gsm8k-test"},
                                              {"id": "c", "step": "length", "reason": "9000 tokens"}])  # fmt: skip
    step = {"name": "deduplicate", "kept": 9, "dropped": 1, "says": "equal words"}
    sidecar = {"name": "goats", "seed": 7, "steps": [step],
               "arms": {"random": {"rows": 9, "sha256": "5" * 64, "ids_sha256": "6" * 64}}}  # fmt: skip
    (folder / "data" / "dataset.json").write_text(json.dumps(sidecar))
    (folder / "recipe.yaml").write_text("name: goats\nlabel: ours\noptimizer: {learning_rate: 0.001, epochs: 3}\n")
    shutil.copy(DEMO / "demo-random" / "its.json", folder / "its.json")
    return folder


def cells_of(text, first):
    """The cells of the table row that starts with `first`."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_scores_are_those_of_the_candidates_file(run):
    text = page(gather([run]))
    result = score(read_candidates(run / "cells" / "random.jsonl"))
    for shown in (str(result.pass_at_1), str(result.majority), "66.7"):
        assert shown in cells_of(text, "1")
    assert f"| 1 | run/cells/random.jsonl | 3 | `{json.dumps({'engine': 'in process'})}` |" in text


def test_steps_drops_settings_and_losses_are_those_of_the_files(run):
    text = page(gather([run]))
    assert cells_of(text, "deduplicate") == ["deduplicate", "9", "1", "equal words"]
    assert cells_of(text, "decontaminate")[1:] == ["8-gram of gsm8k-test", "2"]
    assert "Dropped rows of `run/data/dropped.jsonl`: 3" in text
    assert cells_of(text, "optimizer.learning_rate")[1] == "0.001"
    assert cells_of(text, "run/metrics.jsonl")[1:] == ["2", "1.5000", "0.5000", "0.5000"]
    assert f"| run/recipe.yaml | `{file_sha256(run / 'recipe.yaml')}` |" in text


def test_prompts_seeds_and_versions_are_the_manifests(run):
    text = page(gather([run]))
    manifest = json.loads((run / "its.json").read_text())
    assert manifest["probes"][0]["messages"][0]["content"] in text
    assert cells_of(text, "versions.torch")[1] == manifest["provenance"]["versions"]["torch"]
    assert "template personas (its-proxy's own taxonomy, no language model)" in text
    assert "86.5 [84.9, 88.0]" in text
    assert '{"persona": 7, "sampling": 0, "train": 7}' in text


def test_what_is_not_there_is_named_and_nothing_is_made_up(run):
    assert "- greedy replies of run/cells/random.jsonl" in page(gather([run]))
    alone = page(gather([run / "cells" / "random.jsonl"]))
    for missing in ("training logs", "settings", "data set", "dropped rows", "manifest"):
        assert f"\n- {missing}" in alone
    assert "\n- candidates files" not in alone
    assert "loss.png" not in alone
    only_log = page(gather([run / "metrics.jsonl"]))
    assert "Candidates files: not in these files." in only_log
    assert "maj@" not in only_log.replace("maj@k", "")


def test_equal_runs_give_equal_bytes_wherever_they_lie(run, tmp_path):
    first = [path.read_bytes() for path in write_report([run], tmp_path / "one")]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run, elsewhere / "run")
    os.utime(elsewhere / "run" / "its.json", (0, 0))
    second = {path.name: path.read_bytes() for path in write_report([elsewhere / "run"], tmp_path / "two")}
    assert list(second.values()) == first
    assert second["loss.png"].startswith(b"\x89PNG")
    assert b"<svg" in second["loss.svg"]


def test_a_log_cut_off_in_the_writing_and_odd_entries_are_read_as_far_as_they_go(tmp_path):
    log = lines(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"loss": True}, []])
    log.write_bytes(log.read_bytes() + b'{"step": 3, "lo')
    assert losses(gather([log]).logs[0]) == [(1.0, 2.0)]


def test_of_a_runs_checkpoints_the_one_trained_longest_speaks_for_it(run):
    document = json.loads((run / "its.json").read_text())
    for name, step, seed in (("checkpoint-9", 9, 1), ("checkpoint-10", 10, 1), ("seed2", 4, 2)):
        (run / name).mkdir()
        document["provenance"] |= {"step": step, "seed": seed}
        (run / name / "its.json").write_text(json.dumps(document))
    (run / "its.json").unlink()
    text = page(gather([run]))
    after = text[text.index("## Versions and provenance") : text.index("## Missing")]
    assert [line for line in after.splitlines() if line.startswith("| step |")] == ["| step | 10 |", "| step | 4 |"]
    assert text.count("A probe's query as the model reads it") == 1


def test_text_of_a_file_stays_in_its_cell(run):
    (run / "recipe.yaml").write_text(json.dumps({"notes": "a | b\n| c |"}))
    assert "| notes | a \\| b\\n\\| c \\| |\n" in page(gather([run]))


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda run: lines(run / "cells" / "random.jsonl", [item(1, "4"), item(2, "44")]),
     r"random\.jsonl: one score needs rows of one kind"),
    (lambda run: lines(run / "cells" / "random.jsonl", [{**item(1, "4"), "model": None}]), r"random\.jsonl:1: model"),
    (lambda run: (run / "recipe.yaml").write_text("a: [1"), r"recipe\.yaml cannot be read"),
    (lambda run: (run / "data" / "dataset.json").write_text("[]"), r"dataset\.json is no mapping"),
    (lambda run: (run / "metrics.jsonl").write_text("x\n{}\n"), r"metrics\.jsonl:1: not JSON"),
])  # fmt: skip
def test_a_broken_file_is_named_and_nothing_is_written(run, tmp_path, spoil, said):
    spoil(run)
    with pytest.raises(ConfigError, match=said):
        write_report([run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("options", "said"), [
    ((), "name runs, or --model-card CHECKPOINT (one of the two)"),
    (("nowhere", "--out", "out"), "nowhere is not there (a run's folder is meant, or a candidates file)"),
    (("empty", "--out", "out"),
     "empty: nothing to report (candidates files, metrics.jsonl, dataset.json, recipe.yaml, its.json)"),
    (("empty",), "--out is missing (the folder for report.md and its pictures)"),
    (("empty", "--stdout"), "--stdout goes with --model-card (a report is a page and its pictures)"),
    (("log", "--out", "file/out"), "cannot write file/out: Not a directory (choose a writable --out)"),
])  # fmt: skip
def test_bad_input_is_one_clear_line_and_exit_code_1(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    lines(tmp_path / "log" / "metrics.jsonl", [{"step": 1, "loss": 2.0}])
    done = CliRunner().invoke(main, ["report", *options])
    assert (done.exit_code, done.stderr) == (1, f"Error: {said}\n")
