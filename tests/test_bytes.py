"""Byte identity: a training row, and the prompt served for the same query, under every strategy and at every door."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from its_proxy.checkpoint import open_checkpoint
from its_proxy.codesign.manifest import recipe_of
from its_proxy.codesign.personas import taxonomy_pool
from its_proxy.codesign.strategies import rewrite, strategy_names
from its_proxy.handshake import NO_MANIFEST
from its_proxy.plan import Member, VoteRules, make_plan
from its_proxy.protocol.chat import read_chat
from its_proxy.upstreams.http import HttpUpstream
from its_training.demo.arms import side_of, training_row
from its_training.demo.problems import draw
from its_training.demo.tokenizer import END_OF_TURN
from tests.doors import DOORS, SEED, STRATEGIES, assert_asked_as_trained, document_of, rows_of
from tests.serving import serving, write_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def test_these_are_all_strategies():
    assert set(strategy_names()) >= set(STRATEGIES)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_engine_is_asked_the_messages_of_the_training_row(tmp_path, strategy, door):
    await assert_asked_as_trained(door, strategy, tmp_path)


def test_half_of_a_mixed_arms_rows_are_plain():
    rows = [training_row(problem, side_of("mixed", SEED)) for problem in draw(200, "sft", SEED)]
    plain = [row for row in rows if row["persona"]["text"] is None]
    assert 70 <= len(plain) <= 130
    assert all(row["messages"][0]["content"] == row["query"] for row in plain)


# -- as tokens ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> tuple["PreTrainedTokenizerFast", dict[str, Path]]:
    """A tokenizer as training makes it, and a tiny untrained checkpoint with it for each strategy."""
    pytest.importorskip("torch")
    from its_training.demo.pretrain import build_model, build_tokenizer
    from its_training.demo.recipe import DemoRecipe, tiny
    from its_training.files import save_checkpoint

    recipe = tiny(DemoRecipe())
    tokenizer = build_tokenizer(recipe)
    folders = {}
    for strategy in STRATEGIES:
        folder = tmp_path_factory.mktemp("arms") / strategy
        save_checkpoint(build_model(tokenizer, recipe), tokenizer, folder)
        folders[strategy] = write_checkpoint(folder, document_of(strategy))
    return tokenizer, folders


async def test_the_engine_reads_the_tokens_of_the_training_row_up_to_the_assistants_turn(arms):
    tokenizer, folders = arms
    settings = {"models": {strategy: {"checkpoint": folder} for strategy, folder in folders.items()}}
    async with serving(settings) as server:
        for strategy in STRATEGIES:
            for row in rows_of(strategy):
                trained = tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=True)["input_ids"]
                fields = {"its": {"vote": "off"}, "return_token_ids": True, "max_tokens": 1}
                status, reply = await server.chat(row["query"], strategy, **fields)
                assert status == 200, reply
                served = reply["prompt_token_ids"]
                assert served == trained[: len(served)]
                learned = tokenizer.decode(trained[len(served) :])
                assert learned == row["messages"][-1]["content"] + END_OF_TURN + "\n"


# -- GSM8K through the serving path ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gsm8k_is_served_as_it_would_be_trained(test_data, tmp_path, strategy):
    lines = (test_data / "gsm8k-test.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    assert len(questions) == 1319
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, document_of(strategy)))
    member = Member("m", HttpUpstream("gpu", "http://gpu/v1"), "m", checkpoint, NO_MANIFEST)

    def served(question: str) -> list[dict[str, Any]]:
        request = read_chat({"model": "m", "messages": [{"role": "user", "content": question}]})
        return make_plan(request, [member], VoteRules(), frozenset(), "m").members[0].body["messages"]

    start = time.perf_counter()
    prompts = [served(question) for question in questions]
    print(f"\n{strategy}: 1319 questions planned in {time.perf_counter() - start:.2f} s")
    assert prompts == [served(question) for question in questions]
    recipe = recipe_of(side_of(strategy, SEED), taxonomy_pool())
    for question, (prompt,) in zip(questions, prompts, strict=True):
        trained = rewrite(recipe, [{"role": "user", "content": question}]).messages
        assert [prompt] == trained
        assert prompt["content"].endswith(question)
        assert (prompt["content"] == question) is (strategy == "none")
