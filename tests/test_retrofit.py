"""Retro-fit: training rows are rewritten here, and must come out as they stand."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from its_proxy.codesign.errors import ConfigError, ManifestError
from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.strategies import Recipe, rewrite, strategy_named
from its_proxy.retrofit import Fields, check_rows

QUERIES = [f"How many eggs are {k} eggs and 4 eggs?" for k in range(200)]


def recipe(strategy: str = "random", **fields: Any) -> Recipe:
    pool = None if strategy == "none" else taxonomy_pool()
    return Recipe(strategy_named(strategy), pool=pool, **{"seed": 7, **fields})


def rewritten(trained: Recipe, query: Any, row_id: str | None = None) -> list[Any]:
    messages = [{"role": "user", "content": query}] if isinstance(query, str) else query
    return rewrite(trained, messages, row_id=row_id).messages


def text_of(trained: Recipe, query: str) -> str:
    return rewritten(trained, query)[-1]["content"]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("strategy", ["none", "similar", "dissimilar", "random", "filler", "fixed", "shuffled"])
def test_rows_of_every_strategy_fit(tmp_path, strategy):
    trained = recipe(strategy)
    path = write(tmp_path, [{"query": query, "rewritten": text_of(trained, query)} for query in QUERIES])
    fit = check_rows(path, trained)
    assert (fit.n_rows, fit.n_same) == (200, 200)
    assert fit.sha256 == sha256(path.read_bytes()).hexdigest()


def test_mixed_goes_by_the_rows_id(tmp_path):
    trained = recipe("mixed")
    rows = [
        {"id": k, "question": query, "messages": rewritten(trained, query, str(k))} for k, query in enumerate(QUERIES)
    ]
    assert len({len(row["messages"][0]["content"]) > 60 for row in rows}) == 2, "some plain, some not"
    assert check_rows(write(tmp_path, rows), trained).n_same == 200
    for row in rows:
        row["name"] = row.pop("id")
    with pytest.raises(ConfigError, match=r"train\.jsonl:1: 'mixed' goes by each row's id, .* \(--id-field\)"):
        check_rows(write(tmp_path, rows), trained)
    assert check_rows(write(tmp_path, rows), trained, Fields(row_id="name")).n_same == 200


@pytest.mark.parametrize(("n_odd", "is_fit"), [(0, True), (2, True), (3, False)])
def test_99_of_100_rows_must_be_identical(tmp_path, n_odd, is_fit):
    trained = recipe()
    rows = [{"query": query, "prompt": text_of(trained, query)} for query in QUERIES]
    for row in rows[50 : 50 + n_odd]:
        row["prompt"] += " "
    path = write(tmp_path, rows)
    if is_fit:
        assert check_rows(path, trained).n_same == 200 - n_odd
        return
    with pytest.raises(ManifestError, match=r"197 of 200 rows come out as 'random'.*99% are needed; line 51 holds"):
        check_rows(path, trained)


def test_the_refusal_shows_where_the_first_row_parts(tmp_path):
    trained = recipe()
    rows = [{"query": query, "prompt": text_of(trained, query).replace("\n\n", "\n")} for query in QUERIES]
    with pytest.raises(ManifestError) as caught:
        check_rows(write(tmp_path, rows), trained)
    message = str(caught.value)
    assert "\n" not in message
    assert "0 of 200 rows" in message
    assert "\\nHow many eggs" in message
    assert "\\n\\nHow many eggs" in message
    assert "compare --template, --pool, --seed" in message
    assert len(message) < 500


@pytest.mark.parametrize("change", [{"seed": 8}, {"template": "{query}\n\n{persona}"}])
def test_another_seed_or_template_does_not_fit(tmp_path, change):
    rows = [{"query": query, "prompt": text_of(recipe(), query)} for query in QUERIES]
    with pytest.raises(ManifestError, match="of 200 rows come out"):
        check_rows(write(tmp_path, rows), recipe(**change))


REPLY = {"role": "assistant", "content": "4"}


def test_messages_fit_with_and_without_their_reply(tmp_path):
    trained = recipe(system_prompt="Be brief.")
    rows = [{"query": query, "messages": [*rewritten(trained, query), REPLY]} for query in QUERIES[:100]]
    rows += [{"query": query, "messages": rewritten(trained, query)} for query in QUERIES[100:]]
    assert check_rows(write(tmp_path, rows), trained).n_same == 200
    with pytest.raises(ManifestError, match="holds 'system: Be brief"):
        check_rows(write(tmp_path, rows), recipe())


def test_whole_conversations_fit_turn_by_turn(tmp_path):
    trained = recipe()
    talks = [[{"role": "user", "content": query}, REPLY, {"role": "user", "content": "And 5?"}] for query in QUERIES]
    rows = [{"talk": talk, "messages": [*rewritten(trained, talk), REPLY]} for talk in talks]
    assert check_rows(write(tmp_path, rows), trained, Fields(query="talk")).n_same == 200
    with pytest.raises(ManifestError):
        check_rows(write(tmp_path, rows), recipe(turns="last"), Fields(query="talk"))


def test_conversations_of_from_and_value_are_read(tmp_path):
    trained = recipe()
    rows = [
        {"query": q, "conversations": [{"from": "human", "value": text_of(trained, q)}, {"from": "gpt", "value": "4"}]}
        for q in QUERIES
    ]
    assert check_rows(write(tmp_path, rows), trained).n_same == 200


def test_an_answer_learned_in_place_of_a_rewrite_is_not_taken_for_one(tmp_path):
    rows = [{"query": query, "messages": [REPLY]} for query in QUERIES]
    with pytest.raises(ManifestError, match="0 of 200"):
        check_rows(write(tmp_path, rows), recipe("none"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no rows"),
        ("\n\n", "holds no rows"),
        ("{", ":1: not JSON"),
        ('{"query": "a", "query": "b"}', ":1: duplicate key"),
        ("[]", ":1: not a JSON object"),
        ('{"q": "a"}', ":1: has no query, question, problem, instruction (name the field with --query-field)"),
        ('{"query": "a"}', "(name the field with --rewritten-field)"),
        ('{"query": 7, "prompt": "b"}', ":1: query is neither text nor a list of messages"),
        ('{"query": "a", "messages": []}', ":1: messages is neither text nor a list of messages"),
        ('{"query": "a", "messages": [7]}', ":1: messages is neither"),
        ('{"query": " ", "prompt": "b"}', ":1: the model's strategy 'random' rewrites the user's text"),
        ('{"query": "a", "prompt": "' + "x" * 17_000_000 + '"}', ":1: longer than"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, text, words):
    path = tmp_path / "train.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        check_rows(path, recipe())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "gone.jsonl", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            check_rows(path, recipe())


def test_progress_counts_the_bytes_read(tmp_path):
    trained = recipe()
    path = write(tmp_path, [{"query": query, "prompt": text_of(trained, query)} for query in QUERIES])
    read: list[int] = []
    check_rows(path, trained, on_bytes=read.append)
    assert sum(read) == path.stat().st_size
