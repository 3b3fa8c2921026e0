"""The candidates file and items files: what is read, and what is refused with its line."""

import json
from pathlib import Path

import pytest

from its_proxy.candidates import Row, read_candidates, read_items
from its_proxy.codesign.errors import ConfigError


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(item: str = "a", *answers: str | None, gold: str = "1", finish_reason: str = "stop") -> dict[str, object]:
    candidates = [
        {
            "index": index,
            "seed": index,
            "text": "...",
            "finish_reason": finish_reason,
            "completion_tokens": 5,
            "answer": answer,
        }
        for index, answer in enumerate(answers or ("1",))
    ]
    return {"id": item, "query": "?", "gold": gold, "model": "m", "strategy": "none", "candidates": candidates}


class TestItems:
    @pytest.mark.parametrize("query", ["query", "question", "problem"])
    @pytest.mark.parametrize("gold", ["gold", "answer"])
    def test_the_fields_of_the_usual_benchmarks_are_known(self, tmp_path, query, gold):
        (item,) = read_items(write(tmp_path / "items.jsonl", {"id": 60, query: "1+1?", gold: "2"}))
        assert (item.id, item.query, item.gold) == ("60", "1+1?", "2")

    def test_gsm8k_gold_is_its_marked_number(self, tmp_path):
        (item,) = read_items(write(tmp_path / "items.jsonl", {"question": "?", "answer": "3*4=12\n#### 1,012"}))
        assert item.gold == "1,012"

    def test_an_item_without_an_id_is_named_by_its_query(self, tmp_path):
        rows = [{"query": "a", "gold": "1"}, {"query": "b", "gold": "1"}]
        first = read_items(write(tmp_path / "first.jsonl", *rows))
        turned = read_items(write(tmp_path / "turned.jsonl", *reversed(rows)))
        assert [item.id for item in first] == [item.id for item in reversed(turned)]
        assert first[0].id != first[1].id

    @pytest.mark.parametrize("bad", ['{"query": "?"}', '{"gold": "1"}', "[]", "7", "{", '{"query": 1, "gold": "1"}'])
    def test_what_is_no_item_is_refused_with_its_line(self, tmp_path, bad):
        path = tmp_path / "items.jsonl"
        path.write_text('{"query": "?", "gold": "1"}\n\n' + bad + "\n")
        with pytest.raises(ConfigError, match=r"items\.jsonl:3: not an item"):
            read_items(path)

    def test_an_item_that_stands_twice_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r":2: .*twice"):
            read_items(write(tmp_path / "items.jsonl", {"query": "a", "gold": "1"}, {"query": "a", "gold": "1"}))

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"absent\.jsonl: No such file"):
            read_items(tmp_path / "absent.jsonl")

    @pytest.mark.parametrize(
        ("name", "n"), [("gsm8k-train", 7473), ("gsm8k-test", 1319), ("math500-test", 500), ("aime24-test", 30)]
    )
    def test_real_benchmarks_are_read_whole(self, test_data: Path, name, n):
        assert len(read_items(test_data / f"{name}.jsonl")) == n


class TestRows:
    def test_rows_come_back_as_they_were_written(self, tmp_path):
        rows = [Row.model_validate(row("a", "1", None)), Row.model_validate(row("b", "2"))]
        path = tmp_path / "candidates.jsonl"
        path.write_text("".join(row.model_dump_json() + "\n" for row in rows))
        assert read_candidates(path) == rows

    def test_a_last_line_cut_in_the_writing_is_left_out(self, tmp_path):
        path = write(tmp_path / "candidates.jsonl", row("a"), row("b"))
        path.write_bytes(path.read_bytes()[:-20])
        assert [row.id for row in read_candidates(path)] == ["a"]

    def test_a_whole_last_line_counts_without_its_newline(self, tmp_path):
        path = write(tmp_path / "candidates.jsonl", row("a"), row("b"))
        path.write_bytes(path.read_bytes()[:-1])
        assert [row.id for row in read_candidates(path)] == ["a", "b"]

    def test_a_bad_line_is_refused_with_its_number_and_field(self, tmp_path):
        bad = row("b")
        del bad["model"]
        with pytest.raises(ConfigError, match=r"candidates\.jsonl:2: model: Field required"):
            read_candidates(write(tmp_path / "candidates.jsonl", row("a"), bad, row("c")))

    def test_an_item_that_stands_twice_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r":2: the item a stands twice"):
            read_candidates(write(tmp_path / "candidates.jsonl", row("a"), row("a")))

    def test_an_answer_is_right_when_its_form_is_the_golds(self):
        assert Row.model_validate(row("a", r"\frac{2}{4}", "0.5", "1/3", None, gold="1/2")).share_right == 0.5

    def test_a_candidate_cut_off_neither_votes_nor_is_right(self):
        cut = Row.model_validate(row("a", "1", "1", finish_reason="length"))
        assert cut.share_right == 0
        assert cut.vote().winner is None

    def test_abstaining_candidates_lower_the_agreement_and_cut_ones_do_not(self):
        assert Row.model_validate(row("a", "1", None)).vote().agreement == 0.5


@pytest.mark.parametrize(
    ("kind", "answers", "gold"),
    [
        ("json", ['{"a":1}', '{"a":1}', '{"a":2}'], '{"a": 1.0}'),
        ("letter", ["B", "B", "C"], "b"),
        ("tool_calls", ['[{"arguments":{},"name":"f"}]'] * 2 + ["no call"], '[{"name": "f", "arguments": {}}]'),
        ("boxed", ["1/2", "0.5", "2"], r"\frac12"),
    ],
)
def test_answers_are_read_again_by_the_kind_that_they_were_read_by(tmp_path, kind, answers, gold):
    written = row("a", *answers, gold=gold)
    for candidate in written["candidates"]:
        candidate["answer_kind"] = kind
    (saved,) = read_candidates(write(tmp_path / "candidates.jsonl", written))
    assert saved.share_right == pytest.approx(2 / 3)
    assert [answer_class.weight for answer_class in saved.vote().classes] == [2, 1]
