import csv
import json

import pytest

from its_proxy.codesign.errors import ConfigError
from its_training.prepare.layouts import Choices, layout_of, mapped, read_record
from its_training.prepare.source import Source
from tests.training.prepare.small_data import gsm8k_rows, metadata_row, openthoughts_row, problem, write_jsonl

LIMO = {"question": problem(1), "solution": "So \\boxed{4}.", "answer": 4}
S1K_11 = {"question": problem(1), "deepseek_thinking_trajectory": "Hm.", "deepseek_attempt": "It is \\boxed{4}."}
S1K = {
    "question": problem(1),
    "thinking_trajectories": ["Hm.", "Well."],
    "attempt": "It is \\boxed{4}.",
    "solution": "4",
}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (openthoughts_row(1), "openthoughts"),
        (metadata_row(1), "openthoughts-metadata"),
        (LIMO, "limo"),
        (S1K_11, "s1k-1.1"),
        (S1K, "s1k"),
        (gsm8k_rows(1)[0], "gsm8k"),
    ],
)
def test_the_fields_of_the_first_row_tell_the_layout(row, name):
    assert layout_of("auto", row).name == name


def completion(row, think="tags", **choices):
    layout = layout_of("auto", row)
    return read_record(layout, row, 1, Choices(think, **choices)).completion(think)


def test_thoughts_are_written_as_chosen():
    row = openthoughts_row(5)
    assert completion(row) == "<think>\nLet me see 5.\n</think>\n\nThe Final Answer is \\boxed{5}."
    assert completion(row, "strip") == "The Final Answer is \\boxed{5}."
    assert completion(row, "keep") == row["conversations"][1]["value"]


def test_both_layouts_of_openthoughts_give_one_record():
    plain, metadata = openthoughts_row(5), metadata_row(5)
    metadata["deepseek_solution"] = "The Final Answer is \\boxed{5}."
    for think in ("tags", "strip", "keep"):
        assert completion(plain, think) == completion(metadata, think)
    ids = {read_record(layout_of("auto", row), row, 1, Choices()).id for row in (plain, metadata)}
    assert len(ids) == 1


def test_gsm8k_loses_its_marks_and_gains_a_box():
    row = {"question": "q?", "answer": "2*3=<<2*3=6>>6\n1,000*6=<<1000*6=6000>>6,000\n#### 6,000"}
    assert completion(row) == "2*3=6\n1,000*6=6,000\n\\boxed{6000}"
    assert completion(row, marks=True) == row["answer"]


def test_answers_are_read_where_the_source_has_them():
    rows = (LIMO, S1K_11, S1K, metadata_row(4), {"question": "q?", "answer": "x\n#### 4"})
    assert [read_record(layout_of("auto", row), row, 1, Choices()).answer for row in rows] == ["4"] * 5


def test_an_unknown_layout_names_the_fields_found():
    with pytest.raises(ConfigError, match="fields found: prompt, reply"):
        layout_of("auto", {"prompt": "a", "reply": "b"})


def test_a_wrong_layout_names_what_is_missing_and_what_is_there():
    with pytest.raises(ConfigError, match="missing: conversations, system; fields found: question, answer"):
        layout_of("openthoughts", gsm8k_rows(1)[0])


@pytest.mark.parametrize("row", [{"question": "q?", "answer": "no mark"}, {"question": "", "answer": "#### 1"},
                                 {"question": 3, "answer": "#### 1"}, {"question": "q?", "answer": None},
                                 {"question": "half \ud800?", "answer": "#### 1"}])  # fmt: skip
def test_a_row_of_another_kind_is_named(row):
    with pytest.raises(ConfigError, match="row 12 is not of layout 'gsm8k'"):
        read_record(layout_of("gsm8k", gsm8k_rows(1)[0]), row, 12, Choices())


def test_a_map_of_ones_own():
    layout = mapped({"query": "in", "completion": "out", "answer": "gold", "id": "key"})
    record = read_record(layout, {"in": "1+1?", "out": "2", "gold": 2, "key": "k"}, 1, Choices())
    assert (record.id, record.query, record.completion("tags"), record.answer) == ("k", "1+1?", "2", "2")


@pytest.mark.parametrize("fields", [{"query": "a"}, {"query": "a", "completion": "b", "colour": "c"}])
def test_a_map_must_name_what_is_known(fields):
    with pytest.raises(ConfigError, match="--map"):
        mapped(fields)


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = gsm8k_rows(3)
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for suffix in ("jsonl", "json", "csv", "parquet"):
        assert list(Source(str(tmp_path / f"a.{suffix}")).rows()) == rows


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b'{"question": ', "a.jsonl:1: not JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: not an object"),
        ("a.json", b"{}", "not an array of objects"),
        ("a.csv", b"a,b\n1,2,3\n", "row 2 has more cells"),
        ("a.parquet", b"no", "not Parquet"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        list(Source(str(tmp_path / name)).rows())


def test_a_missing_file_and_a_hub_that_is_out_of_reach_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no such file"):
        list(Source(str(tmp_path / "none.jsonl")).rows())
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="no data set comes from the Hub") as refused:
        list(Source("no-such-owner/no-such-set").rows())
    assert "\n" not in str(refused.value)
