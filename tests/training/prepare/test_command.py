import json
import random
import resource
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

import its_proxy
from its_proxy.codesign.manifest import Side, recipe_of
from its_proxy.codesign.personas import Persona, pool_jsonl, taxonomy_pool
from its_proxy.codesign.strategies import rewrite
from its_training.cli import main
from tests.training.prepare.small_data import (
    gsm8k_rows,
    metadata_row,
    openthoughts_row,
    problem,
    read_jsonl,
    write_jsonl,
)

ARMS = ("none", "similar", "dissimilar", "random", "mixed")
DEMO = f"{next(iter(its_proxy.__path__))}/demo/demo-none"


def prepare(*arguments):
    return CliRunner().invoke(main, ["prepare", *map(str, arguments)])


def refused(done, *said):
    assert done.exit_code == 1, done.output
    [line] = done.stderr.splitlines()
    for each in said:
        assert each in line


@pytest.fixture
def gsm8k(tmp_path):
    return write_jsonl(tmp_path / "gsm8k.jsonl", gsm8k_rows(60))


def sidecar(folder):
    return json.loads((folder / "dataset.json").read_text("utf-8"))


def test_arms_are_equal_but_for_the_users_words(gsm8k, tmp_path):
    done = prepare(gsm8k, "--out", tmp_path / "out", "--n", 40)
    assert done.exit_code == 0, done.output
    arms = {name: read_jsonl(tmp_path / "out" / "arms" / f"{name}.jsonl") for name in ARMS}
    for rows in zip(*arms.values(), strict=True):
        assert len({row["id"] for row in rows}) == 1
        assert len({row["messages"][-1]["content"] for row in rows}) == 1
        assert all(row["query"] in row["messages"][0]["content"] for row in rows)
    plain = sum(row["persona"]["text"] is None for row in arms["mixed"])
    assert 8 <= plain <= 32
    assert all(row["persona"]["text"] is None for row in arms["none"])


def test_rows_hold_the_very_messages_that_the_proxy_sends(gsm8k, tmp_path):
    assert prepare(gsm8k, "--out", tmp_path / "out", "--persona-seed", 3).exit_code == 0
    for name, arm in sidecar(tmp_path / "out")["arms"].items():
        recipe = recipe_of(Side.model_validate_json(json.dumps(arm["side"])), taxonomy_pool())
        for row in read_jsonl(tmp_path / "out" / arm["file"]):
            sent = rewrite(recipe, [{"role": "user", "content": row["query"]}], row_id=row["id"]).messages
            assert sent == row["messages"][:-1], name


def test_the_sidecar_counts_every_step_and_names_what_was_chosen(gsm8k, tmp_path):
    against = write_jsonl(tmp_path / "bench.jsonl", [{"question": problem(4), "answer": "#### 3"}])
    assert prepare(gsm8k, "--out", tmp_path / "out", "--against", against, "--filter", "boxed").exit_code == 0
    found = sidecar(tmp_path / "out")
    steps = {step["name"]: (step["kept"], step["dropped"]) for step in found["steps"]}
    assert steps == {"read": (60, 0), "boxed": (60, 0), "duplicates": (60, 0), "decontamination": (59, 1),
                     "near-duplicates": (59, 0)}  # fmt: skip
    assert (found["think"], found["system_prompt"], found["source"]["license"]) == ("tags", None, "mit")
    assert len({arm["ids_sha256"] for arm in found["arms"].values()} | {found["ids_sha256"]}) == 1
    [dropped] = read_jsonl(tmp_path / "out" / "dropped.jsonl")
    assert (dropped["step"], dropped["benchmark"]) == ("decontamination", "bench")
    assert len(dropped["text"].split()) == 8


def test_a_smaller_sample_is_a_subset_whatever_the_order_of_rows(tmp_path):
    rows = gsm8k_rows(80)
    ids = []
    for name, n, order in (("a", 20, rows), ("b", 60, random.Random(1).sample(rows, 80))):
        file = write_jsonl(tmp_path / f"{name}.jsonl", order)
        assert prepare(file, "--out", tmp_path / name, "--n", n, "--arms", "none").exit_code == 0
        ids.append([row["id"] for row in read_jsonl(tmp_path / name / "arms" / "none.jsonl")])
    assert ids[0] == ids[1][:20]


