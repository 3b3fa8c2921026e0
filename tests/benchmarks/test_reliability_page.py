"""docs/reliability.md says what has been measured and what is tested, and no more."""

import re
from pathlib import Path

import pytest

from benchmarks.reliability import __main__ as torture
from benchmarks.reliability.page import PAGE, found_by, page, read_contract, read_results
from benchmarks.reliability.pictures import draw_all
from benchmarks.reliability.results import FOLDER

ROOT = Path(__file__).parents[2]
CONTRACT = read_contract()
ROWS = {name: row for rows in CONTRACT["tables"].values() for name, row in rows.items()}


@pytest.mark.parametrize("name", ROWS)
def test_every_test_that_a_row_names_is_there(name):
    for test in ROWS[name]["tests"]:
        file, _, function = test.partition("::")
        assert re.search(rf"def {function}\(", (ROOT / file).read_text()), test


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_tested_or_says_why_not(name):
    row = ROWS[name]
    assert row["tests"] or row.get("gap")
    assert set(row.get("results", ())) <= set(CONTRACT["goals"])


def test_every_measurement_has_its_line():
    assert set(read_results(FOLDER)) <= set(CONTRACT["goals"])
    assert set(torture.MINUTES) <= set(CONTRACT["goals"])


def test_the_page_is_that_of_the_results(tmp_path):
    results = read_results(FOLDER)
    pictures = draw_all(results, tmp_path)
    assert PAGE.read_text() == page(results, CONTRACT, pictures), "make reliability"
    for name in pictures:
        assert (FOLDER / name).read_text() == (tmp_path / name).read_text(), "make reliability"


def test_what_does_not_hold_and_what_is_missing_are_said():
    result = {"figures": {"p99_ms": 150}, "passed": False, "conditions": {}, "date": "2026-01-01", "command": "x"}
    text = page({"workers": result}, CONTRACT, [])
    assert "| **does not hold** | [kill -9 of an equivalence worker]" in text
    assert "| not measured | A long time |" in text
    assert found_by("workers", result) == "p99 ms 150"
