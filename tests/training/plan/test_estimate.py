"""What fits, what does not, and what would; steps, tokens and hours from what is known."""

import json

import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.plan.alternatives import refuse_what_cannot_fit, what_fits
from its_training.plan.data import rows_of
from its_training.plan.estimate import Rows, course_of, estimate, verdict_of
from its_training.recipe import revised


def on(recipe, **compute):
    return revised(recipe, {"compute": compute})


@pytest.fixture
def limo(recipe_named):
    return recipe_named("qwen2.5-32b-limo-like")


def test_a_32b_base_needs_more_than_8_gpus_of_80_gb(limo):
    small = on(limo, device_memory_gb=80)
    assert verdict_of(small) == "does not fit"
    assert verdict_of(on(limo, device_memory_gb=80, n_devices=16)) == "fits"
    assert verdict_of(on(limo, device_memory_gb=141)) == "fits"
    assert estimate(small, None).n_devices_needed == 16


def test_what_cannot_fit_is_refused_with_what_would(limo):
    with pytest.raises(ConfigError) as raised:
        refuse_what_cannot_fit(estimate(on(limo, device_memory_gb=80), None))
    said = str(raised.value)
    assert "\n" not in said
    assert said.startswith("qwen2.5-32b-limo-like does not fit 8 x 80 GB by zero3: it needs 89.3 GB on each")
    for would in ("16 x 80 GB", "paged_adamw_8bit", "a LoRA of rank 64 on 2 x 80 GB"):
        assert would in said


@pytest.mark.parametrize("name", ["demo", "gsm8k-small", "llama-3.1-8b", "lora-24gb", "qwen2.5-7b"])
def test_our_own_recipes_fit_what_they_name(recipe_named, name):
    refuse_what_cannot_fit(estimate(recipe_named(name), None))


def test_unsharded_training_is_told_to_shard(recipe_named):
    alone = on(recipe_named("qwen2.5-7b"), parallel="none", n_devices=1)
    assert verdict_of(alone) == "does not fit"
    assert estimate(alone, None).n_devices_needed is None
    assert "2 x 80 GB by zero3 (borderline)" in list(what_fits(alone))


def test_every_suggestion_keeps_its_word(recipe_named):
    """Checkpointing, for one: where it is suggested, it fits."""
    recipe = on(recipe_named("gsm8k-small"), device_memory_gb=10)
    assert verdict_of(recipe) == "does not fit"
    assert any(said.startswith("activation_checkpointing: true") for said in what_fits(recipe))
    assert verdict_of(on(recipe, activation_checkpointing=True)) in ("fits", "borderline")


def test_borderline_is_said(limo):
    needed = estimate(limo, None).memory.total / 1e9
    assert verdict_of(on(limo, device_memory_gb=needed / 0.95)) == "borderline"
    assert verdict_of(on(limo, device_memory_gb=needed / 0.89)) == "fits"
    assert verdict_of(on(limo, device_memory_gb=needed / 1.001)) == "does not fit"


def test_processes_on_a_cpu_share_its_memory(recipe_named):
    recipe = recipe_named("gsm8k-small")
    assert verdict_of(recipe) == "fits"
    assert verdict_of(on(recipe, n_devices=2, parallel="ddp")) == "does not fit"


def test_without_a_memory_nothing_is_promised(limo):
    plan = estimate(on(limo, device_memory_gb=None), None)
    assert plan.verdict == "unknown"
    refuse_what_cannot_fit(plan)


def test_steps_are_those_that_sft_takes(limo):
    course = course_of(limo, Rows(1000, None))
    assert course.steps == 938  # 15 x 1000 / 16
    assert (course.tokens, course.is_bound) == (938 * 16 * 16384, True)
    assert course.n_checkpoints == 15


def test_counted_tokens_replace_the_bound(limo):
    course = course_of(limo, Rows(1000, 4_000_000))
    assert (course.tokens, course.is_bound) == (938 * 16 * 4000, False)


def test_hours_need_a_stated_throughput(limo):
    rows = Rows(1000, 4_000_000)
    assert course_of(limo, rows).hours is None
    timed = course_of(on(limo, tokens_per_second_per_device=1000), rows)
    assert timed.hours == pytest.approx(938 * 16 * 4000 / 8000 / 3600)


def test_without_rows_steps_are_unknown(limo):
    assert estimate(limo, None).course is None


def prepared(folder, rows_by_arm):
    """The parts of a prepared data set that are counted."""
    (folder / "arms").mkdir(parents=True)
    arms = {}
    for arm, rows in rows_by_arm.items():
        file = folder / "arms" / f"{arm}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arms[arm] = {"file": f"arms/{arm}.jsonl"}
    (folder / "dataset.json").write_text(json.dumps({"schema_version": 1, "arms": arms}))
    return folder


def row(prompt, completion):
    return {"id": "x", "tokens": {"prompt": prompt, "completion": completion}}


def test_the_arm_with_most_tokens_is_counted(recipe_named, tmp_path):
    recipe = revised(recipe_named("demo"), {"data": {"arms": ("none", "random")}})
    data = prepared(tmp_path / "data", {"none": [row(10, 5), row(20, 5)], "random": [row(30, 5), row(40, 5)]})
    assert rows_of(recipe, data) == Rows(2, 80)
    assert rows_of(revised(recipe, {"data": {"folder": str(data)}}), None) == Rows(2, 80)


def test_rows_whose_tokens_nobody_counted_leave_the_bound(recipe_named, tmp_path):
    recipe = revised(recipe_named("demo"), {"data": {"arms": ("none", "random")}})
    data = prepared(tmp_path / "data", {"none": [row(10, 5)], "random": [{"id": "x", "tokens": None}]})
    assert rows_of(recipe, data) == Rows(1, None)


def test_before_there_is_data_the_recipe_s_own_number_counts(recipe_named, tmp_path):
    recipe = revised(recipe_named("demo"), {"data": {"folder": str(tmp_path / "later")}})
    assert rows_of(recipe, None) == Rows(1000, None)
    assert rows_of(revised(recipe, {"data": {"rows": None}}), None) is None


def test_a_data_set_without_the_recipe_s_arms_is_refused(recipe_named, tmp_path):
    data = prepared(tmp_path / "data", {"none": [row(1, 1)]})
    with pytest.raises(ConfigError, match="has no arm 'similar'"):
        rows_of(recipe_named("demo"), data)
    with pytest.raises(ConfigError, match=r"dataset\.json: No such file"):
        rows_of(recipe_named("demo"), tmp_path / "nowhere")
    (data / "arms" / "none.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="holds no rows of its-train prepare"):
        rows_of(revised(recipe_named("demo"), {"data": {"arms": ("none",)}}), data)