def test_a_query_with_two_completions_keeps_the_same_one_in_any_order(tmp_path):
    rows = [{"question": problem(1), "answer": f"Way {n}.\n#### 3"} for n in range(6)]
    kept = set()
    for n in range(6):
        file = write_jsonl(tmp_path / f"{n}.jsonl", random.Random(n).sample(rows, len(rows)))
        assert prepare(file, "--out", tmp_path / str(n), "--arms", "none").exit_code == 0
        [row] = read_jsonl(tmp_path / str(n) / "arms" / "none.jsonl")
        kept.add(row["messages"][-1]["content"])
    assert len(kept) == 1


@pytest.mark.parametrize("more", [(), ("--no-near-duplicates",)])
def test_two_queries_of_one_id_are_named(tmp_path, more):
    file = write_jsonl(tmp_path / "own.jsonl", [{"k": "a", "q": problem(n), "c": "3"} for n in range(2)])
    fields = ("--map", "query=q,completion=c,id=k")
    refused(prepare(file, "--out", tmp_path / "out", *fields, *more), "rows 1 and 2 are two queries of one id, 'a'")
    assert not (tmp_path / "out").exists()


def test_lengths_are_bounded_on_both_sides(tmp_path):
    rows = [{"q": problem(n), "c": "x" * n} for n in range(1, 11)]
    file = write_jsonl(tmp_path / "own.jsonl", rows)
    bounds = ("--filter", "min-chars=3", "--filter", "max-chars=7")
    done = prepare(file, "--out", tmp_path / "out", "--map", "query=q,completion=c", *bounds)
    assert done.exit_code == 0, done.output
    steps = {step["name"]: (step["kept"], step["dropped"]) for step in sidecar(tmp_path / "out")["steps"]}
    assert (steps["min-chars=3"], steps["max-chars=7"]) == ((8, 2), (5, 3))


def test_two_runs_give_equal_bytes(gsm8k, tmp_path):
    for name in ("a", "b"):
        assert prepare(gsm8k, "--out", tmp_path / name).exit_code == 0
    first, second = (sidecar(tmp_path / name)["arms"] for name in ("a", "b"))
    assert first == second


def test_ot15k_keeps_rows_with_a_final_answer_and_a_box(tmp_path):
    rows = [metadata_row(n) for n in range(10)]
    rows[3]["deepseek_solution"] = "It is \\boxed{3}."
    rows[4]["deepseek_solution"] = "The final answer is 4."
    file = write_jsonl(tmp_path / "ot.jsonl", [*rows, metadata_row(10, "code")])
    done = prepare(file, "--out", tmp_path / "out", "--filter", "math", "--filter", "ot15k")
    assert done.exit_code == 0, done.output
    steps = {step["name"]: (step["kept"], step["dropped"]) for step in sidecar(tmp_path / "out")["steps"]}
    assert steps["math"] == (10, 1)
    assert steps["final-answer"] == (9, 1)
    assert steps["boxed"] == (8, 1)


def test_the_sources_system_prompt_is_served_too(tmp_path):
    file = write_jsonl(tmp_path / "ot.jsonl", [openthoughts_row(n) for n in range(5)])
    assert prepare(file, "--out", tmp_path / "out", "--system-prompt", "source").exit_code == 0
    found = sidecar(tmp_path / "out")
    assert found["arms"]["random"]["side"]["system_prompt"] == "Think first."
    assert read_jsonl(tmp_path / "out" / "arms" / "random.jsonl")[0]["messages"][0]["content"] == "Think first."


def test_several_system_prompts_are_refused(tmp_path):
    rows = [openthoughts_row(n) for n in range(5)]
    rows[3]["system"] = "Another."
    file = write_jsonl(tmp_path / "ot.jsonl", rows)
    refused(prepare(file, "--out", tmp_path / "out", "--system-prompt", "source"), "row 4 has another system prompt")


