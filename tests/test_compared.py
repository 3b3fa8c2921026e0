"""Candidates files whose answers are compared by workers: accuracy, votes, replays and gates know what is equal."""

from importlib.util import find_spec

import pytest
from click.testing import CliRunner

from its_proxy.candidates import Row
from its_proxy.cli import main
from its_proxy.compared import as_sentence, compared, how_compared
from its_proxy.evaluate import replay, score
from its_proxy.gate import decide
from its_proxy.metrics import read_metric, value
from tests.rows import row

pytestmark = pytest.mark.skipif(find_spec("sympy") is None, reason="its-proxy[math] is not installed")

ROWS = [
    row("surds", "7", r"\sqrt{8}", r"2\sqrt{2}", "7", r"\frac{4}{\sqrt2}", gold=r"2^{3/2}", greedy=r"\sqrt{2}\cdot2"),
    row("words", "red", "blue", "red", "green", "red", gold="Red", greedy="red"),
    row("numbers", "1", "2", "1.0", "3", "0.5", gold="1", greedy=r"\frac{2}{2}"),
]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    (rows,) = compared(ROWS)
    return rows


def test_accuracy_counts_what_is_proved_equal(rows):
    assert [row.share_right for row in ROWS] == [0.0, 0.6, 0.4]
    assert [row.share_right for row in rows] == [0.6, 0.6, 0.4]
    assert score(ROWS).greedy.value == pytest.approx(2 / 3)
    assert score(rows).greedy.value == 1.0
    assert [value(row, read_metric("maj@5")) for row in rows] == [1.0, 1.0, 1.0]
    assert value(rows[0], read_metric("maj@3")) > value(ROWS[0], read_metric("maj@3"))


def test_votes_and_replays_merge_alike(rows):
    assert (ROWS[0].vote().answer.text, rows[0].vote().answer.text) == ("7", r"\sqrt{8}")
    assert replay(rows, "exact").same_answer == 1.0


def test_the_rows_on_disk_stay_as_they_are(rows):
    assert [row.model_dump_json() for row in rows] == [row.model_dump_json() for row in ROWS]
    assert Row.model_validate_json(rows[0].model_dump_json()).comparisons.by_form_because == "turned off"


def test_it_is_said_how_answers_were_compared(rows):
    how = how_compared(rows)
    assert (how["by"], how["pairs"]["equal"]) == ("workers", 10)
    assert "10 equal" in as_sentence(rows)
    assert decide(rows, rows, read_metric("maj@5"), 0.5).equality == as_sentence([*rows, *rows])
    assert how_compared(compared(ROWS, is_off=True)[0]) == {"by": "form", "reason": "turned off"}


def test_the_same_file_gives_the_same_table_again(rows):
    (again,) = compared(ROWS)
    assert [row.comparisons for row in again] == [row.comparisons for row in rows]


@pytest.mark.parametrize(("option", "right"), [("--equivalence", "100.0"), ("--no-equivalence", "66.7")])
def test_the_command_says_which_it_was(tmp_path, option, right):
    file = tmp_path / "candidates.jsonl"
    file.write_text("".join(row.model_dump_json() + "\n" for row in ROWS))
    done = CliRunner().invoke(main, ["replay", str(file), "--n", "5", "--stop", "none", option])
    assert done.exit_code == 0, done.output
    assert f"| {right} [" in done.output
    assert ("by proof" if option == "--equivalence" else "normal form alone: turned off") in done.output
