import pytest

from its_proxy.candidates import CandidateRow, Row
from its_training.demo.measure import Cell, cells_of
from its_training.demo.results import Run, choose, effects, evaluation_rows, tables


def run_of(tmp_path, cell, n_right, n_items=200, n_candidates=8):
    """Candidates of which `n_right` of 8 answer rightly and the others each wrongly in a way of their own."""
    rows = []
    for item in range(n_items):
        answers = ["42" if index < n_right else str(100 + index) for index in range(n_candidates)]
        candidates = [
            CandidateRow(index=i, text="", answer=answer, finish_reason="stop", completion_tokens=9)
            for i, answer in enumerate(answers)
        ]
        rows.append(
            Row(
                id=f"{item}",
                query="?",
                gold="42",
                model=f"demo-{cell.trained}",
                strategy=cell.asked,
                forced=not cell.is_matched,
                temperature=0.8,
                candidates=tuple(candidates),
                greedy=candidates[0],
            )
        )
    file = tmp_path / f"{cell.name}.jsonl"
    file.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    return Run.read(file)


def runs_of(tmp_path, matched, mismatched):
    return {
        cell: run_of(tmp_path, cell, matched if cell.is_matched else mismatched)
        for cell in cells_of(("none", "random"))
    }


def test_every_arm_is_asked_as_trained_and_from_the_other_family():
    assert cells_of(("none", "similar")) == [
        Cell("none", "none"),
        Cell("similar", "similar"),
        Cell("none", "random"),
        Cell("similar", "none"),
    ]


def test_effects_are_the_vote_s_gain_and_the_cost_of_asking_otherwise(tmp_path):
    found = {effect.name: effect.difference.value for effect in effects(runs_of(tmp_path, 5, 3))}
    assert found["random: maj@8 - pass@1"] == pytest.approx(1 - 5 / 8)
    assert found["random: asked random - asked none, pass@1"] == pytest.approx(2 / 8)
    assert found["none: asked none - asked random, pass@1"] == pytest.approx(2 / 8)


def test_the_seen_base_ships_where_every_effect_shows(tmp_path):
    runs = {"seen": runs_of(tmp_path, 5, 3), "unseen": runs_of(tmp_path, 5, 1)}
    assert choose(runs).base == "seen"


def test_the_unseen_base_ships_where_asking_otherwise_costs_the_seen_one_nothing(tmp_path):
    choice = choose({"seen": runs_of(tmp_path, 5, 5), "unseen": runs_of(tmp_path, 5, 1)})
    assert choice.base == "unseen"
    assert "random: asked random - asked none, pass@1 0.0 [0.0, 0.0]" in choice.why


def test_evaluation_rows_carry_their_conditions(tmp_path):
    run = run_of(tmp_path, Cell("random", "random"), 5)
    rows = {row.metric: row for row in evaluation_rows(run, {"train": 7})}
    assert rows["pass@1"].value == pytest.approx(5 / 8)
    assert rows["maj@8"].value == 1.0
    assert rows["maj@8"].model_dump()["run"]["file"] == "random-asked-random.jsonl"
    assert (rows["greedy"].items, rows["greedy"].split) == (200, "test")


def test_the_tables_show_forced_asking(tmp_path):
    assert "| demo-random | none (forced) |" in tables(runs_of(tmp_path, 5, 3))
