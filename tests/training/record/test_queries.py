import json

import pytest

from its_proxy.codesign.errors import ConfigError
from its_proxy.codesign.manifest import Probe
from its_proxy.evidence import MAX_TOKENS
from its_proxy.probing import QUERIES
from its_training.record.queries import by_room, check_unseen, choose_queries, read_queries


def written(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_queries_are_lines_or_json_and_equal_ones_count_once(tmp_path):
    file = written(tmp_path / "q.txt", "How many?", "", {"problem": "2 + 2?"}, "How many?", {"query": "3 + 3?"})
    assert read_queries(file).texts == ("How many?", "2 + 2?", "3 + 3?")


@pytest.mark.parametrize(("rows", "said"), [
    ([{"query": "q", "split": "test"}], r"q\.jsonl:1: a row of the test split"),
    ([{"query": "q"}, {"answer": "4"}], r"q\.jsonl:2: a row without a query"),
    (["{"], r"q\.jsonl:1: not a JSON object"),
    (["", " "], "holds no queries"),
])  # fmt: skip
def test_what_cannot_be_probed_with_is_refused_by_its_line(tmp_path, rows, said):
    with pytest.raises(ConfigError, match=said):
        read_queries(written(tmp_path / "q.jsonl", *rows))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"q\.jsonl: No such file"):
        read_queries(tmp_path / "q.jsonl")


def test_an_arms_rows_are_drawn_whatever_their_order(tmp_path):
    rows = [{"query": f"How much is {n} and {n}?", "messages": []} for n in range(50)]
    (tmp_path / "arms").mkdir()
    written(tmp_path / "arms" / "random.jsonl", *rows)
    first = choose_queries(None, tmp_path, "random", None)
    written(tmp_path / "arms" / "random.jsonl", *reversed(rows))
    assert choose_queries(None, tmp_path, "random", None).texts == first.texts
    assert first.texts != tuple(row["query"] for row in rows)
    assert first.source == "training rows of random, by hash"


def test_without_any_source_neutral_queries_are_used():
    assert choose_queries(None, None, None, None).texts == QUERIES


def test_a_test_item_is_no_probe():
    check_unseen(["a", "b"], {"run.jsonl": ["c"]})
    with pytest.raises(ConfigError, match=r"1 of the probe queries are test items of run\.jsonl"):
        check_unseen(["a", "b"], {"run.jsonl": ["b", "c"]})


def test_prompts_that_leave_room_for_a_reply_come_first():
    def rendered(n):
        return Probe(query=str(n), messages=[], prompt_token_ids=[1] * n)

    lengths = [len(one.prompt_token_ids) for one in by_room([rendered(n) for n in (MAX_TOKENS + 9, 90, 120, 30)])]
    assert lengths == [90, 30, 120, MAX_TOKENS + 9]
