import json

from its_training.demo.arms import prepare, side_of
from its_training.demo.problems import draw
from its_training.demo.recipe import ARMS


def test_matched_arms_differ_only_in_the_user_text(tmp_path):
    problems = draw(60, "sft")
    arms = {}
    for arm in ARMS:
        (tmp_path / arm).mkdir()
        arms[arm] = prepare(problems, side_of(arm, 7), tmp_path / arm)
    assert len({dataset.ids_sha256 for dataset in arms.values()}) == 1
    assert len({dataset.sha256 for dataset in arms.values()}) == len(ARMS)
    for rows in zip(*(dataset.rows for dataset in arms.values()), strict=True):
        same = [{key: row[key] for key in ("id", "query", "answer", "source")} for row in rows]
        assert all(row == same[0] for row in same)
        assert len({row["messages"][-1]["content"] for row in rows}) == 1
        assert all(row["messages"][0]["content"].endswith(row["query"]) for row in rows)


def test_the_plain_arm_asks_the_bare_query(tmp_path):
    dataset = prepare(draw(20, "sft"), side_of("none", 7), tmp_path)
    assert all(row["messages"][0]["content"] == row["query"] for row in dataset.rows)
    assert all(row["persona"]["text"] is None for row in dataset.rows)


def test_similar_personas_come_from_the_problem_s_domain_and_dissimilar_ones_do_not(tmp_path):
    problems = draw(60, "sft")
    similar = prepare(problems, side_of("similar", 7), tmp_path)
    assert all(row["persona"]["domain"] == row["persona"]["target_domain"] for row in similar.rows)
    dissimilar = prepare(problems, side_of("dissimilar", 7), tmp_path)
    assert all(row["persona"]["domain"] != row["persona"]["target_domain"] for row in dissimilar.rows)


def test_the_sidecar_describes_the_written_file(tmp_path):
    dataset = prepare(draw(5, "sft"), side_of("random", 7), tmp_path)
    sidecar = json.loads((tmp_path / "dataset.json").read_text())
    assert (sidecar["rows"], sidecar["sha256"], sidecar["ids_sha256"]) == (5, dataset.sha256, dataset.ids_sha256)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == list(dataset.rows)
