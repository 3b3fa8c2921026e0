import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import its_proxy
from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.errors import ConfigError
from its_training.cli import main
from its_training.report.card import BEGIN, END, card, write_card

DEMO = Path(its_proxy.__file__).parent / "demo"


@pytest.fixture
def checkpoint(tmp_path):
    return Path(shutil.copytree(DEMO / "demo-random", tmp_path / "demo-random"))


def edit(folder, **changes):
    """Changes what a manifest may change without changing its pair."""
    path = folder / "its.json"
    document = json.loads(path.read_text())
    for key, value in changes.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(document))


def front_of(text):
    head, matter, _ = text.split("---\n", 2)
    assert head == ""
    return yaml.safe_load(matter)


def row(value, low, high, asked, metric="maj@8", **fields):
    return {"benchmark": "sums", "split": "test", "items": 1000, "metric": metric, "value": value, "ci95": [low, high],
            "asked": asked, **fields}  # fmt: skip


def test_the_front_matter_is_what_the_hub_reads(checkpoint):
    edit(checkpoint, provenance={"base_model": "Qwen/Qwen2.5-7B-Instruct", "dataset": {"dataset": "openai/gsm8k"}})
    assert front_of(card(checkpoint)) == {
        "license": "apache-2.0",
        "base_model": "Qwen/Qwen2.5-7B-Instruct",
        "base_model_relation": "finetune",
        "datasets": ["openai/gsm8k"],
        "tags": ["input-time-scaling", "its-proxy", "its-strategy-random"],
    }


def test_what_is_no_hub_id_and_no_known_license_is_not_passed_for_one(checkpoint):
    edit(checkpoint, provenance={"base_model": "/data/base", "licenses": {"weights": "Our Terms 2"}})
    front = front_of(card(checkpoint))
    assert (front["license"], front["license_name"]) == ("other", "Our Terms 2")
    assert "base_model" not in front
    assert "| base | base |" in card(checkpoint)
    edit(checkpoint, provenance={"licenses": {}})
    text = card(checkpoint)
    assert "license" not in front_of(text)
    assert "| licenses | not recorded |" in text
    edit(checkpoint, provenance={"licenses": {"base": "mit", "dataset": "apache-2.0"}})
    text = card(checkpoint)
    assert front_of(text)["license"] == "mit"
    assert "| licenses | base: mit, dataset: apache-2.0 |" in text


def test_every_number_is_the_manifests(checkpoint):
    text = card(checkpoint)
    rows = [line for line in text.splitlines() if line.startswith("| demo-word-problems |")]
    evaluation = open_checkpoint(checkpoint).manifest.evaluation
    assert len(rows) == len(evaluation) == 3
    for line, known in zip(rows, evaluation, strict=True):
        value, low, high = (f"{100 * number:.1f}" for number in (known.value, *known.ci95))
        cells = f"| test | {known.items} | {known.metric} | {value} [{low}, {high}] | random |"
        assert cells in line
    assert f"| pair id | `{open_checkpoint(checkpoint).pair_id}` |" in text


def test_writing_twice_changes_nothing_and_what_others_wrote_stays(checkpoint):
    readme = checkpoint / "README.md"
    readme.write_text("---\nlibrary_name: transformers\ntags:\n- trl\nlicense: mit\n---\n\n# Mine\n\nWords.\n")
    write_card(checkpoint)
    once = readme.read_text()
    assert front_of(once)["library_name"] == "transformers"
    assert front_of(once)["tags"][:2] == ["trl", "input-time-scaling"]
    assert front_of(once)["license"] == "apache-2.0"
    assert once.index("Words.") < once.index(BEGIN)
    readme.write_text(once.replace("Words.", "Other words.") + "\nAfter.\n")
    write_card(checkpoint)
    assert readme.read_text() == once.replace("Words.", "Other words.") + "\nAfter.\n"


def test_a_claim_that_one_side_alone_hurts_needs_intervals_that_lie_apart(checkpoint):
    matched = row(0.90, 0.88, 0.92, "random")
    edit(checkpoint, evaluation=[matched])
    assert "was not measured here, so nothing is said about it" in card(checkpoint)
    edit(checkpoint, evaluation=[matched, row(0.87, 0.85, 0.89, "none", forced=True)])
    assert "the intervals do not tell the two apart" in card(checkpoint)
    edit(checkpoint, evaluation=[matched, row(0.60, 0.57, 0.63, "none", forced=True)])
    text = card(checkpoint)
    assert "Asked `none`, it lost: maj@8 60.0 [57.0, 63.0] instead of 90.0 [88.0, 92.0] on 1000 items of sums" in text
    assert "| none (forced) |" in text