def test_long_rows_are_counted_and_dropped_whole_or_refused(tmp_path):
    rows = gsm8k_rows(12)
    rows[5]["answer"] = "1+1=2 " * 60 + "\n#### 2"
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    options = ("--tokenizer", DEMO, "--max-length", 200, "--arms", "none,random")
    assert prepare(file, "--out", tmp_path / "out", *options).exit_code == 0
    found = sidecar(tmp_path / "out")
    [dropped] = read_jsonl(tmp_path / "out" / "dropped.jsonl")
    assert (dropped["row"], dropped["step"]) == (6, "over-long")
    assert dropped["tokens"] > 200
    counts = found["tokens"]["arms"]
    assert counts["random"]["prompt"] > counts["none"]["prompt"]
    assert counts["random"]["completion"] == counts["none"]["completion"]
    assert counts["random"]["longest"] <= 200
    refused(prepare(file, "--out", tmp_path / "no", *options, "--over-long", "refuse"), "row 6 has", "at most 200")
    assert not (tmp_path / "no").exists()


def test_a_tokenizer_without_a_chat_template_is_one_line(gsm8k, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (folder / name).write_bytes(Path(DEMO, name).read_bytes())
    done = prepare(gsm8k, "--out", tmp_path / "out", "--tokenizer", folder, "--max-length", 200)
    refused(done, "has no chat template")


def test_a_pool_travels_with_the_rows(gsm8k, tmp_path):
    pool = pool_jsonl([Persona("You are a baker who counts twice.", "cooking")])
    (tmp_path / "pool.jsonl").write_bytes(pool)
    done = prepare(gsm8k, "--out", tmp_path / "out", "--pool", tmp_path / "pool.jsonl", "--arms", "none,random")
    assert done.exit_code == 0, done.output
    side = sidecar(tmp_path / "out")["arms"]["random"]["side"]
    assert (side["personas"]["source"], side["personas"]["file"]) == ("pool", "pool.jsonl")
    assert (tmp_path / "out" / "pool.jsonl").read_bytes() == pool
    row = read_jsonl(tmp_path / "out" / "arms" / "random.jsonl")[0]
    assert row["messages"][0]["content"].startswith("You are a baker who counts twice.\n\n")


def test_a_pool_too_small_for_an_arm_is_refused(gsm8k, tmp_path):
    (tmp_path / "pool.jsonl").write_bytes(pool_jsonl([Persona("You are a baker.", "cooking")]))
    refused(prepare(gsm8k, "--out", tmp_path / "out", "--pool", tmp_path / "pool.jsonl"), "'similar'", "every domain")


def test_letters_of_the_paper_are_understood(gsm8k, tmp_path):
    assert prepare(gsm8k, "--out", tmp_path / "out", "--arms", "N,U,R").exit_code == 0
    assert list(sidecar(tmp_path / "out")["arms"]) == ["none", "dissimilar", "random"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--arms", "nonsense"), "unknown strategy 'nonsense'"),
        (("--filter", "nonsense"), "unknown filter 'nonsense'"),
        (("--filter", "max-chars=many"), "unknown filter 'max-chars=many'"),
        (("--filter", "max-chars=1"), "no rows are left after 'max-chars=1'"),
        (("--filter", "math"), "no rows are left after 'math'"),
        (("--n", "61"), "61 rows are asked for, 60 are left"),
        (("--layout", "limo"), "missing: solution; fields found: question, answer"),
        (("--map", "query=question,completion=nothing"), "missing: nothing; fields found: question, answer"),
        (("--against", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--max-length", "100"), "--tokenizer and --max-length go together"),
        (("--template", "no persona here {query}"), "must hold"),
        (("--tokenizer", "nowhere/at-all", "--max-length", "100"), "cannot be opened"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(gsm8k, tmp_path, options, said, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(prepare(gsm8k, "--out", tmp_path / "out", *options), said)
    assert [path.name for path in tmp_path.iterdir()] == ["gsm8k.jsonl"]


def test_nothing_is_overwritten(gsm8k, tmp_path):
    (tmp_path / "out").mkdir()
    refused(prepare(gsm8k, "--out", tmp_path / "out"), "out exists")


def test_a_full_disk_is_one_line_and_nothing_is_left(gsm8k, tmp_path):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        done = prepare(gsm8k, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert done.exit_code == 1
    assert "nothing was left behind" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["gsm8k.jsonl"]
