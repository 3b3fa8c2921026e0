"""Benchmark files: told by their fields, read as items, and refused by name where they are something else."""

import csv
import json
from pathlib import Path

import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.layouts import LAYOUTS, read_benchmark

AIME = {"id": 60, "problem": "A walk?", "solution": "...", "answer": "204", "url": "https://a.org/2024_AIME_I/1"}
AIME25 = {"question": "Bases?", "answer": 70, "url": "https://a.org/2025_AIME_I/1"}
MATH = {
    "problem": "Polar?",
    "solution": "...",
    "answer": r"\left( 3, \frac{\pi}{2} \right)",
    "subject": "Precalculus",
    "level": 2,
    "unique_id": "test/precalculus/807.json",
}
GSM8K = {"question": "Eggs?", "answer": "16-3-4=9\n#### 1,018"}
GPQA = {
    "Record ID": "rec1",
    "Question": "Which?",
    "Correct Answer": "this one\n",
    "Incorrect Answer 1": "not this",
    "Incorrect Answer 2": "nor this",
    "Incorrect Answer 3": "nor that",
    "Subdomain": "none",
}
PLAIN = {"query": "1+1?"}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


class TestAuto:
    @pytest.mark.parametrize(
        ("record", "layout", "gold"),
        [
            (AIME, "aime24", "204"),
            (AIME25, "aime25", "70"),
            (MATH, "math500", r"\left( 3, \frac{\pi}{2} \right)"),
            (GSM8K, "gsm8k", "1,018"),
            (PLAIN, "items", None),
            ({"question": "?", "answer": "7"}, "items", "7"),
        ],
    )
    def test_a_layout_is_told_by_its_fields(self, tmp_path, record, layout, gold):
        benchmark = read_benchmark(write(tmp_path / "test.jsonl", record))
        assert (benchmark.layout.name, benchmark.items[0].gold) == (layout, gold)

    @pytest.mark.parametrize("name", ["aime24-test", "aime_2024", "AIME-24"])
    def test_the_year_of_aime_may_stand_in_the_files_name(self, tmp_path, name):
        bare = {"problem": "?", "answer": "033"}
        assert read_benchmark(write(tmp_path / f"{name}.jsonl", bare)).layout.name == "aime24"

    def test_without_a_year_it_is_plain_items(self, tmp_path):
        assert read_benchmark(write(tmp_path / "aime.jsonl", {"problem": "?", "answer": "33"})).layout.name == "items"

    @pytest.mark.parametrize(
        ("name", "layout", "n"),
        [("aime24-test", "aime24", 30), ("math500-test", "math500", 500), ("gsm8k-test", "gsm8k", 1319)],
    )
    def test_the_real_files_are_whole(self, test_data, name, layout, n):
        benchmark = read_benchmark(test_data / f"{name}.jsonl")
        assert (benchmark.layout.name, len(benchmark.items), benchmark.remarks) == (layout, n, ())
        assert benchmark.is_labelled


class TestRemarks:
    def test_another_number_of_items_is_said(self, tmp_path):
        benchmark = read_benchmark(write(tmp_path / "a.jsonl", GSM8K, {**GSM8K, "question": "Robes?"}))
        assert benchmark.remarks == ("GSM8K test has 1319 items, this file 2",)
        assert benchmark.first(1).remarks[1:] == ("only the first 1 of 2 items",)
        assert benchmark.first(2) is benchmark

    def test_items_of_which_some_have_no_gold_are_unlabelled(self, tmp_path):
        benchmark = read_benchmark(write(tmp_path / "a.jsonl", PLAIN, {"query": "2+2?", "gold": 4}))
        assert not benchmark.is_labelled
        assert benchmark.remarks == ("1 of 2 items have no gold answer, so all are taken as unlabelled",)

    def test_the_digest_is_that_of_the_files_bytes(self, tmp_path):
        path = write(tmp_path / "a.jsonl", PLAIN)
        before = read_benchmark(path).sha256
        path.write_bytes(path.read_bytes() + b"\n")
        assert read_benchmark(path).sha256 != before