@pytest.mark.parametrize("other", [
    row(0.6, 0.57, 0.63, "none", metric="pass@1"),
    row(0.6, 0.57, 0.63, "none", items=10),
    row(0.6, 0.57, 0.63, "none", split="validation"),
    row(0.6, 0.57, 0.63, "none", temperature=0),
    row(0.6, 0.57, 0.63, "similar"),
    row(0.6, 0.57, 0.63, "homemade"),
])  # fmt: skip
def test_numbers_of_other_conditions_carry_no_claim(checkpoint, other):
    edit(checkpoint, evaluation=[row(0.90, 0.88, 0.92, "random"), other])
    assert "it lost" not in card(checkpoint)


def test_limits_are_said(checkpoint):
    text = card(checkpoint)
    assert "Its personas are template personas, a stand-in; none was written by a language model." in text
    assert "are unpublished; those used here are not its." in text
    assert "Nothing here says that personas help" in text
    plain = card(DEMO / "demo-none")
    assert "template personas" not in plain


def test_a_recipe_is_called_what_it_is_like(checkpoint):
    edit(checkpoint, provenance={"recipe": {"name": "qwen2.5-32b", "label": "LIMO-like"}})
    assert "| recipe | qwen2.5-32b (LIMO-like) |" in card(checkpoint)


def test_a_derivative_says_that_its_origins_numbers_are_not_its_own(checkpoint):
    edit(checkpoint, evaluation=[], provenance={"derived_from": {"distance": 0.0168}})
    text = card(checkpoint)
    assert "Nothing was measured on these weights." in text
    assert "0.0168 nats a token away over the probes; its numbers are not theirs." in text


def test_a_folders_odd_name_becomes_one_that_a_shell_takes(tmp_path):
    folder = Path(shutil.copytree(DEMO / "demo-none", tmp_path / "my model; rm"))
    assert "vllm serve ./my-model-rm --served-model-name my-model-rm@" in card(folder)


def test_how_to_serve_names_the_pair_and_an_adapters_base(checkpoint):
    pair = open_checkpoint(checkpoint).pair_id[:8]
    assert f"vllm serve ./demo-random --served-model-name demo-random@{pair}\n" in card(checkpoint)
    (checkpoint / "config.json").unlink()
    (checkpoint / "adapter_config.json").write_text("{}")
    edit(checkpoint, provenance={"base_model": "Qwen/Qwen2.5-7B-Instruct"})
    text = card(checkpoint)
    assert f"vllm serve Qwen/Qwen2.5-7B-Instruct --enable-lora --lora-modules demo-random@{pair}=./demo-random" in text
    assert front_of(text)["base_model_relation"] == "adapter"


@pytest.mark.parametrize(("readme", "said"), [
    ("---\na: [1\n---\n", "its front matter is not YAML"),
    ("---\n- a\n---\n", "its front matter is not a mapping"),
    (f"{BEGIN}\n{BEGIN}\n{END}\n{END}\n", "its markers do not pair up"),
    (f"{END}\n{BEGIN}\n", "its markers do not pair up"),
    (f"{BEGIN}\n", "its markers do not pair up"),
])  # fmt: skip
def test_a_readme_that_cannot_be_kept_is_left_alone(checkpoint, readme, said):
    (checkpoint / "README.md").write_text(readme)
    with pytest.raises(ConfigError, match=said):
        write_card(checkpoint)
    assert (checkpoint / "README.md").read_text() == readme


def test_the_command_writes_the_card_or_prints_it(checkpoint, tmp_path):
    printed = CliRunner().invoke(main, ["report", "--model-card", str(checkpoint), "--stdout"])
    assert not (checkpoint / "README.md").exists()
    done = CliRunner().invoke(main, ["report", "--model-card", str(checkpoint)])
    assert (done.exit_code, done.stderr) == (0, f"wrote {checkpoint / 'README.md'}\n")
    assert (checkpoint / "README.md").read_text() == printed.stdout
    named = CliRunner().invoke(
        main, ["report", "--model-card", str(checkpoint), "--stdout", "--name", "qwen-7b-random"]
    )
    assert "vllm serve ./qwen-7b-random --served-model-name qwen-7b-random@" in named.stdout
    odd = CliRunner().invoke(main, ["report", "--model-card", str(checkpoint), "--name", "$(x)"])
    assert (odd.exit_code, odd.stderr.count("\n")) == (1, 1)
    missing = CliRunner().invoke(main, ["report", "--model-card", str(tmp_path / "none")])
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)
    assert "is not a folder" in missing.stderr