class TestGpqa:
    def read(self, folder: Path, *records: object, seed: int = 0):
        return read_benchmark(write(folder / "gpqa.jsonl", *records), choice_seed=seed)

    def test_the_gold_letter_stands_before_the_right_choice(self, tmp_path):
        records = [{**GPQA, "Record ID": f"rec{number}"} for number in range(40)]
        benchmark = self.read(tmp_path, *records)
        for item in benchmark.items:
            assert f"({item.gold}) this one\n" in item.query
            assert all(choice in item.query for choice in ("not this", "nor this", "nor that"))
        assert {item.gold for item in benchmark.items} == set("ABCD")
        assert benchmark.layout.answer == "letter"

    def test_the_shuffle_depends_on_seed_and_question_alone(self, tmp_path):
        records = [{**GPQA, "Record ID": f"rec{number}"} for number in range(20)]
        straight, turned = self.read(tmp_path, *records), self.read(tmp_path, *reversed(records))
        assert straight.items == tuple(reversed(turned.items))
        assert self.read(tmp_path, *records, seed=1).items != straight.items

    def test_the_original_csv_is_read(self, tmp_path):
        path = tmp_path / "gpqa_diamond.csv"
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, fieldnames=list(GPQA))
            writer.writeheader()
            writer.writerows([GPQA, {**GPQA, "Record ID": "rec2", "Question": 'Which,\n"of these"?'}])
        benchmark = read_benchmark(path)
        assert [item.id for item in benchmark.items] == ["rec1", "rec2"]
        assert benchmark.items[0] == self.read(tmp_path, GPQA).items[0]
        assert benchmark.remarks == ("GPQA diamond has 198 items, this file 2",)


class TestRefusals:
    @pytest.mark.parametrize("layout", ["aime24", "math500", "gpqa", "gsm8k"])
    def test_the_wrong_layout_names_the_fields_it_found_and_those_it_needs(self, tmp_path, layout):
        path = write(tmp_path / "a.jsonl", {"prompt": "?", "label": 3})
        found = rf"a\.jsonl:1: not in the layout {layout}: its fields are prompt, label"
        with pytest.raises(ConfigError, match=found) as raised:
            read_benchmark(path, layout)
        assert LAYOUTS[layout].needs in str(raised.value)

    def test_plain_items_need_a_query(self, tmp_path):
        with pytest.raises(ConfigError, match=r"layout items: its fields are prompt \(needed: query"):
            read_benchmark(write(tmp_path / "a.jsonl", {"prompt": "?"}))

    @pytest.mark.parametrize("answer", ["1000", "-1", "3/4", "x"])
    def test_aime_has_integers_below_1000(self, tmp_path, answer):
        with pytest.raises(ConfigError, match="integer from 0 to 999"):
            read_benchmark(write(tmp_path / "a.jsonl", {**AIME, "answer": answer}), "aime24")

    def test_a_row_of_another_kind_is_named_by_its_line(self, tmp_path):
        with pytest.raises(ConfigError, match=r"a\.jsonl:2: not in the layout gsm8k"):
            read_benchmark(write(tmp_path / "a.jsonl", GSM8K, {**GSM8K, "answer": "9"}))

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.jsonl", b"", "holds no items"),
            ("a.jsonl", b'{"query": "?", "gold": NaN}\n', "a.jsonl:1: NaN is not JSON"),
            ("a.jsonl", b'{"query": "?"}\n{"query": "1', r"a.jsonl:2: not JSON"),
            ("a.jsonl", b"\xff\n", "not UTF-8"),
            ("a.jsonl", b"7\n", "it is no object with fields"),
            ("a.json", b"{}", "no JSON array"),
            ("a.json", b"[", "not JSON"),
            ("a.csv", b'Question\n"open', "not CSV"),
        ],
    )
    def test_what_cannot_be_read_is_one_line(self, tmp_path, name, content, message):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message) as raised:
            read_benchmark(path)
        assert "\n" not in str(raised.value)

    def test_a_missing_file_and_an_unknown_layout(self, tmp_path):
        with pytest.raises(ConfigError, match=r"absent\.jsonl: No such file"):
            read_benchmark(tmp_path / "absent.jsonl")
        with pytest.raises(ConfigError, match=r"no layout 'mmlu' .*known: auto, aime24"):
            read_benchmark(write(tmp_path / "a.jsonl", PLAIN), "mmlu")

    def test_an_id_twice_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"a\.jsonl:2: the id 60 stands twice"):
            read_benchmark(write(tmp_path / "a.jsonl", AIME, AIME))


def test_a_json_array_is_read_like_lines(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([MATH]))
    assert read_benchmark(tmp_path / "a.json").items == read_benchmark(write(tmp_path / "a.jsonl", MATH)).items


def test_a_text_can_follow_every_query(tmp_path):
    benchmark = read_benchmark(write(tmp_path / "a.jsonl", MATH)).with_text(r"Use \boxed{}.")
    assert benchmark.items[0].query == "Polar?\n\nUse \\boxed{}."
